package record

import (
	"encoding/binary"
	"hash/fnv"

	"github.com/penstock/penstock/internal/check"
)

// minPayload holds a value and a checksum.
const minPayload = 16

// Payload makes the bytes of a record that stand for v: v itself, filling that
// depends on v, and a checksum, at least 16 bytes in all.
func Payload(v check.Value, size int) []byte {
	b := make([]byte, max(size, minPayload))
	binary.BigEndian.PutUint64(b, uint64(v))
	x := uint64(v)
	for i := 8; i < len(b)-8; i++ {
		x = x*6364136223846793005 + 1442695040888963407
		b[i] = byte(x >> 56)
	}
	binary.BigEndian.PutUint64(b[len(b)-8:], sum(b))
	return b
}

// ValueOf is the value that a payload stands for. Bytes that are not whole stand
// for a value that nobody sends, so that the checker sees a read of what was
// never written.
func ValueOf(payload []byte) check.Value {
	if len(payload) >= minPayload && binary.BigEndian.Uint64(payload[len(payload)-8:]) == sum(payload) {
		return check.Value(binary.BigEndian.Uint64(payload))
	}
	h := fnv.New64a()
	h.Write(payload)
	return check.Value(h.Sum64() | 1<<63)
}

func sum(payload []byte) uint64 {
	h := fnv.New64a()
	h.Write(payload[:len(payload)-8])
	return h.Sum64()
}
