package log

import (
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/penstock/penstock/log/record"
)

// memory rebuilds the leader epochs and the producer state.
func (r *recoverer) memory() error {
	l := r.l
	if err := r.leaderEpochs(); err != nil {
		return err
	}
	ps, err := l.restoreProducers(r.snapshots, l.end)
	if ps != nil {
		l.producers = ps
	}
	if err != nil && l.damage != DamageNone {
		l.logger.Warn("producer state of a damaged log is incomplete", "path", l.path, "error", err)
		return nil
	}
	if err != nil {
		return r.midway(err)
	}
	return nil
}

// midway handles damage that a walk over durable segments came across.
func (r *recoverer) midway(err error) error {
	if _, ok := errors.AsType[*CorruptionError](err); !ok {
		return err
	}
	r.hurt(DamageCorrupt, err)
	return nil
}

// leaderEpochs loads the epoch file, which covers all that was flushed, and adds
// the epochs of the scanned batches. A file that is unreadable, or says what the batches
// do not, is built anew from the headers of the whole log.
func (r *recoverer) leaderEpochs() error {
	l := r.l
	b, err := readFile(l.fs, filepath.Join(l.path, epochsName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var stored epochs
	if err == nil {
		stored, err = decodeEpochs(b)
	}
	kept := r.withFresh(stored)
	if err == nil {
		right, vouchErr := r.vouched(kept)
		if vouchErr != nil && !errors.Is(vouchErr, ErrCorrupt) { // else the scan says what is damaged
			return vouchErr
		}
		if !right {
			err = errors.New("the file does not say what the batches do")
		}
	}
	rebuilt := err != nil && l.end > l.start
	if rebuilt {
		l.logger.Warn("leader epochs are built anew from the log", "path", l.path, "error", err)
		if stored, err = l.scanEpochs(); err != nil {
			if midErr := r.midway(err); midErr != nil {
				return midErr
			}
		}
		kept = r.withFresh(stored)
	}
	l.epochs = kept
	if l.damage != DamageNone {
		return nil
	}
	l.epochsDirty = rebuilt || len(l.epochs) != len(stored)
	for i := 0; !l.epochsDirty && i < len(stored); i++ {
		l.epochsDirty = stored[i] != l.epochs[i]
	}
	return l.writeEpochs()
}

// withFresh brings epochs up to date: those of the log as it is, and of the scanned batches.
func (r *recoverer) withFresh(stored epochs) epochs {
	l := r.l
	kept := stored.truncate(l.end).advance(l.start)
	for _, e := range r.fresh {
		e.start = max(e.start, l.start)
		kept.note(e.epoch, e.start)
	}
	return kept.truncate(l.end)
}

// scanEpochs reads the epochs out of all batch headers.
func (l *Log) scanEpochs() (epochs, error) {
	var out epochs
	for _, s := range l.segments {
		err := l.walk(s, func(info *record.BatchInfo, _ int64) { out.note(info.Epoch, info.BaseOffset) })
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// needIndex loads the index of the active segment before it is written to. The
// caller holds io.
func (l *Log) needIndex(s *segment) error {
	if s.index != nil {
		return nil
	}
	x, err := loadIndex(l.fs, s.path, s.size)
	if err != nil {
		l.logger.Warn("index is built anew", "segment", s.path, "error", err)
		if x, _, err = l.buildIndex(s); err != nil {
			return err
		}
		s.saved = savedIndex{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.index = x
	return nil
}

// buildIndex makes the index of a segment that becomes the active one, up to its
// present size, from the headers of its batches.
func (l *Log) buildIndex(s *segment) (*index, newestTime, error) {
	x, newest := &index{}, noTime()
	l.mu.Lock()
	interval := l.cfg.IndexInterval
	l.mu.Unlock()
	err := l.walk(s, func(info *record.BatchInfo, position int64) {
		x.note(s.base, info, position, interval, newest)
		newest.note(info)
	})
	return x, newest, err
}
