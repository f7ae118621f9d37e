package controller_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/penstock/penstock/cluster/controller"
	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// world is a cluster in which only the controller, its clock and what it hears
// exist.
type world struct {
	t    testing.TB
	im   *metadata.Image
	live *controller.Liveness
	now  time.Time
	opts controller.Options
	// silent, stopping and stalled are properties of the brokers' processes.
	silent, stopping, stalled map[int32]bool
	possibleLoss, fences      int
	moves                     int
}

func newWorld(tb testing.TB, brokers int32) *world {
	tb.Helper()
	start := time.Unix(1_700_000_000, 0)
	w := &world{
		t: tb, im: metadata.Empty(), now: start, live: controller.NewLiveness(start), opts: controller.DefaultOptions(),
		silent: make(map[int32]bool), stopping: make(map[int32]bool), stalled: make(map[int32]bool),
	}
	w.apply(&metav1.Command{Kind: &metav1.Command_SetClusterId{SetClusterId: &metav1.SetClusterId{ClusterId: "test"}}})
	for node := range brokers {
		w.register(node, "", nil)
	}
	return w
}

func id(prefix byte, n int) []byte {
	out := make([]byte, 16)
	out[0] = prefix
	copy(out[1:], fmt.Sprint(n))
	return out
}

func (w *world) apply(cmd *metav1.Command) {
	w.t.Helper()
	cmd.Version = metadata.CommandLevel(cmd)
	next, result, err := metadata.Apply(w.im, w.im.Index()+1, cmd)
	if err != nil {
		w.t.Fatalf("%v: %v", cmd, err)
	}
	for _, refused := range result.Refused {
		if refused != nil {
			w.t.Fatalf("%v: %v", cmd, refused)
		}
	}
	if err := next.Check(); err != nil {
		w.t.Fatal(err)
	}
	w.im = next
}

// register starts a broker anew; ends gives the log end of each partition of topic t.
func (w *world) register(node int32, rack string, ends []int64) {
	w.t.Helper()
	r := &metav1.RegisterBroker{NodeId: node, StorageId: id(1, int(node)), Rack: rack, FeatureLevel: metadata.Version}
	for i, end := range ends {
		r.Replicas = append(r.Replicas, &metav1.RecoveredReplica{TopicId: id(2, 0), Partition: int32(i), LogEndOffset: end})
	}
	w.apply(&metav1.Command{Kind: &metav1.Command_RegisterBroker{RegisterBroker: r}})
	delete(w.silent, node)
	delete(w.stopping, node)
}

func (w *world) create(name int, configs map[string]string, assignments []*metav1.PartitionAssignment) {
	w.t.Helper()
	w.apply(&metav1.Command{Kind: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
		Name: fmt.Sprintf("t%d", name), TopicId: id(2, name), Configs: configs, Partitions: assignments,
	}}})
}

func (w *world) partition(i int) *metadata.Partition { return w.im.Topic("t0").Partitions[i] }

// decide hears the brokers that are not silent, decides, and applies.
func (w *world) decide() []*metav1.Command {
	w.t.Helper()
	w.live.Observe(w.im, w.now)
	for b := range w.im.Brokers() {
		if !w.silent[b.NodeID] {
			w.live.Heard(controller.Heartbeat{
				NodeID: b.NodeID, BrokerEpoch: b.Epoch, WantShutdown: w.stopping[b.NodeID], FlushStalled: w.stalled[b.NodeID],
			}, w.now)
		}
	}
	d := controller.Decide(w.im, w.live, w.now, w.opts)
	w.possibleLoss += d.PossibleLoss
	for _, cmd := range d.Commands {
		switch cmd.GetKind().(type) {
		case *metav1.Command_FenceBroker:
			w.fences++
		case *metav1.Command_ElectLeaders:
			w.moves += len(cmd.GetElectLeaders().GetChanges())
		}
		w.apply(cmd)
	}
	return d.Commands
}

// run decides every 50 ms for a time.
func (w *world) run(d time.Duration) {
	w.t.Helper()
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(50 * time.Millisecond) {
		w.decide()
	}
}

func assign(sets ...[]int32) []*metav1.PartitionAssignment {
	var out []*metav1.PartitionAssignment
	for _, s := range sets {
		out = append(out, &metav1.PartitionAssignment{Replicas: s})
	}
	return out
}
