// Package guest is the Go side of the world `engine`: framing of the input, and what a component must export.
package guest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
)

// Problem is what `run` says when the input is none of its own.
type Problem struct {
	Reason, Message string
}

// Run is an engine: bytes in, bytes out.
type Run func(input []byte) ([]byte, *Problem)

// Split reads the header of an input into `header` and returns what follows it: four bytes with the header's length
// (little endian), the header (JSON), the blobs that it measures.
func Split(input []byte, header any) ([]byte, *Problem) {
	if len(input) < 4 {
		return nil, &Problem{"BadRequest", "the input is shorter than its length prefix of 4 bytes"}
	}
	n, rest := uint64(binary.LittleEndian.Uint32(input)), input[4:]
	if n > uint64(len(rest)) {
		return nil, &Problem{"BadRequest", fmt.Sprintf("a header of %d bytes is announced, %d bytes follow", n, len(rest))}
	}
	if err := json.Unmarshal(rest[:n], header); err != nil {
		return nil, &Problem{"BadRequest", "the header is not the JSON it should be: " + err.Error()}
	}
	return rest[n:], nil
}

// Blobs hands out the bytes behind the header, one after the other.
type Blobs struct {
	rest []byte
	bad  bool
}

// NewBlobs starts with the first.
func NewBlobs(rest []byte) *Blobs { return &Blobs{rest: rest} }

// Next is the next blob of this size; nil when there are not as many bytes left, which Done reports.
func (b *Blobs) Next(size int) []byte {
	if size < 0 || size > len(b.rest) {
		b.bad = true
		return nil
	}
	blob := b.rest[:size:size]
	b.rest = b.rest[size:]
	return blob
}

// Done says whether the sizes added up.
func (b *Blobs) Done() *Problem {
	if b.bad || len(b.rest) > 0 {
		return &Problem{"BadRequest", "the sizes in the header do not add up to the bytes behind it"}
	}
	return nil
}
