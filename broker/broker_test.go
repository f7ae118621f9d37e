package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/cluster"
	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// fixedImage is metadata that does not change.
type fixedImage struct{ im *metadata.Image }

func (f fixedImage) Image() *metadata.Image                    { return f.im }
func (f fixedImage) Changed(uint64) <-chan struct{}            { return nil }
func (f fixedImage) WaitApplied(context.Context, uint64) error { return nil }
func (f fixedImage) ReadBarrier(context.Context) error         { return nil }

// image applies commands to an empty image.
func image(t *testing.T, commands ...*metav1.Command) *metadata.Image {
	t.Helper()
	im := metadata.Empty()
	for i, c := range commands {
		c.Version = 1
		c.Id = append(make([]byte, 15), byte(i+1))
		next, _, err := metadata.Apply(im, uint64(i+1), c)
		if err != nil {
			t.Fatalf("command %d: %v", i, err)
		}
		im = next
	}
	return im
}

func registered(node int32) []*metav1.Command {
	return []*metav1.Command{
		{Kind: &metav1.Command_RegisterBroker{RegisterBroker: &metav1.RegisterBroker{
			NodeId: node, StorageId: append(make([]byte, 15), byte(node)), FeatureLevel: metadata.Version,
			Grpc: []*metav1.Endpoint{{Listener: "a", Address: fmt.Sprintf("a%d:1", node)}, {Listener: "b", Address: fmt.Sprintf("b%d:1", node)}},
		}}},
	}
}

// twoBrokers has the topic t with one partition led by broker 1, one by broker
// 2, and one by nobody; then more happens.
func twoBrokers(t *testing.T, more ...*metav1.Command) *metadata.Image {
	t.Helper()
	commands := []*metav1.Command{{Kind: &metav1.Command_SetClusterId{SetClusterId: &metav1.SetClusterId{ClusterId: "c"}}}}
	for node := int32(1); node <= 2; node++ {
		commands = append(commands, registered(node)...)
		commands = append(commands, &metav1.Command{Kind: &metav1.Command_UnfenceBroker{UnfenceBroker: &metav1.UnfenceBroker{NodeId: node, BrokerEpoch: int64(len(commands))}}})
	}
	commands = append(commands, &metav1.Command{Kind: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
		Name: "t", TopicId: append(make([]byte, 15), 9),
		Partitions: []*metav1.PartitionAssignment{{Replicas: []int32{1, 2}}, {Replicas: []int32{2, 1}}},
	}}})
	return image(t, append(commands, more...)...)
}

func TestWhyNot(t *testing.T) {
	b := &Broker{cfg: Config{NodeID: 1, Images: fixedImage{twoBrokers(t)}}, table: newTable()}
	id := api.TopicID{15: 9}
	for _, tt := range []struct {
		ref    api.PartitionRef
		code   api.Code
		leader int32
	}{
		{api.PartitionRef{Topic: "nope"}, api.CodeUnknownTopic, 0},
		{api.PartitionRef{TopicID: api.TopicID{1}}, api.CodeUnknownTopic, 0},
		{api.PartitionRef{TopicID: id, Topic: "other"}, api.CodeUnknownTopic, 0},
		{api.PartitionRef{Topic: "t", Partition: 2}, api.CodeUnknownPartition, 0},
		{api.PartitionRef{Topic: "t", Partition: -1}, api.CodeUnknownPartition, 0},
		{api.PartitionRef{Topic: "t", Partition: 1}, api.CodeNotLeader, 2},
		{api.PartitionRef{TopicID: id, Partition: 1}, api.CodeNotLeader, 2},
		{api.PartitionRef{Topic: "t", Partition: 0}, api.CodeLeaderNotAvailable, 1},
	} {
		_, err := b.serving(&tt.ref)
		if err.Code != tt.code || tt.leader != 0 && (err.Leader == nil || err.Leader.NodeID != tt.leader) {
			t.Errorf("%+v: %v, leader %v; want %s, %d", tt.ref, err, err.Leader, tt.code, tt.leader)
		}
	}
}

func TestAddress(t *testing.T) {
	b := &Broker{cfg: Config{NodeID: 1, Images: fixedImage{twoBrokers(t)}}}
	for _, tt := range []struct {
		node     int32
		listener string
		want     string
	}{{2, "b", "b2:1"}, {1, "a", "a1:1"}, {1, "none", "a1:1"}, {7, "a", ""}} {
		if got := b.Address(tt.node, tt.listener); got != tt.want {
			t.Errorf("node %d on %s: %q, want %q", tt.node, tt.listener, got, tt.want)
		}
	}
}

func TestAssignment(t *testing.T) {
	im := twoBrokers(t)
	topic := im.Topic("t")
	lossy := *topic.Partitions[1]
	lossy.LossyEpoch = 7
	if a := Assignment(topic, &lossy, im); a.LossyEpoch != 7 {
		t.Errorf("lossy epoch %d", a.LossyEpoch)
	}
	a := Assignment(topic, topic.Partitions[1], im)
	if a.Leader != 2 || !a.Synced || a.MinISR != 2 || a.MayTruncate || len(a.Replicas) != 2 {
		t.Errorf("assignment %+v", a)
	}
	for _, r := range a.Replicas {
		if !r.ISR || r.Fenced || r.BrokerEpoch != im.Broker(r.Node).Epoch {
			t.Errorf("replica %+v", r)
		}
	}
}

// No error of a whole proposal says that nothing was applied: it may answer a
// retry whose first try was committed, and a member that may be in the in-sync
// set must be waited for.
func TestProposalOutcome(t *testing.T) {
	refusal := func(code metadata.Code) error { return fmt.Errorf("x: %w", metadata.Errorf(code, "no")) }
	for _, tt := range []struct {
		err  error
		want partition.Outcome
	}{
		{nil, partition.OutcomeOK},
		{errors.New("connection reset"), partition.OutcomeUnknown},
		{cluster.ErrOutcomeUnknown, partition.OutcomeUnknown},
		{context.DeadlineExceeded, partition.OutcomeUnknown},
		{refusal(metadata.CodeInvalidUpdateVersion), partition.OutcomeUnknown},
		{refusal(metadata.CodeFencedLeaderEpoch), partition.OutcomeUnknown},
		{refusal(metadata.Code(pb.ErrorCode_ERROR_CODE_UNKNOWN)), partition.OutcomeUnknown},
		{refusal(metadata.Code(pb.ErrorCode_ERROR_CODE_NOT_CONTROLLER)), partition.OutcomeUnknown},
		{refusal(metadata.CodeStaleBrokerEpoch), partition.OutcomeUnknown},
		{refusal(metadata.CodeInvalidArgument), partition.OutcomeUnknown},
	} {
		if got := proposalOutcome(tt.err); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.err, got, tt.want)
		}
	}
}

// Every outcome but success has an error, and those after an append are indefinite.
func TestOutcomeErrors(t *testing.T) {
	if outcomeError(partition.OutcomeOK) != nil {
		t.Error("success is an error")
	}
	for o := partition.OutcomeNotLeader; o <= partition.OutcomeUnknown; o++ {
		if e := outcomeError(o); e == nil || e.Message == "" {
			t.Errorf("%s has no error", o)
		}
	}
	for _, o := range []partition.Outcome{
		partition.OutcomeNotLeader, partition.OutcomeNotEnoughReplicasAfterAppend,
		partition.OutcomeTimedOut, partition.OutcomeStorageFailed,
	} {
		if !outcomeError(o).Code.Indefinite() {
			t.Errorf("%s is definite", o)
		}
	}
}

func TestReadersWakeEveryPoll(t *testing.T) {
	var r readers
	r.wake()
	a, b := newPoll(), newPoll()
	r.add(a)
	r.add(b)
	r.wake()
	r.wake() // Being woken twice is being woken.
	for _, p := range []*poll{a, b} {
		select {
		case <-p.woken:
		default:
			t.Error("a poll was not woken")
		}
	}
	r.remove(a)
	r.wake()
	select {
	case <-a.woken:
		t.Error("a poll that left was woken")
	default:
	}
}
