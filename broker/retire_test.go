package broker

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/broker/replica"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// ledByTwo has the topic of newLocal, led by broker 2, with the given in-sync set.
func ledByTwo(t *testing.T, isr ...int32) *metadata.Image {
	t.Helper()
	commands := []*metav1.Command{{Kind: &metav1.Command_SetClusterId{SetClusterId: &metav1.SetClusterId{ClusterId: "c"}}}}
	epochs := map[int32]int64{}
	for node := int32(1); node <= 2; node++ {
		commands = append(commands, registered(node)...)
		epochs[node] = int64(len(commands))
		commands = append(commands, &metav1.Command{Kind: &metav1.Command_UnfenceBroker{UnfenceBroker: &metav1.UnfenceBroker{NodeId: node, BrokerEpoch: epochs[node]}}})
	}
	id := make([]byte, 16)
	id[0] = 1
	commands = append(commands, &metav1.Command{Kind: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
		Name: "t", TopicId: id, Partitions: []*metav1.PartitionAssignment{{Replicas: []int32{2, 1}}},
		Configs: map[string]string{metadata.ConfigMinInSyncReplicas: "1"},
	}}})
	im := image(t, commands...)
	if p := im.Topic("t").Partitions[0]; !slices.Equal(p.ISR, isr) {
		var members []*metav1.IsrMember
		for _, node := range isr {
			members = append(members, &metav1.IsrMember{NodeId: node, BrokerEpoch: epochs[node]})
		}
		commands = append(commands, &metav1.Command{Kind: &metav1.Command_ChangeIsr{ChangeIsr: &metav1.ChangeIsr{
			NodeId: p.Leader, BrokerEpoch: epochs[p.Leader], Changes: []*metav1.IsrChange{{
				TopicId: id, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch, Isr: members,
			}},
		}}})
		im = image(t, commands...)
	}
	if p := im.Topic("t").Partitions[0]; p.Leader != 2 || len(p.ISR) != len(isr) {
		t.Fatalf("leader %d, in sync %v", p.Leader, p.ISR)
	}
	return im
}

// A log that failed for want of space is opened again once there is some, by
// recovery, and only when nobody counts on what the replica holds.
func TestFailedLogIsOpenedAgain(t *testing.T) {
	for _, tt := range []struct {
		name   string
		err    error
		image  *metadata.Image
		unsafe bool
		again  bool
		told   bool // the metadata hears of it first
	}{
		{"no space", syscall.ENOSPC, ledByTwo(t, 2), false, true, false},
		{"too many open files", syscall.EMFILE, ledByTwo(t, 2), false, true, false},
		{"in sync", syscall.ENOSPC, ledByTwo(t, 2, 1), false, false, false},
		{"not synced at some time", syscall.ENOSPC, ledByTwo(t, 2), true, true, true},
		{"a bad disk", syscall.EIO, ledByTwo(t, 2), false, false, false},
		{"no topic", syscall.ENOSPC, image(t), false, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			faults := vfs.NewFaults(vfs.NewMem())
			l, closeAll := newLocalOn(t, faults, "/d", 1<<20, testSettings(t))
			failed := l
			defer func() {
				if !tt.again {
					_ = failed.log.Close() // says how it failed
				}
				closeAll()
			}()
			f := follow(t, l)
			push := func(from record.Offset) {
				b := batchAt(t, from, 1, 10)
				defer b.Release()
				f.Push(replica.Push{Epoch: 1, Session: 1, From: from, To: from + 10, HighWatermark: from}, []*record.Buf{b})
			}
			push(0)
			until(t, "a flush", func() bool { return l.log.Flushed() == 10 })
			faults.Inject(vfs.Fault{Op: vfs.OpWrite, Pattern: "*.log", Err: tt.err, Partial: 30})
			push(10)
			until(t, "the failure", func() bool { return l.log.Err() != nil })
			until(t, "the state machine to hear of it", func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				return l.state.Damage() == partition.DamageFailed
			})
			faults.Heal()
			l.unsafe = tt.unsafe
			controller := &recorder{index: tt.image.Index()}
			l.b.cfg.Controller, l.b.cfg.SessionTimeout = controller, time.Second
			r := newReconciler(t.Context(), l.b)
			if got := r.retire(tt.image); got != tt.again {
				t.Fatalf("opened again: %v", got)
			}
			if !tt.again {
				if waits := tt.err != syscall.EIO; r.waiting != waits {
					t.Errorf("waits: %v, want %v", r.waiting, waits)
				}
				return
			}
			topics := []*metadata.Topic{tt.image.Topic("t")}
			r.adopt(topics, tt.image)
			again := l.b.table.byKey(l.key)
			if again == nil || again == l || r.failed {
				t.Fatalf("not opened: %v", again)
			}
			defer again.stop()
			if again.log.Err() != nil || again.log.Flushed() < 10 || again.log.End() != again.log.Flushed() {
				t.Errorf("recovered up to %d, flushed %d, %v", again.log.End(), again.log.Flushed(), again.log.Err())
			}
			if rec := r.recoveries[l.key]; (rec != nil) != tt.told || rec != nil && rec.unflushed != tt.unsafe {
				t.Fatalf("the metadata hears of %+v", rec)
			}
			if tt.told {
				told(t, r, controller, again, topics[0], tt.image)
			}
			r.assign(topics[0], tt.image)
			if again.role() != partition.RoleFollower || again.sub == nil {
				t.Errorf("it is %s and follows %v", again.role(), again.sub)
			}
			if h, ok := (followerSide{again}).Begin(2); !ok || h.End != again.log.End() {
				t.Errorf("handshake %+v, %v", h, ok)
			}
		})
	}
}

type anyController Controller

// recorder is a controller that remembers what it was asked, and refuses the first.
type recorder struct {
	anyController // nil: nothing else is called

	index    uint64
	requests []*pb.ProposeRequest
}

func (c *recorder) Propose(_ context.Context, req *pb.ProposeRequest) (*pb.ProposeResponse, error) {
	if c.requests = append(c.requests, req); len(c.requests) == 1 {
		return nil, errors.New("no controller")
	}
	return &pb.ProposeResponse{Index: c.index}, nil
}

// told brings a replica that was opened again to where the image shows it. Until
// then it has no role, whatever the image says.
func told(t *testing.T, r *reconciler, c *recorder, l *localReplica, topic *metadata.Topic, im *metadata.Image) {
	t.Helper()
	for try := 1; try <= 2; try++ {
		if r.recover(im) || !r.waiting {
			t.Fatal("the image shows it already")
		}
		r.proposals.Wait()
		r.assign(topic, im)
		if l.role() != partition.RoleNone || len(c.requests) != try {
			t.Fatalf("it is %s after %d of %d proposals", l.role(), len(c.requests), try)
		}
	}
	got, p := c.requests[1].GetRecover(), topic.Partitions[0]
	if got.GetNodeId() != 1 || got.GetLeaderEpoch() != p.LeaderEpoch || !got.GetUnflushed() || got.GetReplica().GetLogEndOffset() != int64(l.log.End()) {
		t.Errorf("told: %v", got)
	}
	if !r.recover(im) || len(r.recoveries) != 0 || len(c.requests) != 2 {
		t.Errorf("the image shows it, and it still waits: %d requests", len(c.requests))
	}
}

// Which replicas whose logs failed may be opened anew, by the image.
func TestMayReopen(t *testing.T) {
	faults := vfs.NewFaults(vfs.NewMem())
	l, closeAll := newLocalOn(t, faults, "/d", 1<<20, testSettings(t))
	defer closeAll()
	l.mu.Lock()
	l.step(partition.LogFailed())
	l.mu.Unlock()
	for name, tt := range map[string]struct {
		change     func(*metadata.Partition)
		free, told bool
	}{
		"elsewhere led":                 {func(*metadata.Partition) {}, true, true},
		"in the in-sync set":            {func(p *metadata.Partition) { p.ISR = []int32{1, 2} }, false, false},
		"eligible":                      {func(p *metadata.Partition) { p.ELR = []int32{1} }, false, true},
		"in the last complete set":      {func(p *metadata.Partition) { p.LastISR = []int32{1, 2} }, false, true},
		"the last one, leading":         {func(p *metadata.Partition) { p.ISR, p.Leader = []int32{1}, 1 }, false, true},
		"leading others, about to stop": {func(p *metadata.Partition) { p.ISR, p.Leader = []int32{1, 2}, 1 }, false, false},
		"nobody leads":                  {func(p *metadata.Partition) { p.ISR, p.Leader = []int32{1}, metadata.NoNode }, false, true},
	} {
		im := ledByTwo(t, 2)
		tt.change(im.Topic("t").Partitions[0])
		if free, told := l.mayReopen(im); free != tt.free || told != tt.told {
			t.Errorf("%s: %v, %v", name, free, told)
		}
	}
}
