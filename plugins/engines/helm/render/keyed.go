package render

import (
	crand "crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"reflect"
	"strconv"
	"text/template"

	"github.com/Masterminds/sprig/v3"
	"github.com/google/uuid"
	chart "helm.sh/helm/v4/pkg/chart/v2"
)

// keyed answers every random draw from a stream that is named by the seed, the template file, the function, its
// arguments, and how many such calls the file has made before: a change elsewhere in the chart or its values changes none.
type keyed struct {
	seed    string
	files   []*fileDraws
	source  *mrand.ChaCha8
	isCoiny bool
}

// fileDraws counts the calls of one file that is being rendered; files that it includes by name have their own.
type fileDraws struct {
	name  string
	calls map[string]int
}

func newKeyed(seed string) *keyed {
	return &keyed{seed: seed, files: []*fileDraws{{calls: map[string]int{}}}, source: stream(seed)}
}

// stream is told apart from others by all the parts, each with its length in front.
func stream(parts ...string) *mrand.ChaCha8 {
	hash := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(hash, "%d:%s", len(part), part)
	}
	return mrand.NewChaCha8([32]byte(hash.Sum(nil)))
}

func (k *keyed) begin(name string) string {
	k.files = append(k.files, &fileDraws{name, map[string]int{}})
	return ""
}

func (k *keyed) end() string {
	k.files = k.files[:len(k.files)-1]
	return ""
}

// Read leaves the stream alone for single bytes inside a key generator: Go draws one there on a coin toss.
func (k *keyed) Read(b []byte) (int, error) {
	if k.isCoiny && len(b) == 1 {
		b[0] = 0
		return 1, nil
	}
	return k.source.Read(b)
}

var errNoSeed = errors.New("the chart draws random values, and the request has no seed")

func (k *keyed) wrap(name string, function any, isCoiny bool) any {
	original := reflect.ValueOf(function)
	return reflect.MakeFunc(original.Type(), func(arguments []reflect.Value) []reflect.Value {
		if k.seed == "" {
			panic(errNoSeed) // the template engine makes an error of it, with the place
		}
		file := k.files[len(k.files)-1]
		parts := []string{k.seed, file.name, name}
		for _, argument := range arguments {
			parts = append(parts, fmt.Sprintf("%v", argument.Interface()))
		}
		id := fmt.Sprintf("%q", parts[2:])
		n := file.calls[id]
		file.calls[id]++
		outer, was := k.source, k.isCoiny
		k.source, k.isCoiny = stream(append(parts, strconv.Itoa(n))...), isCoiny
		defer func() { k.source, k.isCoiny = outer, was }()
		if original.Type().IsVariadic() {
			return original.CallSlice(arguments)
		}
		return original.Call(arguments)
	}).Interface()
}

// functions replaces all template functions that are random.
func (k *keyed) functions() template.FuncMap {
	crand.Reader = k
	uuid.SetRand(k)
	all := sprig.TxtFuncMap()
	all["randInt"] = func(from, to int) int { return from + mrand.New(k.source).IntN(to-from) }
	all["shuffle"] = func(text string) string {
		letters := []rune(text)
		mrand.New(k.source).Shuffle(len(letters), func(i, j int) { letters[i], letters[j] = letters[j], letters[i] })
		return string(letters)
	}
	drawn := template.FuncMap{"__begin": k.begin, "__end": k.end}
	for _, name := range []string{"randAlphaNum", "randAlpha", "randAscii", "randNumeric", "randBytes", "randInt", "uuidv4", "shuffle"} {
		drawn[name] = k.wrap(name, all[name], false)
	}
	for _, name := range []string{"genPrivateKey", "genCA", "genCAWithKey", "genSelfSignedCert", "genSelfSignedCertWithKey",
		"genSignedCert", "genSignedCertWithKey", "bcrypt", "htpasswd", "encryptAES"} {
		drawn[name] = k.wrap(name, all[name], true)
	}
	return drawn
}

// mark makes every template say when it begins and ends, which prints nothing. Returns how much longer the first line of
// each has become.
func (k *keyed) mark(ch *chart.Chart) map[string]int {
	lengths := map[string]int{}
	mark(ch, lengths)
	return lengths
}

func mark(ch *chart.Chart, lengths map[string]int) {
	for _, t := range ch.Templates {
		if t == nil {
			continue
		}
		name := ch.ChartFullPath() + "/" + t.Name
		prefix := "{{ __begin " + strconv.Quote(name) + " }}"
		lengths[name] = len(prefix)
		t.Data = append(append([]byte(prefix), t.Data...), "{{ __end }}"...)
	}
	for _, dependency := range ch.Dependencies() {
		mark(dependency, lengths)
	}
}
