package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stub is a broker that takes batches and knows little else.
type stub struct{ failing }

func (stub) Produce(_ context.Context, req *api.ProduceRequest) *api.Pending {
	p := api.NewPending(req, time.Now().Add(time.Second))
	for i := range req.Partitions {
		for _, b := range req.Partitions[i].Batches {
			b.Release()
		}
		p.Settle(i, nil)
	}
	return p
}

func (stub) InitProducer(context.Context) (int64, int16, error) { return 1, 0, nil }

func (stub) Fetch(_ context.Context, req *api.FetchRequest) ([]api.FetchResult, error) {
	results := make([]api.FetchResult, len(req.Partitions))
	for i := range results {
		results[i].PartitionRef = req.Partitions[i].PartitionRef
	}
	return results, nil
}

func (stub) ListOffsets(_ context.Context, queries []api.ListOffset) ([]api.ListOffsetResult, error) {
	return make([]api.ListOffsetResult, len(queries)), nil
}

func (stub) EpochEnds(_ context.Context, queries []api.EpochQuery) ([]api.EpochEnd, error) {
	return make([]api.EpochEnd, len(queries)), nil
}

func (stub) MemoryShort() bool { return false }

func (stub) Metadata(context.Context, []string, bool, string) (*api.Metadata, error) {
	return &api.Metadata{ClusterID: "c", Controller: 1, Brokers: []api.Broker{{NodeID: 1}}}, nil
}

func (stub) AwaitLeaders(context.Context, []string) {}

func (stub) KafkaAddress(int32, string) string    { return "localhost:9092" }
func (stub) TopicName(api.TopicID) (string, bool) { return "t", true }
func (stub) NodeID() int32                        { return 1 }

// failing is what the stub has not.
type failing struct{}

var errStub = errors.New("not in the stub")

func (failing) CreateTopic(context.Context, *api.CreateTopic) (api.CreatedTopic, error) {
	return api.CreatedTopic{}, errStub
}
func (failing) DeleteTopic(context.Context, string) error                 { return errStub }
func (failing) AlterTopic(context.Context, *api.AlterTopic) error         { return errStub }
func (failing) DescribeTopic(context.Context, string) (*api.Topic, error) { return nil, errStub }
func (failing) DeleteRecords(context.Context, *api.DeleteRecords) ([]api.DeletedRecords, error) {
	return nil, errStub
}
func (failing) Logs() []api.LogInfo                    { return nil }
func (failing) Volume() (total, free int64, err error) { return 0, 0, errStub }
func (failing) Producers(api.PartitionRef) ([]api.ProducerState, *api.Error) {
	return nil, asError(errStub)
}
func (failing) FindCoordinator(context.Context, string) (int32, error) { return 0, errStub }
func (failing) CommitOffsets(context.Context, *api.CommitOffsets) ([]api.CommittedOffset, error) {
	return nil, errStub
}

func (failing) FetchOffsets(context.Context, *api.FetchOffsets) ([]api.CommittedOffset, error) {
	return nil, errStub
}

func (failing) JoinClassic(context.Context, *api.ClassicJoin) (*api.ClassicJoined, error) {
	return nil, errStub
}

func (failing) SyncClassic(context.Context, *api.ClassicSync) (*api.ClassicSynced, error) {
	return nil, errStub
}
func (failing) HeartbeatClassic(context.Context, *api.ClassicHeartbeat) error { return errStub }
func (failing) LeaveClassic(context.Context, string, []api.ClassicLeave) ([]*api.Error, error) {
	return nil, errStub
}

func (failing) ConsumerHeartbeat(context.Context, *api.ConsumerHeartbeat) (*api.ConsumerHeartbeatResult, error) {
	return nil, errStub
}
func (failing) ListGroups(context.Context) ([]api.GroupListing, error) { return nil, errStub }
func (failing) DescribeGroup(context.Context, string) (*api.GroupDescription, error) {
	return nil, errStub
}
func (failing) DeleteGroup(context.Context, string) error { return errStub }

func (failing) DeleteOffsets(context.Context, string, []api.TopicPartition) ([]*api.Error, error) {
	return nil, errStub
}

func (failing) Reassign(context.Context, *api.Reassign) ([]*api.Error, error) { return nil, errStub }

func (failing) Reassignments(context.Context, []api.PartitionRef) ([]api.Reassignment, error) {
	return nil, errStub
}

func (failing) ElectPreferred(context.Context, []api.PartitionRef) ([]*api.Error, error) {
	return nil, errStub
}

func (failing) AddPartitions(context.Context, *api.AddPartitions) (int32, error) { return 0, errStub }

type tester interface {
	Helper()
	Cleanup(f func())
	Errorf(format string, args ...any)
	FailNow()
}

// startDoor serves the stub on a port.
func startDoor(t tester, arena *record.Arena) (*Door, string) {
	t.Helper()
	s := stub{}
	d := New(Options{Arena: arena, Logger: slog.New(slog.DiscardHandler)}, Services{
		Producer: s, Fetcher: s, Topics: s, Cluster: s, Replicas: s, Offsets: s, Groups: s, GroupAdmin: s, Placement: s, Growth: s,
	})
	lis, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- d.Serve(lis, "") }()
	t.Cleanup(func() {
		d.Close()
		require.NoError(t, <-served)
		require.Zero(t, arena.InUse(), "batches are left in the arena")
		require.Zero(t, d.intake.onHeap.Load()+d.intake.inArena.Load(), "requests are left that have not arrived")
	})
	return d, lis.Addr().String()
}

func dial(t tester, address string) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(context.Background(), "tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// frame encodes a request with its header.
func frame(req kmsg.Request, correlation int32) []byte {
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("test")).AppendRequest(nil, req, correlation)
}

// answers asks for ApiVersions and reads the answer.
func requireAnswers(t tester, c net.Conn) {
	t.Helper()
	req := kmsg.NewPtrApiVersionsRequest()
	req.SetVersion(0)
	_, err := c.Write(frame(req, 7))
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	head := make([]byte, 8)
	_, err = io.ReadFull(c, head)
	require.NoError(t, err)
	require.Equal(t, uint32(7), binary.BigEndian.Uint32(head[4:]))
	body := make([]byte, binary.BigEndian.Uint32(head)-4)
	_, err = io.ReadFull(c, body)
	require.NoError(t, err)
	resp := kmsg.NewPtrApiVersionsResponse()
	require.NoError(t, resp.ReadFrom(body))
	require.Len(t, resp.ApiKeys, len(table()))
}

func header12(key, version int16, rest ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = append(b, 0, 0, 0, 1, 0, 1, 'x')
	return append(b, rest...)
}

func framed(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }

// Whatever comes to the port, the connection it came on ends and nobody else
// notices.
func TestGarbageHurtsNobody(t *testing.T) {
	arena := record.NewArena(8 << 20)
	_, address := startDoor(t, arena)
	good := dial(t, address)
	requireAnswers(t, good)
	tags := framed(header12(3, 12, append([]byte{0, 0, 0xc0, 0x84, 0x3d}, make([]byte, 3_000_000)...)...))
	for _, tt := range []struct {
		name string
		sent []byte
	}{
		{"HTTP", []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")},
		{"TLS", []byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 9, 9, 9}},
		{"a length of -1", []byte{0xff, 0xff, 0xff, 0xff, 0, 0}},
		{"a length of 2^31-1", []byte{0x7f, 0xff, 0xff, 0xff, 0, 0}},
		{"a length of 0", make([]byte, 16)},
		{"no such API", framed(header12(1000, 0, 0, 0))},
		{"no such version", framed(header12(3, 99, 0, 0))},
		{"a transaction's API", framed(header12(26, 0, 0, 0))},
		{"a million tagged fields", tags},
		{"four thousand million tagged fields", framed(header12(3, 12, 0, 1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f))},
		{"a produce request that is one byte short", framed(header12(0, 3, 0xff, 0xff, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 't', 0, 0, 0, 1, 0, 0, 0))},
		{"records beyond their frame", framed(header12(0, 3, 0xff, 0xff, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 't', 0, 0, 0, 1, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff))},
		{"two thousand million topics", framed(header12(0, 3, 0xff, 0xff, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff))},
		{"a body above the limit", framed(header12(3, 1, make([]byte, maxBody)...))},
	} {
		bad := dial(t, address)
		_, _ = bad.Write(tt.sent) // it may be cut while it sends
		require.NoError(t, bad.SetReadDeadline(time.Now().Add(10*time.Second)))
		_, err := bad.Read(make([]byte, 1))
		require.Error(t, err, tt.name)
		require.NotErrorIs(t, err, context.DeadlineExceeded, tt.name)
		if ne, ok := errors.AsType[net.Error](err); ok {
			require.False(t, ne.Timeout(), "%s: the connection goes on", tt.name)
		}
		requireAnswers(t, good)
	}
}

// Connections that promise records and do not send them hold what they sent, and a
// part of the arena at their word; who sends all is served.
func TestPromisesHoldLittle(t *testing.T) {
	const liars, each = 200, 16 << 10
	arena := record.NewArena(8 << 20)
	d, address := startDoor(t, arena)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const claimed = 30 << 20
	start := header12(0, 3, 0xff, 0xff, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 't', 0, 0, 0, 1, 0, 0, 0, 0)
	start = binary.BigEndian.AppendUint32(start, claimed)
	start = append(binary.BigEndian.AppendUint32(nil, uint32(len(start)+claimed)), start...)
	start = append(start, make([]byte, each)...)
	for range liars {
		_, err := dial(t, address).Write(start)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return d.intake.onHeap.Load() > 0 && d.Connections() == liars }, 10*time.Second, time.Millisecond)
	requireAnswers(t, dial(t, address))
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.LessOrEqual(t, d.intake.inArena.Load(), arena.Limit()/4)
	require.LessOrEqual(t, arena.InUse(), arena.Limit()/4+claimed/100)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(liars*(2*32<<10+16<<10)+8<<20), "held for %d connections", liars)
}

// Who sends a byte now and then is cut in the end, and who is idle later than that.
func TestSlowRequestsAreCut(t *testing.T) {
	d, address := startDoor(t, record.NewArena(1<<20))
	slow := dial(t, address)
	_, err := slow.Write([]byte{0, 0, 0, 100, 0, 3})
	require.NoError(t, err)
	idle := dial(t, address)
	requireAnswers(t, idle)
	find := func(receiving bool) *conn {
		for _, c := range d.snapshot() {
			if c.due.Load() != 0 && c.idle.Load() != receiving {
				return c
			}
		}
		return nil
	}
	require.Eventually(t, func() bool { return find(true) != nil && find(false) != nil }, 10*time.Second, time.Millisecond)
	now := time.Now()
	require.Empty(t, find(true).overdue(now.Add(receiveGrace-time.Second), false))
	require.NotEmpty(t, find(true).overdue(now.Add(receiveGrace+time.Second), false))
	require.Empty(t, find(false).overdue(now.Add(d.opts.IdleTimeout-time.Second), false))
	require.NotEmpty(t, find(false).overdue(now.Add(d.opts.IdleTimeout+time.Second), false))
}

// FuzzRequests sends requests of every kind, those that real clients sent among them,
// and what mutation makes of them; each is answered, or its connection ends.
func FuzzRequests(f *testing.F) {
	for _, e := range table() {
		for _, v := range []int16{e.min, e.max} {
			req := e.request()
			req.SetVersion(v)
			f.Add(e.key, v, req.AppendTo(nil))
		}
	}
	for _, r := range recordedRequests(f) {
		f.Add(r.key, r.version, r.rest())
	}
	arena := record.NewArena(4 << 20)
	_, address := startDoor(f, arena)
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		c := dial(t, address)
		_, err := c.Write(framed(header12(key, version, body...)))
		require.NoError(t, err)
		require.NoError(t, c.(*net.TCPConn).CloseWrite())
		require.NoError(t, c.SetReadDeadline(time.Now().Add(20*time.Second)))
		_, err = io.Copy(io.Discard, c)
		if ne, ok := errors.AsType[net.Error](err); ok {
			require.False(t, ne.Timeout(), "neither answered nor cut")
		}
		requireAnswers(t, dial(t, address))
	})
}
