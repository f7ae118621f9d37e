package cluster

import (
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// fsm holds the newest metadata image and tells who waits for one. All that a
// command means is in metadata.Apply. It implements raft.FSM: Apply, Snapshot
// and Restore are called by one goroutine of Raft at a time, the others by
// anyone.
type fsm struct {
	image  atomic.Pointer[metadata.Image]
	logger *slog.Logger
	// level is the feature level of this build.
	level uint32
	// outdated is called once, with the reason, when the log needs a newer build.
	outdated func(error)
	// stuck is set then: nothing is applied any more. Raft's goroutine alone uses it.
	stuck error

	mu sync.Mutex // guards waiters, and publishing an image against new waiters
	// waiters are closed once the image's index is above their key.
	waiters map[uint64]chan struct{}
}

func newFSM(logger *slog.Logger, level uint32, outdated func(error)) *fsm {
	f := &fsm{logger: logger, level: level, outdated: outdated, waiters: make(map[uint64]chan struct{})}
	f.image.Store(metadata.Empty())
	return f
}

// applied is what Apply returns through Raft to the one who proposed.
type applied struct {
	result metadata.Result
	err    error // *metadata.Error, or nil
}

// Apply applies one committed command. A command that cannot be decoded is
// refused like any other bad one: it is in every node's log, so every node must
// get past it in the same way. One of a higher feature level than this build's
// is another matter: other nodes apply it. Getting past it would make this node
// hold another image than they do, so it applies nothing from there on, and ends.
func (f *fsm) Apply(l *raft.Log) any {
	if f.stuck != nil {
		return applied{err: f.stuck}
	}
	cmd := new(metav1.Command)
	if err := proto.Unmarshal(l.Data, cmd); err != nil {
		f.logger.Error("metadata log holds a command that cannot be decoded", "index", l.Index, "error", err)
		cmd = new(metav1.Command)
	}
	if cmd.GetVersion() > f.level {
		f.stuck = &OutdatedError{Index: l.Index, Needs: cmd.GetVersion(), Has: f.level}
		f.outdated(f.stuck)
		return applied{err: f.stuck}
	}
	im, result, err := metadata.Apply(f.image.Load(), l.Index, cmd)
	f.publish(im)
	return applied{result: result, err: err}
}

func (f *fsm) publish(im *metadata.Image) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.image.Store(im)
	for after, ch := range f.waiters {
		if im.Index() > after {
			close(ch)
			delete(f.waiters, after)
		}
	}
}

// changed returns a channel that is closed once the image's index is above after.
func (f *fsm) changed(after uint64) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	ch, ok := f.waiters[after]
	if !ok {
		ch = make(chan struct{})
		if f.image.Load().Index() > after {
			close(ch)
			return ch
		}
		f.waiters[after] = ch
	}
	return ch
}

// Snapshot hands out the image, which never changes, so that Apply goes on
// while it is written.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if f.stuck != nil {
		return nil, f.stuck // Raft would give the old image the index of a newer one.
	}
	return snapshot{image: f.image.Load()}, nil
}

// Restore replaces the image by a snapshot's.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close() //nolint:errcheck // Read only.
	im, err := metadata.ReadSnapshot(r)
	if newer, ok := errors.AsType[*metadata.SnapshotVersionError](err); ok && newer.Version > f.level && f.stuck == nil {
		f.stuck = &OutdatedError{Needs: newer.Version, Has: f.level}
		f.outdated(f.stuck)
	}
	if err != nil {
		return err
	}
	f.publish(im)
	return nil
}

type snapshot struct{ image *metadata.Image }

// Persist writes the snapshot; Raft syncs the file when the sink is closed.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if err := metadata.WriteSnapshot(s.image, sink); err != nil {
		_ = sink.Cancel()
		return err
	}
	return sink.Close()
}

// Release has nothing to give back.
func (snapshot) Release() {}
