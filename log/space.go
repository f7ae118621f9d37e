package log

import (
	"sync"
	"time"

	"github.com/penstock/penstock/internal/vfs"
)

const (
	spaceMaxAge        = time.Second
	defaultReserve     = 2 << 30
	defaultReserveRate = 20 // one part in so many of the file system: 5 %
)

// space knows how much the file system has left; it asks at most once a second.
type space struct {
	fs      vfs.FS
	path    string
	reserve int64 // as configured
	now     func() time.Time

	mu          sync.Mutex // guards the fields below
	asked       time.Time
	free, total int64
}

func (s *space) get() (free, reserve int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now(); s.asked.IsZero() || now.Sub(s.asked) >= spaceMaxAge || now.Before(s.asked) {
		if s.free, s.total, err = s.fs.Space(s.path); err != nil {
			return 0, 0, err
		}
		s.asked = now
	}
	switch {
	case s.reserve < 0:
		return s.free, 0, nil
	case s.reserve > 0:
		return s.free, s.reserve, nil
	}
	return s.free, max(defaultReserve, s.total/defaultReserveRate), nil
}

// Space returns how many bytes of the file system are free and how many are to
// stay so. The answer may be a second old.
func (d *Dir) Space() (free, reserve int64, err error) { return d.space.get() }

// CheckReserve answers a *DiskFullError while less than the reserve is free: the
// broker then refuses client produce, and nothing else. It costs no system call
// more than once a second.
func (d *Dir) CheckReserve() error {
	free, reserve, err := d.space.get()
	if err != nil {
		return err
	}
	if free < reserve {
		return &DiskFullError{Path: d.path, Free: free, Reserve: reserve}
	}
	return nil
}
