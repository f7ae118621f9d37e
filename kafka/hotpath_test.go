package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// testBatch is a batch of records that has about size bytes.
func testBatch(t *testing.T, size int) []byte {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	for b.EstimatedSize() < size {
		require.NoError(t, b.Append(&record.Record{Value: make([]byte, 100)}))
	}
	raw, err := b.Build(nil)
	require.NoError(t, err)
	return raw
}

// produceRequest writes a batch to so many partitions.
func produceRequest(version int16, acks int16, partitions int, batch []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.SetVersion(version)
	req.Acks, req.TimeoutMillis = acks, 5000
	t := kmsg.NewProduceRequestTopic()
	t.Topic = "t"
	for i := range partitions {
		p := kmsg.NewProduceRequestTopicPartition()
		p.Partition, p.Records = int32(i), batch
		t.Partitions = append(t.Partitions, p)
	}
	req.Topics = append(req.Topics, t)
	return req
}

func fetchRequest(version int16, partitions int) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(version)
	req.MaxBytes = 1 << 20
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = "t", [16]byte{1}
	for i := range partitions {
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.PartitionMaxBytes = int32(i), 1<<20
		t.Partitions = append(t.Partitions, p)
	}
	req.Topics = append(req.Topics, t)
	return req
}

// broker is a stub that keeps the last batch and hands out records.
type broker struct {
	stub

	mu      sync.Mutex // guards what follows
	taken   []*record.Buf
	records *record.Buf
	results []api.FetchResult
	pending *api.Pending
	file    *fileRange // what some partitions hold, for who takes files
}

// fileRange is one in memory, which ends early if it is told to.
type fileRange struct {
	bytes    []byte
	failAt   atomic.Int64
	released atomic.Int64
}

func (f *fileRange) Len() int { return len(f.bytes) }

func (f *fileRange) SendTo(c *net.TCPConn, at, n int) (int, error) {
	if end := f.failAt.Load(); end > 0 && int64(at) >= end {
		return 0, io.ErrUnexpectedEOF
	}
	return c.Write(f.bytes[at : at+n])
}

func (f *fileRange) Release() { f.released.Add(1) }

func (b *broker) Produce(_ context.Context, req *api.ProduceRequest) *api.Pending {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pending
	if p == nil {
		p = api.NewPending(req, time.Now().Add(time.Minute))
	}
	for i := range req.Partitions {
		for _, batch := range req.Partitions[i].Batches {
			if b.taken != nil {
				b.taken = append(b.taken, batch.Retain())
			}
			batch.Release()
		}
		p.Settle(i, nil)
	}
	return p
}

// Fetch gives two runs of records for each partition.
func (b *broker) Fetch(_ context.Context, req *api.FetchRequest) ([]api.FetchResult, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.results) != len(req.Partitions) {
		b.results = make([]api.FetchResult, len(req.Partitions))
	}
	half := b.records.Len() / 2
	for i := range b.results {
		r := &b.results[i]
		r.PartitionRef, r.HighWatermark = req.Partitions[i].PartitionRef, 9
		if req.Files && b.file != nil && i%2 == 0 {
			r.File = b.file
			continue
		}
		r.Batches = append(r.Batches[:0], record.SliceOf(b.records, 0, half), record.SliceOf(b.records, half, b.records.Len()))
	}
	return b.results, nil
}

// seen is a connection that notes where bytes go to and come from.
type seen struct {
	net.Conn

	mu            sync.Mutex // guards what follows
	reads, writes [][]byte
}

func (s *seen) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads = append(s.reads, p[:n])
	return n, err
}

func (s *seen) Write(p []byte) (int, error) {
	s.mu.Lock()
	s.writes = append(s.writes, p)
	s.mu.Unlock()
	return s.Conn.Write(p)
}

// inside counts the bytes of pieces that lie in memory.
func inside(pieces [][]byte, memory []byte) int {
	from := uintptr(unsafe.Pointer(unsafe.SliceData(memory)))
	n := 0
	for _, p := range pieces {
		if at := uintptr(unsafe.Pointer(unsafe.SliceData(p))); len(p) > 0 && at >= from && at+uintptr(len(p)) <= from+uintptr(len(memory)) {
			n += len(p)
		}
	}
	return n
}

// serve makes a door for b.
func serve(t *testing.T, b *broker, arena *record.Arena) *Door {
	t.Helper()
	d := New(Options{Arena: arena, Logger: slog.New(slog.DiscardHandler)}, Services{
		Producer: b, Fetcher: b, Topics: b, Cluster: b, Replicas: b, Offsets: b, Groups: b, GroupAdmin: b, Placement: b, Growth: b,
	})
	t.Cleanup(d.Close)
	return d
}

// observed is a client of d and the other end as the door has it.
func observed(t *testing.T, d *Door) (net.Conn, *seen) {
	t.Helper()
	client, server := connected(t)
	s := &seen{Conn: server}
	d.admit(s, "")
	return client, s
}

// ask sends a request and reads the answer's body.
func ask(t *testing.T, c net.Conn, req kmsg.Request) kmsg.Response {
	t.Helper()
	_, err := c.Write(frame(req, 7))
	require.NoError(t, err)
	body := readFrame(t, c)
	if req.IsFlexible() && req.Key() != keyApiVersions {
		require.Zero(t, body[4])
		body = body[1:]
	}
	resp := req.ResponseKind()
	resp.SetVersion(req.GetVersion())
	require.NoError(t, resp.ReadFrom(body[4:]))
	return resp
}

func readFrame(t *testing.T, c net.Conn) []byte {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	var size [4]byte
	_, err := io.ReadFull(c, size[:])
	require.NoError(t, err)
	body := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err = io.ReadFull(c, body)
	require.NoError(t, err)
	return body
}

// What a producer sends is read from the socket into the memory that the log keeps,
// but for the little that was read together with the header.
func TestRecordsAreReadToWhereTheyStay(t *testing.T) {
	arena := record.NewArena(64 << 20)
	b := &broker{taken: []*record.Buf{}}
	d := serve(t, b, arena)
	client, server := observed(t, d)
	batch := testBatch(t, 1<<20)
	for _, version := range []int16{3, 9, 12} {
		ask(t, client, produceRequest(version, -1, 3, batch))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	server.mu.Lock()
	defer server.mu.Unlock()
	require.Len(t, b.taken, 9)
	for _, buf := range b.taken {
		require.True(t, bytes.Equal(batch, buf.Bytes()))
		require.GreaterOrEqual(t, inside(server.reads, buf.Bytes()), len(batch)-bufferSize)
		buf.Release()
	}
}

// What a consumer is sent leaves from where it lies.
func TestRecordsAreSentFromWhereTheyLie(t *testing.T) {
	arena := record.NewArena(64 << 20)
	batch := testBatch(t, 300<<10)
	b := &broker{records: arena.Get(len(batch))}
	copy(b.records.Bytes(), batch)
	d := serve(t, b, arena)
	client, server := observed(t, d)
	for n, version := range []int16{4, 12, 16} {
		resp, ok := ask(t, client, fetchRequest(version, 2)).(*kmsg.FetchResponse)
		require.True(t, ok)
		for _, p := range resp.Topics[0].Partitions {
			require.True(t, bytes.Equal(batch, p.RecordBatches))
		}
		server.mu.Lock()
		sent := inside(server.writes, b.records.Bytes())
		server.mu.Unlock()
		require.Equal(t, 2*(n+1)*len(batch), sent)
	}
	b.records.Release()
}

// onTCP is a client of a door, with nothing between it and the door's end of TCP.
func onTCP(t *testing.T, d *Door) net.Conn {
	t.Helper()
	client, server := connected(t)
	d.admit(server, "")
	return client
}

// connected are the two ends of a TCP connection.
func connected(t *testing.T) (client, server net.Conn) {
	t.Helper()
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	client = dial(t, lis.Addr().String())
	server, err = lis.Accept()
	require.NoError(t, err)
	require.NoError(t, lis.Close())
	return client, server
}

// Ranges of files go out among what is in memory, in their places, to clients of versions
// whose records nobody has to look into, and that are on TCP itself.
func TestRangesOfFilesAreSent(t *testing.T) {
	arena := record.NewArena(64 << 20)
	batch, other := testBatch(t, 100<<10), testBatch(t, 700<<10)
	b := &broker{records: arena.Get(len(batch)), file: &fileRange{bytes: other}}
	copy(b.records.Bytes(), batch)
	d := serve(t, b, arena)
	client := onTCP(t, d)
	apart := &broker{records: b.records, file: b.file}
	between, _ := observed(t, serve(t, apart, arena)) // what stands between may be TLS
	for _, tt := range []struct {
		version int16
		client  net.Conn
		files   bool
	}{{4, client, false}, {9, client, false}, {10, client, true}, {12, client, true}, {16, client, true}, {16, between, false}} {
		before := b.file.released.Load()
		resp, ok := ask(t, tt.client, fetchRequest(tt.version, 4)).(*kmsg.FetchResponse)
		require.True(t, ok)
		for i, p := range resp.Topics[0].Partitions {
			want := batch
			if tt.files && i%2 == 0 {
				want = other
			}
			require.True(t, bytes.Equal(want, p.RecordBatches), "version %d, partition %d", tt.version, i)
		}
		require.Equal(t, int32(0), resp.ThrottleMillis)
		if tt.files {
			require.Eventually(t, func() bool { return b.file.released.Load() == before+2 }, 10*time.Second, time.Millisecond)
		}
	}

	// What cannot be sent whole ends the connection, which tells the client so.
	b.file.failAt.Store(300 << 10)
	_, err := client.Write(frame(fetchRequest(16, 1), 7))
	require.NoError(t, err)
	got, err := io.ReadAll(client)
	require.NoError(t, err)
	require.Less(t, len(got), len(other))
	b.records.Release()
}

// The door's own part of the hot path allocates a few small things a request,
// whatever the number of batches and records in it: ceilings, so that it stays so.
func TestDoorAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector lets pools forget")
	}
	arena := record.NewArena(64 << 20)
	batch := testBatch(t, 16<<10)
	b := &broker{records: arena.Get(len(batch))}
	copy(b.records.Bytes(), batch)
	d := serve(t, b, arena)
	client := onTCP(t, d)
	for _, tt := range []struct {
		name string
		req  kmsg.Request
		most float64
	}{
		// The Pending is the stub's; a goroutine answers and ends.
		{"produce one batch", produceRequest(9, -1, 1, batch), 4},
		{"produce a batch to each of 50 partitions", produceRequest(9, -1, 50, batch), 6},
		{"fetch from one partition", fetchRequest(12, 1), 12},
		{"fetch from 50 partitions", fetchRequest(12, 50), 21},
	} {
		request := frame(tt.req, 7)
		answer := make([]byte, 4<<20)
		got := testing.AllocsPerRun(200, func() {
			if _, err := client.Write(request); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(client, answer[:4]); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(client, answer[:binary.BigEndian.Uint32(answer)]); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%s: %.0f allocations", tt.name, got)
		require.LessOrEqual(t, got, tt.most, tt.name)
	}
	b.records.Release()
}

// The answers that are written here are those that package kmsg reads, in every version.
func TestProduceAnswersAreKafkas(t *testing.T) {
	d := serve(t, &broker{}, record.NewArena(4<<20))
	c := &conn{door: d}
	rapid.Check(t, func(t *rapid.T) {
		e := d.apis[keyProduce]
		version := int16(rapid.IntRange(int(e.min), int(e.max)).Draw(t, "version"))
		p := &produced{header: header{key: keyProduce, version: version, correlation: 5, entry: e}}
		want := kmsg.NewPtrProduceResponse()
		want.SetVersion(version)
		var results []api.ProduceResult
		named := false
		for range rapid.IntRange(0, 3).Draw(t, "topics") {
			wt := kmsg.NewProduceResponseTopic()
			wt.Topic = rapid.StringMatching("[a-z]{1,20}").Draw(t, "topic")
			for range rapid.IntRange(0, 3).Draw(t, "partitions") {
				r := api.ProduceResult{
					BaseOffset: record.Offset(rapid.Int64().Draw(t, "offset")), LogAppendTime: rapid.Int64().Draw(t, "time"),
					LogStartOffset: record.Offset(rapid.Int64().Draw(t, "start")),
				}
				number := rapid.Int32().Draw(t, "partition")
				wp := kmsg.NewProduceResponseTopicPartition()
				wp.Partition, wp.BaseOffset, wp.LogAppendTime, wp.LogStartOffset = number, int64(r.BaseOffset), r.LogAppendTime, int64(r.LogStartOffset)
				if version < 5 {
					wp.LogStartOffset = -1
				}
				refused := refusal{}
				switch {
				case rapid.Bool().Draw(t, "refused at the door"):
					refused = refusal{refusedShort, 7}
					r.Err = refused.err()
					wp.BaseOffset, wp.LogAppendTime, wp.LogStartOffset = -1, -1, -1
				case rapid.Bool().Draw(t, "fails"):
					r.Err = api.Errorf(api.CodeNotLeader, "moved")
					if rapid.Bool().Draw(t, "leader") {
						r.Err.Leader = &api.LeaderHint{NodeID: 1, LeaderEpoch: 4}
					}
				}
				wp.ErrorCode = codeOf(r.Err)
				if version >= 8 {
					wp.ErrorMessage = messageOf(r.Err)
				}
				if r.Err != nil && r.Err.Leader != nil && version >= 10 {
					wp.CurrentLeader.LeaderID, wp.CurrentLeader.LeaderEpoch = 1, 4
					named = true
				}
				if refused.why == notRefused {
					results = append(results, r)
				}
				p.partitions = append(p.partitions, producedPartition{number, refused})
				wt.Partitions = append(wt.Partitions, wp)
			}
			p.topics = append(p.topics, producedTopic{wt.Topic, len(wt.Partitions)})
			want.Topics = append(want.Topics, wt)
		}
		if named {
			want.Brokers = append(want.Brokers, kmsg.ProduceResponseBroker{NodeID: 1, Host: "localhost", Port: 9092})
		}
		got := p.answer(c, []byte("before"), results)
		require.Equal(t, "before", string(got[:6]))
		got = got[6:]
		require.Equal(t, uint32(len(got)-4), binary.BigEndian.Uint32(got))
		require.Equal(t, uint32(5), binary.BigEndian.Uint32(got[4:]))
		got = got[8:]
		if want.IsFlexible() {
			got = got[1:]
		}
		require.Equal(t, want.AppendTo(nil), got)
	})
}
