package node

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// codeIn is the code of a typed error.
func codeIn(err error) pb.ErrorCode {
	for _, d := range status.Convert(err).Details() {
		if e, ok := d.(*pb.Error); ok {
			return e.GetCode()
		}
	}
	return pb.ErrorCode_ERROR_CODE_UNSPECIFIED
}

// offsetOf is what a broker says that a group has committed in a partition.
func offsetOf(t *testing.T, conn *grpc.ClientConn, group string, partition int32) (int64, pb.ErrorCode) {
	t.Helper()
	out, err := pb.NewGroupServiceClient(conn).FetchOffsets(within(t, 30*time.Second), &pb.FetchOffsetsRequest{
		Group: group, Partitions: []*pb.TopicPartition{{Topic: "t", Partition: partition}},
	})
	if code := codeIn(err); code != pb.ErrorCode_ERROR_CODE_UNSPECIFIED {
		return -2, code
	}
	require.NoError(t, err)
	return out.GetResults()[0].GetOffset(), out.GetResults()[0].GetError().GetCode()
}

// offsets asks for one partition of several groups, and returns their errors.
func (b kafkaBroker) offsets(partition int32, groups ...string) (errs []error) {
	b.t.Helper()
	req := kmsg.NewPtrOffsetFetchRequest()
	for _, group := range groups {
		g := kmsg.NewOffsetFetchRequestGroup()
		topic := kmsg.NewOffsetFetchRequestGroupTopic()
		topic.Topic, topic.Partitions = "t", []int32{partition}
		g.Group, g.Topics = group, []kmsg.OffsetFetchRequestGroupTopic{topic}
		req.Groups = append(req.Groups, g)
	}
	resp, err := b.cl.SeedBrokers()[0].Request(within(b.t, 30*time.Second), req)
	require.NoError(b.t, err)
	for i, g := range resp.(*kmsg.OffsetFetchResponse).Groups { //nolint:forcetypeassert // It answers that.
		require.Equal(b.t, groups[i], g.Group)
		errs = append(errs, kerr.ErrorForCode(g.ErrorCode))
	}
	return errs
}

// A coordinator that was replaced and has not heard of it does not say what is committed,
// nor that nothing is, at neither door: its successor may know better.
func TestADeposedCoordinatorSaysNothingOfOffsets(t *testing.T) {
	const deposed = 3
	cut := new(cutOff)
	w := newWorld(t, 0)
	w.configure = func(c *Config) {
		cut.plug(c)
		if c.NodeID == deposed {
			// It believes in its session long after the others do, and is never the controller.
			c.SessionTimeout, c.RaftElection = time.Minute, 10*time.Second
		}
	}
	w.start(3)
	w.createTopic(&pb.CreateTopicRequest{Name: "t", Partitions: 2, ReplicationFactor: 3})
	coordinatorOf := func(node int32, group string) int32 {
		out, err := pb.NewGroupServiceClient(w.conn(w.node(node).Addresses().GRPC[0].Address)).FindCoordinator(t.Context(), &pb.FindCoordinatorRequest{Group: group})
		if err != nil {
			return -1
		}
		return out.GetNodeId()
	}
	commit := func(group string, partition int32, offset int64) {
		w.until("commit", 30*time.Second, func() error {
			node := coordinatorOf(1, group)
			if node < 0 {
				return errors.New("no coordinator")
			}
			out, err := pb.NewGroupServiceClient(w.conn(w.node(node).Addresses().GRPC[0].Address)).CommitOffsets(within(t, 5*time.Second), &pb.CommitOffsetsRequest{
				Group: group, Offsets: []*pb.OffsetCommit{{Topic: "t", Partition: partition, Offset: offset, LeaderEpoch: -1}},
			})
			if err == nil && out.GetResults()[0].GetError() != nil {
				err = errors.New(out.GetResults()[0].GetError().GetMessage())
			}
			return err
		})
	}
	w.coordinator("g") // creates __consumer_offsets
	var groups []string
	w.until("groups that it coordinates", 30*time.Second, func() error {
		groups = nil
		for i := range 60 {
			if g := fmt.Sprint("g", i); coordinatorOf(1, g) == deposed {
				groups = append(groups, g)
			}
		}
		if len(groups) < 2 {
			return fmt.Errorf("%v", groups)
		}
		return nil
	})
	group := groups[0]
	commit(group, 0, 5)
	old, kafka := w.conn(w.node(deposed).Addresses().GRPC[0].Address), w.kafkaBroker(deposed, 12)
	expect := func(partition int32, offset int64, code pb.ErrorCode) {
		t.Helper()
		got, e := offsetOf(t, old, group, partition)
		require.Equal(t, code, e)
		require.Equal(t, offset, got)
	}
	expect(0, 5, pb.ErrorCode_ERROR_CODE_UNSPECIFIED)
	expect(1, -1, pb.ErrorCode_ERROR_CODE_UNSPECIFIED)
	for _, err := range kafka.offsets(1, groups...) {
		require.NoError(t, err)
	}

	cut.node.Store(deposed)
	w.until("another coordinator", 30*time.Second, func() error {
		if node := coordinatorOf(1, group); node == deposed || node < 0 {
			return fmt.Errorf("node %d", node)
		}
		return nil
	})
	commit(group, 0, 6)
	commit(group, 1, 9)
	expect(0, -2, pb.ErrorCode_ERROR_CODE_NOT_COORDINATOR)
	expect(1, -2, pb.ErrorCode_ERROR_CODE_NOT_COORDINATOR)
	for _, name := range []string{group, "no group"} {
		_, err := pb.NewGroupServiceClient(old).DescribeGroup(within(t, 30*time.Second), &pb.DescribeGroupRequest{Group: name})
		require.Equal(t, pb.ErrorCode_ERROR_CODE_NOT_COORDINATOR, codeIn(err), name)
	}
	listed, err := pb.NewGroupServiceClient(old).ListGroups(within(t, 30*time.Second), &pb.ListGroupsRequest{})
	require.NoError(t, err)
	require.Empty(t, listed.GetGroups(), "others list them")
	require.Equal(t, pb.ErrorCode_ERROR_CODE_COORDINATOR_NOT_AVAILABLE, listed.GetError().GetCode())
	began := time.Now()
	for _, err := range kafka.offsets(1, groups...) {
		require.ErrorIs(t, err, kerr.NotCoordinator)
	}
	t.Logf("%d groups refused within %s", len(groups), time.Since(began))

	cut.heal()
	w.until("the old coordinator knows", 30*time.Second, func() error {
		if _, code := offsetOf(t, old, group, 0); code != pb.ErrorCode_ERROR_CODE_NOT_COORDINATOR {
			return fmt.Errorf("%s", code)
		}
		return nil
	})
	w.until("the new one answers", 30*time.Second, func() error {
		offset, code := offsetOf(t, w.conn(w.node(coordinatorOf(1, group)).Addresses().GRPC[0].Address), group, 1)
		if offset != 9 {
			return fmt.Errorf("%d, %s", offset, code)
		}
		return nil
	})
}
