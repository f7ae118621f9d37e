package node

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/penstock/penstock/client"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

func (m *mover) broker(id int32) *client.Broker {
	m.t.Helper()
	c, err := m.admin.Cluster(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	for i := range c.Brokers {
		if c.Brokers[i].NodeID == id {
			return &c.Brokers[i]
		}
	}
	return nil
}

func wantCode(t *testing.T, err error, code client.Code) {
	t.Helper()
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

// One of four brokers goes, under load and with committed offsets of a group on it;
// nothing new comes to it meanwhile, and at the end it is forgotten.
func TestDecommission(t *testing.T) {
	m := startMover(t, 4)
	const node = 4 // the one that does not vote
	m.createTopic(&pb.CreateTopicRequest{Name: "many", Partitions: 8, ReplicationFactor: 3})
	m.createTopic(&pb.CreateTopicRequest{Name: "t", ReplicationFactor: 3})
	m.mustReassign(0, "t", 4, 1, 2)
	m.moved("t", 4, 1, 2)
	m.commit("g", 7)
	sent, stop := m.load("t")
	m.produced(sent, 200)

	plan, err := m.admin.DecommissionBroker(t.Context(), client.Decommission{NodeID: node, DryRun: true})
	if err != nil || len(plan) == 0 {
		t.Fatalf("plan: %v %v", plan, err)
	}
	if b := m.broker(node); b.Decommissioning || b.Replicas == 0 {
		t.Fatalf("a dry run changed it: %+v", b)
	}
	if _, err := m.admin.DecommissionBroker(t.Context(), client.Decommission{NodeID: node}); err != nil {
		t.Fatal(err)
	}
	m.createTopic(&pb.CreateTopicRequest{Name: "later", Partitions: 6, ReplicationFactor: 2})
	m.until("the broker is empty", 60*time.Second, func() error {
		if b := m.broker(node); !b.Decommissioning || b.Replicas > 0 {
			return fmt.Errorf("%+v", b)
		}
		return nil
	})
	for _, p := range m.partitions("later") {
		if slices.Contains(p.Replicas, node) {
			t.Errorf("placed on a broker that goes: %+v", p)
		}
	}
	m.produced(sent, 200)
	_, err = m.admin.CreateTopic(t.Context(), client.TopicSpec{Name: "four", ReplicationFactor: 4})
	wantCode(t, err, client.CodeInvalidReplicationFactor)
	_, err = m.admin.DecommissionBroker(t.Context(), client.Decommission{NodeID: 1})
	wantCode(t, err, client.CodeInvalidReplicaAssignment)
	wantCode(t, m.reassign(0, client.Reassignment{TopicPartition: client.TopicPartition{Topic: "t"}, Replicas: []int32{1, 4}}), client.CodeInvalidReplicaAssignment)

	m.stopNode(node, true)
	m.until("the broker is forgotten", 60*time.Second, func() error {
		if b := m.broker(node); b != nil {
			return fmt.Errorf("%+v", b)
		}
		return nil
	})
	n := stop()
	m.exactly("t", n)
	if got := m.committed("g"); got != 7 {
		t.Errorf("the group is at %d", got)
	}
	_, err = m.admin.DecommissionBroker(t.Context(), client.Decommission{NodeID: node})
	wantCode(t, err, client.CodeUnknownBroker)
}

func (m *mover) partitions(topic string) []client.PartitionState {
	m.t.Helper()
	d, err := m.admin.DescribeTopic(m.t.Context(), topic)
	if err != nil {
		m.t.Fatal(err)
	}
	return d.Partitions
}

// A decommission that is taken back leaves everything as it was.
func TestDecommissionCancelled(t *testing.T) {
	m := startMover(t, 4)
	from, spare := m.create("t")
	sent, stop := m.load("t")
	m.produced(sent, 1000)
	if _, err := m.admin.DecommissionBroker(t.Context(), client.Decommission{NodeID: from[1], Throttle: 1000}); err != nil {
		t.Fatal(err)
	}
	m.until("the move has begun", 30*time.Second, func() error {
		p := m.partition("t")
		if !slices.Equal(p.Adding, []int32{spare}) || !slices.Equal(p.Removing, []int32{from[1]}) {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	if _, err := m.admin.DecommissionBroker(t.Context(), client.Decommission{NodeID: from[1], Cancel: true}); err != nil {
		t.Fatal(err)
	}
	m.moved("t", from...)
	m.until("the mark is gone", 10*time.Second, func() error {
		if b := m.broker(from[1]); b.Decommissioning {
			return fmt.Errorf("%+v", b)
		}
		return nil
	})
	n := stop()
	m.exactly("t", n)
	m.sameBytes("t", from...)
}

// Load moves to a broker that has none, and leaderships by command.
func TestRebalance(t *testing.T) {
	m := startMover(t, 4)
	m.createTopic(&pb.CreateTopicRequest{Name: "t", Partitions: 8, ReplicationFactor: 3})
	m.createTopic(&pb.CreateTopicRequest{Name: "other", Partitions: 4, ReplicationFactor: 3})
	var away []client.Reassignment
	for i := range int32(8) {
		away = append(away, client.Reassignment{TopicPartition: client.TopicPartition{Topic: "t", Partition: i}, Replicas: []int32{1 + i%3, 1 + (i+1)%3, 1 + (i+2)%3}})
	}
	results, err := m.admin.AlterPartitionReassignments(t.Context(), 0, away...)
	if err != nil || len(results) != len(away) {
		t.Fatalf("%v %v", results, err)
	}
	m.until("nothing is on broker 4 of t", 60*time.Second, func() error {
		for i, p := range m.partitions("t") {
			if !slices.Equal(p.Replicas, away[i].Replicas) {
				return fmt.Errorf("%+v", p)
			}
		}
		return nil
	})
	for i := range int32(8) {
		if _, err := m.produce("t", i, fmt.Sprint(i), pb.Acks_ACKS_ALL); err != nil {
			t.Fatal(err)
		}
	}
	plan, err := m.admin.Rebalance(t.Context(), client.Rebalance{DryRun: true, Topics: []string{"t"}})
	if err != nil || len(plan) == 0 || len(plan) > 8 {
		t.Fatalf("plan: %v %v", plan, err)
	}
	for _, move := range plan {
		if move.Topic != "t" {
			t.Errorf("%+v", move)
		}
	}
	if _, err := m.admin.Rebalance(t.Context(), client.Rebalance{}); err != nil {
		t.Fatal(err)
	}
	m.until("the brokers have as much each", 60*time.Second, func() error {
		for _, id := range []int32{1, 2, 3, 4} {
			if b := m.broker(id); b.Replicas != 9 {
				return fmt.Errorf("%+v", b)
			}
		}
		return nil
	})
	m.atRest()
	if plan, err := m.admin.Rebalance(t.Context(), client.Rebalance{DryRun: true}); err != nil || len(plan) > 0 {
		t.Errorf("there is more to do: %v %v", plan, err)
	}
	_, err = m.admin.Rebalance(t.Context(), client.Rebalance{Topics: []string{"none"}})
	wantCode(t, err, client.CodeUnknownTopic)

	leaders := make(map[int32]int)
	for i, p := range m.partitions("t") {
		tp := client.TopicPartition{Topic: "t", Partition: int32(i)}
		results, err := m.admin.ElectPreferredLeaders(t.Context(), tp, client.TopicPartition{Topic: "none"}, client.TopicPartition{Topic: "t", Partition: 8})
		if err != nil {
			t.Fatal(err)
		}
		if p.Leader == p.Replicas[0] {
			wantCode(t, results[0].Err, client.CodeElectionNotNeeded)
		} else if results[0].Err != nil {
			t.Error(results[0].Err)
		}
		wantCode(t, results[1].Err, client.CodeUnknownTopic)
		wantCode(t, results[2].Err, client.CodeUnknownPartition)
		m.until("the preferred leader leads", 10*time.Second, func() error {
			if p := m.partitions("t")[i]; p.Leader != p.Replicas[0] {
				return fmt.Errorf("%+v", p)
			}
			return nil
		})
		leaders[p.Replicas[0]]++
	}
	for i := range int32(8) {
		if got := m.readAll("t", i, 1); got[0] != fmt.Sprint(i) {
			t.Errorf("partition %d: %v", i, got)
		}
	}
	for node, n := range leaders {
		if n > 3 {
			t.Errorf("broker %d leads %d of 8", node, n)
		}
	}
}

// atRest waits until no reassignment is under way.
func (m *mover) atRest() {
	m.t.Helper()
	m.until("rest", 60*time.Second, func() error {
		list, err := m.admin.ListPartitionReassignments(m.t.Context())
		if err != nil || len(list) > 0 {
			return fmt.Errorf("%+v %w", list, err)
		}
		return nil
	})
}

// The topic of committed offsets moves like any other: the groups go along, and the
// broker that coordinated them does so no more.
func TestReassignCommittedOffsets(t *testing.T) {
	m := startMover(t, 4)
	m.createTopic(&pb.CreateTopicRequest{Name: "t"})
	m.commit("g", 7)
	const topic = "__consumer_offsets"
	var old string
	var changes []client.Reassignment
	from := m.partitions(topic)
	for _, p := range from {
		spare := 10 - p.Replicas[0] - p.Replicas[1] - p.Replicas[2] // 1+2+3+4 less three of them
		changes = append(changes, client.Reassignment{
			TopicPartition: client.TopicPartition{Topic: topic, Partition: p.Partition}, Replicas: []int32{spare},
		})
	}
	found, err := pb.NewGroupServiceClient(m.any()).FindCoordinator(t.Context(), &pb.FindCoordinatorRequest{Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	old = found.GetAddress()
	results, err := m.admin.AlterPartitionReassignments(t.Context(), 0, changes...)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	m.until("the topic has moved", 60*time.Second, func() error {
		for i, p := range m.partitions(topic) {
			if !slices.Equal(p.Replicas, changes[i].Replicas) {
				return fmt.Errorf("%+v", p)
			}
		}
		return nil
	})
	fetch := &pb.FetchOffsetsRequest{Group: "g", Partitions: []*pb.TopicPartition{{Topic: "t"}}}
	m.until("the old coordinator refuses", 15*time.Second, func() error {
		_, err := pb.NewGroupServiceClient(m.conn(old)).FetchOffsets(t.Context(), fetch)
		if e := detail(err); e.GetCode() != pb.ErrorCode_ERROR_CODE_NOT_COORDINATOR {
			return fmt.Errorf("it answers %w", err)
		}
		return nil
	})
	if got := m.committed("g"); got != 7 {
		t.Errorf("the group is at %d", got)
	}
	m.commit("g", 8)
	if got := m.committed("g"); got != 8 {
		t.Errorf("the group is at %d", got)
	}
}
