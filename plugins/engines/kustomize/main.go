// Command kustomize is the building of kustomizations as an engine: see ../../../docs/engines.md.
package main

import (
	"transom.dev/engines/guest"
	"transom.dev/engines/kustomize/build"
)

func init() { guest.Serve(serve) }

func serve(input []byte) ([]byte, *guest.Problem) {
	var request build.Request
	rest, problem := guest.Split(input, &request)
	if problem != nil {
		return nil, problem
	}
	return build.Serve(&request, rest)
}

// warmUp runs before the snapshot: what a first build sets up once need not be done by every instance.
//
//go:wasmexport warm-up
func warmUp() { guest.Warm(build.WarmUp) }

func main() {}
