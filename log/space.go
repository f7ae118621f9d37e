package log

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/internal/vfs"
)

const (
	defaultReserve     = 2 << 30
	defaultReserveRate = 20 // one part in so many of the file system: 5 %

	// An answer of the file system is good for as long as others need to come down
	// to the reserve, if they write a byte a nanosecond; but within these bounds.
	spaceMaxAge = time.Second
	spaceMinAge = 10 * time.Millisecond
)

// claim says whose append it is, and so how far it may go into the reserve. What
// keeps a cluster alive goes further than what only keeps it busy:
//
//	produce by clients       stops at the reserve
//	a follower's copies      at a half of it: leaders and followers whose disks are
//	                         alike stop together, by the leader's refusal, and the
//	                         records that were on their way find room
//	internal topics          at a quarter
//	all else                 never: Raft, checkpoints, epochs, indexes, snapshots
type claim uint8

const (
	claimProduce claim = iota
	claimReplica
	claimInternal
)

func (c claim) floor(reserve int64) int64 { return reserve >> c }

// space keeps the account of what the file system has left. Its own answer is
// behind in two ways: it may be old, and it knows nothing of bytes that are
// appended and not yet written. So every byte is counted when it is appended and
// again when it has reached its file (where file systems count it at once, also
// those that choose its blocks later) or was dropped:
//
//	free now = free then - (taken now - settled then)
type space struct {
	fs      vfs.FS
	path    string
	reserve int64 // as configured
	now     func() time.Time

	taken   atomic.Int64 // bytes ever appended
	settled atomic.Int64 // of those, written or dropped

	// The last answer, readable without mu: room is free then + settled then.
	room  atomic.Int64
	keep  atomic.Int64 // the reserve in bytes
	until atomic.Int64 // how long it is good for, in Unix nanoseconds

	// refused is the size of the produce that last found no room; 0: there is room again.
	refused atomic.Int64

	mu    sync.Mutex // held while the file system is asked; guards asked
	asked time.Time
}

// take counts n bytes that are about to be appended, or refuses them with a
// *DiskFullError, after which they do not count. When the file system does not
// say how much is free, nothing is refused.
func (s *space) take(n int64, c claim) error {
	taken := s.taken.Add(n)
	if s.reserve < 0 || s.now().UnixNano() < s.until.Load() && s.room.Load()-taken >= c.floor(s.keep.Load()) {
		return nil
	}
	if s.ask() != nil {
		return nil //nolint:nilerr // Dir.Space reports it, to whoever watches the disk.
	}
	free, floor := s.room.Load()-taken, c.floor(s.keep.Load())
	if free >= floor {
		return nil
	}
	s.taken.Add(-n)
	if c == claimProduce {
		s.refused.Store(n)
	}
	return &DiskFullError{Path: s.path, Free: max(free+n, 0), Reserve: floor, Wanted: n}
}

// ask brings the answer up to date, unless it was just given.
func (s *space) ask() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if !s.asked.IsZero() && now.Sub(s.asked) < spaceMinAge && !now.Before(s.asked) {
		return nil
	}
	settled := s.settled.Load() // before the question: a byte may count twice, never not at all
	free, total, err := s.fs.Space(s.path)
	if err != nil {
		return err
	}
	s.asked = now
	s.room.Store(free + settled)
	switch {
	case s.reserve < 0:
		s.keep.Store(0)
	case s.reserve > 0:
		s.keep.Store(s.reserve)
	default:
		s.keep.Store(max(defaultReserve, total/defaultReserveRate))
	}
	age := time.Duration(s.room.Load() - s.taken.Load() - s.keep.Load())
	s.until.Store(now.Add(min(max(age, spaceMinAge), spaceMaxAge)).UnixNano())
	return nil
}

// left is what is free by the account.
func (s *space) left() (free, reserve int64, err error) {
	if s.now().UnixNano() >= s.until.Load() {
		if err := s.ask(); err != nil {
			return 0, 0, err
		}
	}
	return max(s.room.Load()-s.taken.Load(), 0), s.keep.Load(), nil
}

// Space returns how many bytes of the file system are free, without those that
// are appended and not written yet, and how many are to stay so.
func (d *Dir) Space() (free, reserve int64, err error) { return d.space.left() }

// Volume asks the file system how large it is, and how much of it is free.
func (d *Dir) Volume() (total, free int64, err error) {
	free, total, err = d.space.fs.Space(d.space.path)
	return total, free, err
}

// CheckReserve answers a *DiskFullError while Append refuses the produce of clients:
// less than the reserve is free, or so little more that the batch it last refused
// would find no room now either. Large batches stop above the reserve, where nothing
// but a smaller one would ever take what is left of it.
func (d *Dir) CheckReserve() error {
	free, reserve, err := d.space.left()
	if err != nil {
		return err
	}
	wanted := d.space.refused.Load()
	if free >= reserve+wanted {
		d.space.refused.CompareAndSwap(wanted, 0)
		return nil
	}
	return &DiskFullError{Path: d.path, Free: free, Reserve: reserve, Wanted: wanted}
}

// CheckReplication answers a *DiskFullError while a follower that was refused for
// lack of space should not begin again: until three quarters of the reserve are
// free. It was refused at a half; the difference keeps it from going to and fro.
func (d *Dir) CheckReplication() error {
	free, reserve, err := d.space.left()
	if want := reserve / 4 * 3; err == nil && free < want {
		return &DiskFullError{Path: d.path, Free: free, Reserve: want}
	}
	return err
}
