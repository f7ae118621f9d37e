package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// coordinator finds the coordinator of a group, which creates the offsets topic
// at the first call.
func (w *world) coordinator(group string) pb.GroupServiceClient {
	w.t.Helper()
	var client pb.GroupServiceClient
	w.until("find coordinator", 15*time.Second, func() error {
		err := fmt.Errorf("no node is running")
		for _, address := range w.d.Brokers() {
			ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
			var found *pb.FindCoordinatorResponse
			found, err = pb.NewGroupServiceClient(w.conn(address)).FindCoordinator(ctx, &pb.FindCoordinatorRequest{Group: group})
			cancel()
			if err == nil {
				client = pb.NewGroupServiceClient(w.conn(found.GetAddress()))
				return nil
			}
		}
		return err
	})
	return client
}

func (w *world) commit(group string, offset int64) {
	w.t.Helper()
	w.until("commit", 15*time.Second, func() error {
		ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
		defer cancel()
		out, err := w.coordinator(group).CommitOffsets(ctx, &pb.CommitOffsetsRequest{Group: group, Offsets: []*pb.OffsetCommit{{Topic: "t", Offset: offset, LeaderEpoch: -1}}})
		if err != nil {
			return err
		}
		if e := out.GetResults()[0].GetError(); e != nil {
			return fmt.Errorf("%s: %s", e.GetCode(), e.GetMessage())
		}
		return nil
	})
}

func (w *world) committed(group string) int64 {
	w.t.Helper()
	offset := int64(-2)
	w.until("fetch offsets", 15*time.Second, func() error {
		ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
		defer cancel()
		out, err := w.coordinator(group).FetchOffsets(ctx, &pb.FetchOffsetsRequest{Group: group, Partitions: []*pb.TopicPartition{{Topic: "t"}}})
		if err != nil {
			return err
		}
		if e := out.GetResults()[0].GetError(); e != nil {
			return fmt.Errorf("%s: %s", e.GetCode(), e.GetMessage())
		}
		offset = out.GetResults()[0].GetOffset()
		return nil
	})
	return offset
}

// Committed offsets are on the cluster, not on a broker: they outlive their
// coordinator and a stop of everything.
func TestCommittedOffsetsSurvive(t *testing.T) {
	w := startWorld(t, 3, freePorts(t, 3))
	w.createTopic(&pb.CreateTopicRequest{Name: "t", ReplicationFactor: 3})
	if got := w.committed("g"); got != -1 {
		t.Fatalf("before the first commit: %d", got)
	}
	w.commit("g", 7)
	if got := w.committed("g"); got != 7 {
		t.Fatalf("committed 7, fetched %d", got)
	}
	w.stop()
	w.start(3)
	if got := w.committed("g"); got != 7 {
		t.Fatalf("after a restart: %d", got)
	}
	coordinator := int32(-1)
	w.until("coordinator", 10*time.Second, func() error {
		found, err := pb.NewGroupServiceClient(w.any()).FindCoordinator(t.Context(), &pb.FindCoordinatorRequest{Group: "g"})
		coordinator = found.GetNodeId()
		return err
	})
	w.stopNode(coordinator, false)
	if got := w.committed("g"); got != 7 {
		t.Fatalf("after the coordinator crashed: %d", got)
	}
	w.commit("g", 9)
	if got := w.committed("g"); got != 9 {
		t.Fatalf("after another commit: %d", got)
	}
}

func TestGroupSession(t *testing.T) {
	w := startWorld(t, 1, 0)
	w.createTopic(&pb.CreateTopicRequest{Name: "t", Partitions: 4})
	var stream grpc.BidiStreamingClient[pb.SessionRequest, pb.SessionResponse]
	var got *pb.SessionResponse
	w.until("join", 10*time.Second, func() (err error) { // The coordinator may still be loading.
		if stream, err = w.coordinator("g").Session(t.Context()); err != nil {
			return err
		}
		if err = stream.Send(&pb.SessionRequest{Kind: &pb.SessionRequest_Join{Join: &pb.JoinGroup{Group: "g", Topics: []string{"t"}, AttachNumber: 1}}}); err != nil {
			return err
		}
		for err == nil && len(got.GetAssignment().GetPartitions()) < 4 {
			got, err = stream.Recv()
		}
		return err
	})
	if err := stream.Send(&pb.SessionRequest{Kind: &pb.SessionRequest_Heartbeat{Heartbeat: &pb.Heartbeat{
		MemberEpoch: got.GetMemberEpoch(), HasOwned: true, Owned: got.GetAssignment().GetPartitions(),
	}}}); err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.SessionRequest{Kind: &pb.SessionRequest_Leave{Leave: &pb.LeaveGroup{}}}); err != nil {
		t.Fatal(err)
	}
	var err error
	for err == nil {
		_, err = stream.Recv()
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("after leaving: %v", err)
	}
}

// Too few brokers for the offsets topic: said so, and never fewer replicas.
func TestNoCoordinatorWithTooFewBrokers(t *testing.T) {
	opts := devOptions(1, t.TempDir())
	opts.Configure = func(c *Config) { c.OffsetsReplicas = 3; c.DiskReserve = 1 << 20 }
	d, err := StartDev(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Stop(context.Background()) }()
	conn, err := grpc.NewClient(d.Brokers()[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = pb.NewGroupServiceClient(conn).FindCoordinator(t.Context(), &pb.FindCoordinatorRequest{Group: "g"})
	if e := detail(err); e.GetCode() != pb.ErrorCode_ERROR_CODE_COORDINATOR_NOT_AVAILABLE || !e.GetRetriable() {
		t.Errorf("%v", err)
	}
}
