package node

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// trials is how often a request that makes something is sent as a trial: so often that
// its few numbers are what goes wrong now and then.
const trials = 8

// recorded are requests that Kafka clients of every language once sent, without their
// lengths.
func recorded(t *testing.T) [][]byte {
	t.Helper()
	var out [][]byte
	for _, name := range []string{"requests.txt", "requests-admin.txt"} {
		text, err := os.ReadFile(filepath.Join("../kafka/testdata", name))
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			frame, err := hex.DecodeString(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]))
			require.NoError(t, err)
			out = append(out, frame)
			if trial := onTrial(frame); trial != nil {
				out = append(out, slices.Repeat([][]byte{trial}, trials)...)
			}
		}
	}
	require.Greater(t, len(out), 100)
	return out
}

// makes reads a request that makes topics or partitions, behind its length; nil: this is none.
func makes(frame []byte) kmsg.Request {
	if len(frame) < 10 {
		return nil
	}
	key, version := int16(binary.BigEndian.Uint16(frame)), int16(binary.BigEndian.Uint16(frame[2:]))
	req := kmsg.RequestForKey(key)
	if kmsg.Key(key) != kmsg.CreateTopics && kmsg.Key(key) != kmsg.CreatePartitions || version < 0 || version > req.MaxVersion() {
		return nil
	}
	req.SetVersion(version)
	body := frame[10:]
	if n := int(int16(binary.BigEndian.Uint16(frame[8:]))); n > 0 {
		body = body[min(n, len(body)):]
	}
	if req.IsFlexible() {
		if len(body) == 0 || body[0] != 0 {
			return nil // tagged fields, which no recorded request has, and which hide the rest
		}
		body = body[1:]
	}
	if req.ReadFrom(body) != nil {
		return nil
	}
	return req
}

// onTrial is the same request as a trial, which makes nothing however many partitions
// it asks for; nil when there is none.
func onTrial(frame []byte) []byte {
	switch req := makes(frame).(type) {
	case *kmsg.CreateTopicsRequest:
		req.ValidateOnly = true
		return kmsg.NewRequestFormatter(kmsg.FormatterClientID("trial")).AppendRequest(nil, req, 1)[4:]
	case *kmsg.CreatePartitionsRequest:
		req.ValidateOnly = true
		return kmsg.NewRequestFormatter(kmsg.FormatterClientID("trial")).AppendRequest(nil, req, 1)[4:]
	default:
		return nil
	}
}

// makesMany says that a request would make many partitions: it may, and the disk of
// whoever runs this would have them.
func makesMany(frame []byte) bool {
	const many = 64
	n := int64(0)
	switch req := makes(frame).(type) {
	case *kmsg.CreateTopicsRequest:
		for i := range req.Topics {
			n += int64(max(req.Topics[i].NumPartitions, int32(len(req.Topics[i].ReplicaAssignment)), 1))
		}
		return n > many && !req.ValidateOnly
	case *kmsg.CreatePartitionsRequest:
		for i := range req.Topics {
			n += int64(max(req.Topics[i].Count, 1))
		}
		return n > many && !req.ValidateOnly
	default:
		return false
	}
}

// mutate returns what is sent instead of a request: it, with its length, changed in
// one of the ways in which bytes go wrong.
func mutate(r *rand.Rand, frame []byte) []byte {
	out := binary.BigEndian.AppendUint32(nil, uint32(len(frame)))
	out = append(out, frame...)
	at := func() int { return 4 + r.IntN(len(frame)) }
	switch r.IntN(9) {
	case 0: // a bit
		out[at()] ^= 1 << r.IntN(8)
	case 1: // some bytes
		for range 1 + r.IntN(8) {
			out[at()] = byte(r.Uint32())
		}
	case 2: // a length, count or number of anything
		interesting := []uint32{0xffffffff, 0x7fffffff, 0x80000000, 0xfffffffe, 0, 1, 0x00ffffff}
		if i := at(); i+4 <= len(out) {
			binary.BigEndian.PutUint32(out[i:], interesting[r.IntN(len(interesting))])
		}
	case 3: // it ends early, and says that it does
		n := r.IntN(len(frame))
		out = append(binary.BigEndian.AppendUint32(nil, uint32(n)), frame[:n]...)
	case 4: // it ends early, and does not say so
		out = out[:at()]
	case 5: // more behind its end
		out = append(out, frame[:r.IntN(len(frame))]...)
	case 6: // a piece of it again, inside
		i, j := at(), at()
		i, j = min(i, j), max(i, j)
		out = slices.Insert(out, i, slices.Clone(out[i:j])...)
		binary.BigEndian.PutUint32(out, uint32(len(out)-4))
	case 7: // another length of the frame
		binary.BigEndian.PutUint32(out, []uint32{0xffffffff, 0x7fffffff, 0, 7, uint32(len(frame)) + 1, uint32(len(frame)) - 1, 100 << 20}[r.IntN(7)])
	case 8: // another API or version
		out[4+r.IntN(4)] = byte(r.IntN(100))
	}
	return out
}

// What clients sent, mutated, is sent to a broker: whoever sends it may get any answer
// or none, and a client beside goes on producing and consuming as if nobody did. Memory
// stays what it was.
func TestMutatedRequestsHurtNobody(t *testing.T) {
	requests := recorded(t)
	w := startWorld(t, 1, 0)
	ctx := within(t, 2*time.Minute)
	good := w.kafkaClient(kgo.DefaultProduceTopic("bystander"), kgo.ConsumeTopics("bystander"), kgo.DisableIdempotentWrite())
	createKafkaTopic(ctx, t, w.kafkaClient(), "bystander", 1)
	step := func(n int) {
		require.NoError(t, good.ProduceSync(ctx, kgo.StringRecord(fmt.Sprint(n))).FirstErr())
		fs := good.PollFetches(ctx)
		require.NoError(t, fs.Err())
		require.Equal(t, 1, fs.NumRecords())
		require.Equal(t, fmt.Sprint(n), string(fs.Records()[0].Value))
	}
	step(0)
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse)
	}
	before := heap()
	times, seed := 12, uint64(time.Now().UnixNano())
	if testing.Short() {
		times = 2
	}
	t.Logf("seed %d", seed)
	const senders = 8
	var sent atomic.Int64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	defer wg.Wait()
	defer close(stop)
	for s := range senders {
		r := rand.New(rand.NewPCG(seed, uint64(s)))
		wg.Go(func() {
			for i := s; i < times*len(requests); i += senders {
				select {
				case <-stop:
					return
				default:
				}
				request := mutate(r, requests[i%len(requests)])
				if len(request) > 4 && makesMany(request[4:]) {
					continue
				}
				sendAndLeave(t, w.d.Kafka()[0], request)
				sent.Add(1)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	n := 1
	for running := true; running; n++ {
		select {
		case <-done:
			running = false
		default:
		}
		step(n)
	}
	after := heap()
	t.Logf("%d mutated requests beside %d good ones; the heap has grown by %d KiB", sent.Load(), n, (after-before)>>10)
	require.Less(t, after-before, int64(64<<20))
}

// sendAndLeave waits a moment for whatever the answer is.
func sendAndLeave(t *testing.T, address string, what []byte) {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Error(err)
	}
	_, _ = c.Write(what)
	_, _ = io.Copy(io.Discard, c)
}
