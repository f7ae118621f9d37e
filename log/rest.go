package log

import "errors"

// restBytes is the size from which the index of an idle log is worth a file.
const restBytes = 4 << 10

// Rest lets go of memory that an idle log need not hold. Call it from time to
// time: a log that has got nothing since the last call, and has flushed all, puts
// a larger index into its files, where reads look it up as in every other segment;
// the next batch loads it again. After an error the index is where it was.
func (l *Log) Rest() error {
	if !l.io.TryLock() {
		return nil // it is at work
	}
	defer l.io.Unlock()
	l.mu.Lock()
	s := l.active()
	idle := l.usable() == nil && l.rested == l.end && l.flushed == l.end && s.index != nil && s.index.bytes() > restBytes
	l.rested = l.end
	l.mu.Unlock()
	if !idle {
		return nil
	}
	if err := s.seal(l.fs); err != nil {
		return errors.Join(err, s.removeIndex(l.fs)) // nobody must believe half of it
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.index = nil
	return nil
}

// bytes is the memory of an index.
func (x *index) bytes() int {
	const offset, time = 8, 16
	return cap(x.offsets)*offset + cap(x.times)*time
}
