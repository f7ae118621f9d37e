package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

const raftLogFile = "raft.db"

// raftStore is what raft-boltdb offers and Raft needs.
type raftStore interface {
	raft.LogStore
	raft.StableStore
}

// latchedStore is the Raft log and vote. The first failed write is the last:
// after it no write is tried, and the node leaves its Raft role.
//
// Without the latch a leader whose write failed only steps down, is elected
// again, and goes on with a file whose state nobody knows: after a failed sync
// the kernel may hold clean pages that never reached the disk.
//
// The library panics when it cannot store its term. That would take down a
// process that may host other nodes, so a failed SetUint64 ends the calling
// goroutine instead.
type latchedStore struct {
	raftStore
	path  string
	node  int32
	close func() error
	alive func() error // after each write that succeeded

	failed  chan struct{} // closed with the first failure
	failure error         // set before failed is closed
	once    sync.Once

	// busySince is the start of the write in progress in nanoseconds since
	// began; 0: none.
	busySince atomic.Int64
	// running: only goroutines that the store may end read from it.
	running atomic.Bool
	began   time.Time

	// newest is the newest command that was stored since the store was opened; nil: none.
	newest atomic.Pointer[logPlace]
}

// logPlace is where an entry stands in the log.
type logPlace struct{ term, index uint64 }

// openStore opens or creates the Raft log of a node in dir, and reads all of it: a
// *DamagedLogError says that something in it is not what was written. The freelist is not written
// at each commit: it is rebuilt by a scan at open, which for a log that is
// trimmed by snapshots is short, and the file would otherwise rewrite it whole
// with every entry.
func openStore(dir string, node int32) (*latchedStore, error) {
	path := filepath.Join(dir, raftLogFile)
	created := false
	there, err := look(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		created = true
	case isDamage(err):
		return nil, &DamagedLogError{Path: path, NodeID: node, Err: err}
	case err != nil:
		return nil, fmt.Errorf("open raft log %s: %w", path, err)
	}
	bolt, err := raftboltdb.New(raftboltdb.Options{
		Path:        path,
		BoltOptions: &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, Timeout: time.Second},
	})
	if err != nil {
		return nil, fmt.Errorf("open raft log %s: %w", path, err)
	}
	if created {
		if err := syncDir(dir); err != nil {
			return nil, errors.Join(fmt.Errorf("open raft log %s: %w", path, err), bolt.Close())
		}
	}
	check, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open raft log %s: %w", path, errors.Join(err, bolt.Close()))
	}
	summed := &summedStore{bolt}
	if err := summed.verify(there); err != nil {
		return nil, errors.Join(&DamagedLogError{Path: path, NodeID: node, Err: err}, bolt.Close(), check.Close())
	}
	s := newLatchedStore(summed, path, func() error { return errors.Join(bolt.Close(), check.Close()) })
	s.node = node
	s.alive = func() error { return alive(check) }
	return s, nil
}

// alive asks whether the file system of a file still takes writes, by one of
// nothing. An ext4 that is shut down in the midst of an fdatasync may let it succeed
// although what it was to sync is lost (internal/vfs, Datasync).
func alive(f *os.File) error {
	_, err := unix.Pwrite(int(f.Fd()), nil, 0)
	if errors.Is(err, unix.EINTR) {
		return nil // it got past the check
	}
	return err
}

func newLatchedStore(s raftStore, path string, closer func() error) *latchedStore {
	return &latchedStore{
		raftStore: s, path: path, close: closer, alive: func() error { return nil },
		failed: make(chan struct{}), began: time.Now(),
	}
}

// StoreLog is part of raft.LogStore.
func (s *latchedStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs is part of raft.LogStore.
func (s *latchedStore) StoreLogs(logs []*raft.Log) error {
	if err := s.write(func() error { return s.raftStore.StoreLogs(logs) }); err != nil {
		return err
	}
	for _, l := range slices.Backward(logs) {
		if l.Type == raft.LogCommand {
			s.newest.Store(&logPlace{l.Term, l.Index})
			break
		}
	}
	return nil
}

// newestOf is the index of the newest command of a term; 0: none was stored. While this
// node leads in the term, whatever is committed in it was stored here before.
func (s *latchedStore) newestOf(term uint64) uint64 {
	if at := s.newest.Load(); at != nil && at.term == term {
		return at.index
	}
	return 0
}

// DeleteRange is part of raft.LogStore. Raft calls it from its snapshot
// goroutine too, so it is not timed; a write behind it is.
func (s *latchedStore) DeleteRange(first, last uint64) error {
	return s.latch(func() error { return s.raftStore.DeleteRange(first, last) })
}

// Set is part of raft.StableStore: for votes, which are not given when it fails.
func (s *latchedStore) Set(key, value []byte) error {
	return s.write(func() error { return s.raftStore.Set(key, value) })
}

// GetLog is part of raft.LogStore. The library panics over an entry that cannot be read.
// One that was sound when the store was opened and is not now ends the
// role, and the calling goroutine, as in SetUint64.
func (s *latchedStore) GetLog(index uint64, l *raft.Log) error {
	err := s.raftStore.GetLog(index, l)
	if isDamage(err) {
		err = &DamagedLogError{Path: s.path, NodeID: s.node, Err: err}
		s.fail(err)
		if s.running.Load() {
			runtime.Goexit()
		}
	}
	return err
}

// SetUint64 is part of raft.StableStore. It is called for votes and terms, by
// Raft's main goroutine alone, and the library panics when a term cannot be
// stored. When the store has failed, SetUint64 ends that goroutine: its deferred
// functions answer whoever waits, and the node is out of its role before
// SetUint64 would have returned.
func (s *latchedStore) SetUint64(key []byte, value uint64) error {
	if err := s.write(func() error { return s.raftStore.SetUint64(key, value) }); err != nil {
		runtime.Goexit()
	}
	return nil
}

// write is latch for Raft's main goroutine, whose writes are timed.
func (s *latchedStore) write(do func() error) error {
	s.busySince.Store(max(1, int64(time.Since(s.began))))
	defer s.busySince.Store(0)
	return s.latch(do)
}

func (s *latchedStore) latch(do func() error) error {
	if err := s.err(); err != nil {
		return err
	}
	err := do()
	if err == nil {
		err = s.alive()
	}
	if err != nil {
		s.fail(fmt.Errorf("write raft log %s: %w", s.path, err))
	}
	return s.err()
}

func (s *latchedStore) fail(err error) {
	s.once.Do(func() {
		s.failure = err
		close(s.failed)
	})
}

func (s *latchedStore) err() error {
	select {
	case <-s.failed:
		return s.failure
	default:
		return nil
	}
}

// busy is how long the write in progress has been running.
func (s *latchedStore) busy() time.Duration {
	since := s.busySince.Load()
	if since == 0 {
		return 0
	}
	return time.Since(s.began) - time.Duration(since)
}

// size of the file in bytes, which never shrinks; 0: it cannot be told.
func (s *latchedStore) size() int64 {
	info, err := os.Stat(s.path)
	if err != nil {
		return 0
	}
	return info.Size()
}
