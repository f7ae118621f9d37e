package node

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/consumergroup/coordinator"
	"github.com/penstock/penstock/internal/vfs"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// failingGroups is a world of one node in which the log of the group g can fail.
type failingGroups struct {
	*world
	faults *vfs.Faults
	folder string // of that log
	logs   *safeBuffer
	seen   string // of logs
}

func startFailingGroups(t *testing.T) *failingGroups {
	t.Helper()
	f := &failingGroups{world: newWorld(t, freePorts(t, 1)), faults: vfs.NewFaults(vfs.OS{}), logs: &safeBuffer{}}
	f.folder = fmt.Sprintf("__consumer_offsets-%d", coordinator.PartitionFor("g", 3))
	f.logger = slog.New(slog.NewTextHandler(f.logs, nil))
	f.configure = func(c *Config) { c.fs = f.faults }
	f.start(1)
	f.createTopic(&pb.CreateTopicRequest{Name: "t"})
	f.commit("g", 7)
	return f
}

// inject has the log fail, and commits until it has.
func (f *failingGroups) inject(fault vfs.Fault) {
	f.t.Helper()
	fault.Folder = f.folder
	f.faults.Inject(fault)
	f.until("a commit fails", 15*time.Second, func() error {
		out, err := f.coordinator("g").CommitOffsets(f.t.Context(), commitG(8))
		if err == nil && out.GetResults()[0].GetError() == nil {
			return fmt.Errorf("committed: %v", out)
		}
		return nil
	})
}

func commitG(offset int64) *pb.CommitOffsetsRequest {
	return &pb.CommitOffsetsRequest{Group: "g", Offsets: []*pb.OffsetCommit{{Topic: "t", Offset: offset, LeaderEpoch: -1}}}
}

// otherGroup is one of another partition than g.
func otherGroup() string {
	for i := 0; ; i++ {
		if group := fmt.Sprint("other", i); coordinator.PartitionFor(group, 3) != coordinator.PartitionFor("g", 3) {
			return group
		}
	}
}

func (f *failingGroups) metrics() string {
	return get(f.t, "http://"+f.d.Nodes()[0].Addresses().HTTP+"/metrics")
}

// told counts the lines of the log that contain all of the parts.
func (f *failingGroups) told(parts ...string) int {
	f.seen += f.logs.take()
	n := 0
	for line := range strings.Lines(f.seen) {
		all := true
		for _, part := range parts {
			all = all && strings.Contains(line, part)
		}
		if all {
			n++
		}
	}
	return n
}

// The last holder of a group's log loses its disk: every client hears that the
// coordinator is not available, in words that it acts upon, and why where there is room
// for it; the operator hears it once; other groups go on; and a restart with a disk
// that works brings back what was committed.
func TestGroupsWhoseLogFailed(t *testing.T) {
	f := startFailingGroups(t)
	f.inject(vfs.Fault{Op: vfs.OpSync, Pattern: "*.log", Err: syscall.EIO})
	f.until("the failure shows", 10*time.Second, func() error {
		_, err := f.coordinator("g").FetchOffsets(t.Context(), &pb.FetchOffsetsRequest{Group: "g"})
		if code := detail(err).GetCode(); code != pb.ErrorCode_ERROR_CODE_COORDINATOR_NOT_AVAILABLE {
			return fmt.Errorf("answered %s: %w", code, err)
		}
		return nil
	})
	before := 0
	for round := range 3 {
		for what, err := range f.everyGroupCall() {
			e := detail(err)
			if e.GetCode() != pb.ErrorCode_ERROR_CODE_COORDINATOR_NOT_AVAILABLE || !e.GetRetriable() || !strings.Contains(e.GetMessage(), syscall.EIO.Error()) {
				t.Errorf("%s: %v", what, err)
			}
		}
		f.kafkaHears()
		if told := f.told("input/output error"); round == 0 {
			before = told
		} else if told != before {
			t.Errorf("%d lines about it, and %d when everybody had asked again:\n%s", before, told, f.seen)
		}
	}
	for _, want := range []string{`penstock_group_partitions{state="failed"} 1`, `penstock_group_partitions{state="active"} 2`, `penstock_group_partitions{state="loading"} 0`} {
		if page := f.metrics(); !strings.Contains(page, want+"\n") {
			t.Errorf("no %s in the metrics", want)
		}
	}
	if n := f.told("level=ERROR", "cannot be loaded", "input/output error"); n != 1 {
		t.Errorf("told %d times that the groups are gone", n)
	}
	other := otherGroup()
	f.commit(other, 5)
	if got := f.committed(other); got != 5 {
		t.Errorf("another partition's group stands at %d", got)
	}
	f.listed(other)
	if page := f.metrics(); !strings.Contains(page, `penstock_group_members{group="`+other+`"} 0`) {
		t.Error("another partition's groups are not in the metrics")
	}

	if err := f.d.Stop(context.Background()); err == nil {
		t.Error("the failure was forgotten")
	}
	f.d = nil
	f.faults.Heal()
	f.start(1)
	if got := f.committed("g"); got != 7 && got != 8 { // the one that failed may be in
		t.Errorf("after a restart: %d", got)
	}
	f.commit("g", 9)
	if got := f.committed("g"); got != 9 {
		t.Errorf("committed 9 after a restart, fetched %d", got)
	}
}

// everyGroupCall asks for the group g over gRPC.
func (f *failingGroups) everyGroupCall() map[string]error {
	s, ctx := f.coordinator("g"), within(f.t, time.Minute)
	errs := map[string]error{}
	_, errs["commit"] = s.CommitOffsets(ctx, commitG(9))
	_, errs["fetch"] = s.FetchOffsets(ctx, &pb.FetchOffsetsRequest{Group: "g"})
	_, errs["describe"] = s.DescribeGroup(ctx, &pb.DescribeGroupRequest{Group: "g"})
	_, errs["delete"] = s.DeleteGroup(ctx, &pb.DeleteGroupRequest{Group: "g"})
	stream, err := s.Session(ctx)
	if err == nil {
		err = stream.Send(&pb.SessionRequest{Kind: &pb.SessionRequest_Join{Join: &pb.JoinGroup{Group: "g", Topics: []string{"t"}, AttachNumber: 1}}})
	}
	if err == nil {
		_, err = stream.Recv()
	}
	errs["session"] = err
	return errs
}

// kafkaHears asks for the group g as Kafka's clients do. COORDINATOR_NOT_AVAILABLE has
// them find the coordinator again after a pause; the answer to OffsetFetch for which
// that holds of all is NOT_COORDINATOR.
func (f *failingGroups) kafkaHears() {
	f.t.Helper()
	cl, ctx := f.kafkaClient(kgo.RequestRetries(0)), within(f.t, time.Minute)
	defer cl.Close()
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.CoordinatorKey, find.CoordinatorKeys = "g", []string{"g"}
	found, err := find.RequestWith(ctx, cl)
	require.NoError(f.t, err)
	require.Len(f.t, found.Coordinators, 1)
	require.Zero(f.t, found.Coordinators[0].ErrorCode)
	b := cl.Broker(int(found.Coordinators[0].NodeID))

	codes := map[string]int16{}
	join := kmsg.NewPtrJoinGroupRequest()
	join.Group, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis, join.ProtocolType = "g", 10_000, 10_000, "consumer"
	join.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}}
	joined, err := join.RequestWith(ctx, b)
	require.NoError(f.t, err)
	codes["JoinGroup"] = joined.ErrorCode
	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Group, sync.MemberID, sync.Generation = "g", "m", 1
	synced, err := sync.RequestWith(ctx, b)
	require.NoError(f.t, err)
	codes["SyncGroup"] = synced.ErrorCode
	beat := kmsg.NewPtrHeartbeatRequest()
	beat.Group, beat.MemberID, beat.Generation = "g", "m", 1
	beaten, err := beat.RequestWith(ctx, b)
	require.NoError(f.t, err)
	codes["Heartbeat"] = beaten.ErrorCode
	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Group, leave.MemberID, leave.Members = "g", "m", []kmsg.LeaveGroupRequestMember{{MemberID: "m"}}
	left, err := leave.RequestWith(ctx, b)
	require.NoError(f.t, err)
	codes["LeaveGroup"] = left.ErrorCode
	share := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	share.Group, share.MemberID, share.RebalanceTimeoutMillis = "g", "m", 10_000
	share.SubscribedTopicNames, share.Topics = []string{"t"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	shared, err := share.RequestWith(ctx, b)
	require.NoError(f.t, err)
	codes["ConsumerGroupHeartbeat"] = shared.ErrorCode
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Group, commit.Generation = "g", -1
	commit.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: 9, LeaderEpoch: -1}}}}
	committed, err := commit.RequestWith(ctx, b)
	require.NoError(f.t, err)
	codes["OffsetCommit"] = committed.Topics[0].Partitions[0].ErrorCode
	describe := kmsg.NewPtrDescribeGroupsRequest()
	describe.Groups = []string{"g"}
	described, err := describe.RequestWith(ctx, b)
	require.NoError(f.t, err)
	codes["DescribeGroups"] = described.Groups[0].ErrorCode
	for what, code := range codes {
		require.Equal(f.t, kerr.CoordinatorNotAvailable.Code, code, what)
	}

	fetch := kmsg.NewPtrOffsetFetchRequest()
	group := kmsg.NewOffsetFetchRequestGroup()
	group.Group = "g"
	fetch.Groups = []kmsg.OffsetFetchRequestGroup{group}
	fetched, err := fetch.RequestWith(ctx, b)
	require.NoError(f.t, err)
	require.Equal(f.t, kerr.NotCoordinator.Code, fetched.Groups[0].ErrorCode)
}

// listed lists the groups: the only one that there is, and over gRPC that others are missing.
func (f *failingGroups) listed(want string) {
	f.t.Helper()
	ctx := within(f.t, time.Minute)
	c, err := client.New(f.d.Brokers())
	require.NoError(f.t, err)
	defer c.Close()
	groups, err := c.Admin().ListGroups(ctx)
	require.Equal(f.t, client.CodeCoordinatorNotAvailable, client.CodeOf(err), "%v", err)
	require.ErrorContains(f.t, err, syscall.EIO.Error())
	require.Len(f.t, groups, 1)
	require.Equal(f.t, want, groups[0].Group)
	resp, err := kmsg.NewPtrListGroupsRequest().RequestWith(ctx, f.kafkaClient())
	require.NoError(f.t, err)
	require.Zero(f.t, resp.ErrorCode)
	require.Len(f.t, resp.Groups, 1)
	require.Equal(f.t, want, resp.Groups[0].Group)
}

// A log that failed for want of space is opened anew when there is some, and its groups
// are there again, without a restart.
func TestGroupsComeBackWithTheirLog(t *testing.T) {
	f := startFailingGroups(t)
	f.inject(vfs.Fault{Op: vfs.OpSync, Pattern: "*.log", Err: syscall.ENOSPC})
	f.faults.Heal()
	if got := f.committed("g"); got != 7 && got != 8 {
		t.Errorf("when it was opened anew: %d", got)
	}
	f.commit("g", 9)
	if got := f.committed("g"); got != 9 {
		t.Errorf("committed 9, fetched %d", got)
	}
	if page := f.metrics(); !strings.Contains(page, `penstock_group_partitions{state="active"} 3`+"\n") {
		t.Error("not all partitions are active")
	}
}
