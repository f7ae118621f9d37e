package kafka

import (
	"bytes"
	"encoding/binary"
	"io"
	"log/slog"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/log/record"
)

// produceFrame is a produce request of version 9 whose topics are given as they are
// on the wire.
func produceFrame(topics int, body []byte) []byte {
	b := []byte{0, 0, 0xff, 0xff, 0, 0, 0, 1} // tags, no transaction, acks, timeout
	b = kbin.AppendUvarint(b, uint32(topics+1))
	return framed(header12(keyProduce, 9, append(append(b, body...), 0)...))
}

// oldProduceFrame is one of version 8, with n partitions without records.
func oldProduceFrame(n int) []byte {
	b := []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 't'} // no transaction, acks, timeout, a topic
	b = kbin.AppendInt32(b, int32(n))
	return framed(header12(keyProduce, 8, append(b, make([]byte, 8*n)...)...))
}

// emptyPartitions are n partitions without records, six bytes each, of one topic.
func emptyPartitions(n int) []byte {
	b := kbin.AppendUvarint([]byte{2, 't'}, uint32(n+1))
	return append(append(b, make([]byte, 6*n)...), 0)
}

// longNames are n topics without partitions, each with a name of its own.
func longNames(n int) []byte {
	var b []byte
	for i := range n {
		name := bytes.Repeat([]byte{'x'}, bufferSize)
		binary.BigEndian.PutUint32(name, uint32(i))
		b = append(kbin.AppendUvarint(b, uint32(len(name)+1)), name...)
		b = append(b, 1, 0)
	}
	return b
}

// A produce request is bounded like all others: in what it names, not only in bytes.
// Records do not count, so its frame may be large.
func TestProduceNamesSoMuchAndNoMore(t *testing.T) {
	manyTags := func(n int) []byte {
		return append(kbin.AppendUvarint([]byte{2, 't', 1}, uint32(n)), make([]byte, 2*n)...)
	}
	_, address := startDoor(t, record.NewArena(8<<20))
	for _, tt := range []struct {
		name   string
		frame  []byte
		served bool
	}{
		{"as many partitions as may be", produceFrame(1, emptyPartitions(maxItems-1)), true},
		{"one more", produceFrame(1, emptyPartitions(maxItems)), false},
		{"one more, in a version without tagged fields", oldProduceFrame(maxItems), false},
		{"half a million", produceFrame(1, emptyPartitions(500_000)), false},
		{"topics without anything", produceFrame(maxItems+1, make([]byte, 3*(maxItems+1))), false},
		{"tagged fields", produceFrame(1, manyTags(maxItems)), false},
		{"names, as many bytes as may be", produceFrame(maxBody/bufferSize, longNames(maxBody/bufferSize)), true},
		{"more bytes of names", produceFrame(maxBody/bufferSize+1, longNames(maxBody/bufferSize+1)), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, address)
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				_, _ = c.Write(tt.frame) // it may be cut while it sends
			}()
			require.NoError(t, c.SetReadDeadline(time.Now().Add(30*time.Second)))
			head := make([]byte, 4)
			_, err := io.ReadFull(c, head)
			if !tt.served {
				require.Error(t, err)
				<-sent
				return
			}
			require.NoError(t, err)
			_, err = io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head)))
			require.NoError(t, err)
			<-sent
		})
	}
}

// What is refused is answered in full, whatever is remembered of it meanwhile.
func TestRefusalsSayWhatWasWrong(t *testing.T) {
	_, address := startDoor(t, record.NewArena(8<<20))
	changed := func(at int, to byte) []byte {
		b := testBatch(t, 100)
		b[at] = to
		return b
	}
	for _, tt := range []struct {
		name    string
		acks    int16
		records []byte
		want    *kerr.Error
		words   string
	}{
		{"acks", 7, testBatch(t, 100), kerr.InvalidRequiredAcks, "acks 7 is none of -1, 0 and 1"},
		{"short", -1, []byte("12"), kerr.InvalidRecord, "2 bytes of records; a batch has at least 61"},
		{"none", -1, nil, kerr.InvalidRecord, "0 bytes of records; a batch has at least 61"},
		{"old", -1, changed(magicOffset, 1), kerr.InvalidRecord, "records of format 1; version 2 is supported"},
		{"no such format", -1, changed(magicOffset, 3), kerr.CorruptMessage, "records of format 3, which there is not"},
		{"in no transaction", -1, changed(attributesOffset, transactionalBit), kerr.TransactionalIDAuthorizationFailed, "transactions are not in this version"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, ok := ask(t, dial(t, address), produceRequest(9, tt.acks, 1, tt.records)).(*kmsg.ProduceResponse)
			require.True(t, ok)
			p := resp.Topics[0].Partitions[0]
			require.Equal(t, tt.want.Code, p.ErrorCode)
			require.Equal(t, tt.words, *p.ErrorMessage)
		})
	}
}

// heap is what is alive.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Who sends requests and takes no answers makes the broker keep a few of them, not all
// that one connection may have under way, and each is little more than what was sent.
func TestProduceMemoryIsBoundedByWhatCame(t *testing.T) {
	for _, tt := range []struct {
		name  string
		frame []byte
		most  int64
	}{
		{"partitions", produceFrame(1, emptyPartitions(200_000)), 32 << 20},
		{"topics", produceFrame(200_000, make([]byte, 600_000)), 48 << 20},
		{"names", produceFrame(1000, longNames(1000)), 24 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := New(Options{Arena: record.NewArena(4 << 20), Logger: slog.New(slog.DiscardHandler)}, stubServices(stub{}))
				before := heap()
				c := piped(d)
				sent := 0
				go func() {
					for range maxAnswers {
						if _, err := c.Write(tt.frame); err != nil {
							return
						}
						sent++
					}
				}()
				synctest.Wait()
				require.Less(t, heap()-before, tt.most, "%d requests were read", sent)
				require.NoError(t, c.Close())
				d.Close()
				require.Zero(t, d.intake.onHeap.Load())
			})
		})
	}
}

// What names cost counts while their request is arriving, so that who sends nearly
// all of one is cut when memory is short. Names no topic can have are not remembered.
func TestHalfARequestWeighs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(Options{Arena: record.NewArena(4 << 20), Logger: slog.New(slog.DiscardHandler)}, stubServices(stub{}))
		defer d.Close()
		const n = 500
		whole := produceFrame(n, longNames(n))
		c := piped(d)
		go func() { _, _ = c.Write(whole[:len(whole)-1]) }()
		synctest.Wait()
		require.Greater(t, d.intake.onHeap.Load(), int64(n*bufferSize))
		go func() { _, _ = c.Write(whole[len(whole)-1:]) }()
		readFrame(t, c)
		synctest.Wait()
		require.Zero(t, d.intake.onHeap.Load())
		if n := len(d.snapshot()[0].names); n > 0 {
			t.Fatalf("%d names are remembered", n)
		}
	})
}

// Records that gathered on the heap count there until they are in the arena, and no
// longer.
func TestGatheredRecordsCountOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arena := record.NewArena(4 << 20)
		d := New(Options{Arena: arena, Logger: slog.New(slog.DiscardHandler)}, stubServices(stub{}))
		defer d.Close()
		d.intake.believed = 0
		whole := frame(produceRequest(9, -1, 3, testBatch(t, 50_000)), 1)
		c := piped(d)
		go func() { _, _ = c.Write(whole[:len(whole)-1]) }()
		synctest.Wait()
		require.Greater(t, arena.InUse(), int64(150_000))
		require.Zero(t, d.intake.onHeap.Load())
		go func() { _, _ = c.Write(whole[len(whole)-1:]) }()
		readFrame(t, c)
	})
}
