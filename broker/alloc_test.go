package broker

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/broker/replica"
	"github.com/penstock/penstock/log/record"
)

// allocations counts those of a run of f, on average.
func allocations(t *testing.T, f func()) float64 {
	t.Helper()
	if raceEnabled {
		t.Skip("the race detector lets pools forget")
	}
	return testing.AllocsPerRun(300, f)
}

// inArena is a batch of ten records in memory that is used again. It is large, so
// that the tail is full soon and gives way.
func inArena(t *testing.T, l *localReplica) func(base record.Offset, epoch record.Epoch) *record.Buf {
	t.Helper()
	builder := record.NewBuilder(record.BuilderOptions{})
	for range 10 {
		require.NoError(t, builder.Append(&record.Record{Value: make([]byte, 2000)}))
	}
	raw, err := builder.Build(nil)
	require.NoError(t, err)
	return func(base record.Offset, epoch record.Epoch) *record.Buf {
		b := l.b.cfg.Arena.Get(len(raw))
		copy(b.Bytes(), raw)
		record.Patch(b.Bytes(), base, epoch)
		return b
	}
}

// From the decoded request to the acknowledgement a leader allocates the Pending
// and the channel to wait on; the door takes two more (package grpcapi). The
// budget of the whole way is 5 a batch.
func TestLeaderAllocations(t *testing.T) {
	for name, producer := range map[string]int64{"plain": -1, "idempotent": 7} {
		t.Run(name, func(t *testing.T) { testLeaderAllocations(t, producer) })
	}
}

// sequenced makes a batch the next one of a producer.
func sequenced(b []byte, producer int64, sequence int32) {
	binary.BigEndian.PutUint64(b[43:], uint64(producer))
	binary.BigEndian.PutUint16(b[51:], 0)
	binary.BigEndian.PutUint32(b[53:], uint32(sequence))
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
}

func testLeaderAllocations(t *testing.T, producer int64) {
	t.Helper()
	l := newLocal(t, testSettings(t))
	l.b.cfg.MaxInFlight = 1 << 20
	l.b.shareMemory()
	l.b.metrics = newMetrics(l.b)
	l.finish(l.assign(led(1, 1), nil))
	l.mu.Lock()
	for node := int32(2); node <= 3; node++ {
		l.step(partition.Handshake(node, int64(node), 1, 1, record.UnknownEpoch, 0, 0, record.UnknownEpoch, 0, 0, 0))
	}
	l.mu.Unlock()
	batch := inArena(t, l)
	req := &api.ProduceRequest{Acks: api.AcksAll, Partitions: make([]api.ProducePartition, 1)}
	bufs := make([]*record.Buf, 1)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	end := record.Offset(0)
	produce := func() {
		bufs[0] = batch(0, 0)
		if producer >= 0 {
			sequenced(bufs[0].Bytes(), producer, int32(end))
		}
		req.Partitions[0] = api.ProducePartition{PartitionRef: api.PartitionRef{Topic: "t"}, Batches: bufs}
		p := l.b.Produce(t.Context(), req)
		end += 10
		l.mu.Lock() // as the followers' acks come in
		for node := int32(2); node <= 3; node++ {
			l.step(partition.Ack(node, 1, 1, end, end, 0))
		}
		l.mu.Unlock()
		results, err := p.WaitTimer(context.Background(), timer)
		if err != nil || results[0].Err != nil || results[0].BaseOffset != end-10 {
			t.Fatal(results, err)
		}
	}
	for range 50 {
		produce()
	}
	got := allocations(t, produce)
	t.Logf("%.0f allocations a batch", got)
	require.LessOrEqual(t, got, 2.0)
}

// A fetch of recent batches allocates its results and one list, however many
// batches there are: nothing a batch.
func TestFetchAllocations(t *testing.T) {
	b := newReadable(t, 20)
	req := fetchOf(0, 0, 1)
	const batches = 6 // of an eighth of the arena
	fetch := func() {
		results, err := b.Fetch(t.Context(), req)
		if err != nil || len(results[0].Batches) != batches {
			t.Fatal(len(results[0].Batches), err)
		}
		results[0].Release()
	}
	fetch()
	got := allocations(t, fetch)
	t.Logf("%.0f allocations for %d batches", got, batches)
	require.LessOrEqual(t, got, 2.0)
}

// A follower allocates nothing for a push, its write, its flush and its ack; what
// the message costs is seen in package replica. The budget of the way is 3 a batch.
func TestFollowerAllocations(t *testing.T) {
	l := newLocal(t, testSettings(t))
	f := follow(t, l)
	batch := inArena(t, l)
	bufs := make([]*record.Buf, 1)
	end := record.Offset(0)
	push := func() {
		bufs[0] = batch(end, 1)
		if v := f.Push(replica.Push{Epoch: 1, Session: 1, From: end, To: end + 10, HighWatermark: end}, bufs); v != replica.VerdictOK {
			t.Fatalf("push: %d", v)
		}
		bufs[0].Release()
		end += 10
		for l.log.Flushed() < end {
			time.Sleep(10 * time.Microsecond)
		}
	}
	for range 50 {
		push()
	}
	got := allocations(t, push)
	t.Logf("%.0f allocations a batch", got)
	require.Zero(t, got)
}
