package client

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/arenatest"
	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// cost is what a run of something takes from the heap.
type cost struct{ allocations, bytes uint64 }

// costOf is that of a run of f once everything that is used again is there. The average
// is rounded down, so that a pool that a collection emptied does not count.
func costOf(t *testing.T, f func()) cost {
	t.Helper()
	if raceEnabled {
		t.Skip("the race detector lets pools forget")
	}
	const runs = 200
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for range 3 {
		f()
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		f()
	}
	runtime.ReadMemStats(&after)
	return cost{(after.Mallocs - before.Mallocs) / runs, (after.TotalAlloc - before.TotalAlloc) / runs}
}

// sinkBench is a producer of one partition whose sink is moved by hand: everything
// between Produce and the promises, but for gRPC.
type sinkBench struct {
	t    *testing.T
	p    *Producer
	sink *sink
	next int64 // offset
	// scratch is what the sink's goroutine keeps.
	scratch []byte
	later   postponed
}

func newSinkBench(t *testing.T, codec record.Codec) *sinkBench {
	t.Helper()
	arena := record.NewArena(64 << 20)
	t.Cleanup(func() { arenatest.Empty(t, arena, "the client's arena") })
	p := &Producer{c: &Client{arena: arena}, cfg: defaultProducerConfig(), life: t.Context(), topics: map[string]*producerTopic{}}
	p.cfg.codec = codec
	p.builders.New = func() any {
		return record.NewBuilder(record.BuilderOptions{Codec: codec, MaxBytes: maxRequestBytes})
	}
	p.ids.init(true)
	p.ids.set(7, 0)
	s := newSink(p, "b")
	topic := &producerTopic{name: "t"}
	topic.limit.Store(int64(p.cfg.batchBytes))
	pt := newPartition(p, "t", 0, [16]byte{1}, &topic.limit)
	pt.moveTo(s, pt.topicID)
	topic.parts.Store(&[]*partition{pt})
	p.topics["t"] = topic
	return &sinkBench{t: t, p: p, sink: s, later: postponed{timer: time.NewTimer(time.Hour)}}
}

// produce has records sent as one batch, and acknowledged.
func (b *sinkBench) produce(rec *Record, records int, promise func(*Record, error)) {
	for range records {
		b.p.Produce(context.Background(), rec, promise)
	}
	f := b.sink.gather(time.Now(), &b.later)
	msg := b.sink.encode(f, &b.scratch)
	if len(f.batches) != 1 || f.batches[0].count != records {
		b.t.Fatalf("%d batches", len(f.batches))
	}
	b.next += int64(records)
	f.parts[0].answered(f.batches[0], answer{baseOffset: b.next - int64(records), appendTime: -1})
	runtime.KeepAlive(msg)
}

var allCodecs = []record.Codec{
	record.CodecNone, record.CodecGzip, record.CodecSnappy, record.CodecLZ4, record.CodecZstd,
}

const (
	fewRecords  = 10
	manyRecords = 1000
)

// A record that is produced costs no allocation, with headers or without: a batch
// costs what it costs, however many records it has. Its bytes are encoded and
// compressed in memory that is used again.
func TestProduceAllocations(t *testing.T) {
	// The batch, the flight and its two lists, the message and its request with a list
	// each, the partition in it and its topic id, the lists of the sink and the partition.
	const perBatch = 11
	// What the codecs' own packages take besides.
	compressing := map[record.Codec]uint64{record.CodecGzip: 1, record.CodecLZ4: 2}
	for _, codec := range allCodecs {
		t.Run(codec.String(), func(t *testing.T) {
			b := newSinkBench(t, codec)
			rec := &Record{Topic: "t", Key: make([]byte, 10), Value: make([]byte, 100), Headers: []Header{{Key: "h", Value: []byte("v")}}}
			many := costOf(t, func() { b.produce(rec, manyRecords, nil) })
			few := costOf(t, func() { b.produce(rec, fewRecords, nil) })
			require.Equal(t, few.allocations, many.allocations, "allocations are of a batch, none of a record")
			require.LessOrEqual(t, many.allocations, perBatch+compressing[codec])
			require.Less(t, many.bytes, uint64(manyRecords*len(rec.Value)/20), "bytes of a batch: none of its records'")
		})
	}
}

// A record with a promise takes a place in a list that grows by doubling: less than
// one allocation in fifty records.
func TestPromiseAllocations(t *testing.T) {
	b := newSinkBench(t, record.CodecNone)
	settled := 0
	rec := &Record{Topic: "t", Value: make([]byte, 100), Timestamp: time.UnixMilli(1)}
	promise := func(_ *Record, err error) {
		if err == nil {
			settled++
		}
	}
	bare := costOf(t, func() { b.produce(rec, manyRecords, nil) })
	promised := costOf(t, func() { b.produce(rec, manyRecords, promise) })
	require.NotZero(t, settled)
	require.LessOrEqual(t, promised.allocations, bare.allocations+manyRecords/50)
}

// batchOf is an encoded batch of equal records.
func batchOf(t *testing.T, codec record.Codec, records int, rec record.Record) []byte {
	t.Helper()
	builder := record.NewBuilder(record.BuilderOptions{Codec: codec})
	for range records {
		require.NoError(t, builder.Append(&rec))
	}
	raw, err := builder.Build(nil)
	require.NoError(t, err)
	return raw
}

// arrives delivers a batch, in memory of the arena, of the partition that is polled for.
func (b *sourceBench) arrives(arena *record.Arena, raw []byte) {
	parts := b.polls()
	buf := arena.Get(len(raw))
	copy(buf.Bytes(), raw)
	record.Patch(buf.Bytes(), record.Offset(parts[0].from), 1)
	resp := &wire.Fetched{
		FetchResponse: &pb.FetchResponse{
			CorrelationId: b.src.number, EndsWaits: true, Results: []*pb.FetchPartitionResult{{BatchCount: 1}},
		},
		Batches: []record.Slice{record.SliceOf(buf, 0, buf.Len())},
	}
	buf.Release()
	b.k.deliver(b.src, resp)
}

// A record that is consumed costs no allocation by Poll, and none of its bytes is
// copied: an answer costs what it costs, however many records it has. What is compressed
// is decompressed into memory that is used again. Records copies into pieces of 64 KiB.
func TestConsumeAllocations(t *testing.T) {
	raw := func(codec record.Codec, records int) []byte {
		return batchOf(t, codec, records, record.Record{Key: make([]byte, 10), Value: make([]byte, 100)})
	}
	// The chunk and its list, the request with its list, the partition in it and what it
	// names, the list of what was asked; of this test, the answer with two lists and a result.
	const perAnswer = 13
	for _, codec := range allCodecs {
		t.Run("Poll/"+codec.String(), func(t *testing.T) {
			b, arena, consumed := newSourceBench(t, 1), record.NewArena(8<<20), 0
			consume := func(batch []byte) func() {
				return func() {
					b.arrives(arena, batch)
					p, err := b.k.Poll(context.Background())
					require.NoError(t, err)
					for range p.All() {
						consumed++
					}
					p.Release()
				}
			}
			many := costOf(t, consume(raw(codec, manyRecords)))
			few := costOf(t, consume(raw(codec, fewRecords)))
			require.Equal(t, 203*(manyRecords+fewRecords), consumed)
			require.Equal(t, few.allocations, many.allocations, "allocations are of an answer, none of a record")
			require.LessOrEqual(t, many.allocations, uint64(perAnswer))
			require.Less(t, many.bytes, uint64(manyRecords*100/20), "bytes of an answer: none of its records'")
		})
	}
	t.Run("Poll/headers", func(t *testing.T) {
		b, arena, consumed := newSourceBench(t, 1), record.NewArena(8<<20), 0
		batch := batchOf(t, record.CodecNone, manyRecords, record.Record{
			Value: make([]byte, 100), Headers: []record.Header{{Key: "trace", Value: []byte("1")}, {Key: "kind", Value: []byte("2")}},
		})
		many := costOf(t, func() {
			b.arrives(arena, batch)
			p, err := b.k.Poll(context.Background())
			require.NoError(t, err)
			for r := range p.All() {
				consumed += len(r.Headers)
			}
			p.Release()
		})
		require.Equal(t, 203*manyRecords*2, consumed)
		require.LessOrEqual(t, many.allocations, uint64(perAnswer+2*manyRecords/64+1), "room for 64 headers at once, and no key twice")
	})
	t.Run("Records", func(t *testing.T) {
		b, arena, consumed := newSourceBench(t, 1), record.NewArena(8<<20), 0
		consume := func(records int) func() {
			batch := raw(record.CodecNone, records)
			return func() {
				b.arrives(arena, batch)
				left := records
				for range b.k.Records(context.Background()) {
					consumed++
					if left--; left == 0 {
						break
					}
				}
			}
		}
		many := costOf(t, consume(manyRecords))
		few := costOf(t, consume(fewRecords))
		require.Equal(t, 203*(manyRecords+fewRecords), consumed)
		require.LessOrEqual(t, many.allocations, few.allocations+manyRecords*110/slabBytes, "pieces beyond the first")
	})
}

// within reports whether b lies in the memory of whole.
func within(whole, b []byte) bool {
	start, at := uintptr(unsafe.Pointer(unsafe.SliceData(whole))), uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return at >= start && at+uintptr(len(b)) <= start+uintptr(len(whole))
}

// What Poll hands out lies in the very memory that the batch arrived in, and so goes with
// it when that is used again. What Records hands out is the application's: it stays
// through Release, whatever the codec.
func TestPollAliasesAndRecordsCopy(t *testing.T) {
	value, key, header := strings.Repeat("value", 20), "key", "header"
	in := record.Record{Key: []byte(key), Value: []byte(value), Headers: []record.Header{{Key: "h", Value: []byte(header)}}}
	const records = 20
	// used again: whoever gets the memory next writes into it.
	overwrite := func(arena *record.Arena, size int) {
		next := arena.Get(size)
		for i := range next.Bytes() {
			next.Bytes()[i] = '#'
		}
		next.Release()
	}
	t.Run("Poll", func(t *testing.T) {
		b, arena := newSourceBench(t, 1), record.NewArena(8<<20)
		raw := batchOf(t, record.CodecNone, records, in)
		b.arrives(arena, raw)
		memory := b.k.queue[0].slices[0].Bytes
		p, err := b.k.Poll(t.Context())
		require.NoError(t, err)
		var last []byte
		seen := 0
		for r := range p.All() {
			require.Equal(t, value, string(r.Value))
			for _, field := range [][]byte{r.Key, r.Value, r.Headers[0].Value} {
				require.True(t, within(memory, field), "a copy of %q", field)
			}
			last = r.Value
			seen++
		}
		require.Equal(t, records, seen)
		p.Release()
		overwrite(arena, len(raw))
		require.Equal(t, strings.Repeat("#", len(value)), string(last), "the memory of a released batch is used again")
		arenatest.Empty(t, arena, "the client's arena")
	})
	for _, codec := range allCodecs {
		t.Run("Records/"+codec.String(), func(t *testing.T) {
			b, arena := newSourceBench(t, 1), record.NewArena(8<<20)
			raw := batchOf(t, codec, records, in)
			other := batchOf(t, codec, records, record.Record{Key: []byte("###"), Value: []byte(strings.Repeat("#", len(value)))})
			var kept []*Record
			for _, batch := range [][]byte{raw, other} { // the second is decompressed into the memory of the first
				b.arrives(arena, batch)
				memory := b.k.queue[0].slices[0].Bytes
				for r := range b.k.Records(t.Context()) {
					require.False(t, within(memory, r.Value), "the batch's own memory")
					if kept = append(kept, r); len(kept)%records == 0 {
						break
					}
				}
				require.NoError(t, b.k.Err())
				arenatest.Empty(t, arena, "the client's arena")
				overwrite(arena, len(batch))
			}
			require.Len(t, kept, 2*records)
			for i, r := range kept[:records] {
				require.EqualValues(t, i, r.Offset)
				require.Equal(t, key, string(r.Key))
				require.Equal(t, value, string(r.Value))
				require.Equal(t, header, string(r.Headers[0].Value))
			}
		})
	}
}
