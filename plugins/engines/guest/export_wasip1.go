package guest

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"unicode/utf8"
	"unsafe"
)

// SetClock gives the time that the program sees from now on, in nanoseconds since 1970. Until then it is 2000-01-01.
//
//go:wasmimport wasi_snapshot_preview1 set_clock
func SetClock(ns int64)

// Warm runs what a first call would have to do, before the snapshot is taken.
//
// An instance lives for one call, so most garbage need never be collected; what a plugin record allows by default (256 MiB)
// must do for the heap all the same. What is left over here, however, becomes a part of the component.
func Warm(first func()) {
	debug.SetGCPercent(20)
	first()
	runtime.GC()
	debug.SetGCPercent(400)
	debug.SetMemoryLimit(160 << 20)
}

// pinned keeps the buffers of a call where the host puts them.
var pinned = map[uint32][]byte{}

//go:wasmexport cabi_realloc
func realloc(old, oldSize, align, size uint32) uint32 {
	b := make([]byte, max(size, 1))
	if old != 0 {
		copy(b, pinned[old][:min(oldSize, size)])
		delete(pinned, old)
	}
	p := address(&b[0])
	pinned[p] = b
	return p
}

func address[T any](p *T) uint32 { return uint32(uintptr(unsafe.Pointer(p))) }

var engine Run

// Serve sets what `run` calls; from an `init`, for a component has no `main`.
func Serve(run Run) { engine = run }

// What the last call returned: it must stay until the host has read it.
var (
	reply          []byte
	reason, detail []byte
	// result<list<u8>, problem>: the case, then a pointer and length, or two of them.
	result [5]uint32
)

//go:wasmexport transom:plugin/runner@0.1.0#run
func run(p, n uint32) *[5]uint32 {
	input := pinned[p]
	if n == 0 {
		input = nil
	}
	delete(pinned, p)
	output, problem := guarded(input)
	if problem == nil {
		reply = append(output, 0) // an address even when it is empty
		result = [5]uint32{0, address(&reply[0]), uint32(len(output))}
		return &result
	}
	message := problem.Message
	for len(message) > 1_000 {
		_, size := utf8.DecodeLastRuneInString(message)
		message = message[:len(message)-size]
	}
	reason, detail = []byte(problem.Reason+" "), []byte(message+" ")
	result = [5]uint32{1, address(&reason[0]), uint32(len(reason) - 1), address(&detail[0]), uint32(len(detail) - 1)}
	return &result
}

// guarded turns a panic into a problem. What Go calls fatal (no memory, no stack) traps instead.
func guarded(input []byte) (output []byte, problem *Problem) {
	defer func() {
		if panicked := recover(); panicked != nil {
			problem = &Problem{"Panicked", fmt.Sprint(panicked)}
		}
	}()
	return engine(input)
}

//go:wasmexport cabi_post_transom:plugin/runner@0.1.0#run
func postRun(*[5]uint32) { reply, reason, detail = nil, nil, nil }
