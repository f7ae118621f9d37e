package log

import (
	"fmt"

	"github.com/penstock/penstock/log/record"
)

// Append is the leader's: it gives the batches the next offsets and its epoch,
// and returns the range [first, next) that they got. Each Buf is one batch,
// validated at the door, of which the caller holds the only reference; the log
// takes its own references. nowMS sets the timestamps if the topic wants the
// time of append.
//
// Nothing is on disk when Append returns: Notify tells. Reads see the batches at
// once.
//
// On an error nothing was appended: *DuplicateError when all batches are in the
// log already, *SequenceError when they do not continue their producer's
// sequence, ErrStaleEpoch, *InvalidBatchError, *DiskFullError, *FailedError,
// *DamagedError, ErrBusy, ErrClosed. Of an append that mixes duplicates and new batches only
// the new ones are appended, and [first, next) is theirs: it lies above the others.
func (l *Log) Append(epoch record.Epoch, bufs []*record.Buf, nowMS int64) (first, next record.Offset, err error) {
	s := l.dir.borrow()
	defer l.dir.giveBack(s)
	var bytes int64
	for i, b := range bufs {
		info, ok := record.Peek(b.Bytes())
		if !ok || info.Size != b.Len() || info.LastDelta < 0 {
			return 0, 0, &InvalidBatchError{i, "a leader appends exactly one whole batch a buffer"}
		}
		s.infos = append(s.infos, info)
		bytes += int64(info.Size)
	}
	full := l.dir.space.take(bytes, l.claim(claimProduce))
	first, next, err = l.appendLeader(epoch, bufs, s, nowMS, full)
	if full == nil {
		l.dir.space.taken.Add(-bytes) // what was appended is counted in the tail
	}
	if err == nil && next > first {
		l.dir.pool.submit(l)
	}
	return first, next, err
}

// appendScratch is memory that appends use one after the other.
type appendScratch struct {
	infos   []record.BatchInfo
	pending []pendingSequence
}

// scratchKept is how many batches of an append scratch memory is kept for.
const scratchKept = 1024

func (d *Dir) borrow() *appendScratch {
	if s, ok := d.scratch.Get().(*appendScratch); ok {
		return s
	}
	return new(appendScratch)
}

func (d *Dir) giveBack(s *appendScratch) {
	if cap(s.infos) > scratchKept {
		return
	}
	s.infos, s.pending = s.infos[:0], s.pending[:0]
	d.scratch.Put(s)
}

// claim is how far appends go into the disk reserve.
func (l *Log) claim(ordinary claim) claim {
	if l.spec.Internal {
		return claimInternal
	}
	return ordinary
}

// appendLeader appends unless full says why there is no room; a duplicate is told
// so all the same.
func (l *Log) appendLeader(epoch record.Epoch, bufs []*record.Buf, s *appendScratch, nowMS int64, full error) (first, next record.Offset, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return 0, 0, err
	}
	if epoch < l.epochs.last() || epoch < 0 {
		return 0, 0, fmt.Errorf("append in epoch %d to %s, whose last epoch is %d: %w", epoch, l.path, l.epochs.last(), ErrStaleEpoch)
	}
	bufs, infos, err := l.sift(bufs, s)
	if err != nil {
		return 0, 0, err
	}
	if full != nil {
		return 0, 0, full
	}
	first = l.end
	for i, b := range bufs {
		info := &infos[i]
		record.Patch(b.Bytes(), l.end, epoch)
		if l.cfg.LogAppendTime {
			record.SetAppendTime(b.Bytes(), nowMS)
		}
		info.BaseOffset, info.Epoch = l.end, epoch
		l.take(b, info.NextOffset())
		l.epochsDirty = l.epochs.note(epoch, info.BaseOffset) || l.epochsDirty
		l.producers.appended(info, nowMS, l.written)
	}
	return first, l.end, nil
}

// sift checks the producers' sequences and drops batches that are in the log.
func (l *Log) sift(bufs []*record.Buf, s *appendScratch) ([]*record.Buf, []record.BatchInfo, error) {
	var (
		infos       = s.infos
		dups        int
		first, next record.Offset // of the duplicates
	)
	for i := range infos {
		info := &infos[i]
		if info.ProducerID < 0 {
			continue
		}
		dup, isDup, err := l.producers.check(info, s.pending)
		if err != nil {
			return nil, nil, err
		}
		if isDup {
			if dups == 0 {
				first, next = dup.base, dup.next
			}
			dups++
			first, next = min(first, dup.base), max(next, dup.next)
			continue
		}
		s.pending = append(s.pending, pendingSequence{info.ProducerID, info.ProducerEpoch, sequenceAfter(info.BaseSequence, info.LastDelta)})
	}
	switch {
	case dups == 0:
		return bufs, infos, nil
	case dups == len(bufs):
		return nil, nil, &DuplicateError{First: first, Next: next}
	}
	var newBufs []*record.Buf
	var newInfos []record.BatchInfo
	for i := range infos {
		if infos[i].ProducerID >= 0 {
			if _, isDup, err := l.producers.check(&infos[i], nil); err == nil && isDup {
				continue
			}
		}
		newBufs, newInfos = append(newBufs, bufs[i]), append(newInfos, infos[i])
	}
	return newBufs, newInfos, nil
}

// take puts a Buf at the end of the log. The caller holds mu.
func (l *Log) take(b *record.Buf, next record.Offset) {
	l.tail.push(b, l.end, next)
	l.end = next
}

// AppendFollower takes batches from the leader as they are: they must cover
// [from, to) with no gap that ends above cleaned, which is the leader's cleaned
// offset, from must be the log's end (else ErrNotContiguous, and the stream begins
// anew with a handshake), epochs must not fall (ErrStaleEpoch), CRCs must be right
// (ErrInvalidBatch). No log ends in a gap, so a range ends with a batch. A Buf may
// hold a run of whole batches. Below half of the disk reserve it refuses
// (ErrDiskFull): a follower that pauses loses nothing, one that fills its disk
// fails for good. On an error nothing was appended; the log takes its own
// references.
func (l *Log) AppendFollower(from, to, cleaned record.Offset, bufs []*record.Buf) error {
	s := l.dir.borrow()
	defer l.dir.giveBack(s)
	gaps, err := s.checkRun(from, to, cleaned, bufs)
	if err != nil {
		return err
	}
	var bytes int64
	for _, b := range bufs {
		bytes += int64(b.Len())
	}
	if err := l.dir.space.take(bytes, l.claim(claimReplica)); err != nil {
		return err
	}
	err = l.appendFollower(from, gaps, bufs, s.infos)
	l.dir.space.taken.Add(-bytes) // what was appended is counted in the tail
	if err != nil {
		return err
	}
	if len(bufs) > 0 {
		l.dir.pool.submit(l)
	}
	return nil
}

func (l *Log) appendFollower(from, gaps record.Offset, bufs []*record.Buf, infos []record.BatchInfo) error {
	now := l.dir.now().UnixMilli()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if from != l.end {
		return fmt.Errorf("append from offset %d to %s, which ends at %d: %w", from, l.path, l.end, ErrNotContiguous)
	}
	if len(infos) > 0 && infos[0].Epoch < l.epochs.last() {
		return fmt.Errorf("batch of epoch %d after epoch %d in %s: %w", infos[0].Epoch, l.epochs.last(), l.path, ErrStaleEpoch)
	}
	for i := range infos {
		l.epochsDirty = l.epochs.note(infos[i].Epoch, infos[i].BaseOffset) || l.epochsDirty
		l.producers.appended(&infos[i], now, l.written)
	}
	l.cleaned = max(l.cleaned, gaps)
	i := 0
	for _, b := range bufs {
		for left := b.Len(); left > 0; i++ {
			left -= infos[i].Size
		}
		l.take(b, infos[i-1].NextOffset())
	}
	return nil
}

// checkRun checks a follower's batches against each other and keeps their
// headers. gaps is where the last gap between them ends; 0: there is none.
func (s *appendScratch) checkRun(from, to, cleaned record.Offset, bufs []*record.Buf) (gaps record.Offset, err error) {
	next, epoch := from, record.UnknownEpoch
	for i, buf := range bufs {
		if buf.Len() == 0 {
			return 0, &InvalidBatchError{i, "the buffer is empty"}
		}
		begin := next
		for rest := buf.Bytes(); len(rest) > 0; {
			info, ok := record.Peek(rest)
			if !ok || info.Size > len(rest) {
				return 0, &InvalidBatchError{i, fmt.Sprintf("%d bytes that are not a whole batch", len(rest))}
			}
			if misplaced(info.BaseOffset, next, cleaned) {
				return 0, fmt.Errorf("batch at offset %d where %d was due: %w", info.BaseOffset, next, ErrNotContiguous)
			}
			if info.BaseOffset > next {
				gaps = info.BaseOffset
			}
			if info.Epoch < epoch {
				return 0, fmt.Errorf("batch of epoch %d after epoch %d: %w", info.Epoch, epoch, ErrStaleEpoch)
			}
			if reason := continues(&info, next, epoch, cleaned); reason != "" {
				return 0, &InvalidBatchError{i, reason}
			}
			if reason := unsound(rest[:info.Size]); reason != "" {
				return 0, &InvalidBatchError{i, fmt.Sprintf("%s at offset %d", reason, info.BaseOffset)}
			}
			s.infos = append(s.infos, info)
			next, epoch, rest = info.NextOffset(), info.Epoch, rest[info.Size:]
		}
		if next-begin > maxSegmentOffsets {
			return 0, &InvalidBatchError{i, fmt.Sprintf("it covers %d offsets, more than a segment's %d", next-begin, maxSegmentOffsets)}
		}
	}
	if next != to {
		return 0, fmt.Errorf("batches end at offset %d, the range at %d: %w", next, to, ErrNotContiguous)
	}
	return gaps, nil
}
