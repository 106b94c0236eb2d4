// Command helm is the rendering of Helm as an engine: see ../../../docs/engines.md.
package main

import (
	"transom.dev/engines/guest"
	"transom.dev/engines/helm/render"
)

func init() { guest.Serve(serve) }

func serve(input []byte) ([]byte, *guest.Problem) {
	var request render.Request
	rest, problem := guest.Split(input, &request)
	if problem != nil {
		return nil, problem
	}
	guest.SetClock(request.Now * 1_000_000_000)
	return render.Serve(&request, rest)
}

// warmUp runs before the snapshot: what a first render sets up once need not be done by every instance.
//
//go:wasmexport warm-up
func warmUp() {
	guest.SetClock(946_684_800_000_000_000)
	guest.Warm(render.WarmUp)
}

func main() {}
