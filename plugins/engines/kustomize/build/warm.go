package build

import "sigs.k8s.io/kustomize/kyaml/openapi"

// WarmUp builds a kustomization without a patch: for one, kustomize parses its schema of Kubernetes' kinds, which would make
// the component twice as large and save next to nothing.
func WarmUp() {
	files := []struct{ name, text string }{
		{"kustomization.yaml", "namespace: warm\nnamePrefix: a-\nresources: [a.yaml]\n" +
			"configMapGenerator: [{name: c, literals: [a=b]}]\nimages: [{name: a, newTag: b}]\n"},
		{"a.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec:\n  template:\n    spec:\n" +
			"      containers: [{name: a, image: a}]\n"},
	}
	request := &Request{Path: ".", Text: true, Objects: true}
	var contents [][]byte
	for _, file := range files {
		request.Files = append(request.Files, File{Path: file.name, Size: len(file.text)})
		contents = append(contents, []byte(file.text))
	}
	if reply := answer(request, contents); reply.Error != nil {
		panic(reply.Error.Message)
	}
	// A kustomization may bring a schema of its own.
	openapi.ResetOpenAPI()
}
