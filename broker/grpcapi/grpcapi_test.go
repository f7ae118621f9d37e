package grpcapi

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/internal/arenatest"
	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// fakeBroker keeps what was produced and settles it when told to.
type fakeBroker struct {
	Topics
	Cluster
	Groups
	GroupAdmin

	mu       sync.Mutex
	starting bool // do not open the door
	short    atomic.Bool
	fetches  atomic.Int32 // that were to wait
	held     bool         // leave requests pending
	single   bool         // fetches return the one batch that holds the offset, or follows it
	waits    bool         // fetches find nothing for as long as they may wait
	pending  []*api.Pending
	batches  [][]byte
	err      *api.Error
}

func (f *fakeBroker) Produce(_ context.Context, req *api.ProduceRequest) *api.Pending {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := api.NewPending(req, time.Now().Add(req.Timeout))
	for i := range req.Partitions {
		pp := &req.Partitions[i]
		p.Appended(i, api.ProduceResult{PartitionRef: pp.PartitionRef, BaseOffset: record.Offset(len(f.batches)), LogAppendTime: -1})
		for _, b := range pp.Batches {
			f.batches = append(f.batches, append([]byte(nil), b.Bytes()...))
			b.Release()
		}
		if !f.held {
			p.Settle(i, f.err)
		}
	}
	f.pending = append(f.pending, p)
	return p
}

func (f *fakeBroker) settle(i int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending[i].Settle(0, nil)
}

func (f *fakeBroker) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.pending)
}

func (f *fakeBroker) InitProducer(context.Context) (int64, int16, error) { return 7, 0, nil }

func (f *fakeBroker) Fetch(ctx context.Context, req *api.FetchRequest) ([]api.FetchResult, error) {
	if f.waits {
		f.fetches.Add(1)
		select {
		case <-time.After(req.MaxWait):
		case <-req.Ended:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	results := make([]api.FetchResult, len(req.Partitions))
	for i := range req.Partitions {
		results[i].PartitionRef = req.Partitions[i].PartitionRef
		results[i].Err = f.err
		var run []byte
		for _, b := range f.batches {
			if info, _ := record.Peek(b); f.single && (len(run) > 0 || info.NextOffset() <= req.Partitions[i].Offset) {
				continue
			}
			run = append(run, b...)
		}
		if len(run) > 0 && f.err == nil {
			buf := record.NewBuf(run)
			results[i].Batches = []record.Slice{record.SliceOf(buf, 0, len(run))}
			buf.Release()
		}
	}
	return results, nil
}

func (f *fakeBroker) ListOffsets(_ context.Context, queries []api.ListOffset) ([]api.ListOffsetResult, error) {
	return make([]api.ListOffsetResult, len(queries)), nil
}

func (f *fakeBroker) MemoryShort() bool { return f.short.Load() }

func (f *fakeBroker) Address(nodeID int32, listener string) string {
	return fmt.Sprintf("%s-%d:7070", listener, nodeID)
}

func (f *fakeBroker) DescribeTopic(_ context.Context, name string) (*api.Topic, error) {
	return nil, api.Errorf(api.CodeUnknownTopic, "there is no topic %q", name).At(name, -1)
}

// dial serves f on a listener with a name and returns a connection to it.
func dial(t *testing.T, f *fakeBroker, listener string) *grpc.ClientConn {
	t.Helper()
	conn, _ := dialDoor(t, f, listener)
	return conn
}

func dialDoor(t *testing.T, f *fakeBroker, listener string) (*grpc.ClientConn, *PublicDoor) {
	t.Helper()
	codec := wire.NewCodec(arenatest.New(t, 1<<20))
	srv, door := Public(codec)
	if !f.starting {
		door.Open(Services{Producer: f, Fetcher: f, Topics: f, Cluster: f, Groups: f, GroupAdmin: f, Now: time.Now})
	}
	lis := bufconn.Listen(1 << 20)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(Listener(lis, listener))
	}()
	conn, err := grpc.NewClient("passthrough:///test", append(wire.DialOptions(codec),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		srv.Stop()
		<-done
	})
	return conn, door
}

func structured(topic string, values ...string) *wire.Produce {
	p := &pb.ProducePartition{Topic: topic}
	for _, v := range values {
		p.Records = append(p.Records, &pb.Record{Key: []byte("k"), Value: []byte(v), Headers: []*pb.Header{{Key: "h", Value: []byte{}}}})
	}
	return &wire.Produce{ProduceRequest: &pb.ProduceRequest{Partitions: []*pb.ProducePartition{p}}}
}

func TestStructuredRecordsComeBack(t *testing.T) {
	for compression := range pb.Compression_name {
		conn := dial(t, &fakeBroker{}, "")
		in := structured("t", "a", "", "c")
		in.Partitions[0].Compression = pb.Compression(compression)
		in.Partitions[0].Records[1].Value = nil // a tombstone
		if _, err := wire.CallProduce(t.Context(), conn, in); err != nil {
			t.Fatal(err)
		}
		out, err := wire.CallFetch(t.Context(), conn, &pb.FetchRequest{Structured: true, Partitions: []*pb.FetchPartition{{Topic: "t", FetchOffset: 1}}})
		if err != nil {
			t.Fatal(err)
		}
		records := out.Results[0].GetRecords()
		if len(records) != 2 || records[0].Value != nil || string(records[1].Value) != "c" || string(records[1].Key) != "k" ||
			records[1].GetOffset() != 2 || records[0].GetTimestampMs() == 0 || records[0].GetHeaders()[0].GetKey() != "h" {
			t.Errorf("compression %d: %v", compression, records)
		}
		out.Release()
	}
}

// Whoever sees records only gets past batches of which compaction left none, also
// when another partition has records all the time.
func TestStructuredFetchPassesEmptyBatches(t *testing.T) {
	var filter record.Filter
	batch := func(base record.Offset, kept ...record.Offset) []byte {
		b := record.NewBuilder(record.BuilderOptions{})
		for range 3 {
			if err := b.Append(&record.Record{Key: []byte("k"), Value: []byte("v")}); err != nil {
				t.Fatal(err)
			}
		}
		raw, err := b.Build(nil)
		if err != nil {
			t.Fatal(err)
		}
		record.Patch(raw, base, 1)
		if err := filter.Reset(raw, record.Limits{}, func(off record.Offset, _ []byte, _ bool) bool { return slices.Contains(kept, off) }); err != nil {
			t.Fatal(err)
		}
		if raw, err = filter.Append(nil, 0); err != nil {
			t.Fatal(err)
		}
		return raw
	}
	conn := dial(t, &fakeBroker{single: true, batches: [][]byte{batch(0), batch(3, 3), batch(20), batch(23), batch(30, 31)}}, "")
	for from, want := range map[int64]int64{0: 3, 3: 3, 4: 31, 21: 31, 31: 31, 32: -1, 33: -1} {
		out, err := wire.CallFetch(t.Context(), conn, &pb.FetchRequest{
			Structured: true, Partitions: []*pb.FetchPartition{{Topic: "t", FetchOffset: 3}, {Topic: "t", Partition: 1, FetchOffset: from}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := out.Results[0].GetRecords(); len(got) != 1 || got[0].GetOffset() != 3 {
			t.Errorf("the other partition: %v", got)
		}
		records := out.Results[1].GetRecords()
		if want < 0 && len(records) > 0 || want >= 0 && (len(records) != 1 || records[0].GetOffset() != want) {
			t.Errorf("from %d: %v, want offset %d", from, records, want)
		}
		out.Release()
	}
}

func TestFetchSplitsRuns(t *testing.T) {
	conn := dial(t, &fakeBroker{}, "")
	for range 3 {
		if _, err := wire.CallProduce(t.Context(), conn, structured("t", "a")); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := wire.FetchStream(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(2) {
		if err := stream.Send(&pb.FetchRequest{CorrelationId: i, Partitions: []*pb.FetchPartition{{Topic: "t"}}}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint64(2) {
		out, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if out.GetCorrelationId() != i || out.Results[0].GetBatchCount() != 3 || len(out.Batches) != 3 {
			t.Errorf("answer %d: %v, %d batches", i, out.FetchResponse, len(out.Batches))
		}
		out.Release()
	}
	_ = stream.CloseSend()
}

// Answers of a produce stream come in the order of the requests, whichever is
// acknowledged first, and requests do not wait for earlier answers.
func TestProduceStreamPipelines(t *testing.T) {
	f := &fakeBroker{held: true}
	stream, err := wire.ProduceStream(t.Context(), dial(t, f, ""))
	if err != nil {
		t.Fatal(err)
	}
	const n = 20
	for i := range n {
		in := structured("t", "v")
		in.CorrelationId = uint64(i)
		if err := stream.Send(in); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(5 * time.Second); f.count() < n; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d requests were appended before the first answer", f.count(), n)
		}
		time.Sleep(time.Millisecond)
	}
	for i := n - 1; i >= 0; i-- {
		f.settle(i)
	}
	for i := range n {
		out, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if out.GetCorrelationId() != uint64(i) || out.Results[0].GetBaseOffset() != int64(i) {
			t.Fatalf("answer %d is %v", i, out)
		}
	}
	_ = stream.CloseSend()
	if _, err := stream.Recv(); err == nil {
		t.Error("the stream does not end")
	}
}

func TestProduceRefuses(t *testing.T) {
	batch := func() *record.Buf { return record.NewBuf(make([]byte, 100)) }
	for _, tt := range []struct {
		name string
		in   *wire.Produce
		code api.Code
	}{
		{"no topic", structured("", "a"), api.CodeInvalidTopic},
		{"short topic id", &wire.Produce{ProduceRequest: &pb.ProduceRequest{Partitions: []*pb.ProducePartition{{TopicId: []byte{1}, BatchCount: 1}}}, Batches: []*record.Buf{batch()}}, api.CodeInvalidArgument},
		{"nothing", structured("t"), api.CodeInvalidArgument},
		{"too few batches", &wire.Produce{ProduceRequest: &pb.ProduceRequest{Partitions: []*pb.ProducePartition{{Topic: "t", BatchCount: 2}}}, Batches: []*record.Buf{batch()}}, api.CodeInvalidArgument},
		{"too many batches", &wire.Produce{ProduceRequest: &pb.ProduceRequest{Partitions: []*pb.ProducePartition{{Topic: "t", BatchCount: 1}}}, Batches: []*record.Buf{batch(), batch()}}, api.CodeInvalidArgument},
		{"acks", &wire.Produce{ProduceRequest: &pb.ProduceRequest{Acks: 9}}, api.CodeInvalidArgument},
		{"compression", &wire.Produce{ProduceRequest: &pb.ProduceRequest{Partitions: []*pb.ProducePartition{{Topic: "t", Compression: 9, Records: []*pb.Record{{}}}}}}, api.CodeUnsupportedCodec},
		{"timestamp", &wire.Produce{ProduceRequest: &pb.ProduceRequest{Partitions: []*pb.ProducePartition{{Topic: "t", Records: []*pb.Record{{TimestampMs: -5}}}}}}, api.CodeInvalidTimestamp},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := dial(t, &fakeBroker{}, "")
			_, err := wire.CallProduce(t.Context(), conn, tt.in)
			if e := detail(t, err); e.GetCode() != pb.ErrorCode(tt.code) || e.GetMessage() == "" {
				t.Errorf("unary: %v", err)
			}
			stream, err := wire.ProduceStream(t.Context(), conn)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(tt.in); err != nil {
				t.Fatal(err)
			}
			_, err = stream.Recv()
			if e := detail(t, err); e.GetCode() != pb.ErrorCode(tt.code) {
				t.Errorf("stream: %v", err)
			}
		})
	}
}

// detail returns the typed error in a status.
func detail(t *testing.T, err error) *pb.Error {
	t.Helper()
	st, ok := status.FromError(err)
	if !ok || st.Code() == codes.OK {
		t.Fatalf("%v is not a status error", err)
	}
	for _, d := range st.Details() {
		if e, ok := d.(*pb.Error); ok {
			return e
		}
	}
	t.Fatalf("%v has no typed detail", err)
	return nil
}

func TestStatusCarriesDetail(t *testing.T) {
	conn := dial(t, &fakeBroker{}, "")
	_, err := pb.NewAdminServiceClient(conn).DescribeTopic(t.Context(), &pb.DescribeTopicRequest{Name: "x"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("status %v", err)
	}
	want := &pb.Error{Code: pb.ErrorCode_ERROR_CODE_UNKNOWN_TOPIC, Message: `there is no topic "x"`, Topic: "x", Partition: -1, Retriable: true}
	if got := detail(t, err); !proto.Equal(got, want) {
		t.Errorf("detail %v, want %v", got, want)
	}
}

// A leader hint names the address on the listener that was asked.
func TestLeaderHint(t *testing.T) {
	for _, listener := range []string{"", "inner"} {
		e := api.Errorf(api.CodeNotLeader, "not here").At("t", 0)
		e.Leader = &api.LeaderHint{NodeID: 3, LeaderEpoch: 4}
		conn := dial(t, &fakeBroker{err: e}, listener)
		out, err := wire.CallProduce(t.Context(), conn, structured("t", "a"))
		if err != nil {
			t.Fatal(err)
		}
		hint := out.GetResults()[0].GetError().GetLeader()
		if want := listener + "-3:7070"; hint.GetAddress() != want || hint.GetNodeId() != 3 || hint.GetLeaderEpoch() != 4 {
			t.Errorf("hint %v, want the address %s", hint, want)
		}
	}
}

// The codes of package api and of penstock.v1 are the same numbers with the same names.
func TestCodesAgree(t *testing.T) {
	for number, name := range pb.ErrorCode_name {
		code := api.Code(number)
		if number != 0 && grpcCode(code) == codes.OK {
			t.Errorf("%s is success", name)
		}
		got := "ERROR_CODE_" + screaming(code.String())
		if number != 0 && got != name {
			t.Errorf("code %d is %s in api, %s in the protocol", number, got, name)
		}
	}
	if next := api.Code(len(pb.ErrorCode_name)).String(); next != fmt.Sprintf("code %d", len(pb.ErrorCode_name)) {
		t.Errorf("api has %q, which the protocol does not", next)
	}
}

func screaming(s string) string {
	b := []byte(s)
	for i, c := range b {
		switch {
		case c == ' ':
			b[i] = '_'
		case c >= 'a' && c <= 'z':
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

// Whatever shape a message has, it is refused or taken: never a panic, never a
// batch that belongs to nobody.
func FuzzProduceRequest(f *testing.F) {
	for _, in := range []*wire.Produce{structured("t", "a"), {ProduceRequest: &pb.ProduceRequest{Partitions: []*pb.ProducePartition{{Topic: "t", BatchCount: 2}}}}} {
		b, err := proto.Marshal(in.ProduceRequest)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint8(2))
	}
	s := &produceService{door: &PublicDoor{services: Services{Now: time.Now}}}
	f.Fuzz(func(t *testing.T, data []byte, batches uint8) {
		req := &pb.ProduceRequest{}
		if proto.Unmarshal(data, req) != nil {
			return
		}
		in := &wire.Produce{ProduceRequest: req}
		all := make([]*record.Buf, batches)
		for i := range all {
			all[i] = record.NewBuf([]byte{1})
		}
		in.Batches = append(in.Batches, all...)
		out, err := s.request(in)
		if err == nil {
			for i := range out.Partitions {
				for _, b := range out.Partitions[i].Batches {
					b.Release()
				}
			}
		}
		for i, b := range all {
			if b.Refs() != 0 {
				t.Fatalf("batch %d has %d references (%v)", i, b.Refs(), err)
			}
		}
	})
}

// Before the door is open every call of ours is told to come back; health says so too.
func TestDoorBeforeOpen(t *testing.T) {
	conn := dial(t, &fakeBroker{starting: true}, "")
	_, err := wire.CallProduce(t.Context(), conn, structured("t", "a"))
	if e := detail(t, err); !e.GetRetriable() || status.Code(err) != codes.Unavailable {
		t.Errorf("unary: %v", err)
	}
	stream, err := wire.FetchStream(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("stream: %v", err)
	}
	h, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || h.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health %v, %v", h, err)
	}
}

// A peer listener that serves before its node runs says so.
// What waits for a controller gives up while its client still listens, who then hears why.
func TestTimeToAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		door := &PublicDoor{}
		door.open.Store(true)
		listens, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		why := api.Errorf(api.CodeNotController, "no controller")
		wait := func(ctx context.Context, _ any) (any, error) {
			<-ctx.Done()
			return nil, why
		}
		_, err := door.gateUnary(listens, nil, &grpc.UnaryServerInfo{FullMethod: pb.AdminService_DeleteTopic_FullMethodName}, wait)
		if err != why || listens.Err() != nil {
			t.Fatalf("answered %v, when the client's time was %v", err, listens.Err())
		}
		_, err = door.gateUnary(listens, nil, &grpc.UnaryServerInfo{FullMethod: pb.ProduceService_Produce_FullMethodName}, wait)
		if err != why || listens.Err() == nil {
			t.Fatalf("a produce request was cut short: %v", err)
		}
	})
}

func TestPeerDoorBeforeOpen(t *testing.T) {
	var d PeerDoor
	if _, err := d.Hello(t.Context(), nil); status.Code(err) != codes.Unavailable {
		t.Errorf("hello: %v", err)
	}
	if _, err := d.Join(t.Context(), nil); status.Code(err) != codes.Unavailable {
		t.Errorf("join: %v", err)
	}
	if _, err := d.Propose(t.Context(), nil); status.Code(err) != codes.Unavailable {
		t.Errorf("propose: %v", err)
	}
	if _, err := d.ReadIndex(t.Context(), nil); status.Code(err) != codes.Unavailable {
		t.Errorf("read index: %v", err)
	}
	if err := d.Replicate(nil); status.Code(err) != codes.Unavailable {
		t.Errorf("replicate: %v", err)
	}
}
