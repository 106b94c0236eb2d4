package render

import "helm.sh/helm/v4/pkg/chart/loader/archive"

// WarmUp renders a chart with a little of everything.
func WarmUp() {
	file := func(name, text string) *archive.BufferedFile {
		return &archive.BufferedFile{Name: name, Data: []byte(text)}
	}
	files := []*archive.BufferedFile{
		file("Chart.yaml", "apiVersion: v2\nname: warm\nversion: 1.0.0\n"),
		file("values.yaml", "a: 1\nb: {c: [d]}\n"),
		file("values.schema.json", `{"type":"object","properties":{"a":{"type":"integer"}}}`),
		file("templates/a.yaml", "{{- define \"n\" }}{{ .Release.Name | trunc 63 }}{{ end }}apiVersion: v1\nkind: ConfigMap\n"+
			"metadata:\n  name: {{ include \"n\" . }}\ndata:\n  a: {{ .Values.a | quote }}\n  b: {{ toYaml .Values.b | nindent 4 }}\n"+
			"  c: {{ tpl \"{{ .Values.a }}\" . | b64enc }}\n"),
		file("templates/NOTES.txt", "{{ .Chart.Name }}"),
	}
	request := &Request{Release: Release{Name: "warm", Namespace: "warm"}, Text: true, Objects: true, Seed: "warm"}
	answer(request, nil, files, [][]byte{[]byte("a: 2")})
}
