package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sort"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

const (
	indexEntrySize = 8
	timeEntrySize  = 12
)

// indexEntry: the batch whose last offset this is begins at this position, as in
// Kafka's index files.
type indexEntry struct {
	relative int32 // to the segment's base
	position int32
}

// timeEntry: the batch whose last offset this is was the first to reach ms; no
// record before it, nor after it up to the index point, is newer.
type timeEntry struct {
	ms       int64
	relative int32
}

// index is the sparse index of a segment in memory. Only an active segment that
// was written to since the log was opened has it there, and there only: it is
// written, whole, when the segment is sealed or the log closed; recovery builds it
// from the batches. Whoever looks something up takes an index for a hint.
type index struct {
	offsets []indexEntry
	times   []timeEntry
}

// note takes in the batch at a position. interval is the least distance between
// two entries.
func (x *index) note(base record.Offset, info *record.BatchInfo, position int64, interval int, newest newestTime) {
	n := len(x.offsets)
	if n > 0 && position-int64(x.offsets[n-1].position) < int64(interval) {
		return
	}
	x.offsets = append(x.offsets, indexEntry{int32(info.LastOffset() - base), int32(position)})
	x.noteTime(base, newest)
}

func (x *index) noteTime(base record.Offset, newest newestTime) {
	if newest.at < base {
		return
	}
	if n := len(x.times); n > 0 && newest.ms <= x.times[n-1].ms {
		return
	}
	x.times = append(x.times, timeEntry{newest.ms, int32(newest.at - base)})
}

// newestTime is the greatest timestamp so far and the batch that holds it.
type newestTime struct {
	ms int64
	at record.Offset // last offset of the batch; -1: no batch yet
}

func noTime() newestTime { return newestTime{ms: -1, at: record.UnknownOffset} }

func (t *newestTime) note(info *record.BatchInfo) {
	if t.at < 0 || info.MaxTimestamp > t.ms {
		*t = newestTime{info.MaxTimestamp, info.LastOffset()}
	}
}

// position returns where to begin to look for the batch that holds an offset.
func (x *index) position(relative int64) int64 { return int64(x.entry(relative).position) }

// entry is the last one at or below an offset; zero: the beginning.
func (x *index) entry(relative int64) indexEntry {
	i := sort.Search(len(x.offsets), func(i int) bool { return int64(x.offsets[i].relative) > relative })
	if i == 0 {
		return indexEntry{}
	}
	return x.offsets[i-1]
}

// before returns the entry of a batch before which every record is older than ms, and
// the one that leads to it; false: there is none.
func (x *index) before(ms int64) (t timeEntry, hint indexEntry, ok bool) {
	i := sort.Search(len(x.times), func(i int) bool { return x.times[i].ms >= ms })
	if i == 0 {
		return t, hint, false
	}
	t = x.times[i-1]
	return t, x.entry(int64(t.relative)), true
}

func (x *index) encode() (offsets, times []byte) {
	for _, e := range x.offsets {
		offsets = binary.BigEndian.AppendUint32(offsets, uint32(e.relative))
		offsets = binary.BigEndian.AppendUint32(offsets, uint32(e.position))
	}
	for _, e := range x.times {
		times = binary.BigEndian.AppendUint64(times, uint64(e.ms))
		times = binary.BigEndian.AppendUint32(times, uint32(e.relative))
	}
	return offsets, times
}

// decodeIndex checks what can be checked without the log file: whole entries
// that ascend, the first at position 0, all below logSize.
func decodeIndex(offsets, times []byte, logSize int64) (*index, error) {
	if len(offsets)%indexEntrySize != 0 || len(times)%timeEntrySize != 0 {
		return nil, errors.New("index has a torn entry")
	}
	x := &index{}
	for b := offsets; len(b) > 0; b = b[indexEntrySize:] {
		e := decodeIndexEntry(b)
		if n := len(x.offsets); n == 0 && e.position != 0 || n > 0 && (e.relative <= x.offsets[n-1].relative || e.position <= x.offsets[n-1].position) {
			return nil, fmt.Errorf("index entry %d does not ascend", n)
		}
		if e.relative < 0 || int64(e.position)+record.HeaderSize > logSize {
			return nil, fmt.Errorf("index entry %d points behind the log's %d bytes", len(x.offsets), logSize)
		}
		x.offsets = append(x.offsets, e)
	}
	for b := times; len(b) > 0; b = b[timeEntrySize:] {
		e := decodeTimeEntry(b)
		if n := len(x.times); e.relative < 0 || n > 0 && (e.ms <= x.times[n-1].ms || e.relative <= x.times[n-1].relative) {
			return nil, fmt.Errorf("time index entry %d does not ascend", n)
		}
		x.times = append(x.times, e)
	}
	if logSize > 0 && (len(x.offsets) == 0 || len(x.times) == 0) {
		return nil, errors.New("index is empty, the log is not")
	}
	return x, nil
}

func decodeIndexEntry(b []byte) indexEntry {
	return indexEntry{int32(binary.BigEndian.Uint32(b)), int32(binary.BigEndian.Uint32(b[4:]))}
}

func decodeTimeEntry(b []byte) timeEntry {
	return timeEntry{int64(binary.BigEndian.Uint64(b)), int32(binary.BigEndian.Uint32(b[8:]))}
}

// loadIndex reads both index files of a segment.
func loadIndex(fsys vfs.FS, path string, logSize int64) (*index, error) {
	offsets, err := readFile(fsys, path+indexExt)
	if err != nil {
		return nil, err
	}
	times, err := readFile(fsys, path+timeExt)
	if err != nil {
		return nil, err
	}
	return decodeIndex(offsets, times, logSize)
}

// lastIndexEntries are the last entries of a segment's index files: all that is
// needed of them while nobody looks something up or appends.
type lastIndexEntries struct {
	offset indexEntry
	time   timeEntry
	none   bool
}

// lastEntries reads them; of an empty segment, none.
func lastEntries(fsys vfs.FS, path string, logSize int64) (x lastIndexEntries, err error) {
	offset, err := lastOf(fsys, path+indexExt, indexEntrySize)
	if err != nil {
		return x, err
	}
	time, err := lastOf(fsys, path+timeExt, timeEntrySize)
	switch {
	case err != nil:
		return x, err
	case offset == nil && time == nil && logSize == 0:
		return lastIndexEntries{none: true}, nil
	case offset == nil || time == nil:
		return x, errors.New("index is empty, the log is not")
	}
	x = lastIndexEntries{offset: decodeIndexEntry(offset), time: decodeTimeEntry(time)}
	if x.offset.relative < 0 || x.offset.position < 0 || int64(x.offset.position)+record.HeaderSize > logSize || x.time.relative < 0 {
		return x, fmt.Errorf("last index entry points behind the log's %d bytes", logSize)
	}
	return x, nil
}

// lastOf returns the last bytes of a file of whole entries; nil: it is empty.
func lastOf(fsys vfs.FS, name string, entry int64) (_ []byte, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil || size == 0 {
		return nil, err
	}
	if size%entry != 0 {
		return nil, errors.New("index has a torn entry")
	}
	b := make([]byte, entry)
	return b, readFull(f, b, size-entry)
}

// newest is the greatest timestamp of a segment that takes no more batches.
func (x lastIndexEntries) newest(base record.Offset) newestTime {
	if x.none {
		return noTime()
	}
	return newestTime{x.time.ms, base + record.Offset(x.time.relative)}
}

// writeIndex makes both index files durable, their names in the folder excepted.
// What is in them is extended in place: the front of an index never becomes wrong,
// so that whatever a crash leaves leads recovery to a batch near the end. The times
// go first, for they must reach as far as the offsets. saved is how much of x is
// there already.
func writeIndex(fsys vfs.FS, path string, x *index, saved savedIndex) error {
	offsets, times := x.encode()
	if err := refill(fsys, path+timeExt, times, timeEntrySize*saved.times); err != nil {
		return err
	}
	return refill(fsys, path+indexExt, offsets, indexEntrySize*saved.offsets)
}

// savedIndex counts the entries of an index that are in its files.
type savedIndex struct{ offsets, times int }

// searchIndexFile finds a position in a sealed segment's index without loading
// it: a binary search of single entries out of the page cache. A missing index
// means the beginning of the segment.
func searchIndexFile(fsys vfs.FS, path string, relative int64) (position int64, err error) {
	e, err := searchIndexEntry(fsys, path, relative)
	return int64(e.position), err
}

func searchIndexEntry(fsys vfs.FS, path string, relative int64) (e indexEntry, err error) {
	f, err := fsys.Open(path + indexExt)
	if errors.Is(err, fs.ErrNotExist) {
		return e, nil
	}
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return e, err
	}
	var b [indexEntrySize]byte
	i := sort.Search(int(size/indexEntrySize), func(i int) bool {
		if _, rerr := f.ReadAt(b[:], int64(i)*indexEntrySize); rerr != nil {
			err = errors.Join(err, rerr)
			return true
		}
		return int64(decodeIndexEntry(b[:]).relative) > relative
	})
	if err != nil || i == 0 {
		return e, err
	}
	if _, err := f.ReadAt(b[:], int64(i-1)*indexEntrySize); err != nil && !errors.Is(err, io.EOF) {
		return e, err
	}
	return decodeIndexEntry(b[:]), nil
}
