package broker

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/broker/replica"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/internal/vfs"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
)

// unreachable is a transport on which no leader answers.
type unreachable struct{}

func (unreachable) Open(context.Context, int32) (replica.FollowerStream, error) {
	return nil, errors.New("no route")
}

// newLocal returns a replica on a real log, in a broker (node 1) without a cluster.
func newLocal(t *testing.T, settings metadata.TopicSettings) *localReplica {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	arena := record.NewArena(1 << 20)
	dir, err := commitlog.OpenDir(commitlog.DirOptions{FS: vfs.OS{}, Path: t.TempDir(), Arena: arena, DiskReserve: -1, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	b := &Broker{
		cfg: Config{NodeID: 1, Dir: dir, Arena: arena, Logger: logger, Now: time.Now}, logger: logger, table: newTable(),
		kick: make(chan struct{}, 1), startsDue: make(chan struct{}, 1),
	}
	b.proposer = newProposer(b)
	if b.follower, err = replica.NewFollower(replica.FollowerConfig{NodeID: 1, Transport: unreachable{}, Logger: logger}); err != nil {
		t.Fatal(err)
	}
	l, err := b.open(openRequest{topic: "t", key: replica.Key{Topic: [16]byte{1}}, settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	b.table.change([]*localReplica{l}, nil)
	t.Cleanup(func() {
		_ = b.follower.Close()
		l.stop()
		if err := dir.Close(-1); err != nil {
			t.Error(err)
		}
	})
	return l
}

func testSettings(t *testing.T) metadata.TopicSettings {
	t.Helper()
	s, err := metadata.ParseSettings(nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// led is an assignment of three in-sync replicas.
func led(leader int32, epoch record.Epoch) *partition.Assignment {
	a := &partition.Assignment{Leader: leader, LeaderEpoch: epoch, PartitionEpoch: int32(epoch), MinISR: 2, Synced: true}
	for node := int32(1); node <= 3; node++ {
		a.Replicas = append(a.Replicas, partition.Assigned{Node: node, BrokerEpoch: int64(node), ISR: true})
	}
	return a
}

// batchAt is a batch of n records as a leader's log holds it.
func batchAt(t *testing.T, base record.Offset, epoch record.Epoch, n int) *record.Buf {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	for range n {
		if err := b.Append(&record.Record{Value: []byte("v")}); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := b.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	record.Patch(raw, base, epoch)
	return record.NewBuf(raw)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain: " + what)
		}
	}
}

// follow brings l into an open session with leader 2 in epoch 1.
func follow(t *testing.T, l *localReplica) followerSide {
	t.Helper()
	f := followerSide{l}
	l.finish(l.assign(led(2, 1)))
	h, ok := f.Begin(1)
	if !ok {
		t.Fatal("no handshake")
	}
	v := f.Reply(replica.HandshakeReply{Epoch: 1, Session: h.Session, AnswerEpoch: -1, Matched: true})
	if v != replica.VerdictOK {
		t.Fatalf("reply: %d", v)
	}
	return f
}

// A log start that comes with records takes effect once they are committed here,
// which the flush worker finds out.
func TestFollowerTakesTheLogStart(t *testing.T) {
	l := newLocal(t, testSettings(t))
	f := follow(t, l)
	b := batchAt(t, 0, 1, 10)
	v := f.Push(replica.Push{Epoch: 1, Session: 1, From: 0, To: 10, HighWatermark: 10, LogStart: 5}, []*record.Buf{b})
	b.Release()
	if v != replica.VerdictOK {
		t.Fatalf("push: %d", v)
	}
	until(t, "the watermark", func() bool { return l.watermark() == 10 })
	<-l.b.startsDue
	l.advanceStart()
	if got := l.log.Start(); got != 5 {
		t.Errorf("log start %d, want 5", got)
	}
}

// A follower whose log failed gives its subscription back at once.
func TestFailedFollowerWithdraws(t *testing.T) {
	l := newLocal(t, testSettings(t))
	follow(t, l)
	l.progress(commitlog.Progress{Err: errors.New("disk")})
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sub != nil {
		t.Error("still subscribed")
	}
}

// A subscription outlives changes of the in-sync set, but for a follower that
// fell out of it.
func TestSubscriptionOutlivesTheInSyncSet(t *testing.T) {
	l := newLocal(t, testSettings(t))
	sub := func() *replica.Subscription {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.sub
	}
	a := led(2, 1)
	a.Replicas[0].ISR = false
	l.finish(l.assign(a))
	first := sub()
	in := led(2, 1)
	in.PartitionEpoch = 2
	l.finish(l.assign(in))
	if sub() != first {
		t.Error("joining the in-sync set opened another subscription")
	}
	out := led(2, 1)
	out.PartitionEpoch, out.Replicas[0].ISR = 3, false
	l.finish(l.assign(out))
	if sub() == first {
		t.Error("a follower that fell behind stays on the in-sync stream")
	}
}

// The proposal names who lost acknowledged records.
func TestProposalNamesTheDamaged(t *testing.T) {
	l := newLocal(t, testSettings(t))
	l.b.proposer.add(l, &partition.Effect{Epoch: 1, PartitionEpoch: 2}, []partition.Member{{Node: 1, BrokerEpoch: 1}}, []int32{3})
	change := l.b.proposer.change(l.b.proposer.take())
	if got := change.GetChanges()[0].GetDamaged(); len(got) != 1 || got[0] != 3 {
		t.Errorf("damaged %v", got)
	}
}
