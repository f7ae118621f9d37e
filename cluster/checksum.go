package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"os"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/internal/boltfile"
)

// summedStore keeps a checksum with everything it stores, for bbolt has none:
//
//	an entry   its Extensions end with a trailer, over all its other fields
//	a value    is followed by one, over its key and itself
//
//	trailer:   sumMark | CRC-32C, big-endian
//
// What an earlier release has written has no trailer and is taken as it is. An earlier release
// that reads what this one wrote sees Extensions, which it does not look at, and numbers
// by their first eight bytes.
type summedStore struct{ raftStore }

const (
	sumMark     = 0x50535331 // "PSS1"
	trailerSize = 8
	// markSlack is how many bits of a mark may be wrong and it is still seen what it was.
	markSlack = 4
)

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // made once, by the library

// damageError says what does not match.
type damageError struct{ what string }

func (e *damageError) Error() string { return e.what }

// isDamage reports whether err says that stored bytes are not what was written.
func isDamage(err error) bool {
	_, ours := errors.AsType[*damageError](err)
	_, files := errors.AsType[*boltfile.DamagedError](err)
	return ours || files
}

func appendTrailer(b []byte, sum uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, sumMark), sum)
}

// cutTrailer parts b from its trailer; ok is false when it has none.
func cutTrailer(b []byte) (rest []byte, sum uint32, ok bool) {
	n := len(b) - trailerSize
	if n < 0 || binary.BigEndian.Uint32(b[n:]) != sumMark {
		return b, 0, false
	}
	return b[:n], binary.BigEndian.Uint32(b[n+4:]), true
}

func entrySum(l *raft.Log) uint32 {
	var head [17]byte
	binary.BigEndian.PutUint64(head[:], l.Index)
	binary.BigEndian.PutUint64(head[8:], l.Term)
	head[16] = byte(l.Type)
	sum := crc32.Update(crc32.Checksum(head[:], castagnoli()), castagnoli(), l.Data)
	at, err := l.AppendedAt.MarshalBinary()
	if err != nil { // of a zone that there is not
		at = nil
	}
	return crc32.Update(sum, castagnoli(), at)
}

func valueSum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli()), castagnoli(), value)
}

// StoreLog is part of raft.LogStore.
func (s *summedStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs is part of raft.LogStore. The entries are Raft's, which sends them on: what is
// stored is a copy.
func (s *summedStore) StoreLogs(logs []*raft.Log) error {
	copies, summed := make([]raft.Log, len(logs)), make([]*raft.Log, len(logs))
	for i, l := range logs {
		copies[i] = *l
		copies[i].Extensions = appendTrailer(slices.Clip(l.Extensions), entrySum(l))
		summed[i] = &copies[i]
	}
	return s.raftStore.StoreLogs(summed)
}

// GetLog is part of raft.LogStore.
func (s *summedStore) GetLog(index uint64, l *raft.Log) error {
	if err := s.raftStore.GetLog(index, l); err != nil {
		if errors.Is(err, raft.ErrLogNotFound) {
			return err
		}
		return &damageError{fmt.Sprintf("entry %d cannot be decoded: %v", index, err)}
	}
	extensions, sum, ok := cutTrailer(l.Extensions)
	switch {
	case l.Index != index:
		return &damageError{fmt.Sprintf("entry %d says that it is entry %d", index, l.Index)}
	case !ok && len(l.Extensions) > 0:
		return &damageError{fmt.Sprintf("entry %d has %d bytes where its checksum should be", index, len(l.Extensions))}
	case ok && sum != entrySum(l):
		return &damageError{fmt.Sprintf("the checksum of entry %d is wrong", index)}
	}
	if l.Extensions = extensions; len(extensions) == 0 {
		l.Extensions = nil
	}
	return nil
}

// Set is part of raft.StableStore.
func (s *summedStore) Set(key, value []byte) error {
	return s.raftStore.Set(key, appendTrailer(slices.Clip(value), valueSum(key, value)))
}

// Get is part of raft.StableStore.
func (s *summedStore) Get(key []byte) ([]byte, error) {
	value, err := s.raftStore.Get(key)
	if err != nil {
		return nil, err
	}
	value, sum, ok := cutTrailer(value)
	if ok && sum != valueSum(key, value) {
		return nil, &damageError{fmt.Sprintf("the checksum of %s is wrong", key)}
	}
	if n := len(value) - trailerSize; !ok && n >= 0 && bits.OnesCount32(binary.BigEndian.Uint32(value[n:])^sumMark) <= markSlack {
		return nil, &damageError{fmt.Sprintf("the mark before the checksum of %s is wrong", key)}
	}
	return value, nil
}

// SetUint64 is part of raft.StableStore.
func (s *summedStore) SetUint64(key []byte, value uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

// GetUint64 is part of raft.StableStore.
func (s *summedStore) GetUint64(key []byte) (uint64, error) {
	b, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, &damageError{fmt.Sprintf("%s has %d bytes, want 8", key, len(b))}
	}
	return binary.BigEndian.Uint64(b), nil
}

// stored is what look finds in a file.
type stored struct {
	entries []uint64
	values  [][]byte // their keys
}

// verify reads everything that look found.
func (s *summedStore) verify(in *stored) error {
	if in == nil {
		return nil
	}
	for _, index := range in.entries {
		if err := s.GetLog(index, &raft.Log{}); err != nil {
			return err
		}
	}
	for _, key := range in.values {
		if _, err := s.Get(key); err != nil {
			return err
		}
		if string(key) == "CurrentTerm" || string(key) == "LastVoteTerm" {
			if _, err := s.GetUint64(key); err != nil {
				return err
			}
		}
	}
	return nil
}

// lockWait bounds how long the file may be in use by another process.
const lockWait = time.Second

// look reads the file of a Raft log that nobody has opened, so that bbolt, which trusts it,
// may be let at it.
func look(path string) (in *stored, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }() // with its lock
	if err := lock(f); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil || info.Size() == 0 { // created, and nothing was written
		return nil, err
	}
	in = &stored{}
	_, err = boltfile.Walk(f, info.Size(), func(e boltfile.Entry) error {
		switch string(e.Bucket) {
		case "logs":
			if len(e.Key) != 8 {
				return &damageError{fmt.Sprintf("an entry has the key %x", e.Key)}
			}
			in.entries = append(in.entries, binary.BigEndian.Uint64(e.Key))
		case "conf":
			in.values = append(in.values, append([]byte(nil), e.Key...))
		default:
			return &damageError{fmt.Sprintf("there is a bucket %q", e.Bucket)}
		}
		return nil
	})
	return in, err
}

// lock takes the lock that bbolt will take.
func lock(f *os.File) error {
	for deadline := time.Now().Add(lockWait); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("another process has it open")
		}
		time.Sleep(lockWait / 20)
	}
}
