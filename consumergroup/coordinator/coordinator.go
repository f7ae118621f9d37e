package coordinator

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// Coordinator runs the groups whose __consumer_offsets partitions this broker
// leads. Its methods may be called concurrently. All errors are *api.Error but
// for the context's own and, of Session, out's.
type Coordinator struct {
	cfg        Config
	progress   *progress
	room       room
	patterns   *patterns
	partitions atomic.Int32  // of __consumer_offsets; 0: it does not exist
	streams    atomic.Uint64 // numbers sessions

	mu     sync.RWMutex // guards shards and closed
	shards map[int32]*shard
	closed bool
	runs   sync.WaitGroup // of shard.run
}

// New makes a coordinator that serves no group until Load.
func New(cfg Config) (*Coordinator, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Coordinator{cfg: cfg, progress: newProgress(), patterns: &patterns{topics: cfg.Topics}, shards: map[int32]*shard{}}
	c.room.limit = int64(cfg.MaxCommitBytes)
	return c, nil
}

// SetPartitions says how many partitions __consumer_offsets has; 0: it does not
// exist yet, and every call is answered CodeCoordinatorNotAvailable.
func (c *Coordinator) SetPartitions(n int32) { c.partitions.Store(n) }

// Load begins to serve the groups of a partition of __consumer_offsets: the
// broker became its leader in this epoch. It does not wait for the loading. A
// later Load with a newer epoch replaces it; one with an older or the same
// epoch is ignored.
func (c *Coordinator) Load(partition int32, epoch record.Epoch, log Log) {
	c.mu.Lock()
	defer c.mu.Unlock()
	previous := c.shards[partition]
	if c.closed || previous != nil && previous.epoch >= epoch {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	s := newShard(c, partition, epoch, log)
	s.stop = stop
	if previous != nil {
		previous.stop()
	}
	c.shards[partition] = s
	c.runs.Go(func() { s.run(ctx, previous) })
}

// Unload stops serving the groups of a partition; sessions end with
// CodeNotCoordinator. It does not wait.
func (c *Coordinator) Unload(partition int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.shards[partition]; s != nil {
		s.stop()
		delete(c.shards, partition)
	}
}

// TopicsChanged says that Config.Topics may answer differently from now on. It
// does not wait, and calls in a row become one.
func (c *Coordinator) TopicsChanged() {
	c.patterns.topicsChanged()
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, s := range c.shards {
		select {
		case s.topics <- struct{}{}:
		default:
		}
	}
}

// Close unloads everything and waits for the goroutines.
func (c *Coordinator) Close() error {
	c.mu.Lock()
	c.closed = true
	for partition, s := range c.shards {
		s.stop()
		delete(c.shards, partition)
	}
	c.mu.Unlock()
	c.runs.Wait()
	return nil
}

// shardOf returns the shard that a group belongs to.
func (c *Coordinator) shardOf(group string) (*shard, error) {
	if err := ValidateGroupID(group); err != nil {
		return nil, err
	}
	n := c.partitions.Load()
	if n <= 0 {
		return nil, api.Errorf(api.CodeCoordinatorNotAvailable, "__consumer_offsets does not exist yet")
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	s := c.shards[PartitionFor(group, n)]
	if s == nil {
		return nil, errNotCoordinator(group)
	}
	return s, nil
}

// Epoch is the leader epoch in which a group is coordinated here; record.UnknownEpoch: it
// is not.
func (c *Coordinator) Epoch(group string) record.Epoch {
	s, err := c.shardOf(group)
	if err != nil {
		return record.UnknownEpoch
	}
	return s.epoch
}

// Epochs are the leader epochs of the partitions of __consumer_offsets whose groups are
// coordinated here.
func (c *Coordinator) Epochs() map[int32]record.Epoch {
	c.mu.RLock()
	defer c.mu.RUnlock()
	epochs := make(map[int32]record.Epoch, len(c.shards))
	for partition, s := range c.shards {
		epochs[partition] = s.epoch
	}
	return epochs
}

// CommitOffsets stores offsets and returns once they are committed, with the
// outcome of each. An error is about the whole request: nothing was stored.
// CodeOverloaded: too many wait already.
func (c *Coordinator) CommitOffsets(ctx context.Context, req *api.CommitOffsets) ([]api.CommittedOffset, error) {
	s, err := c.shardOf(req.Group)
	if err != nil {
		return nil, err
	}
	return await(ctx, s, func(reply func([]api.CommittedOffset, error)) request {
		return request{commit: &commit{req: *req, reply: reply}}
	})
}

// FetchOffsets returns what is committed for the partitions, offset -1 where
// nothing is, or all that is committed when none is named. Where records were lost that
// may have been of a partition without an offset, it is CodeCoordinatorNotAvailable.
func (c *Coordinator) FetchOffsets(ctx context.Context, req *api.FetchOffsets) ([]api.CommittedOffset, error) {
	s, err := c.shardOf(req.Group)
	if err != nil {
		return nil, err
	}
	return call(ctx, s, func(reply func([]api.CommittedOffset, error)) {
		s.emit(func(err error) {
			if err != nil {
				reply(nil, errLoading())
				return
			}
			if refused := s.fetchAllowed(req); refused != nil {
				reply(nil, refused)
				return
			}
			found := s.fetch(req.Group, req.Partitions)
			if refused := s.mayBeLost(time.Now(), req, found); refused != nil {
				reply(nil, refused)
				return
			}
			reply(found, nil)
		})
	})
}

// ListGroups returns the groups coordinated here, ascending by name. Where those of
// some partitions cannot be loaded, the others are returned beside the error, whose
// code is CodeCoordinatorNotAvailable.
func (c *Coordinator) ListGroups(ctx context.Context) ([]api.GroupListing, error) {
	var all []api.GroupListing
	var missing []error
	for _, s := range c.loaded() {
		groups, err := call(ctx, s, func(reply func([]api.GroupListing, error)) {
			s.emit(func(err error) {
				if err != nil {
					reply(nil, errLoading())
					return
				}
				list := make([]api.GroupListing, 0, len(s.groups))
				for _, g := range s.groups {
					list = append(list, g.listing())
				}
				reply(list, nil)
			})
		})
		switch {
		case api.CodeOf(err) == api.CodeNotCoordinator:
			continue // unloaded meanwhile
		case api.CodeOf(err) == api.CodeCoordinatorNotAvailable:
			missing = append(missing, err)
		case err != nil:
			return nil, err
		}
		all = append(all, groups...)
	}
	slices.SortFunc(all, func(a, b api.GroupListing) int { return cmp.Compare(a.Group, b.Group) })
	switch n := len(missing); n {
	case 0:
		return all, nil
	case 1:
		return all, missing[0]
	default:
		return all, api.Errorf(api.CodeCoordinatorNotAvailable, "%w; nor those of %d more partitions", missing[0], n-1)
	}
}

// DescribeGroup returns all that is known of a group; CodeUnknownGroup: nothing is.
func (c *Coordinator) DescribeGroup(ctx context.Context, group string) (*api.GroupDescription, error) {
	s, err := c.shardOf(group)
	if err != nil {
		return nil, err
	}
	return call(ctx, s, func(reply func(*api.GroupDescription, error)) {
		s.emit(func(err error) {
			g := s.groups[group]
			switch {
			case err != nil:
				reply(nil, errLoading())
			case g == nil:
				reply(nil, s.unknownGroup(group))
			default:
				reply(s.describe(g), nil)
			}
		})
	})
}

// DeleteGroup removes a group without members, and its offsets.
func (c *Coordinator) DeleteGroup(ctx context.Context, group string) error {
	s, err := c.shardOf(group)
	if err != nil {
		return err
	}
	_, err = call(ctx, s, func(reply func(struct{}, error)) {
		s.remove(group, func(err error) { reply(struct{}{}, err) })
	})
	return err
}

// call runs something on a shard's actor and waits for its reply, which must
// come once.
func call[T any](ctx context.Context, s *shard, run func(reply func(T, error))) (T, error) {
	return await(ctx, s, func(reply func(T, error)) request {
		var zero T
		return request{run: func() { run(reply) }, fail: func(err *api.Error) { reply(zero, err) }}
	})
}

// await hands a request to a shard's actor and waits for its reply.
func await[T any](ctx context.Context, s *shard, ask func(reply func(T, error)) request) (T, error) {
	type result struct {
		value T
		err   error
	}
	results := make(chan result, 1)
	var zero T
	if err := s.enqueue(ctx, ask(func(value T, err error) { results <- result{value, err} })); err != nil {
		return zero, err
	}
	select {
	case r := <-results:
		return r.value, r.err
	case <-ctx.Done():
		return zero, deadlineError(ctx)
	case <-s.done:
	}
	select {
	case r := <-results:
		return r.value, r.err
	default:
		return zero, api.Errorf(api.CodeNotCoordinator, "this broker no longer coordinates the group")
	}
}

// enqueue hands r to the actor, waiting while its queue is full.
func (s *shard) enqueue(ctx context.Context, r request) error {
	select {
	case s.requests <- r:
		return nil
	case <-s.done:
		return api.Errorf(api.CodeNotCoordinator, "this broker no longer coordinates the group")
	case <-ctx.Done():
		return deadlineError(ctx)
	}
}

// deadlineError is the context's error, or CodeRequestTimedOut for a deadline:
// what was asked for may still happen.
func deadlineError(ctx context.Context) error {
	if err := context.Cause(ctx); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return api.Errorf(api.CodeRequestTimedOut, "the coordinator did not answer in time: %w", ctx.Err())
}
