package client

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

func TestOptionsListEveryFault(t *testing.T) {
	cl, err := New([]string{"127.0.0.1:1"})
	require.NoError(t, err)
	defer func() { require.NoError(t, cl.Close()) }()
	cases := []struct {
		name string
		err  func() error
		want []string
	}{
		{"client", func() error {
			_, err := New([]string{"nowhere"}, WithRequestTimeout(0), WithHooks(struct{}{}), WithLogger(nil))
			return err
		}, []string{`"nowhere" is not host:port`, "request timeout 0s", "implements no Hook", "logger is nil"}},
		{"no brokers", func() error { _, err := New(nil); return err }, []string{"no broker address"}},
		{"producer", func() error {
			_, err := cl.NewProducer(WithAcks(7), WithCompression("brotli"), WithBatchBytes(5), WithMaxInFlight(6), WithDeliveryTimeout(-1))
			return err
		}, []string{"acks 7", `"brotli"`, "batch size 5", "max in flight 6", "delivery timeout"}},
		{"consumer", func() error {
			_, err := cl.NewConsumer(WithTopics("a"), WithPartitions(TopicPartition{"a", -1}), WithAssignor("best"), WithStart(At(-4)), WithInstanceID("i"))
			return err
		}, []string{"exactly one of", `"a--1"`, `"best"`, "start offset -4", "instance id"}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.err()
			_, ok := errors.AsType[*ConfigError](err)
			require.True(t, ok, "%v", err)
			for _, want := range tc.want {
				require.ErrorContains(t, err, want)
			}
		})
	}
}

// A broker address that does not answer is named, with its reason.
func TestBootstrapErrorNamesEveryAddress(t *testing.T) {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0") // accepts and says nothing
	require.NoError(t, err)
	defer func() { require.NoError(t, ln.Close()) }()
	gone, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, gone.Close())
	cl, err := New([]string{ln.Addr().String(), gone.Addr().String()}, WithRequestTimeout(300*time.Millisecond))
	require.NoError(t, err)
	defer func() { require.NoError(t, cl.Close()) }()
	_, err = cl.Admin().Cluster(t.Context())
	b, ok := errors.AsType[*BootstrapError](err)
	require.True(t, ok, "%v", err)
	require.Len(t, b.Failures, 2)
	require.ErrorContains(t, err, ln.Addr().String()+": no answer in time")
	require.ErrorContains(t, err, gone.Addr().String())
	require.ErrorContains(t, err, "connection refused")
}

// Whoever names the metrics port, or another program's, is told what would be right.
func TestWhatSpeaksNoGRPC(t *testing.T) {
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	cl, err := New([]string{web.Listener.Addr().String()})
	require.NoError(t, err)
	defer func() { require.NoError(t, cl.Close()) }()
	_, err = cl.Admin().Cluster(t.Context())
	require.ErrorContains(t, err, "does not speak gRPC: want the address that a broker has as listen.grpc")
}

func TestPlainly(t *testing.T) {
	for message, want := range map[string]string{
		`connection error: desc = "transport: Error while dialing: dial tcp [::1]:1: connect: connection refused"`: "dial tcp [::1]:1: connect: connection refused",
		"connection error: desc = incomplete": "connection error: desc = incomplete",
		"the log is full":                     "the log is full",
		"unexpected HTTP status code received from server: 404 (Not Found)": "what listens there does not speak gRPC: " +
			"want the address that a broker has as listen.grpc (unexpected HTTP status code)",
	} {
		require.Equal(t, want, plainly(message))
	}
}

// What a call failed with last comes before that the time was up, and both are told.
func TestGaveUp(t *testing.T) {
	refused := &Error{Code: CodeNotController, Message: "no controller can be reached", Partition: -1}
	err := gaveUp(refused, context.DeadlineExceeded)
	require.EqualError(t, err, "penstock: not controller: no controller can be reached; gave up: context deadline exceeded")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, CodeNotController, CodeOf(err))
	require.Equal(t, error(refused), gaveUp(refused, nil))
}

func TestBootstrapFromTheOneThatAnswers(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.create("t", 3)
	c.brokers[0].freeze()
	cl, err := New([]string{"127.0.0.1:1", c.brokers[0].address, c.brokers[2].address}, WithRequestTimeout(time.Minute))
	require.NoError(t, err)
	defer func() { require.NoError(t, cl.Close()) }()
	ctx := deadline(t) // long before that: a broker that hangs is not waited for
	parts, err := cl.Admin().Partitions(ctx, "t")
	require.NoError(t, err)
	require.Len(t, parts, 3)
	for range 6 {
		_, err = cl.Admin().Cluster(ctx)
		require.NoError(t, err)
	}
}

func TestListOffsets(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.create("t", 2)
	c.fill(tp("t", 0), "a", 10, 5)
	c.fill(tp("t", 1), "a", 20, 5)
	admin := newTestClient(t, c).Admin()
	both := []TopicPartition{tp("t", 1), tp("t", 0)}
	at := func(where Offset) []int64 {
		t.Helper()
		found, err := admin.ListOffsets(t.Context(), where, both...)
		require.NoError(t, err)
		var out []int64
		for i, f := range found {
			require.NoError(t, f.Err)
			require.Equal(t, both[i], f.TopicPartition)
			out = append(out, f.Offset)
		}
		return out
	}
	require.Equal(t, []int64{0, 0}, at(Earliest()))
	require.Equal(t, []int64{20, 10}, at(Latest()))
	require.Equal(t, []int64{12, -1}, at(AtTime(time.UnixMilli(1012))))
	c.move(tp("t", 0), 1)
	require.Equal(t, []int64{20, 10}, at(Latest()), "after a move")
	_, err := admin.ListOffsets(t.Context(), Latest(), tp("t", 2))
	require.Equal(t, CodeUnknownPartition, CodeOf(err))
	_, err = admin.ListOffsets(t.Context(), Latest(), tp("nope", 0))
	require.Equal(t, CodeUnknownTopic, CodeOf(err))
	_, err = admin.ListOffsets(t.Context(), At(3), tp("t", 0))
	require.Error(t, err)
}

func TestResetOffsets(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	c.fill(tp("t", 0), "a", 10, 5)
	admin := newTestClient(t, c).Admin()
	for _, tc := range []struct {
		where   Offset
		want    int64
		clamped bool
	}{
		{Latest(), 10, false},
		{At(3), 3, false},
		{Earliest(), 0, false},
		{AtTime(time.UnixMilli(1004)), 4, false},
		{AtTime(time.UnixMilli(99999)), 10, false},
		{At(999), 10, true},
	} {
		before := c.group.offset(tp("t", 0))
		plan, err := admin.PlanReset(t.Context(), "g", tc.where, tp("t", 0))
		require.NoError(t, err)
		require.Equal(t, []OffsetMove{{TopicPartition: tp("t", 0), Before: before, After: tc.want, Clamped: tc.clamped}}, plan)
		require.Equal(t, before, c.group.offset(tp("t", 0)), "a plan moves nothing")
		_, err = admin.ApplyReset(t.Context(), "g", plan)
		require.NoError(t, err)
		require.Equal(t, tc.want, c.group.offset(tp("t", 0)))
	}
	for _, by := range []int64{3, -2, 100, -100} {
		want := min(max(c.group.offset(tp("t", 0))+by, 0), 10)
		plan, err := admin.PlanShift(t.Context(), "g", by, tp("t", 0))
		require.NoError(t, err)
		require.Equal(t, want, plan[0].After)
		_, err = admin.ApplyReset(t.Context(), "g", plan)
		require.NoError(t, err)
	}
	// Where nothing is committed it is from the beginning of the log, not from offset 0.
	c.mu.Lock()
	c.topics["t"][0].start = 5
	c.mu.Unlock()
	c.group.mu.Lock()
	delete(c.group.committed, tp("t", 0))
	c.group.mu.Unlock()
	for by, want := range map[int64]OffsetMove{2: {After: 7}, -2: {After: 5, Clamped: true}, 9: {After: 10, Clamped: true}} {
		plan, err := admin.PlanShift(t.Context(), "g", by, tp("t", 0))
		require.NoError(t, err)
		require.Equal(t, want.After, plan[0].After, "by %d", by)
		require.Equal(t, want.Clamped, plan[0].Clamped, "by %d", by)
	}
	c.group.inUse = true
	_, err := admin.PlanReset(t.Context(), "g", Earliest(), tp("t", 0))
	require.Equal(t, CodeGroupNotEmpty, CodeOf(err))
}

func TestErrorsAreTyped(t *testing.T) {
	detail := &pb.Error{
		Code: pb.ErrorCode_ERROR_CODE_NOT_LEADER, Message: "broker 2 leads", Topic: "t", Partition: 1, Retriable: true, Indefinite: true,
	}
	st, err := status.New(codes.FailedPrecondition, "x").WithDetails(detail)
	require.NoError(t, err)
	e := fromRPC(st.Err(), "b:1")
	require.Equal(t, CodeNotLeader, e.Code)
	require.True(t, IsRetriable(e) && IsIndefinite(e))
	require.EqualError(t, e, "penstock: t-1: not leader: broker 2 leads (broker b:1)")

	transport := fromRPC(status.Error(codes.Unavailable, "connection refused"), "b:1")
	require.Equal(t, CodeUnknown, CodeOf(transport))
	require.True(t, IsRetriable(transport))
	require.EqualError(t, transport, "penstock: connection refused (broker b:1)")

	require.ErrorIs(t, fromRPC(status.Error(codes.DeadlineExceeded, "x"), ""), context.DeadlineExceeded)
	require.Equal(t, CodeUnsupported, CodeOf(fromRPC(status.Error(codes.Unimplemented, "x"), "")))
	require.Equal(t, CodeNone, CodeOf(nil))
	require.Equal(t, CodeUnknown, CodeOf(errors.New("x")))
	for c := range pb.ErrorCode_name {
		require.NotContains(t, Code(c).String(), "code ", "a name for every code")
	}
	require.Equal(t, "code 999", Code(999).String())
}

func TestMetadataNeverGoesBack(t *testing.T) {
	c := newFakeCluster(t, 2)
	cl := newTestClient(t, c)
	answer := func(leader, epoch int32) *pb.MetadataResponse {
		return &pb.MetadataResponse{
			Brokers: []*pb.BrokerInfo{{NodeId: 0, Address: "a:1"}, {NodeId: 1, Address: "b:1"}},
			Topics: []*pb.TopicInfo{{
				Name: "t", TopicId: make([]byte, 16),
				Partitions: []*pb.PartitionInfo{{Partition: 0, Leader: leader, LeaderEpoch: epoch}},
			}},
		}
	}
	cl.meta.merge(answer(0, 5))
	cl.meta.merge(answer(1, 4)) // a broker that is behind
	require.Equal(t, "a:1", cl.meta.snapshot().leader(tp("t", 0)))
	cl.meta.hint(tp("t", 0), &pb.LeaderHint{NodeId: 1, LeaderEpoch: 4, Address: "b:1"})
	require.Equal(t, "a:1", cl.meta.snapshot().leader(tp("t", 0)))
	cl.meta.hint(tp("t", 0), &pb.LeaderHint{NodeId: 7, LeaderEpoch: 6, Address: "c:1"})
	require.Equal(t, "c:1", cl.meta.snapshot().leader(tp("t", 0)))
	cl.meta.merge(answer(-1, 7))
	require.Empty(t, cl.meta.snapshot().leader(tp("t", 0)))
}

func TestCloseEndsEverything(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.create("t", 1)
	cl, err := New(c.addresses())
	require.NoError(t, err)
	p, err := cl.NewProducer()
	require.NoError(t, err)
	k, err := cl.NewConsumer(WithTopics("t"), WithGroup("g"))
	require.NoError(t, err)
	require.NoError(t, p.ProduceSync(t.Context(), &Record{Topic: "t", Value: []byte("x")}))
	require.NoError(t, cl.Close())
	require.NoError(t, cl.Close())
	require.ErrorIs(t, p.ProduceSync(t.Context(), &Record{Topic: "t"}), ErrClosed)
	_, err = k.Poll(t.Context())
	require.ErrorIs(t, err, ErrClosed)
	_, err = cl.NewProducer()
	require.ErrorIs(t, err, ErrClosed)
	_, err = cl.NewConsumer(WithTopics("t"))
	require.ErrorIs(t, err, ErrClosed)
	require.NoError(t, p.Close(t.Context()))
	require.NoError(t, k.Close(t.Context()))
}
