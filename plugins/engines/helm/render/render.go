package render

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	release "helm.sh/helm/v4/pkg/release/v1"
	releaseutil "helm.sh/helm/v4/pkg/release/v1/util"
	"sigs.k8s.io/yaml"
)

// Reply is the output: an error, queries that need answers first, or a release.
type Reply struct {
	Error     *Error     `json:"error,omitempty"`
	Wanted    []Query    `json:"wanted,omitempty"`
	Manifests []Manifest `json:"manifests,omitempty"`
	Hooks     []Hook     `json:"hooks,omitempty"`
	Crds      []Manifest `json:"crds,omitempty"`
	Notes     string     `json:"notes,omitempty"`
}

// Error is why a chart does not render.
type Error struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Template, Line and Column say where in a template; column 0 is the first.
	Template string `json:"template,omitempty"`
	Line     int    `json:"line,omitempty"`
	Column   *int   `json:"column,omitempty"`
}

// Manifest is one YAML document.
type Manifest struct {
	Source     string `json:"source"`
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	Namespace  string `json:"namespace,omitempty"`
	Text       string `json:"text,omitempty"`
	// Objects are those in the document: none when it has only comments, several when it is a list.
	Objects []json.RawMessage `json:"objects,omitempty"`
}

// Hook is a manifest that Helm runs at certain moments.
type Hook struct {
	Manifest
	Events            []release.HookEvent           `json:"events"`
	Weight            int                           `json:"weight"`
	DeletePolicies    []release.HookDeletePolicy    `json:"deletePolicies"`
	OutputLogPolicies []release.HookOutputLogPolicy `json:"outputLogPolicies,omitempty"`
}

func failed(reason string, err error) *Reply {
	return &Reply{Error: &Error{Reason: reason, Message: err.Error()}}
}

// render is `renderResources` of Helm's package `action`, and what `helm template` does before it.
func render(request *Request, ch *chart.Chart, values map[string]any) *Reply {
	if t := ch.Metadata.Type; t != "" && t != "application" {
		return failed("BadChart", fmt.Errorf("%s charts are not installable", t))
	}
	if err := complete(ch); err != nil {
		return failed("BadChart", err)
	}
	caps, err := capabilities(&request.Capabilities)
	if err != nil {
		return failed("BadRequest", err)
	}
	if err := chartutil.ProcessDependencies(ch, values); err != nil {
		return failed("BadChart", fmt.Errorf("chart dependencies processing failed: %w", err))
	}
	options := common.ReleaseOptions{
		Name:      request.Release.Name,
		Namespace: request.Release.Namespace,
		Revision:  max(request.Release.Revision, 1),
		IsInstall: !request.Release.IsUpgrade,
		IsUpgrade: request.Release.IsUpgrade,
	}
	top, err := util.ToRenderValuesWithSchemaValidation(ch, values, options, caps, false)
	if err != nil {
		return failed("InvalidValues", err)
	}
	if want := ch.Metadata.KubeVersion; want != "" && !chartutil.IsCompatibleRange(want, caps.KubeVersion.String()) {
		err := fmt.Errorf("chart requires kubeVersion: %s which is incompatible with Kubernetes %s", want, caps.KubeVersion.Version)
		return failed("IncompatibleCluster", err)
	}
	cluster := newCluster(request.Lookups)
	random := newKeyed(request.Seed)
	functions := random.functions()
	functions["lookup"] = cluster.lookup
	lengths := random.mark(ch)
	e := engine.Engine{Strict: request.Strict, CustomTemplateFuncs: functions}
	files, err := e.RenderWithContext(context.Background(), ch, top)
	if len(cluster.wanted) > 0 {
		return &Reply{Wanted: cluster.wanted}
	}
	if err != nil {
		return located(err, lengths)
	}
	return sorted(request, ch, files)
}

// complete looks for dependencies that are named but not there.
func complete(ch *chart.Chart) error {
	var missing []string
	for _, wanted := range ch.Metadata.Dependencies {
		is := func(have *chart.Chart) bool { return wanted != nil && have.Name() == wanted.Name }
		if !slices.ContainsFunc(ch.Dependencies(), is) && wanted != nil {
			missing = append(missing, wanted.Name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("found in Chart.yaml, but missing in charts/ directory: %s", strings.Join(missing, ", "))
	}
	return nil
}

func capabilities(wanted *Capabilities) (*common.Capabilities, error) {
	caps := common.DefaultCapabilities.Copy()
	if wanted.KubeVersion != "" {
		version, err := common.ParseKubeVersion(wanted.KubeVersion)
		if err != nil {
			return nil, fmt.Errorf("capabilities.kubeVersion: invalid kube version '%s': %w", wanted.KubeVersion, err)
		}
		caps.KubeVersion = *version
	}
	if wanted.APIVersions != nil {
		caps.APIVersions = common.VersionSet(wanted.APIVersions)
	}
	caps.APIVersions = append(slices.Clip(caps.APIVersions), wanted.ExtraAPIVersions...)
	return caps, nil
}

const notesFile = "NOTES.txt"

func sorted(request *Request, ch *chart.Chart, files map[string]string) *Reply {
	reply := &Reply{}
	var notes []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, notesFile) {
			if request.SubNotes || name == path.Join(ch.Name(), "templates", notesFile) {
				notes = append(notes, files[name])
			}
			delete(files, name)
		}
	}
	reply.Notes = strings.Join(notes, "\n")
	hooks, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return failed("BadManifest", err)
	}
	if request.IncludeCrds {
		for _, crd := range ch.CRDObjects() {
			m, err := crds(request, crd.Filename, string(crd.File.Data))
			if err != nil {
				return failed("BadManifest", err)
			}
			reply.Crds = append(reply.Crds, m)
		}
	}
	for _, m := range manifests {
		made, err := manifest(request, m.Name, m.Content, m.Head)
		if err != nil {
			return failed("BadManifest", err)
		}
		reply.Manifests = append(reply.Manifests, made)
	}
	for _, h := range hooks {
		head := new(releaseutil.SimpleHead)
		if err := yaml.Unmarshal([]byte(h.Manifest), head); err != nil {
			return failed("BadManifest", fmt.Errorf("YAML parse error on %s: %w", h.Path, err))
		}
		made, err := manifest(request, h.Path, h.Manifest, head)
		if err != nil {
			return failed("BadManifest", err)
		}
		reply.Hooks = append(reply.Hooks, Hook{made, h.Events, h.Weight, h.DeletePolicies, h.OutputLogPolicies})
	}
	return reply
}

func manifest(request *Request, source, text string, head *releaseutil.SimpleHead) (Manifest, error) {
	m := Manifest{Source: source, APIVersion: head.Version, Kind: head.Kind}
	if head.Metadata != nil {
		m.Name = head.Metadata.Name
	}
	if request.Text {
		m.Text = text
	}
	var space struct {
		Metadata struct {
			Namespace string `json:"namespace"`
		} `json:"metadata"`
	}
	if !request.Objects {
		// The sorter has read it before: what does not fit here is somebody else's kind of object.
		_ = yaml.Unmarshal([]byte(text), &space)
		m.Namespace = space.Metadata.Namespace
		return m, nil
	}
	object, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		return m, fmt.Errorf("YAML parse error on %s: %w", source, err)
	}
	_ = json.Unmarshal(object, &space)
	m.Namespace = space.Metadata.Namespace
	m.Objects, err = flat(object)
	if err != nil {
		return m, fmt.Errorf("%s: %w", source, err)
	}
	return m, nil
}

// crds reads a file of `crds/`, which may have several documents.
func crds(request *Request, source, text string) (Manifest, error) {
	m := Manifest{Source: source, APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition"}
	if request.Text {
		m.Text = text
	}
	if !request.Objects {
		return m, nil
	}
	documents := releaseutil.SplitManifests(text)
	keys := slices.Collect(maps.Keys(documents))
	sort.Sort(releaseutil.BySplitManifestsOrder(keys))
	for _, key := range keys {
		object, err := yaml.YAMLToJSON([]byte(documents[key]))
		if err != nil {
			return m, fmt.Errorf("YAML parse error on %s: %w", source, err)
		}
		objects, err := flat(object)
		if err != nil {
			return m, fmt.Errorf("%s: %w", source, err)
		}
		m.Objects = append(m.Objects, objects...)
	}
	return m, nil
}

// flat takes lists apart, as Helm's client does before it applies them.
func flat(object []byte) ([]json.RawMessage, error) {
	if string(object) == "null" {
		return nil, nil
	}
	var list struct {
		Kind  string            `json:"kind"`
		Items []json.RawMessage `json:"items"`
	}
	if object[0] != '{' {
		return nil, errors.New("a manifest must be a mapping")
	}
	if err := json.Unmarshal(object, &list); err != nil || list.Items == nil || !strings.HasSuffix(list.Kind, "List") {
		return []json.RawMessage{object}, nil
	}
	var all []json.RawMessage
	for _, item := range list.Items {
		objects, err := flat(item)
		if err != nil {
			return nil, err
		}
		all = append(all, objects...)
	}
	return all, nil
}

var (
	// place is `file:line:column` or `file:line` of the first template that a message names.
	place = regexp.MustCompile(`([^\s():"]+):(\d+)(?::(\d+))?`)
)

// located finds the place in an error of the template engine, and takes our own prefix off the columns of first lines.
func located(err error, lengths map[string]int) *Reply {
	message := place.ReplaceAllStringFunc(err.Error(), func(found string) string {
		parts := place.FindStringSubmatch(found)
		length, ours := lengths[parts[1]]
		column, bad := strconv.Atoi(parts[3])
		if !ours || parts[2] != "1" || bad != nil || column < length {
			return found
		}
		return fmt.Sprintf("%s:1:%d", parts[1], column-length)
	})
	e := &Error{Reason: "TemplateFailed", Message: message}
	for _, parts := range place.FindAllStringSubmatch(message, -1) {
		if _, ours := lengths[parts[1]]; !ours {
			continue
		}
		e.Template = parts[1]
		e.Line, _ = strconv.Atoi(parts[2])
		if column, bad := strconv.Atoi(parts[3]); bad == nil {
			e.Column = &column
		}
		break
	}
	return &Reply{Error: e}
}

// cluster answers `lookup` from what the request brings.
type cluster struct {
	known  map[Query]map[string]any
	asks   bool
	wanted []Query
}

func newCluster(lookups *[]Lookup) *cluster {
	c := &cluster{known: map[Query]map[string]any{}, asks: lookups != nil}
	if c.asks {
		for _, lookup := range *lookups {
			c.known[lookup.Query] = lookup.Object
		}
	}
	return c
}

func (c *cluster) lookup(apiVersion, kind, namespace, name string) (map[string]any, error) {
	query := Query{apiVersion, kind, namespace, name}
	object, known := c.known[query]
	if c.asks && !known {
		c.known[query] = nil // asked for once
		c.wanted = append(c.wanted, query)
	}
	if object == nil {
		return map[string]any{}, nil
	}
	return copied(object).(map[string]any), nil
}

// copied keeps a template from changing what the next call sees.
func copied(value any) any {
	switch value := value.(type) {
	case map[string]any:
		made := make(map[string]any, len(value))
		for key, item := range value {
			made[key] = copied(item)
		}
		return made
	case []any:
		made := make([]any, len(value))
		for i, item := range value {
			made[i] = copied(item)
		}
		return made
	default:
		return value
	}
}
