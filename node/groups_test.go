package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
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
	if !got.GetTakesCommits() {
		t.Error("the session takes no commits")
	}
	for id, partition := range []int32{2, 3, 4, 2} { // there is no 4
		if err := stream.Send(&pb.SessionRequest{Kind: &pb.SessionRequest_Commit{Commit: &pb.SessionCommit{
			Id: uint64(id), MemberEpoch: got.GetMemberEpoch(), Offsets: []*pb.OffsetCommit{{Topic: "t", Partition: partition, Offset: int64(10 * id), LeaderEpoch: -1}},
		}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Send(&pb.SessionRequest{Kind: &pb.SessionRequest_Leave{Leave: &pb.LeaveGroup{}}}); err != nil {
		t.Fatal(err)
	}
	var answers []string
	var err error
	for err == nil {
		got, err = stream.Recv()
		for _, c := range got.GetCommits() {
			answer := fmt.Sprint(c.GetId())
			if c.GetError() != nil {
				answer += " " + c.GetError().GetCode().String()
			}
			for _, f := range c.GetFailed() {
				answer += fmt.Sprint(" ", f.GetPartition(), " ", f.GetError().GetCode())
			}
			answers = append(answers, answer)
		}
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("after leaving: %v", err)
	}
	if all := strings.Join(answers, ","); all != "0,1,2 4 ERROR_CODE_UNKNOWN_PARTITION,3" {
		t.Errorf("answers %q", all)
	}
	out, err := w.coordinator("g").FetchOffsets(t.Context(), &pb.FetchOffsetsRequest{Group: "g"})
	if err != nil || len(out.GetResults()) != 2 || out.GetResults()[0].GetOffset() != 30 || out.GetResults()[1].GetOffset() != 10 {
		t.Errorf("%v %v", out, err)
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
