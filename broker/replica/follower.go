package replica

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// FollowerConfig configures the followers' side.
type FollowerConfig struct {
	NodeID      int32
	BrokerEpoch int64 // of this process's registration
	ClusterID   string
	Transport   Transport
	Logger      *slog.Logger
	// InSyncCredit and CatchUpCredit bound the bytes of batches that a leader may
	// have sent and this broker's logs have not written; 0: 16 MiB and 4 MiB.
	InSyncCredit  int64
	CatchUpCredit int64
	// CatchUpRate is how many bytes a second this broker takes of what it catches up
	// with while there is Traffic, from all leaders together; 0: 64 MiB.
	CatchUpRate int64
	Traffic     *Traffic // nil: one of its own
	// Receive is the memory for what all leaders together may have sent so; each
	// leader's credit is at most its part, three quarters of it in sync. One batch
	// a stream may come on top. 0: there is no such bound.
	Receive int64
	// KeepAlive is the longest silence towards a leader; 0: 500 ms. Well below
	// broker.session.timeout.
	KeepAlive time.Duration
	// HoldRetry is the pause before a partition that can do nothing asks again; 0: 1 s.
	HoldRetry time.Duration
}

// sessionBits is the room for the sessions of one process.
const sessionBits = 24

// Follower follows leaders for all the partitions of a broker. Make it with
// NewFollower.
type Follower struct {
	cfg      FollowerConfig
	sessions atomic.Uint64   // ids handed out: they only grow
	ctx      context.Context //nolint:containedctx // The lifetime of the streams, ended by Close.
	cancel   context.CancelFunc
	running  sync.WaitGroup
	leaders  atomic.Int32 // that have subscriptions
	giveWay  *giveWay     // of all catch-up streams

	mu     sync.Mutex // guards what follows
	links  map[int32]*link
	closed bool
}

// NewFollower returns a follower without partitions; it has no goroutine yet.
func NewFollower(cfg FollowerConfig) (*Follower, error) {
	if cfg.Transport == nil || cfg.Logger == nil {
		return nil, errors.New("replica: FollowerConfig wants Transport and Logger")
	}
	if cfg.InSyncCredit <= 0 {
		cfg.InSyncCredit = 16 << 20
	}
	if cfg.CatchUpCredit <= 0 {
		cfg.CatchUpCredit = 4 << 20
	}
	if cfg.KeepAlive <= 0 {
		cfg.KeepAlive = 500 * time.Millisecond
	}
	if cfg.HoldRetry <= 0 {
		cfg.HoldRetry = time.Second
	}
	if cfg.CatchUpRate <= 0 {
		cfg.CatchUpRate = defaultCatchUpRate
	}
	if cfg.Traffic == nil {
		cfg.Traffic = new(Traffic)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &Follower{cfg: cfg, ctx: ctx, cancel: cancel, links: make(map[int32]*link), giveWay: newGiveWay(cfg.Traffic, cfg.CatchUpRate)}
	// Broker epochs grow from process to process, so no id ever comes again.
	f.sessions.Store(uint64(cfg.BrokerEpoch) << sessionBits)
	return f, nil
}

// Follow begins to follow leader for one partition; inSync says whether the
// committed ISR holds this replica. It never blocks. The caller stops an earlier
// subscription of the partition first. After Close it returns a subscription
// that does nothing.
func (f *Follower) Follow(key Key, leader int32, inSync bool, p FollowerPartition) *Subscription {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[leader]
	if l == nil {
		l = newLink(f, leader)
		f.links[leader] = l
	}
	kind := kindCatchUp
	if inSync {
		kind = kindInSync
	}
	s := &Subscription{link: l, part: p, key: key, kind: kind}
	if f.closed {
		s.phase = subStopped
		return s
	}
	l.add(s)
	return s
}

// window is the credit that a leader may have on a stream. It changes with the
// number of leaders; one with more than its window gets no more until it has used it.
func (f *Follower) window(kind streamKind) int64 {
	most, quarters := f.cfg.InSyncCredit, int64(3)
	if kind == kindCatchUp {
		most, quarters = f.cfg.CatchUpCredit, 1
	}
	if f.cfg.Receive <= 0 {
		return most
	}
	return max(min(most, f.cfg.Receive*quarters/4/max(int64(f.leaders.Load()), 1)), 1)
}

// Close ends all streams and waits for their goroutines.
func (f *Follower) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return ErrClosed
	}
	f.closed = true
	links := f.links
	f.mu.Unlock()
	f.cancel()
	for _, l := range links {
		l.close()
	}
	f.running.Wait()
	return nil
}

// streamKind is one of the two streams to a leader.
type streamKind int8

const (
	kindInSync streamKind = iota
	kindCatchUp
	streamKinds
)

func (k streamKind) wire() pb.StreamKind {
	if k == kindInSync {
		return pb.StreamKind_STREAM_KIND_IN_SYNC
	}
	return pb.StreamKind_STREAM_KIND_CATCH_UP
}

func (k streamKind) String() string {
	if k == kindInSync {
		return "in-sync"
	}
	return "catch-up"
}
