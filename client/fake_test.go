package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/internal/arenatest"
	"github.com/penstock/penstock/internal/loopback"
	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeCluster is a cluster in memory: brokers are real gRPC servers on loopback,
// and share one state, so that a leader can be moved between them at any moment.
// It checks sequences as brokers do, with a window of five batches.
type fakeCluster struct {
	t       *testing.T
	brokers []*fakeBroker
	group   *fakeGroup
	arenas  []*record.Arena

	mu           sync.Mutex // guards what follows
	changed      chan struct{}
	topics       map[string][]*fakePartition
	lives        map[string]rune // how often a topic was created again
	behind       rune            // so many lives ago is what metadata tells
	nextProducer int64
	noProducers  bool
	// onProduce may answer for the broker; nil result: the broker goes on. It runs
	// with mu held. after: the batch is appended first.
	onProduce func(b *fakeBroker, p *fakePartition, info record.BatchInfo) (err *pb.Error, after bool)
	onFetch   func(b *fakeBroker, p *fakePartition, offset int64) *pb.Error
	onDelete  func(p *fakePartition) *pb.Error // as onFetch
	requests  [][]TopicPartition               // of produce, in order of arrival
	fetches   int
	polls     map[*pb.FetchRequest]int32 // fetches under way, and at which broker
	streams   int                        // of fetches that were opened
	between   int                        // fetches that ended the waits of others
	older     bool                       // brokers know nothing of that
}

type fakePartition struct {
	tp       TopicPartition
	leader   int32
	epoch    int32
	start    int64
	next     int64
	batches  []storedBatch
	producer map[int64]*producerState
}

type storedBatch struct {
	info  record.BatchInfo
	bytes []byte
}

type producerState struct {
	next int32
	last []storedBatch
}

type fakeBroker struct {
	c       *fakeCluster
	id      int32
	address string
	server  *grpc.Server
	wg      sync.WaitGroup

	mu     sync.Mutex // guards what follows
	frozen chan struct{}
	// past is what a broker that is cut off from the others knows, guarded by the
	// cluster's mu; nil: it knows everything.
	past map[TopicPartition]*fakePartition
	pb.UnimplementedAdminServiceServer
	pb.UnimplementedGroupServiceServer
}

func newFakeCluster(t *testing.T, n int) *fakeCluster {
	t.Helper()
	c := &fakeCluster{t: t, topics: map[string][]*fakePartition{}, lives: map[string]rune{}, changed: make(chan struct{}), polls: map[*pb.FetchRequest]int32{}}
	c.group = newFakeGroup(c)
	for i := range n {
		c.brokers = append(c.brokers, c.startBroker(int32(i), freeAddress(t)))
	}
	t.Cleanup(func() {
		for _, b := range c.brokers {
			b.stop()
		}
		for _, a := range c.arenas {
			arenatest.Empty(t, a, "a broker's arena")
		}
	})
	return c
}

// addresses are those of this process.
var addresses loopback.Addresses

// freeAddress stays free while its broker is down.
func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := addresses.Next()
	require.NoError(t, err)
	return address
}

func (c *fakeCluster) startBroker(id int32, address string) *fakeBroker {
	ln, err := (&net.ListenConfig{}).Listen(c.t.Context(), "tcp", address)
	require.NoError(c.t, err)
	b := &fakeBroker{c: c, id: id, address: ln.Addr().String()}
	arena := record.NewArena(8 << 20)
	c.arenas = append(c.arenas, arena)
	b.server = grpc.NewServer(wire.ServerOptions(wire.NewCodec(arena))...)
	wire.RegisterProduce(b.server, b)
	wire.RegisterFetch(b.server, b)
	pb.RegisterAdminServiceServer(b.server, b)
	pb.RegisterGroupServiceServer(b.server, b)
	b.wg.Go(func() { _ = b.server.Serve(ln) })
	return b
}

func (b *fakeBroker) stop() {
	b.thaw()
	b.server.Stop()
	b.wg.Wait()
}

// kill ends a broker: its connections are reset. restart brings it back.
func (c *fakeCluster) kill(id int32) { c.brokers[id].stop() }

func (c *fakeCluster) restart(id int32) {
	b := c.startBroker(id, c.brokers[id].address)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.brokers[id] = b
}

// freeze makes a broker take requests and answer none, as after SIGSTOP.
func (b *fakeBroker) freeze() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.frozen = make(chan struct{})
}

func (b *fakeBroker) thaw() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.frozen != nil {
		close(b.frozen)
		b.frozen = nil
	}
}

// hang waits while the broker is frozen.
func (b *fakeBroker) hang(ctx context.Context) error {
	b.mu.Lock()
	frozen := b.frozen
	b.mu.Unlock()
	if frozen != nil {
		select {
		case <-frozen:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

func (c *fakeCluster) addresses() []string {
	var out []string
	for _, b := range c.brokers {
		out = append(out, b.address)
	}
	return out
}

// create makes a topic; partition i is led by broker i modulo the number of brokers.
func (c *fakeCluster) create(topic string, partitions int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range partitions {
		c.topics[topic] = append(c.topics[topic], &fakePartition{
			tp: TopicPartition{topic, int32(i)}, leader: int32(i % len(c.brokers)), epoch: 1, producer: map[int64]*producerState{},
		})
	}
}

// move gives a partition another leader; -1: none.
func topicIDOf(name string, life rune) []byte { return fmt.Appendf(nil, "%-15.15s%c", name, 'A'+life) }

// recreate deletes a topic and creates it again, with n records in each partition.
func (c *fakeCluster) recreate(topic string, partitions, n int) {
	c.mu.Lock()
	c.lives[topic]++
	delete(c.topics, topic)
	c.mu.Unlock()
	c.create(topic, partitions)
	for i := range partitions {
		c.fill(TopicPartition{topic, int32(i)}, "new", n, n)
	}
}

func (c *fakeCluster) move(tp TopicPartition, leader int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.topics[tp.Topic][tp.Partition]
	p.leader, p.epoch = leader, p.epoch+1
}

func (c *fakeCluster) leaderOf(tp TopicPartition) int32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.topics[tp.Topic][tp.Partition].leader
}

// values returns the values in the log of a partition, in order.
func (c *fakeCluster) values(tp TopicPartition) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, b := range c.topics[tp.Topic][tp.Partition].batches {
		for r, err := range record.Records(b.bytes, record.Limits{}) {
			require.NoError(c.t, err)
			out = append(out, string(r.Value))
		}
	}
	return out
}

// fill appends n records with values prefix-0... in batches of per.
func (c *fakeCluster) fill(tp TopicPartition, prefix string, n, per int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.topics[tp.Topic][tp.Partition]
	b := record.NewBuilder(record.BuilderOptions{})
	for i := range n {
		require.NoError(c.t, b.Append(&record.Record{
			Timestamp: 1000 + p.next + int64(b.Count()), Key: []byte("k"), Value: fmt.Appendf(nil, "%s-%d", prefix, i),
		}))
		if b.Count() == per || i == n-1 {
			raw, err := b.Build(nil)
			require.NoError(c.t, err)
			p.append(raw)
			b.Reset()
		}
	}
	c.notify()
}

// notify wakes waiting fetches. The caller holds mu.
func (c *fakeCluster) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (p *fakePartition) append(raw []byte) int64 {
	base := p.next
	stored := append([]byte(nil), raw...)
	record.Patch(stored, record.Offset(base), record.Epoch(p.epoch))
	info, _ := record.Peek(stored)
	p.batches = append(p.batches, storedBatch{info, stored})
	p.next += int64(info.Count)
	return base
}

func fakeError(code pb.ErrorCode, retriable, indefinite bool) *pb.Error {
	return &pb.Error{Code: code, Message: code.String(), Retriable: retriable, Indefinite: indefinite}
}

// produce appends one batch as a leader does.
func (c *fakeCluster) produce(b *fakeBroker, tp TopicPartition, raw []byte) (int64, *pb.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	parts := c.topics[tp.Topic]
	if parts == nil {
		return -1, fakeError(pb.ErrorCode_ERROR_CODE_UNKNOWN_TOPIC, true, false)
	}
	p := parts[tp.Partition]
	info, err := record.Validate(raw, record.Limits{})
	if err != nil {
		return -1, &pb.Error{Code: pb.ErrorCode_ERROR_CODE_CORRUPT_BATCH, Message: err.Error()}
	}
	if p.leader != b.id {
		e := fakeError(pb.ErrorCode_ERROR_CODE_NOT_LEADER, true, true)
		if p.leader >= 0 {
			e.Leader = &pb.LeaderHint{NodeId: p.leader, LeaderEpoch: p.epoch, Address: c.brokers[p.leader].address}
		}
		return -1, e
	}
	if c.onProduce != nil {
		if e, after := c.onProduce(b, p, info); e != nil && !after {
			return -1, e
		} else if after {
			if _, refused := c.sequenced(p, raw, info); refused != nil {
				return -1, refused
			}
			return -1, e
		}
	}
	return c.sequenced(p, raw, info)
}

// sequenced appends unless the producer's sequence says otherwise.
func (c *fakeCluster) sequenced(p *fakePartition, raw []byte, info record.BatchInfo) (int64, *pb.Error) {
	if info.ProducerID < 0 {
		base := p.append(raw)
		c.notify()
		return base, nil
	}
	s := p.producer[info.ProducerID]
	if s == nil {
		if info.BaseSequence != 0 {
			return -1, fakeError(pb.ErrorCode_ERROR_CODE_OUT_OF_ORDER_SEQUENCE, false, false)
		}
		s = &producerState{}
		p.producer[info.ProducerID] = s
	}
	for _, last := range s.last {
		if last.info.BaseSequence == info.BaseSequence && last.info.Count == info.Count {
			return int64(last.info.BaseOffset), nil
		}
	}
	if info.BaseSequence != s.next {
		return -1, fakeError(pb.ErrorCode_ERROR_CODE_OUT_OF_ORDER_SEQUENCE, false, false)
	}
	base := p.append(raw)
	s.next += info.Count
	s.last = append(s.last, p.batches[len(p.batches)-1])
	if len(s.last) > 5 {
		s.last = s.last[1:]
	}
	c.notify()
	return base, nil
}

// Produce implements wire.ProduceServer; the client uses the stream only.
func (b *fakeBroker) Produce(context.Context, *wire.Produce) (*pb.ProduceResponse, error) {
	return nil, status.Error(codes.Unimplemented, "use the stream")
}

func (b *fakeBroker) InitProducer(ctx context.Context, _ *pb.InitProducerRequest) (*pb.InitProducerResponse, error) {
	if err := b.hang(ctx); err != nil {
		return nil, err
	}
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	if b.c.noProducers {
		return nil, status.Error(codes.Unimplemented, "no such method")
	}
	b.c.nextProducer++
	return &pb.InitProducerResponse{ProducerId: b.c.nextProducer}, nil
}

func (b *fakeBroker) ProduceStream(stream grpc.BidiStreamingServer[wire.Produce, pb.ProduceResponse]) error {
	for {
		req, err := stream.Recv()
		if err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		if err := b.hang(stream.Context()); err != nil {
			req.Release()
			return err
		}
		resp := &pb.ProduceResponse{CorrelationId: req.GetCorrelationId()}
		var seen []TopicPartition
		for i, p := range req.GetPartitions() {
			tp := TopicPartition{p.GetTopic(), p.GetPartition()}
			seen = append(seen, tp)
			base, e := b.c.produce(b, tp, req.Batches[i].Bytes())
			if e.GetCode() == pb.ErrorCode_ERROR_CODE_SHUTTING_DOWN && e.GetMessage() == cutMessage {
				req.Release()
				return status.Error(codes.Unavailable, "cut")
			}
			resp.Results = append(resp.Results, &pb.ProducePartitionResult{
				Topic: tp.Topic, Partition: tp.Partition, Error: e, BaseOffset: base, LogAppendTimeMs: -1,
			})
		}
		req.Release()
		b.c.mu.Lock()
		b.c.requests = append(b.c.requests, seen)
		b.c.mu.Unlock()
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}

// cutMessage in an error of onProduce ends the stream instead of an answer.
const cutMessage = "cut the stream"

func cutStream() *pb.Error {
	return &pb.Error{Code: pb.ErrorCode_ERROR_CODE_SHUTTING_DOWN, Message: cutMessage}
}

// Fetch implements wire.FetchServer; the client uses the stream only.
func (b *fakeBroker) Fetch(context.Context, *pb.FetchRequest) (*wire.Fetched, error) {
	return nil, status.Error(codes.Unimplemented, "use the stream")
}

func (b *fakeBroker) FetchStream(stream grpc.BidiStreamingServer[pb.FetchRequest, wire.Fetched]) error {
	type turn struct {
		req   *pb.FetchRequest
		ended chan struct{}
	}
	b.c.mu.Lock()
	b.c.streams++
	b.c.mu.Unlock()
	queue := make(chan turn, 3)
	var answering sync.WaitGroup
	defer answering.Wait()
	defer close(queue)
	answering.Go(func() {
		failed := false
		for next := range queue {
			if failed || b.hang(stream.Context()) != nil {
				failed = true
				continue
			}
			resp := b.fetch(stream.Context(), next.req, next.ended)
			failed = stream.Send(resp) != nil
			resp.Release()
		}
	})
	ended := make(chan struct{})
	for {
		req, err := stream.Recv()
		if err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		if req.GetEndsWaits() && b.c.endWaits() {
			close(ended)
			ended = make(chan struct{})
		}
		queue <- turn{req, ended}
	}
}

// endWaits counts a fetch that ends the waits of others, and reports whether it does.
func (c *fakeCluster) endWaits() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.between++
	return !c.older
}

// fetch polls until something is there, the time is over or the wait is ended.
func (b *fakeBroker) fetch(ctx context.Context, req *pb.FetchRequest, ended <-chan struct{}) *wire.Fetched {
	timer := time.NewTimer(time.Duration(req.GetMaxWaitMs()) * time.Millisecond)
	defer timer.Stop()
	b.c.mu.Lock()
	b.c.polls[req] = b.id
	b.c.mu.Unlock()
	defer func() {
		b.c.mu.Lock()
		defer b.c.mu.Unlock()
		delete(b.c.polls, req)
	}()
	for {
		b.c.mu.Lock()
		b.c.fetches++
		changed := b.c.changed
		resp, found := b.fetchNow(req)
		b.c.mu.Unlock()
		if found {
			return resp
		}
		select {
		case <-changed:
		case <-timer.C:
			return resp
		case <-ended:
			return resp
		case <-ctx.Done():
			return resp
		}
	}
}

func (b *fakeBroker) fetchNow(req *pb.FetchRequest) (*wire.Fetched, bool) {
	resp := &wire.Fetched{FetchResponse: &pb.FetchResponse{CorrelationId: req.GetCorrelationId(), EndsWaits: !b.c.older}}
	found := false
	for _, fp := range req.GetPartitions() {
		r := &pb.FetchPartitionResult{Topic: fp.GetTopic(), Partition: fp.GetPartition(), HighWatermark: -1}
		resp.Results = append(resp.Results, r)
		parts := b.c.topics[fp.GetTopic()]
		if parts == nil {
			r.Error, found = fakeError(pb.ErrorCode_ERROR_CODE_UNKNOWN_TOPIC, true, false), true
			continue
		}
		p := b.knows(parts[fp.GetPartition()])
		if e := b.refuseFetch(p, fp, r); e != nil {
			r.Error, found = e, true
			continue
		}
		r.HighWatermark, r.LogStartOffset = p.next, p.start
		size := 0
		for _, st := range p.batches {
			if int64(st.info.NextOffset()) <= fp.GetFetchOffset() {
				continue
			}
			if size += len(st.bytes); size > int(fp.GetMaxBytes()) && r.GetBatchCount() > 0 {
				break
			}
			buf := record.NewBuf(st.bytes)
			resp.Batches = append(resp.Batches, record.SliceOf(buf, 0, len(st.bytes)))
			r.BatchCount++
			found = true
		}
	}
	return resp, found
}

// cutOff lets the broker know only what is so now, and lead what it leads now, until heal.
func (b *fakeBroker) cutOff() {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	b.past = map[TopicPartition]*fakePartition{}
	for _, parts := range b.c.topics {
		for _, p := range parts {
			then := *p
			b.past[p.tp] = &then
		}
	}
}

func (b *fakeBroker) heal() {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	b.past = nil
	b.c.notify()
}

// knows is a partition as the broker knows it. The caller holds the cluster's mu.
func (b *fakeBroker) knows(p *fakePartition) *fakePartition {
	if then := b.past[p.tp]; then != nil {
		return then
	}
	return p
}

// checkEpoch compares the leader epoch that a client names, if it does.
func checkEpoch(p *fakePartition, epoch *int32) *pb.Error {
	switch {
	case epoch == nil || *epoch == p.epoch:
		return nil
	case *epoch < p.epoch:
		return fakeError(pb.ErrorCode_ERROR_CODE_FENCED_LEADER_EPOCH, true, false)
	default:
		return fakeError(pb.ErrorCode_ERROR_CODE_UNKNOWN_LEADER_EPOCH, true, false)
	}
}

// epochEnd is where the largest epoch at or below the given one ends.
func (p *fakePartition) epochEnd(epoch int32) *pb.EpochEnd {
	e := &pb.EpochEnd{Epoch: -1, EndOffset: p.start}
	for _, b := range p.batches {
		if int32(b.info.Epoch) <= epoch {
			e.Epoch, e.EndOffset = int32(b.info.Epoch), int64(b.info.NextOffset())
		}
	}
	return e
}

// truncate drops the batches from an offset on, which must be where one begins.
func (p *fakePartition) truncate(at int64) {
	p.batches = slices.DeleteFunc(slices.Clone(p.batches), func(b storedBatch) bool { return int64(b.info.BaseOffset) >= at })
	p.next = at
}

func (b *fakeBroker) refuseFetch(p *fakePartition, fp *pb.FetchPartition, r *pb.FetchPartitionResult) *pb.Error {
	offset := fp.GetFetchOffset()
	if id := fp.GetTopicId(); len(id) > 0 && !bytes.Equal(id, topicIDOf(fp.GetTopic(), b.c.lives[fp.GetTopic()])) {
		return fakeError(pb.ErrorCode_ERROR_CODE_UNKNOWN_TOPIC, true, false)
	}
	if p.leader != b.id {
		e := fakeError(pb.ErrorCode_ERROR_CODE_NOT_LEADER, true, false)
		if p.leader >= 0 {
			e.Leader = &pb.LeaderHint{NodeId: p.leader, LeaderEpoch: p.epoch, Address: b.c.brokers[p.leader].address}
		}
		return e
	}
	if b.c.onFetch != nil {
		if e := b.c.onFetch(b, p, offset); e != nil {
			return e
		}
	}
	if e := checkEpoch(p, fp.LeaderEpoch); e != nil {
		return e
	}
	if fp.LastEpoch != nil {
		if fp.GetLastEpoch() > p.epoch {
			return fakeError(pb.ErrorCode_ERROR_CODE_UNKNOWN_LEADER_EPOCH, true, false)
		}
		if e := p.epochEnd(fp.GetLastEpoch()); offset >= p.start && e.GetEndOffset() < offset {
			r.Diverging = e
			return fakeError(pb.ErrorCode_ERROR_CODE_OFFSET_OUT_OF_RANGE, false, false)
		}
	}
	if offset < p.start || offset > p.next {
		return fakeError(pb.ErrorCode_ERROR_CODE_OFFSET_OUT_OF_RANGE, false, false)
	}
	return nil
}

func (b *fakeBroker) ListOffsets(ctx context.Context, req *pb.ListOffsetsRequest) (*pb.ListOffsetsResponse, error) {
	if err := b.hang(ctx); err != nil {
		return nil, err
	}
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	resp := &pb.ListOffsetsResponse{}
	for _, q := range req.GetPartitions() {
		r := &pb.ListOffsetsResult{Topic: q.GetTopic(), Partition: q.GetPartition(), Offset: -1, TimestampMs: -1, LeaderEpoch: -1}
		resp.Results = append(resp.Results, r)
		p := b.knows(b.c.topics[q.GetTopic()][q.GetPartition()])
		if p.leader != b.id {
			r.Error = fakeError(pb.ErrorCode_ERROR_CODE_NOT_LEADER, true, false)
			continue
		}
		if r.Error = checkEpoch(p, q.LeaderEpoch); r.Error != nil {
			continue
		}
		r.LeaderEpoch = p.epoch
		switch q.GetQuery() {
		case pb.OffsetQuery_OFFSET_QUERY_EARLIEST:
			r.Offset = p.start
		case pb.OffsetQuery_OFFSET_QUERY_TIMESTAMP:
			for _, st := range p.batches {
				for rec := range record.Records(st.bytes, record.Limits{}) {
					if rec.Timestamp >= q.GetTimestampMs() && r.Offset < 0 {
						r.Offset, r.TimestampMs = int64(rec.Offset), rec.Timestamp
					}
				}
			}
		default:
			r.Offset = p.next
		}
	}
	return resp, nil
}

func (b *fakeBroker) Metadata(ctx context.Context, req *pb.MetadataRequest) (*pb.MetadataResponse, error) {
	if err := b.hang(ctx); err != nil {
		return nil, err
	}
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	resp := &pb.MetadataResponse{ClusterId: "fake", Brokers: b.c.brokerInfos()}
	names := req.GetTopics()
	if len(names) == 0 {
		for name := range b.c.topics {
			names = append(names, name)
		}
	}
	for _, name := range names {
		parts := b.c.topics[name]
		if parts == nil {
			continue
		}
		t := &pb.TopicInfo{Name: name, TopicId: topicIDOf(name, b.c.lives[name]-b.c.behind)}
		for _, p := range parts {
			p = b.knows(p)
			t.Partitions = append(t.Partitions, &pb.PartitionInfo{Partition: p.tp.Partition, Leader: p.leader, LeaderEpoch: p.epoch})
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp, nil
}

func (c *fakeCluster) brokerInfos() []*pb.BrokerInfo {
	var out []*pb.BrokerInfo
	for _, b := range c.brokers {
		out = append(out, &pb.BrokerInfo{NodeId: b.id, Address: b.address})
	}
	return out
}

func (b *fakeBroker) DescribeCluster(ctx context.Context, _ *pb.DescribeClusterRequest) (*pb.DescribeClusterResponse, error) {
	if err := b.hang(ctx); err != nil {
		return nil, err
	}
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	return &pb.DescribeClusterResponse{ClusterId: "fake", Brokers: b.c.brokerInfos()}, nil
}

// newTestClient makes a client that is impatient enough for tests.
func newTestClient(t *testing.T, c *fakeCluster, opts ...Opt) *Client {
	t.Helper()
	opts = append([]Opt{
		WithRetryBackoff(time.Millisecond, 20*time.Millisecond), WithUnknownTopicWait(300 * time.Millisecond),
	}, opts...)
	cl, err := New(c.addresses(), opts...)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, cl.Close())
		arenatest.Empty(t, cl.arena, "the client's arena")
	})
	return cl
}

func newTestProducer(t *testing.T, cl *Client, opts ...ProducerOpt) *Producer {
	t.Helper()
	p, err := cl.NewProducer(opts...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.Close(context.Background()) })
	return p
}

// numbers lists prefix-0 to prefix-(n-1).
func numbers(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return out
}
