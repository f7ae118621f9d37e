package replica

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/log/record"
	"github.com/penstock/penstock/proto/wire"
)

// weighed notes the greatest message that came, and the greatest push in one.
type weighed struct {
	Transport

	mu            sync.Mutex // guards what follows
	message, push int
}

func (w *weighed) Open(ctx context.Context, leader int32) (FollowerStream, error) {
	s, err := w.Transport.Open(ctx, leader)
	return weighedStream{s, w}, err
}

type weighedStream struct {
	FollowerStream

	on *weighed
}

func (s weighedStream) Recv() (*wire.Replicated, error) {
	m, err := s.FollowerStream.Recv()
	if err != nil {
		return m, err
	}
	s.on.mu.Lock()
	defer s.on.mu.Unlock()
	message, at := 0, 0
	for _, p := range m.GetPushes() {
		push := 0
		for range p.GetBatchCount() {
			push += len(m.Batches[at].Bytes)
			at++
		}
		message += push
		s.on.push = max(s.on.push, push)
	}
	s.on.message = max(s.on.message, message)
	return m, nil
}

// A partition with much to send takes its share of a message, and all of them together
// fill one message and no more: whoever waits behind has a turn soon.
func TestMessagesAndSharesAreBounded(t *testing.T) {
	const message, share, size, batches = 10_000, 4_000, 1_000, 50
	const per = size + record.HeaderSize
	var came []*weighed
	nodes := newNodes(t, 2, func(s *ServerConfig, f *FollowerConfig) {
		s.MessageBytes, s.PartitionBytes = message, share
		w := &weighed{Transport: f.Transport}
		f.Transport, came = w, append(came, w)
	})
	var leaders []*memReplica
	for p := range 6 {
		leader := newMemReplica(nodes[0], testKey(p))
		leader.assign(assignment(1, 1, 2, 1, 2))
		for i := range batches {
			leader.produce(uint64(i), size)
		}
		leaders = append(leaders, leader)
	}
	for p := range leaders {
		newMemReplica(nodes[1], testKey(p)).assign(assignment(1, 1, 2, 1, 2))
	}
	for _, l := range leaders {
		l.wait(t, "all acknowledged", func() bool { return len(l.outcomes) == batches })
	}
	w := came[1]
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.push > share || w.push < 2*per {
		t.Errorf("the greatest push had %d bytes, a partition's share is %d", w.push, share)
	}
	if w.message > message+per || w.message <= share { // one batch goes whatever is left
		t.Errorf("the greatest message had %d bytes of batches, the bound is %d", w.message, message)
	}
}

// refusing is a transport to a leader that is not there.
type refusing struct{ tries atomic.Int32 }

func (r *refusing) Open(context.Context, int32) (FollowerStream, error) {
	r.tries.Add(1)
	return nil, errors.New("connection refused")
}

// A leader that is not there is asked soon at first, and not more than twice a second in
// the end.
func TestReconnectBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(refusing)
		f, err := NewFollower(FollowerConfig{NodeID: 2, BrokerEpoch: 1, ClusterID: testCluster, Transport: r, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		n := &testNode{t: t, id: 2, follower: f, parts: make(map[Key]*memReplica)}
		newMemReplica(n, testKey(0)).assign(assignment(1, 1, 2, 1, 2))
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		if got := r.tries.Load(); got < 4 || got > 7 {
			t.Errorf("%d tries in the first 300 ms", got)
		}
		before := r.tries.Load()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := r.tries.Load() - before; got < 19 || got > 23 {
			t.Errorf("%d tries in 10 s", got)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
