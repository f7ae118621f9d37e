package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/penstock/penstock/internal/vfs"
	commitlog "github.com/penstock/penstock/log"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

func deleteRecords(t *testing.T, conn *grpc.ClientConn, topic string, before int64, timeout time.Duration) *pb.DeleteRecordsResult {
	t.Helper()
	resp, err := pb.NewAdminServiceClient(conn).DeleteRecords(t.Context(), &pb.DeleteRecordsRequest{
		Partitions: []*pb.DeleteRecordsPartition{{Topic: topic, BeforeOffset: before}}, TimeoutMs: uint32(timeout.Milliseconds()),
	})
	require.NoError(t, err)
	require.Len(t, resp.GetResults(), 1)
	return resp.GetResults()[0]
}

// mustDelete deletes at the leader, wherever it is.
func (w *world) mustDelete(topic string, before, want int64) {
	w.t.Helper()
	w.until("records deleted", 20*time.Second, func() error {
		conn, _, err := w.leader(topic, 0)
		if err != nil {
			return err
		}
		r := deleteRecords(w.t, conn, topic, before, 10*time.Second)
		if e := r.GetError(); e != nil {
			require.True(w.t, e.GetRetriable(), "%v", e)
			return errorf(e)
		}
		require.Equal(w.t, want, r.GetLowWatermark())
		return nil
	})
}

type pbError struct{ e *pb.Error }

func errorf(e *pb.Error) error  { return pbError{e} }
func (e pbError) Error() string { return e.e.GetCode().String() + ": " + e.e.GetMessage() }

// Deleted records are gone from every replica before the answer, and stay gone
// when a follower was away, when leaders change, and over a restart.
func TestDeleteRecords(t *testing.T) {
	w := startWorld(t, 3, freePorts(t, 3))
	w.createTopic(&pb.CreateTopicRequest{Name: "t", ReplicationFactor: 3, Configs: map[string]string{"segment.bytes": "4096"}})
	const n = 40
	for range n {
		w.mustProduce("t", 0, strings.Repeat("v", 500))
	}
	_, leader, err := w.leader("t", 0)
	require.NoError(t, err)

	w.mustDelete("t", 8, 8)
	w.mustDelete("t", 3, 8)
	_, err = w.fetch("t", 0, 7, 0)
	require.ErrorContains(t, err, "offset 7 is out of range: the log holds [8, 40)")
	require.Equal(t, int64(8), w.listOffsets("t", pb.OffsetQuery_OFFSET_QUERY_EARLIEST, 0).GetOffset())

	follower := leader%3 + 1
	config := w.node(follower).cfg
	w.stopNode(follower, true)
	w.mustDelete("t", 20, 20)
	again, err := startNode(t, config)
	require.NoError(t, err)
	w.d.nodes = append(w.d.nodes, again)
	w.until("full in-sync set", 15*time.Second, func() error { return w.inSync("t", 3) })

	config = w.node(leader).cfg
	w.stopNode(leader, false)
	require.Equal(t, int64(n), w.mustProduce("t", 0, "to the new leader"))
	require.Equal(t, int64(20), w.listOffsets("t", pb.OffsetQuery_OFFSET_QUERY_EARLIEST, 0).GetOffset())
	w.mustDelete("t", -1, n+1)
	require.Equal(t, int64(n+1), w.mustProduce("t", 0, "after"))
	again, err = startNode(t, config)
	require.NoError(t, err)
	w.d.nodes = append(w.d.nodes, again)
	w.until("full in-sync set", 15*time.Second, func() error { return w.inSync("t", 3) })

	var dirs []string
	for _, node := range w.d.nodes {
		dirs = append(dirs, node.cfg.DataDir)
	}
	w.stop()
	for _, dir := range dirs {
		start, files := logOnDisk(t, dir, "t")
		require.Equal(t, int64(n+1), start, dir)
		require.Len(t, files, 1, "the segments below are gone: %v", files)
	}
}

// logOnDisk says where partition 0 of a topic begins in the data directory of a
// stopped node, and lists its segments.
func logOnDisk(t *testing.T, dir, topic string) (start int64, segments []string) {
	t.Helper()
	d, err := commitlog.OpenDir(commitlog.DirOptions{FS: vfs.OS{}, Path: dir, Logger: testLogger()})
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Close(-1)) }()
	found, err := d.Scan()
	require.NoError(t, err)
	for _, f := range found {
		if f.Topic != topic {
			continue
		}
		l, err := d.Open(commitlog.Spec{Topic: topic, TopicID: f.TopicID, Partition: f.Partition})
		require.NoError(t, err)
		segments, err = filepath.Glob(filepath.Join(f.Path, "*.log"))
		require.NoError(t, err)
		return int64(l.Start()), segments
	}
	t.Fatalf("no topic %s in %s", topic, dir)
	return 0, nil
}

// What cannot be deleted is refused with the values that matter; nothing changes.
func TestDeleteRecordsRefused(t *testing.T) {
	w := startWorld(t, 3, 0)
	w.createTopic(&pb.CreateTopicRequest{Name: "t", ReplicationFactor: 3})
	for range 5 {
		w.mustProduce("t", 0, "v")
	}
	_, err := pb.NewGroupServiceClient(w.any()).FindCoordinator(t.Context(), &pb.FindCoordinatorRequest{Group: "g"})
	require.NoError(t, err)
	conn, leader, err := w.leader("t", 0)
	require.NoError(t, err)
	internal, _, err := w.leader("__consumer_offsets", 0)
	require.NoError(t, err)
	w.until("the leader of __consumer_offsets", 10*time.Second, func() error {
		r := deleteRecords(t, internal, "__consumer_offsets", 0, 0)
		if e := r.GetError(); e.GetCode() == pb.ErrorCode_ERROR_CODE_LEADER_NOT_AVAILABLE {
			return errorf(e)
		}
		return nil
	})
	other := w.conn(w.node(leader%3 + 1).Addresses().GRPC[0].Address)
	for _, tt := range []struct {
		conn   *grpc.ClientConn
		topic  string
		before int64
		code   pb.ErrorCode
		text   string
	}{
		{conn, "t", 6, pb.ErrorCode_ERROR_CODE_OFFSET_OUT_OF_RANGE, "offset 6 is past the high watermark 5: the log holds [0, 5)"},
		{conn, "t", -2, pb.ErrorCode_ERROR_CODE_INVALID_ARGUMENT, "the offset is -2, want 0 or more, or -1"},
		{conn, "absent", 1, pb.ErrorCode_ERROR_CODE_UNKNOWN_TOPIC, `there is no topic "absent"`},
		{other, "t", 1, pb.ErrorCode_ERROR_CODE_NOT_LEADER, "leads the partition"},
		{internal, "__consumer_offsets", 0, pb.ErrorCode_ERROR_CODE_INVALID_TOPIC, "internal"},
	} {
		r := deleteRecords(t, tt.conn, tt.topic, tt.before, 0)
		require.Equal(t, tt.code, r.GetError().GetCode(), "%v", r)
		require.Contains(t, r.GetError().GetMessage(), tt.text)
		require.Equal(t, int64(-1), r.GetLowWatermark())
		if tt.code == pb.ErrorCode_ERROR_CODE_NOT_LEADER {
			require.Equal(t, leader, r.GetError().GetLeader().GetNodeId())
		}
	}
	require.Equal(t, int64(0), w.listOffsets("t", pb.OffsetQuery_OFFSET_QUERY_EARLIEST, 0).GetOffset())
}

// When the log begins inside of a batch, a replica that starts over gets that
// batch whole and then begins where the others do.
func TestAReplicaStartsOverInsideABatch(t *testing.T) {
	w := startWorld(t, 3, freePorts(t, 3))
	w.createTopic(&pb.CreateTopicRequest{Name: "t", ReplicationFactor: 3})
	var records []*pb.Record
	for range 10 {
		records = append(records, &pb.Record{Value: []byte("v")})
	}
	leader := int32(0)
	for range 2 {
		w.until("a batch of ten is acknowledged", 20*time.Second, func() error {
			conn, id, err := w.leader("t", 0)
			if err != nil {
				return err
			}
			leader = id
			resp, err := pb.NewProduceServiceClient(conn).Produce(t.Context(), &pb.ProduceRequest{
				Acks: pb.Acks_ACKS_ALL, Partitions: []*pb.ProducePartition{{Topic: "t", Records: records}},
			})
			require.NoError(t, err)
			if e := resp.GetResults()[0].GetError(); e != nil {
				return errorf(e)
			}
			return nil
		})
	}
	w.mustDelete("t", 14, 14) // of [10, 20)

	follower := leader%3 + 1
	dir := w.node(follower).cfg.DataDir
	w.stop()
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "t-0")))
	w.start(3)
	w.until("three in sync", 20*time.Second, func() error { return w.inSync("t", 3) })
	w.stop()
	start, _ := logOnDisk(t, dir, "t")
	require.Equal(t, int64(14), start)
}
