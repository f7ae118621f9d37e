package log

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/penstock/penstock/log/record"
)

// ProducerState is what the log knew of its idempotent producers when it ended at
// an offset, as the bytes of a snapshot file: for a replica that begins there, and
// will never see the batches below. The offset is where a batch begins, at or below
// the start of the log and not below its first segment; everything below it is on
// disk then. It does not hold up appends.
//
// An error means that the log moved on meanwhile, or that its files cannot be
// read; asked again with where the log begins then, the first one passes.
func (l *Log) ProducerState(at record.Offset) ([]byte, error) {
	l.mu.Lock()
	limit, generation := l.cfg.MaxProducers, l.generation
	expired := l.dir.now().Add(-l.cfg.ProducerExpiration).UnixMilli()
	err := error(nil)
	switch {
	case l.closing:
		err = ErrClosed
	case l.busy:
		err = ErrBusy
	case at < l.segments[0].base || at > l.written:
		err = &OffsetError{at, l.segments[0].base, l.written}
	}
	segments := make([]segment, 0, len(l.segments))
	for _, s := range l.segments {
		segments = append(segments, *s) // as it is now: the last one grows
	}
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	ps, from, err := l.snapshotBelow(at, limit)
	if err != nil {
		return nil, err
	}
	now := l.dir.now().UnixMilli()
	for i := range segments {
		s := &segments[i]
		if s.next <= from || s.base >= at || s.size == 0 {
			continue
		}
		err := l.walkFrom(s, from, func(info *record.BatchInfo, _ int64) bool {
			if info.BaseOffset >= at {
				return false
			}
			if info.BaseOffset >= from {
				ps.update(info, now)
			}
			return true
		})
		if err != nil {
			return nil, fmt.Errorf("producer state at offset %d: %w", at, err)
		}
	}
	ps.expire(expired)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.generation != generation {
		return nil, ErrBusy // it was truncated meanwhile
	}
	return ps.encode(at), nil
}

// snapshotBelow loads the newest readable snapshot at or below an offset; without
// one it returns an empty state from offset 0.
func (l *Log) snapshotBelow(at record.Offset, limit int) (*producers, record.Offset, error) {
	all, err := l.snapshots()
	if err != nil {
		return nil, 0, err
	}
	for _, off := range slices.Backward(all) {
		if off > at {
			continue
		}
		b, err := readFile(l.fs, filepath.Join(l.path, offsetName(off)+snapshotExt))
		if err != nil {
			return nil, 0, err // it was removed just now: a newer one is there
		}
		if ps, is, err := decodeProducers(b, limit); err == nil && is == off {
			return ps, off, nil
		}
	}
	return newProducers(limit), 0, nil
}

// CheckProducerState reports why bytes are not what ProducerState returns for an offset.
func CheckProducerState(b []byte, at record.Offset) error {
	_, is, err := decodeProducers(b, 0)
	if err == nil && is != at {
		err = fmt.Errorf("producer snapshot of offset %d, want %d", is, at)
	}
	return err
}

// errNoState: a log that begins above 0 without its producers would take what they
// send again for something new.
var errNoState = errors.New("no producer state")

// ResetTo is Reset for a replica that begins anew at its leader's log start: with
// the state of the producers there, which the leader's [Log.ProducerState] is. Both
// are durable before it returns, and one is not without the other. Bytes that are
// no such state change nothing.
func (l *Log) ResetTo(start record.Offset, state []byte) error {
	if len(state) == 0 {
		return fmt.Errorf("begin %s at offset %d: %w", l.path, start, errNoState)
	}
	if err := CheckProducerState(state, start); err != nil {
		return fmt.Errorf("begin %s at offset %d: %w", l.path, start, err)
	}
	return l.reset(start, state, nil)
}

// writeProducers puts a snapshot that came from elsewhere in place, but for its
// name in the folder.
func (l *Log) writeProducers(at record.Offset, state []byte) error {
	if len(state) == 0 {
		return nil
	}
	name := filepath.Join(l.path, offsetName(at)+snapshotExt)
	if err := create(l.fs, name+temporary, state); err != nil {
		return err
	}
	return l.fs.Rename(name+temporary, name)
}

// encodeReset says where a log that is being reset will begin, and with which
// producers.
func encodeReset(start record.Offset, state []byte) []byte {
	return append(fmt.Appendf(nil, "%d\n", start), state...)
}

func decodeReset(b []byte) (start record.Offset, state []byte, err error) {
	line, state, _ := bytes.Cut(b, []byte("\n"))
	n, err := parseOffset(string(line))
	if err != nil {
		return 0, nil, err
	}
	if len(state) > 0 {
		if err := CheckProducerState(state, n); err != nil {
			return 0, nil, err
		}
	}
	return n, state, nil
}
