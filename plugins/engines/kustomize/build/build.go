// Package build does what `kustomize build` does, without files, network or other programs.
package build

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"transom.dev/engines/guest"
)

// Request is the header of an input. Behind it follow the files.
type Request struct {
	Files []File `json:"files"`
	// Path is the folder with the kustomization to build.
	Path string `json:"path"`
	// Unrestricted lets a kustomization read files outside its folder, as the command line's load restrictor `none` does.
	Unrestricted bool `json:"unrestricted"`
	// Text asks for all objects as one YAML stream, Objects for JSON.
	Text    bool `json:"text"`
	Objects bool `json:"objects"`
}

// File is one of those that kustomizations may name.
type File struct {
	Path string `json:"path"`
	Size int    `json:"size"`
}

// Reply is the output: an error, or objects.
type Reply struct {
	Error   *Error            `json:"error,omitempty"`
	Text    string            `json:"text,omitempty"`
	Objects []json.RawMessage `json:"objects,omitempty"`
}

// Error is why a kustomization does not build.
type Error struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// root is the folder of all files.
const root = "/files"

// Serve answers one input, of which `rest` is what follows the header.
func Serve(request *Request, rest []byte) ([]byte, *guest.Problem) {
	blobs := guest.NewBlobs(rest)
	contents := make([][]byte, 0, len(request.Files))
	for _, file := range request.Files {
		contents = append(contents, blobs.Next(file.Size))
	}
	if problem := blobs.Done(); problem != nil {
		return nil, problem
	}
	output := new(bytes.Buffer)
	encoder := json.NewEncoder(output)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(answer(request, contents)); err != nil {
		return nil, &guest.Problem{Reason: "BadObject", Message: err.Error()}
	}
	return output.Bytes(), nil
}

func failed(reason string, err error) *Reply {
	return &Reply{Error: &Error{Reason: reason, Message: err.Error()}}
}

func answer(request *Request, contents [][]byte) *Reply {
	files := filesys.MakeFsInMemory()
	for i, file := range request.Files {
		name, err := inside(file.Path)
		if err == nil {
			err = files.WriteFile(name, contents[i])
		}
		if err != nil {
			return failed("BadRequest", fmt.Errorf("files[%d]: %w", i, err))
		}
	}
	folder, err := inside(request.Path)
	if err != nil {
		return failed("BadRequest", fmt.Errorf("path: %w", err))
	}
	remote := &refusal{}
	http.DefaultTransport = remote
	options := krusty.MakeDefaultOptions()
	options.Reorder = krusty.ReorderOptionUnspecified
	if request.Unrestricted {
		options.LoadRestrictions = types.LoadRestrictionsNone
	}
	made, err := krusty.MakeKustomizer(options).Run(files, folder)
	if err != nil {
		return explained(err, remote)
	}
	reply := &Reply{}
	if request.Text {
		text, err := made.AsYaml()
		if err != nil {
			return failed("BadObject", err)
		}
		reply.Text = string(text)
	}
	if request.Objects {
		for _, resource := range made.Resources() {
			object, err := resource.MarshalJSON()
			if err != nil {
				return failed("BadObject", fmt.Errorf("%s: %w", resource.CurId(), err))
			}
			reply.Objects = append(reply.Objects, bytes.TrimSpace(object))
		}
	}
	return reply
}

// inside is the path of a file of the request.
func inside(name string) (string, error) {
	clean := path.Clean(name)
	if path.IsAbs(clean) || clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("%q must be relative and lead nowhere else", name)
	}
	return path.Join(root, clean), nil
}

var errNoNetwork = errors.New("an engine has no network")

// refusal is the network.
type refusal struct{ isUsed bool }

func (r *refusal) RoundTrip(*http.Request) (*http.Response, error) {
	r.isUsed = true
	return nil, errNoNetwork
}

// explained tells apart what no change of the files can mend, but another way to fetch them.
func explained(err error, remote *refusal) *Reply {
	message := err.Error()
	switch {
	case remote.isUsed || strings.Contains(message, "no 'git' program on path"):
		return failed("RemoteSource", fmt.Errorf("an engine has no network: bring the files of remote bases along "+
			"(`kustomize localize` fetches them): %w", err))
	case strings.Contains(message, "external plugins disabled") || strings.Contains(message, "must specify --enable-helm"):
		return failed("PluginsDisabled", fmt.Errorf("an engine runs no other programs: %w", err))
	}
	return failed("BadKustomization", err)
}
