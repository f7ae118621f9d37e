package log

import (
	"errors"
	"fmt"
	"io"
	"sort"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// The epoch file and the indexes are Kafka's, and have no checksum. A flipped bit of a digit
// leaves a file that reads well, by which a follower would cut its log at a wrong place, or
// retention delete what is young. So what they say counts when the batches say it too,
// which a header or two tell.

// voucher asks a log that is being opened what its batches say. It keeps one file open.
type voucher struct {
	l       *Log
	segment *segment
	file    vfs.File
}

// vouched reports whether epochs, as read from a file and brought up to date, are those of the
// batches: each one begins with a batch of its own behind one of the epoch before, and
// the last batch has the last one. Epochs do not fall from batch to batch, so
// that nothing between needs to be looked at.
func (r *recoverer) vouched(e epochs) (right bool, err error) {
	v := &voucher{l: r.l}
	defer func() { err = errors.Join(err, v.close()) }()
	for i := range e {
		if right, err := v.begins(e, i); err != nil || !right {
			return false, err
		}
	}
	if r.lastEpoch != record.UnknownEpoch {
		return r.lastEpoch == e.last(), nil
	}
	last, _, err := v.neighbours(r.l.end)
	if err != nil || last == nil || last.NextOffset() <= r.l.start {
		return len(e) == 0, err
	}
	return last.Epoch == e.last(), nil
}

// begins is vouched of one epoch. Of the first, all batches may be gone: those below the
// log start by retention, the others by compaction.
func (v *voucher) begins(e epochs, i int) (bool, error) {
	start := e[i].start
	before, at, err := v.neighbours(start)
	if err != nil || at == nil {
		return false, err
	}
	if before != nil && before.NextOffset() <= v.l.start {
		before = nil
	}
	switch {
	case i > 1, i == 1 && before != nil:
		return at.BaseOffset == start && at.Epoch == e[i].epoch && before != nil && before.Epoch == e[i-1].epoch, nil
	case i == 1:
		return at.BaseOffset == start && at.Epoch == e[i].epoch, nil
	case before != nil:
		return false, nil // it has an epoch too
	default:
		return at.Epoch == e[i].epoch || len(e) > 1 && at.BaseOffset == e[1].start, nil
	}
}

// neighbours returns the last batch that ends at or below an offset, and the next one, which
// holds the offset or is the first behind it; nil: there is none.
func (v *voucher) neighbours(off record.Offset) (before, at *record.BatchInfo, err error) {
	all := v.l.segments
	i := sort.Search(len(all), func(i int) bool { return all[i].base >= off }) - 1
	for i = max(i, 0); i > 0 && all[i].size == 0; i-- { // what is written to may be empty yet
	}
	for ; i < len(all) && at == nil; i++ {
		if all[i].size == 0 {
			continue
		}
		err := v.heads(all[i], off-1, func(info *record.BatchInfo) bool {
			if b := *info; b.NextOffset() <= off {
				before = &b
			} else {
				at = &b
			}
			return at == nil
		})
		if err != nil {
			return nil, nil, err
		}
	}
	return before, at, nil
}

// heads calls visit for the headers of a segment's batches, from the one that holds an
// offset or one a little before it, until it says false.
func (v *voucher) heads(s *segment, from record.Offset, visit func(*record.BatchInfo) bool) error {
	if v.segment != s {
		if err := v.close(); err != nil {
			return err
		}
		f, err := v.l.fs.Open(s.path + logExt)
		if err != nil {
			return err
		}
		v.segment, v.file = s, f
	}
	at, _, err := v.l.near(s, v.file, from)
	if err != nil {
		return err
	}
	return headers(s, v.file, at, visit)
}

func (v *voucher) close() error {
	if v.segment == nil {
		return nil
	}
	v.segment = nil
	return v.file.Close()
}

// headers calls visit for the headers of a segment's batches from a position on, until it says
// false. It reads nothing else, for only a few are asked for.
func headers(s *segment, f io.ReaderAt, at int64, visit func(*record.BatchInfo) bool) error {
	head := make([]byte, record.HeaderSize)
	for at < s.size {
		if err := readFull(f, head, at); err != nil {
			return fmt.Errorf("%s: %w", s.path+logExt, err)
		}
		info, ok := record.Peek(head)
		if !ok || info.LastDelta < 0 {
			return &CorruptionError{Path: s.path + logExt, Position: at, Offset: record.UnknownOffset, Reason: "no batch header"}
		}
		if !visit(&info) {
			return nil
		}
		at += int64(info.Size)
	}
	return nil
}

// tells reports whether an entry of a time index is true: whether the batch that it
// names has the time that it says. hint is an entry of the offset index at or before it.
func (t timeEntry) tells(s *segment, f io.ReaderAt, hint indexEntry) (right bool, err error) {
	named := s.base + record.Offset(t.relative)
	err = headers(s, f, int64(hint.position), func(info *record.BatchInfo) bool {
		right = info.LastOffset() == named && info.MaxTimestamp == t.ms
		return info.LastOffset() < named
	})
	if errors.Is(err, ErrCorrupt) {
		return false, nil // the hint led to no batch
	}
	return right, err
}

// fits checks the ends of a segment's index files, which is what counts of them, and
// returns the epoch of the last batch.
func (r *recoverer) fits(last lastIndexEntries, f io.ReaderAt, s *segment) (epoch record.Epoch, err error) {
	if epoch, err = last.endsAt(f, s, r.l.cleaned); err != nil {
		return epoch, err
	}
	hint := last.offset
	if last.time.relative < hint.relative { // the newest record is not among the last ones
		if hint, err = searchIndexEntry(r.l.fs, s.path, int64(last.time.relative)); err != nil {
			return epoch, err
		}
	}
	right, err := last.time.tells(s, f, hint)
	if err == nil && !right {
		err = fmt.Errorf("the batch of offset %d does not have %d ms, as the time index says", s.base+record.Offset(last.time.relative), last.time.ms)
	}
	return epoch, err
}
