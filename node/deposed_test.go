package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
	"google.golang.org/grpc"

	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// cutOff loses all that goes between a node and the others, without closing anything.
type cutOff struct {
	node atomic.Int32 // 0: none

	mu    sync.Mutex       // guards what follows
	at    map[string]int32 // whose address it is
	conns []net.Conn
}

// plug makes a node one that can be cut off.
func (c *cutOff) plug(cfg *Config) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == nil {
		c.at = make(map[string]int32)
	}
	c.at[cfg.ListenRaft], c.at[cfg.ListenPeer] = cfg.NodeID, cfg.NodeID
	from := cfg.NodeID
	cfg.dial = func(ctx context.Context, address string) (net.Conn, error) {
		c.mu.Lock()
		link := &cutLink{cut: c, ends: [2]int32{from, c.at[address]}}
		c.mu.Unlock()
		if link.lost() {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		var err error
		if link.Conn, err = new(net.Dialer).DialContext(ctx, "tcp", address); err != nil {
			return nil, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.conns = append(c.conns, link)
		return link, nil
	}
}

// heal ends the cut. Connections that lost bytes are closed.
func (c *cutOff) heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		if l, ok := conn.(*cutLink); ok && l.lost() {
			_ = conn.Close()
		}
	}
	c.node.Store(0)
}

type cutLink struct {
	net.Conn

	cut  *cutOff
	ends [2]int32
}

func (l *cutLink) lost() bool {
	n := l.cut.node.Load()
	return n != 0 && l.ends[0] != l.ends[1] && slices.Contains(l.ends[:], n)
}

func (l *cutLink) Write(b []byte) (int, error) {
	if l.lost() {
		return len(b), nil
	}
	return l.Conn.Write(b)
}

func (l *cutLink) Read(b []byte) (int, error) {
	for {
		if n, err := l.Conn.Read(b); err != nil || !l.lost() {
			return n, err
		}
	}
}

// fetchCode is what a broker says of a fetch from an offset.
func fetchCode(t *testing.T, conn *grpc.ClientConn, partition int32, offset int64) pb.ErrorCode {
	t.Helper()
	out, err := wire.CallFetch(t.Context(), conn, &pb.FetchRequest{MaxWaitMs: 10, Partitions: []*pb.FetchPartition{{Topic: "t", Partition: partition, FetchOffset: offset}}})
	require.NoError(t, err)
	defer out.Release()
	return out.GetResults()[0].GetError().GetCode()
}

// kafkaBroker asks one broker at its Kafka door.
type kafkaBroker struct {
	t  *testing.T
	cl *kgo.Client
}

func (w *world) kafkaBroker(node int32, fetchVersion int16) kafkaBroker {
	w.t.Helper()
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(1, fetchVersion)
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.node(node).Addresses().Kafka[0].Address), kgo.MaxVersions(versions))
	require.NoError(w.t, err)
	w.t.Cleanup(cl.Close)
	return kafkaBroker{w.t, cl}
}

func (b kafkaBroker) fetch(partition int32, offset int64) error {
	b.t.Helper()
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch = partition, offset, 1<<20, -1
	topic := kmsg.NewFetchRequestTopic()
	topic.Topic, topic.Partitions = "t", []kmsg.FetchRequestTopicPartition{p}
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch, req.Topics = 10, 1, 1<<20, -1, []kmsg.FetchRequestTopic{topic}
	resp, err := b.cl.SeedBrokers()[0].Request(within(b.t, 30*time.Second), req)
	require.NoError(b.t, err)
	return kerr.ErrorForCode(resp.(*kmsg.FetchResponse).Topics[0].Partitions[0].ErrorCode) //nolint:forcetypeassert // It answers a fetch.
}

func (b kafkaBroker) epochEnd(partition, epoch int32) (end int64, err error) {
	b.t.Helper()
	p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	p.Partition, p.CurrentLeaderEpoch, p.LeaderEpoch = partition, -1, epoch
	topic := kmsg.NewOffsetForLeaderEpochRequestTopic()
	topic.Topic, topic.Partitions = "t", []kmsg.OffsetForLeaderEpochRequestTopicPartition{p}
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.ReplicaID, req.Topics = -1, []kmsg.OffsetForLeaderEpochRequestTopic{topic}
	resp, err := b.cl.SeedBrokers()[0].Request(within(b.t, 30*time.Second), req)
	require.NoError(b.t, err)
	r := resp.(*kmsg.OffsetForLeaderEpochResponse).Topics[0].Partitions[0] //nolint:forcetypeassert // It answers that.
	return r.EndOffset, kerr.ErrorForCode(r.ErrorCode)
}

// A leader that was replaced and has not heard of it does not say of any offset that it is
// not in the log, nor of an epoch that nobody knows it: its log ends before the newer
// leader's, and consumers would begin anew somewhere. One that leads says so.
func TestADeposedLeaderSendsNobodyElsewhere(t *testing.T) {
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
	w.createTopic(&pb.CreateTopicRequest{Name: "t", Partitions: 3, ReplicationFactor: 3})
	metadataOf := func(node int32) (leaders []int32, epochs []int32) {
		for _, p := range w.node(node).cluster.Image().Topic("t").Partitions {
			leaders, epochs = append(leaders, p.Leader), append(epochs, p.LeaderEpoch)
		}
		return leaders, epochs
	}
	leaders, _ := metadataOf(deposed)
	partition := int32(slices.Index(leaders, deposed))
	require.GreaterOrEqual(t, partition, int32(0), "it leads none of %v", leaders)
	for range 3 {
		w.mustProduce("t", partition, "before")
	}
	old := w.conn(w.node(deposed).Addresses().GRPC[0].Address)
	_, err := pb.NewAdminServiceClient(old).DeleteRecords(t.Context(), &pb.DeleteRecordsRequest{Partitions: []*pb.DeleteRecordsPartition{
		{Topic: "t", Partition: partition, BeforeOffset: 1},
	}})
	require.NoError(t, err)

	kafka, ancient := w.kafkaBroker(deposed, 12), w.kafkaBroker(deposed, 10)
	epochs := func(node int32) int32 {
		_, all := metadataOf(node)
		return all[partition]
	}
	require.NoError(t, w.node(deposed).cluster.ReadBarrier(within(t, 30*time.Second)))
	// While it leads it says so at once.
	for _, offset := range []int64{0, 6} {
		require.Equal(t, pb.ErrorCode_ERROR_CODE_OFFSET_OUT_OF_RANGE, fetchCode(t, old, partition, offset), "offset %d of [1, 3)", offset)
		require.ErrorIs(t, kafka.fetch(partition, offset), kerr.OffsetOutOfRange, "offset %d of [1, 3)", offset)
	}
	end, err := kafka.epochEnd(partition, epochs(deposed)+1)
	require.NoError(t, err)
	require.EqualValues(t, -1, end)

	cut.node.Store(deposed)
	other := int32(1)
	w.until("another leader", 30*time.Second, func() error {
		if leaders, _ := metadataOf(other); leaders[partition] == deposed || leaders[partition] < 0 {
			return fmt.Errorf("node %d leads", leaders[partition])
		}
		return nil
	})
	leaders, _ = metadataOf(other)
	newer := w.conn(w.node(leaders[partition]).Addresses().GRPC[0].Address)
	w.until("records on the newer leader", 30*time.Second, func() error {
		out, err := wire.CallProduce(t.Context(), newer, &wire.Produce{ProduceRequest: &pb.ProduceRequest{
			Acks: pb.Acks_ACKS_ALL, TimeoutMs: 5000,
			Partitions: []*pb.ProducePartition{{Topic: "t", Partition: partition, Records: []*pb.Record{{Value: []byte("after")}}}},
		}})
		switch {
		case err != nil:
			return err
		case out.GetResults()[0].GetError() != nil:
			return errors.New(out.GetResults()[0].GetError().GetMessage())
		case out.GetResults()[0].GetBaseOffset() < 8:
			return errors.New("more")
		default:
			return nil
		}
	})

	require.Equal(t, pb.ErrorCode_ERROR_CODE_UNSPECIFIED, fetchCode(t, newer, partition, 6))
	require.Equal(t, pb.ErrorCode_ERROR_CODE_UNSPECIFIED, fetchCode(t, old, partition, 2), "it should believe that it leads")
	for _, offset := range []int64{0, 6} {
		require.Equal(t, pb.ErrorCode_ERROR_CODE_OFFSET_NOT_AVAILABLE, fetchCode(t, old, partition, offset))
		require.ErrorIs(t, kafka.fetch(partition, offset), kerr.OffsetNotAvailable)
		require.ErrorIs(t, ancient.fetch(partition, offset), kerr.NotLeaderForPartition)
	}
	_, err = kafka.epochEnd(partition, epochs(other))
	require.ErrorIs(t, err, kerr.OffsetNotAvailable)
	end, err = w.kafkaBroker(leaders[partition], 12).epochEnd(partition, epochs(other)+1)
	require.NoError(t, err)
	require.EqualValues(t, -1, end)
	require.Equal(t, pb.ErrorCode_ERROR_CODE_OFFSET_OUT_OF_RANGE, fetchCode(t, newer, partition, 1000))

	cut.heal()
	require.Contains(t, []pb.ErrorCode{pb.ErrorCode_ERROR_CODE_OFFSET_NOT_AVAILABLE, pb.ErrorCode_ERROR_CODE_NOT_LEADER},
		fetchCode(t, old, partition, 6), "it hears who leads before it says anything")
	w.until("the old leader knows", 30*time.Second, func() error {
		if code := fetchCode(t, old, partition, 6); code != pb.ErrorCode_ERROR_CODE_NOT_LEADER {
			return fmt.Errorf("%s", code)
		}
		return nil
	})
}
