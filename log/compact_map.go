package log

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/penstock/penstock/log/record"
)

// keyHash stands for a key: 128 bits of its SHA-256. Two keys of one hash would
// lose records, so the hash must be one that nobody finds collisions of.
type keyHash struct{ hi, lo uint64 }

func hashKey(key []byte) keyHash {
	sum := sha256.Sum256(key)
	return keyHash{binary.BigEndian.Uint64(sum[:]), binary.BigEndian.Uint64(sum[8:])}
}

const (
	// slotBytes is the size of an offsetSlot.
	slotBytes = 24
	// usedTenths of the slots are used at most, so that a probe stays short.
	usedTenths = 8
)

// offsetSlot is one place of the table.
type offsetSlot struct {
	key  keyHash
	next record.Offset // offset after the record; 0: the slot is free
}

// offsetMap knows the latest offset of each key of the part of a log that is
// compacted: a hash table of fixed size, probed linearly. What does not fit waits
// for the next pass.
type offsetMap struct {
	slots []offsetSlot
	used  int
	most  int
}

// newOffsetMap makes a map for so many keys at most, within so many bytes.
func newOffsetMap(keys, memory int64) *offsetMap {
	slots := max(min(keys/usedTenths*10+10, memory/slotBytes), 2)
	return &offsetMap{slots: make([]offsetSlot, slots), most: max(int(slots*usedTenths/10), 1)}
}

// find returns the slot of a key: its own or the free one where it belongs.
func (m *offsetMap) find(k keyHash) *offsetSlot {
	n := uint64(len(m.slots))
	for i := k.lo % n; ; i = (i + 1) % n {
		if s := &m.slots[i]; s.next == 0 || s.key == k {
			return s
		}
	}
}

// put notes a record; false: the table is full and the key is not in it. Offsets
// of a key ascend.
func (m *offsetMap) put(k keyHash, off record.Offset) bool {
	s := m.find(k)
	if s.next == 0 {
		if m.used == m.most {
			return false
		}
		m.used++
		s.key = k
	}
	s.next = off + 1
	return true
}

// latest is the greatest offset of a key that was put.
func (m *offsetMap) latest(k keyHash) (off record.Offset, ok bool) {
	s := m.find(k)
	return s.next - 1, s.next != 0
}
