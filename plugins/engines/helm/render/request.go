// Package render does what `helm template` does, without files, network or cluster.
package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/ignore"
	"transom.dev/engines/guest"
)

// Request is the header of an input. Behind it follow the archive or the files, then the values.
type Request struct {
	Chart  Source `json:"chart"`
	Values []int  `json:"values"`

	Release      Release      `json:"release"`
	Capabilities Capabilities `json:"capabilities"`

	// Now is the time that templates see, in seconds since 1970.
	Now int64 `json:"now"`
	// Seed is what all random values are made from. Without one a template that draws any fails.
	Seed string `json:"seed"`

	// Lookups are the answers so far; without any list a chart's `lookup` finds nothing, as with `helm template`.
	Lookups *[]Lookup `json:"lookups"`

	IncludeCrds bool `json:"includeCrds"`
	Strict      bool `json:"strict"`
	SubNotes    bool `json:"subNotes"`
	// Text asks for manifests as text, Objects for manifests as JSON.
	Text    bool `json:"text"`
	Objects bool `json:"objects"`
}

// Source measures a packaged chart or the files of an unpacked one.
type Source struct {
	Archive *int   `json:"archive"`
	Files   []File `json:"files"`
}

// File is one of an unpacked chart.
type File struct {
	Path string `json:"path"`
	Size int    `json:"size"`
}

// Release is what templates see as `.Release`.
type Release struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	Revision  int    `json:"revision"`
	IsUpgrade bool   `json:"isUpgrade"`
}

// Capabilities are those of the cluster; Helm's own where nothing is said.
type Capabilities struct {
	KubeVersion string `json:"kubeVersion"`
	// APIVersions are all that the cluster has, `GROUP/VERSION` and `GROUP/VERSION/KIND`.
	APIVersions []string `json:"apiVersions"`
	// ExtraAPIVersions are added to them, or to Helm's own list.
	ExtraAPIVersions []string `json:"extraApiVersions"`
}

// Lookup is one call of `lookup` and its answer.
type Lookup struct {
	Query
	// Object is nil for what is not there; for a query without a name it is a list.
	Object map[string]any `json:"object"`
}

// Query is what a chart asks the cluster for. Without a name: all of the kind, in the namespace or everywhere.
type Query struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace"`
	Name       string `json:"name"`
}

// Serve answers one input, of which `rest` is what follows the header.
func Serve(request *Request, rest []byte) ([]byte, *guest.Problem) {
	blobs := guest.NewBlobs(rest)
	var packed []byte
	var files []*archive.BufferedFile
	if request.Chart.Archive != nil {
		packed = blobs.Next(*request.Chart.Archive)
	}
	for _, file := range request.Chart.Files {
		files = append(files, &archive.BufferedFile{Name: file.Path, Data: blobs.Next(file.Size)})
	}
	var values [][]byte
	for _, size := range request.Values {
		values = append(values, blobs.Next(size))
	}
	if problem := blobs.Done(); problem != nil {
		return nil, problem
	}
	if (request.Chart.Archive != nil) == (len(files) > 0) {
		return nil, &guest.Problem{Reason: "BadRequest", Message: "chart: give either archive or files"}
	}
	reply := answer(request, packed, files, values)
	output := new(bytes.Buffer)
	encoder := json.NewEncoder(output)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(reply); err != nil {
		return nil, &guest.Problem{Reason: "BadManifest", Message: err.Error()}
	}
	return output.Bytes(), nil
}

func answer(request *Request, packed []byte, files []*archive.BufferedFile, values [][]byte) *Reply {
	loaded, err := load(packed, files)
	if err != nil {
		return failed("BadChart", err)
	}
	merged := map[string]any{}
	for _, text := range values {
		layer, err := loader.LoadValues(bytes.NewReader(text))
		if err != nil {
			return failed("BadValues", err)
		}
		merged = loader.MergeMaps(merged, layer)
	}
	return render(request, loaded, merged)
}

func load(packed []byte, files []*archive.BufferedFile) (*chart.Chart, error) {
	if packed != nil {
		return loader.LoadArchive(bytes.NewReader(packed))
	}
	kept, err := withoutIgnored(files)
	if err != nil {
		return nil, err
	}
	return loader.LoadFiles(kept)
}

var byteOrderMark = []byte{0xef, 0xbb, 0xbf}

// withoutIgnored reads `.helmignore`, as Helm does for folders.
func withoutIgnored(files []*archive.BufferedFile) ([]*archive.BufferedFile, error) {
	rules := ignore.Empty()
	for _, file := range files {
		if file.Name == ignore.HelmIgnore {
			parsed, err := ignore.Parse(bytes.NewReader(file.Data))
			if err != nil {
				return nil, err
			}
			rules = parsed
		}
	}
	rules.AddDefaults()
	var kept []*archive.BufferedFile
	for _, file := range files {
		name := path.Clean(file.Name)
		if path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") {
			return nil, fmt.Errorf("the path %q leaves the chart", file.Name)
		}
		if ignored(rules, name) {
			continue
		}
		kept = append(kept, &archive.BufferedFile{Name: name, Data: bytes.TrimPrefix(file.Data, byteOrderMark)})
	}
	return kept, nil
}

// ignored asks for every folder above the file, then for the file.
func ignored(rules *ignore.Rules, name string) bool {
	for at, c := range name {
		if c == '/' && rules.Ignore(name[:at], entry{path.Base(name[:at]), fs.ModeDir}) {
			return true
		}
	}
	return rules.Ignore(name, entry{path.Base(name), 0})
}

// entry is what the rules want to know of a file.
type entry struct {
	name string
	mode fs.FileMode
}

func (e entry) Name() string       { return e.name }
func (e entry) Size() int64        { return 0 }
func (e entry) Mode() fs.FileMode  { return e.mode }
func (e entry) ModTime() time.Time { return time.Time{} }
func (e entry) IsDir() bool        { return e.mode.IsDir() }
func (e entry) Sys() any           { return nil }
