package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/penstock/penstock/client"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// connect makes a client of the nodes at addresses.
func (w *world) connect(addresses ...string) *client.Client {
	w.t.Helper()
	c, err := client.New(addresses)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, c.Close()) })
	return c
}

// next is the next record of a consumer, or the error that comes instead.
func next(t *testing.T, k *client.Consumer) (*client.Record, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for r := range k.Records(ctx) {
		return r, nil
	}
	if k.Err() == nil {
		t.Fatal("no record came")
	}
	return nil, k.Err()
}

// An unclean election takes records back that were read, and others get their offsets.
// Consumers notice, although all offsets are in range again.
func TestConsumersNoticeAnUncleanElection(t *testing.T) {
	w := startWorld(t, 3, freePorts(t, 3))
	w.createTopic(&pb.CreateTopicRequest{Name: "t", ReplicationFactor: 2, Configs: map[string]string{"min.insync.replicas": "1"}})
	w.until("two in sync", 15*time.Second, func() error { return w.inSync("t", 2) })
	w.mustProduce("t", 0, "both have it")
	c := w.connect(w.d.Brokers()...)
	tp := client.TopicPartition{Topic: "t"}
	asked, err := c.NewConsumer(client.WithPartitions(tp), client.WithReset(client.ResetError))
	require.NoError(t, err)
	follows, err := c.NewConsumer(client.WithPartitions(tp))
	require.NoError(t, err)
	consumers := []*client.Consumer{asked, follows}

	described, err := c.Admin().DescribeTopic(t.Context(), "t")
	require.NoError(t, err)
	leader := described.Partitions[0].Leader
	follower := described.Partitions[0].Replicas[0] + described.Partitions[0].Replicas[1] - leader
	configs := map[int32]Config{leader: w.node(leader).cfg, follower: w.node(follower).cfg}
	w.stopNode(follower, false)
	for _, v := range []string{"lost 1", "lost 2"} {
		w.mustProduce("t", 0, v)
	}
	for _, k := range consumers {
		for _, want := range []string{"both have it", "lost 1", "lost 2"} {
			r, err := next(t, k)
			require.NoError(t, err)
			require.Equal(t, want, string(r.Value))
		}
	}
	w.stopNode(leader, false)
	again, err := startNode(t, configs[follower])
	require.NoError(t, err)
	w.d.nodes = append(w.d.nodes, again)
	w.until("an unclean election", 20*time.Second, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return c.Admin().ElectUnclean(ctx, tp, follower, -1)
	})
	for i := range 4 {
		w.mustProduce("t", 0, fmt.Sprint("new ", i))
	}

	_, err = next(t, asked)
	truncated, ok := errors.AsType[*client.LogTruncatedError](err)
	require.True(t, ok, "%v", err)
	require.EqualValues(t, 3, truncated.Position)
	require.EqualValues(t, 1, truncated.TruncatedTo)
	require.NoError(t, asked.Seek(tp, client.At(truncated.TruncatedTo)))
	for _, k := range consumers {
		for i := range 4 {
			r, err := next(t, k)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint("new ", i), string(r.Value))
		}
	}
}

// replaced stands in for a leader that was replaced and has not heard of it: it tells of
// the cluster as it was.
type replaced struct {
	pb.UnimplementedAdminServiceServer
	then    *pb.MetadataResponse
	end     int64
	refused chan struct{}
}

func (b *replaced) Metadata(context.Context, *pb.MetadataRequest) (*pb.MetadataResponse, error) {
	return b.then, nil
}

func (b *replaced) DescribeCluster(context.Context, *pb.DescribeClusterRequest) (*pb.DescribeClusterResponse, error) {
	return &pb.DescribeClusterResponse{Brokers: b.then.GetBrokers()}, nil
}

func (b *replaced) Fetch(_ context.Context, in *pb.FetchRequest) (*wire.Fetched, error) {
	out := &wire.Fetched{FetchResponse: &pb.FetchResponse{CorrelationId: in.GetCorrelationId()}}
	for _, p := range in.GetPartitions() {
		r := &pb.FetchPartitionResult{Topic: p.GetTopic(), Partition: p.GetPartition(), HighWatermark: b.end}
		if p.GetFetchOffset() > b.end {
			r.Error = &pb.Error{Code: pb.ErrorCode_ERROR_CODE_OFFSET_OUT_OF_RANGE, Message: "out of range", Topic: p.GetTopic(), Partition: p.GetPartition()}
			select {
			case b.refused <- struct{}{}:
			default:
			}
		}
		out.Results = append(out.Results, r)
	}
	return out, nil
}

func (b *replaced) FetchStream(stream grpc.BidiStreamingServer[pb.FetchRequest, wire.Fetched]) error {
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		out, _ := b.Fetch(stream.Context(), in)
		if err := stream.Send(out); err != nil {
			return err
		}
	}
}

func (b *replaced) ListOffsets(_ context.Context, in *pb.ListOffsetsRequest) (*pb.ListOffsetsResponse, error) {
	out := &pb.ListOffsetsResponse{}
	for _, p := range in.GetPartitions() {
		out.Results = append(out.Results, &pb.ListOffsetsResult{
			Topic: p.GetTopic(), Partition: p.GetPartition(), Offset: b.end, TimestampMs: -1,
			LeaderEpoch: b.then.GetTopics()[0].GetPartitions()[0].GetLeaderEpoch(),
		})
	}
	return out, nil
}

// A consumer that knows the cluster from a leader that was replaced, and is told by it
// that its offset is out of range, finds the new leader and reads on.
func TestConsumerOfAReplacedLeader(t *testing.T) {
	for _, policy := range []client.ResetPolicy{client.ResetEarliest, client.ResetLatest, client.ResetError} {
		t.Run(fmt.Sprint(policy), func(t *testing.T) {
			w := startWorld(t, 3, 0)
			w.createTopic(&pb.CreateTopicRequest{Name: "t", ReplicationFactor: 3})
			for i := range 10 {
				w.mustProduce("t", 0, fmt.Sprint(i))
			}
			conn, leader, err := w.leader("t", 0)
			require.NoError(t, err)
			then, err := pb.NewAdminServiceClient(conn).Metadata(t.Context(), &pb.MetadataRequest{Topics: []string{"t"}})
			require.NoError(t, err)
			require.Equal(t, leader, then.GetTopics()[0].GetPartitions()[0].GetLeader())
			ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			for _, b := range then.GetBrokers() {
				if b.GetNodeId() == leader {
					b.Address = ln.Addr().String()
				}
			}
			old := &replaced{then: then, end: 10, refused: make(chan struct{}, 1)}
			server := grpc.NewServer(wire.ServerOptions(w.codec)...)
			pb.RegisterAdminServiceServer(server, old)
			wire.RegisterFetch(server, old)
			served := make(chan error, 1)
			go func() { served <- server.Serve(ln) }()
			t.Cleanup(func() {
				server.Stop()
				require.NoError(t, <-served)
			})

			w.stopNode(leader, false)
			for i := range 10 {
				w.mustProduce("t", 0, fmt.Sprint(10+i))
			}
			k, err := w.connect(ln.Addr().String()).NewConsumer(
				client.WithPartitions(client.TopicPartition{Topic: "t"}), client.WithStart(client.At(15)), client.WithReset(policy))
			require.NoError(t, err)
			r, err := next(t, k)
			require.NoError(t, err)
			require.EqualValues(t, 15, r.Offset)
			require.Equal(t, "15", string(r.Value))
			<-old.refused
		})
	}
}
