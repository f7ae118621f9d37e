package broker

import (
	"slices"
	"syscall"
	"testing"

	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/broker/replica"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
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
	}{
		{"no space", syscall.ENOSPC, ledByTwo(t, 2), false, true},
		{"too many open files", syscall.EMFILE, ledByTwo(t, 2), false, true},
		{"in sync", syscall.ENOSPC, ledByTwo(t, 2, 1), false, false},
		{"not synced at some time", syscall.ENOSPC, ledByTwo(t, 2), true, false},
		{"a bad disk", syscall.EIO, ledByTwo(t, 2), false, false},
		{"no topic", syscall.ENOSPC, image(t), false, false},
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
			r := &reconciler{b: l.b}
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
