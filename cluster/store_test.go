package cluster

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

var errDisk = errors.New("disk on fire")

// badStore fails its writes, or hangs in them, once told to.
type badStore struct {
	raftStore
	bad    atomic.Bool
	writes atomic.Int64
	hang   chan struct{} // nil: do not hang
}

func (s *badStore) write(do func() error) error {
	s.writes.Add(1)
	if s.bad.Load() {
		if s.hang != nil {
			<-s.hang
		}
		return errDisk
	}
	return do()
}

func (s *badStore) StoreLogs(l []*raft.Log) error {
	return s.write(func() error { return s.raftStore.StoreLogs(l) })
}

func (s *badStore) Set(k, v []byte) error {
	return s.write(func() error { return s.raftStore.Set(k, v) })
}

func (s *badStore) SetUint64(k []byte, v uint64) error {
	return s.write(func() error { return s.raftStore.SetUint64(k, v) })
}

func (s *badStore) DeleteRange(a, b uint64) error {
	return s.write(func() error { return s.raftStore.DeleteRange(a, b) })
}

func TestStoreLatchesTheFirstError(t *testing.T) {
	memory := raft.NewInmemStore()
	bad := &badStore{raftStore: memory}
	s := newLatchedStore(bad, "path", nil)
	require.NoError(t, s.StoreLog(&raft.Log{Index: 1}))
	bad.bad.Store(true)
	require.ErrorIs(t, s.StoreLog(&raft.Log{Index: 2}), errDisk)
	bad.bad.Store(false)
	writes := bad.writes.Load()
	require.ErrorIs(t, s.StoreLog(&raft.Log{Index: 2}), errDisk)
	require.ErrorIs(t, s.DeleteRange(1, 1), errDisk)
	require.Equal(t, writes, bad.writes.Load(), "no write is tried after the first failure")
	last, err := s.LastIndex()
	require.NoError(t, err)
	require.EqualValues(t, 1, last)

	// A term that cannot be stored ends the goroutine that wanted it.
	var returned bool
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = s.SetUint64([]byte("CurrentTerm"), 2)
		returned = true
	})
	wg.Wait()
	require.False(t, returned)
}

func TestFailedStoreEndsTheRole(t *testing.T) {
	for name, hang := range map[string]bool{"error": false, "stuck": true} {
		t.Run(name, func(t *testing.T) {
			nodes := newNodes(t, 3, 3)
			stores := make(map[int32]*badStore)
			for _, n := range nodes {
				n.tune = func(c *Config) {
					c.StoreStall = 200 * time.Millisecond
					c.wrapStore = func(s raftStore) raftStore {
						stores[n.id] = &badStore{raftStore: s}
						return stores[n.id]
					}
				}
			}
			startAll(nodes...)
			boss := controllerOf(t, nodes...)
			if hang {
				stores[boss.id].hang = make(chan struct{})
				t.Cleanup(func() { close(stores[boss.id].hang) }) // before the node's own cleanup
			}
			stores[boss.id].bad.Store(true)
			rest := without(nodes, boss)
			// The change meets the dead disk, and finds the next controller.
			_, err := rest[0].createTopic("t", 2)
			require.NoError(t, err)
			err = boss.failure()
			if hang {
				require.ErrorIs(t, err, ErrStoreStalled)
			} else {
				require.ErrorIs(t, err, errDisk)
			}
			// Its State may say Follower: a failed write steps down, also after the end.
			require.Eventually(t, func() bool {
				return errors.Is(boss.raft.Apply(nil, 100*time.Millisecond).Error(), raft.ErrRaftShutdown)
			}, 10*time.Second, time.Millisecond)
			next := controllerOf(t, rest...)
			require.NotEqual(t, boss.id, next.id)
			_, err = boss.Propose(t.Context(), &pb.ProposeRequest{Kind: &pb.ProposeRequest_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: "t"}}})
			require.Error(t, err)
		})
	}
}

// A voter whose vote cannot be stored gives none, and does not panic.
func TestFailedVoteEndsTheRole(t *testing.T) {
	nodes := newNodes(t, 3, 3)
	stores := make(map[int32]*badStore)
	for _, n := range nodes {
		n.tune = func(c *Config) {
			c.wrapStore = func(s raftStore) raftStore {
				stores[n.id] = &badStore{raftStore: s}
				return stores[n.id]
			}
		}
	}
	startAll(nodes...)
	boss := controllerOf(t, nodes...)
	voter := without(nodes, boss)[0]
	stores[voter.id].bad.Store(true)
	voter.campaign() // it must store the new term first
	require.ErrorIs(t, voter.failure(), errDisk)
}

func TestHoleInTheLogIsAnError(t *testing.T) {
	nodes := newNodes(t, 1, 1)
	startAll(nodes...)
	nodes[0].mustCreate("t", 1)
	nodes[0].kill()
	s, err := openStore(nodes[0].dir, nodes[0].id)
	require.NoError(t, err)
	require.NoError(t, s.DeleteRange(2, 2))
	require.NoError(t, s.close())
	_, err = Start(t.Context(), nodes[0].config())
	require.ErrorIs(t, err, ErrDataLost)
}

// A node that has failed stops Raft before it is closed; closing waits for Raft's
// goroutines all the same, which still use the store.
func TestCloseAfterAFailureWaitsForRaft(t *testing.T) {
	nodes := newNodes(t, 1, 1)
	store := &slowLog{hang: make(chan struct{})}
	nodes[0].tune = func(c *Config) {
		c.wrapStore = func(s raftStore) raftStore {
			store.raftStore = s
			return store
		}
	}
	startAll(nodes...)
	n := nodes[0]
	store.slow.Store(true)
	n.raft.Apply([]byte("entry"), time.Second) // Raft's main goroutine waits in the store
	require.Eventually(t, func() bool { return n.store.busy() > 0 }, 5*time.Second, time.Millisecond)
	n.fail(errDisk)
	err := n.close(false)
	close(store.hang)
	// It gives up after a while, and leaves the store open. Without an error it
	// would have closed the store under Raft.
	require.ErrorIs(t, err, ErrStoreStalled)
}

// What issue 695 of hashicorp/raft does: while the leader's main loop writes
// entries, a heartbeat of a newer term changes its term and role on the
// connection's goroutine, and the loop goes on in a term that it does not lead.
// With heartbeats in the main loop the write ends first.
func TestTermDoesNotChangeUnderAWriteOfTheLeader(t *testing.T) {
	nodes := newNodes(t, 1, 1)
	store := &slowLog{hang: make(chan struct{})}
	nodes[0].tune = func(c *Config) {
		c.wrapStore = func(s raftStore) raftStore {
			store.raftStore = s
			return store
		}
	}
	startAll(nodes...)
	n := nodes[0]
	release := sync.OnceFunc(func() { close(store.hang) })
	t.Cleanup(release)
	term := n.raft.CurrentTerm()
	store.slow.Store(true)
	n.raft.Apply([]byte("not a command"), time.Second)
	require.Eventually(t, func() bool { return n.store.busy() > 0 }, 5*time.Second, time.Millisecond, "the main loop writes")

	answered := make(chan error, 1)
	go func() {
		other := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("other"), Addr: []byte("127.0.0.1:1")}
		answered <- n.trans.NetworkTransport.AppendEntries("self", raft.ServerAddress(n.raftAddr),
			&raft.AppendEntriesRequest{RPCHeader: other, Term: term + 7}, new(raft.AppendEntriesResponse))
	}()
	select {
	case err := <-answered:
		t.Fatalf("the heartbeat was taken during the write (%v): the leader of term %d goes on in term %d", err, term, n.raft.CurrentTerm())
	case <-time.After(300 * time.Millisecond):
		require.Equal(t, term, n.raft.CurrentTerm())
	}
	release()
	require.NoError(t, <-answered)
	require.GreaterOrEqual(t, n.raft.CurrentTerm(), term+7, "then it is deposed")
}

// slowLog is a store whose entries wait while it is slow.
type slowLog struct {
	raftStore
	slow atomic.Bool
	hang chan struct{}
}

func (s *slowLog) StoreLogs(l []*raft.Log) error {
	if s.slow.Load() {
		<-s.hang
	}
	return s.raftStore.StoreLogs(l)
}
