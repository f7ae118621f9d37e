package kafka

import (
	"context"
	"io"
	"log/slog"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// Who sends a byte every ten seconds is cut within the time that a request may take,
// wherever in the request that is; who sends a whole one now and then is not.
func TestDribblersAreCut(t *testing.T) {
	metadata := kmsg.NewPtrMetadataRequest()
	metadata.SetVersion(12)
	produce := produceRequest(9, -1, 1, testBatch(t, 4000))
	for _, tt := range []struct {
		name   string
		at     int // how much is sent at once, first
		within time.Duration
		req    kmsg.Request
	}{
		{"from the length on", 0, 40*time.Second + receiveGrace + 5*time.Second, metadata},
		{"from the header on", 4, receiveGrace + 5*time.Second, metadata},
		{"in the body", 20, receiveGrace + 5*time.Second, metadata},
		{"in the records", 1000, receiveGrace + 5*time.Second, produce},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := New(Options{Arena: record.NewArena(4 << 20), Logger: slog.New(slog.DiscardHandler)}, stubServices(stub{}))
				defer d.Close()
				steady, slow := piped(d), piped(d)
				began := time.Now()
				if tt.at == 0 {
				} else if _, err := slow.Write(frame(tt.req, 1)[:tt.at]); err != nil {
					t.Fatal(err)
				}
				for _, b := range frame(tt.req, 1)[tt.at:] {
					time.Sleep(10 * time.Second)
					requireAnswers(t, steady)
					if _, err := slow.Write([]byte{b}); err != nil {
						break
					}
				}
				if took := time.Since(began); took > tt.within+10*time.Second {
					t.Fatalf("cut after %s", took)
				}
			})
		})
	}
}

// The beginning of a request that came together with a whole one is a request that
// is to arrive in time, too.
func TestHalfARequestBehindAWholeOneIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(Options{Arena: record.NewArena(4 << 20), Logger: slog.New(slog.DiscardHandler)}, stubServices(stub{}))
		defer d.Close()
		c := piped(d)
		req := kmsg.NewPtrApiVersionsRequest()
		whole := frame(req, 7)
		if _, err := c.Write(append(whole, whole[:2]...)); err != nil {
			t.Fatal(err)
		}
		readFrame(t, c)
		began := time.Now()
		if err := c.SetReadDeadline(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Fatal("an answer to half a request")
		}
		if took := time.Since(began); took > receiveGrace+5*time.Second {
			t.Fatalf("cut after %s", took)
		}
		if n := d.metrics.cut[cutSlow].Load(); n != 1 {
			t.Fatalf("%d are counted", n)
		}
	})
}

// piped connects a client in a bubble.
func piped(d *Door) net.Conn {
	client, server := net.Pipe()
	d.admit(server, "")
	return client
}

func stubServices(s stub) Services {
	return Services{Producer: s, Fetcher: s, Topics: s, Cluster: s, Replicas: s, Offsets: s, Groups: s, GroupAdmin: s, Placement: s, Growth: s}
}

// large has a group and a topic that take long to describe.
type large struct{ stub }

func (large) DescribeGroup(context.Context, string) (*api.GroupDescription, error) {
	return &api.GroupDescription{Type: api.GroupTypeClassic, Members: []api.GroupMember{{MemberID: "m", Metadata: make([]byte, 10_000)}}}, nil
}

func (large) FetchOffsets(_ context.Context, req *api.FetchOffsets) ([]api.CommittedOffset, error) {
	out := make([]api.CommittedOffset, len(req.Partitions))
	for i := range out {
		out[i] = api.CommittedOffset{TopicPartition: req.Partitions[i], Metadata: string(make([]byte, 4000))}
	}
	return out, nil
}

func (large) Metadata(_ context.Context, names []string, _ bool, _ string) (*api.Metadata, error) {
	md := &api.Metadata{}
	for range min(len(names), 1) {
		md.Topics = append(md.Topics, api.Topic{Name: "t", Partitions: make([]api.Partition, 1000)})
	}
	return md, nil
}

func (large) DescribeTopic(context.Context, string) (*api.Topic, error) {
	return &api.Topic{Name: "t", Configs: []api.TopicConfig{{Name: "cleanup.policy", Type: "list", Value: string(make([]byte, 1000))}}}, nil
}

func (large) Producers(api.PartitionRef) ([]api.ProducerState, *api.Error) {
	return make([]api.ProducerState, 1000), nil
}

// A request that names one thing a sixty thousand times is answered once: the
// answer is not sixty thousand times as large as the thing.
func TestRepetitionDoesNotAmplify(t *testing.T) {
	const times = 60_000
	l := large{}
	d := New(Options{Arena: record.NewArena(4 << 20), Logger: slog.New(slog.DiscardHandler)}, Services{
		Producer: l, Fetcher: l, Topics: l, Cluster: l, Replicas: l, Offsets: l, Groups: l, GroupAdmin: l, Placement: l, Growth: l,
	})
	t.Cleanup(d.Close)
	describe := kmsg.NewPtrDescribeGroupsRequest()
	describe.SetVersion(5)
	consumer := kmsg.NewPtrConsumerGroupDescribeRequest()
	metadata := kmsg.NewPtrMetadataRequest()
	metadata.SetVersion(12)
	configs := kmsg.NewPtrDescribeConfigsRequest()
	configs.SetVersion(4)
	groups := kmsg.NewPtrOffsetFetchRequest()
	groups.SetVersion(8)
	offsets := kmsg.NewPtrOffsetFetchRequest()
	offsets.SetVersion(7)
	offsets.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: make([]int32, times)}}
	producers := kmsg.NewPtrDescribeProducersRequest()
	producers.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: "t", Partitions: make([]int32, times)}}
	for range times {
		describe.Groups = append(describe.Groups, "g")
		consumer.Groups = append(consumer.Groups, "g")
		metadata.Topics = append(metadata.Topics, kmsg.MetadataRequestTopic{Topic: new("t")})
		configs.Resources = append(configs.Resources, kmsg.DescribeConfigsRequestResource{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t"})
		groups.Groups = append(groups.Groups, kmsg.OffsetFetchRequestGroup{Group: "g", Topics: []kmsg.OffsetFetchRequestGroupTopic{{Topic: "t", Partitions: []int32{0}}}})
	}
	for _, req := range []kmsg.Request{describe, consumer, metadata, configs, groups, offsets, producers} {
		client, _ := observed(t, d)
		_, err := client.Write(frame(req, 1))
		require.NoError(t, err)
		require.Less(t, len(readFrame(t, client)), 100_000, "%T", req)
	}
}

// An idle connection costs a goroutine and little else.
func TestIdleConnectionsAreCheap(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector takes memory of its own")
	}
	const many = 400
	d, address := startDoor(t, record.NewArena(4<<20))
	measure := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	batch := testBatch(t, 500)
	clients := make([]net.Conn, many)
	for i := range clients {
		clients[i] = dial(t, address)
	}
	require.Eventually(t, func() bool { return d.Connections() == many }, 10*time.Second, time.Millisecond)
	before := measure()
	for _, c := range clients {
		ask(t, c, produceRequest(9, -1, 1, batch))
	}
	require.Less(t, int64(measure())-int64(before), int64(many*6<<10), "what a connection keeps that has produced")
	for _, c := range clients {
		require.NoError(t, c.Close())
	}
}

// Above max.connections a client is hung up on at once, those that are there notice
// nothing, and when one goes another may come.
func TestConnectionsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(Options{MaxConnections: 2, Arena: record.NewArena(4 << 20), Logger: slog.New(slog.DiscardHandler)}, stubServices(stub{}))
		defer d.Close()
		first, second := piped(d), piped(d)
		for range 3 {
			over := piped(d)
			_, err := over.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
		}
		require.Equal(t, 2, d.Connections())
		require.Equal(t, uint64(3), d.metrics.cut[cutOverLimit].Load())
		requireAnswers(t, first)
		requireAnswers(t, second)
		require.NoError(t, first.Close())
		synctest.Wait()
		requireAnswers(t, piped(d))
		require.Equal(t, uint64(3), d.metrics.cut[cutOverLimit].Load())
	})
}
