package kafka

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// pressed is a broker that says when its memory is short, and that keeps the outcome of
// what it appended to itself until a test lets it out.
type pressed struct {
	stub

	short   atomic.Bool
	records *record.Buf // what fetches are answered with

	mu       sync.Mutex // guards what follows
	appended []*api.Pending
}

func (p *pressed) MemoryShort() bool { return p.short.Load() }

func (p *pressed) Fetch(_ context.Context, req *api.FetchRequest) ([]api.FetchResult, error) {
	results := make([]api.FetchResult, len(req.Partitions))
	for i := range results {
		results[i].PartitionRef = req.Partitions[i].PartitionRef
		results[i].Batches = []record.Slice{record.SliceOf(p.records, 0, p.records.Len())}
	}
	return results, nil
}

func (p *pressed) Produce(_ context.Context, req *api.ProduceRequest) *api.Pending {
	out := api.NewPending(req, time.Now().Add(time.Hour))
	for i := range req.Partitions {
		for _, b := range req.Partitions[i].Batches {
			b.Release()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.appended = append(p.appended, out)
	return out
}

// underWay is how many requests were appended so far.
func (p *pressed) underWay() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.appended)
}

// settle acknowledges the n-th request that was appended.
func (p *pressed) settle(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.appended[n].Settle(0, nil)
}

func (p *pressed) door(arena *record.Arena) *Door {
	s := stubServices(stub{})
	s.Producer, s.Fetcher = p, p
	return New(Options{Arena: arena, Logger: slog.New(slog.DiscardHandler)}, s)
}

// tickets are the correlation ids of the answers that have come to a client.
type tickets struct {
	mu   sync.Mutex // guards came
	came []int32
}

// collect reads until the connection ends.
func (a *tickets) collect(c net.Conn) {
	var head [8]byte
	for {
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head[:]))-4); err != nil {
			return
		}
		a.mu.Lock()
		a.came = append(a.came, int32(binary.BigEndian.Uint32(head[4:])))
		a.mu.Unlock()
	}
}

func (a *tickets) list() []int32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.came)
}

// Who takes nothing of an answer is cut, whatever the answer is: soon while others wait
// for memory, after two minutes else, and what it held is free again. Who takes a little
// now and then is not.
func TestStalledReadersAreCut(t *testing.T) {
	const none = time.Duration(-1)
	versions := kmsg.NewPtrApiVersionsRequest()
	versions.SetVersion(3)
	records := fetchRequest(12, 2)
	write := produceRequest(9, -1, 1, testBatch(t, 500))
	for _, tt := range []struct {
		name    string
		req     kmsg.Request
		shortAt time.Duration // when memory gets short
		takes   time.Duration // a step of the answer every so often
		why     cut           // notCut: it gets all
		within  [2]time.Duration
	}{
		{"an answer, memory enough", versions, none, none, cutStalled, [2]time.Duration{sendGrace, sendGrace + 2*time.Second}},
		{"an answer, memory short", versions, 0, none, cutStalledShort, [2]time.Duration{10 * time.Second, 12 * time.Second}},
		{"records, memory enough", records, none, none, cutStalled, [2]time.Duration{sendGrace, sendGrace + 2*time.Second}},
		{"records, memory short", records, 0, none, cutStalledShort, [2]time.Duration{10 * time.Second, 12 * time.Second}},
		{"an acknowledgement, memory enough", write, none, none, cutStalled, [2]time.Duration{sendGrace, sendGrace + 2*time.Second}},
		{"an acknowledgement, memory short", write, 0, none, cutStalledShort, [2]time.Duration{10 * time.Second, 12 * time.Second}},
		{"records, memory gets short when it has stalled for long", records, 30 * time.Second, none, cutStalledShort, [2]time.Duration{30 * time.Second, 32 * time.Second}},
		{"records, a step every nine seconds, memory short", records, 0, 9 * time.Second, notCut, [2]time.Duration{36 * time.Second, 2 * time.Minute}},
		{"records, a step every fourteen seconds, memory short", records, 0, 14 * time.Second, cutStalledShort, [2]time.Duration{14 * time.Second, 14 * time.Second}},
		{"records, a step every hundred seconds, memory enough", records, none, 100 * time.Second, notCut, [2]time.Duration{400 * time.Second, 20 * time.Minute}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				arena := record.NewArena(8 << 20)
				b := &pressed{records: arena.Get(2 * writeStep)}
				d := b.door(arena)
				defer d.Close()
				c := piped(d)
				_, err := c.Write(frame(tt.req, 1))
				require.NoError(t, err)
				synctest.Wait()
				if b.underWay() > 0 {
					b.settle(0)
				}
				b.records.Release() // what is left is the answer's
				if tt.shortAt != none {
					time.AfterFunc(tt.shortAt, func() { b.short.Store(true) })
				}
				began := time.Now()
				got := 0
				buf := make([]byte, writeStep)
				for tt.takes != none && err == nil && got < 4*writeStep {
					time.Sleep(tt.takes)
					var n int
					n, err = io.ReadFull(c, buf)
					got += n
				}
				if tt.why == notCut {
					require.NoError(t, err)
				}
				for d.Connections() > 0 && time.Since(began) < 10*time.Minute && tt.why != notCut {
					time.Sleep(500 * time.Millisecond)
				}
				took := time.Since(began)
				require.GreaterOrEqual(t, took, tt.within[0])
				require.LessOrEqual(t, took, tt.within[1])
				for why := notCut + 1; why < cuts; why++ {
					want := uint64(0)
					if why == tt.why {
						want = 1
					}
					require.Equal(t, want, d.metrics.cut[why].Load(), why.label())
				}
				require.NoError(t, c.Close())
				synctest.Wait()
				require.Zero(t, arena.InUse(), "a connection that was cut holds records")
			})
		})
	}
}

// When requests that do not get complete fill too much memory, those that have been
// arriving for longest are cut, no more of them than it takes, and none that has only
// just begun; the others get complete.
func TestHoardersAreCutOldestFirst(t *testing.T) {
	const each = 1 << 20
	large := kmsg.NewPtrApiVersionsRequest()
	large.SetVersion(3)
	large.ClientSoftwareName = strings.Repeat("x", each)
	whole := frame(large, 1)
	for _, tt := range []struct {
		name   string
		limit  int64 // of the arena, and so of what may gather
		gap    time.Duration
		cut    int
		within [2]time.Duration // from the first one's begin
	}{
		{"all fit", 6 * each, 3 * time.Second, 0, [2]time.Duration{}},
		{"one too many", 5*each - each/2, 3 * time.Second, 1, [2]time.Duration{12 * time.Second, 15 * time.Second}},
		{"they came together", 5*each - each/2, time.Millisecond, 1, [2]time.Duration{2 * time.Second, 4 * time.Second}},
		{"they have only just begun", 4 * each, 100 * time.Millisecond, 2, [2]time.Duration{2 * time.Second, 4 * time.Second}},
		{"nearly all are too many", each, time.Second, 5, [2]time.Duration{2 * time.Second, 8 * time.Second}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := New(Options{Arena: record.NewArena(tt.limit), Logger: slog.New(slog.DiscardHandler)}, stubServices(stub{}))
				defer d.Close()
				bystander := piped(d)
				requireAnswers(t, bystander)
				const many = 5
				clients := make([]net.Conn, many)
				began := time.Now()
				for i := range clients {
					clients[i] = piped(d)
					go func() { _, _ = clients[i].Write(whole[:len(whole)-1]) }() // it may be cut while it sends
					synctest.Wait()
					time.Sleep(tt.gap)
				}
				hoarders := func() int { return d.Connections() - 1 }
				for hoarders() > many-tt.cut {
					require.Less(t, time.Since(began), 25*time.Second)
					time.Sleep(100 * time.Millisecond)
				}
				took := time.Since(began)
				if tt.cut > 0 {
					require.GreaterOrEqual(t, took, tt.within[0])
					require.LessOrEqual(t, took, tt.within[1])
				}
				time.Sleep(3 * time.Second) // two looks more: nobody else is cut
				require.Equal(t, many-tt.cut, hoarders())
				require.Equal(t, uint64(tt.cut), d.metrics.cut[cutHoarding].Load())
				for i, c := range clients {
					if i < tt.cut {
						_, err := c.Read(make([]byte, 1))
						require.ErrorIs(t, err, io.EOF, "connection %d is not the oldest", i)
						continue
					}
					go func() { _, _ = c.Write(whole[len(whole)-1:]) }()
					readFrame(t, c)
				}
				requireAnswers(t, bystander)
				synctest.Wait()
				require.Zero(t, d.intake.onHeap.Load())
			})
		})
	}
}

// Of produce requests that are not acknowledged a connection has so many under way and
// not one more; each answer makes room for one. A request that is not read waits without
// being taken for one that comes too slowly, or for an idle connection.
func TestRequestsUnderWayAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &pressed{}
		d := b.door(record.NewArena(8 << 20))
		defer d.Close()
		c := piped(d)
		req := frame(produceRequest(9, -1, 1, testBatch(t, 100)), 1)
		const more = 5
		go func() {
			for range maxAnswers + more {
				if _, err := c.Write(req); err != nil {
					return
				}
			}
		}()
		var answers tickets
		go answers.collect(c)
		synctest.Wait()
		require.Equal(t, maxAnswers, b.underWay())
		time.Sleep(d.opts.IdleTimeout + time.Minute)
		require.Equal(t, 1, d.Connections())
		for n := range more {
			b.settle(n)
			synctest.Wait()
			require.Len(t, answers.list(), n+1)
			require.Equal(t, maxAnswers+n+1, b.underWay())
		}
	})
}

// Answers leave in the order of the requests, whatever is ready first: an acknowledgement
// that has come waits for those before it, and any other request for all of them.
func TestAnswersLeaveInOrder(t *testing.T) {
	versions := kmsg.NewPtrApiVersionsRequest()
	versions.SetVersion(3)
	write := produceRequest(9, -1, 1, testBatch(t, 100))
	for _, tt := range []struct {
		name    string
		sent    string   // w: records are written, v: ApiVersions, f: a fetch
		settled []int    // the order in which they are acknowledged
		after   []string // each of it, so many answers have come
		begun   []int    // and so many were appended
	}{
		{"the later first", "ww", []int{1, 0}, []string{"", "ww"}, []int{2, 2}},
		{"the last, the middle, the first", "www", []int{2, 1, 0}, []string{"", "", "www"}, []int{3, 3, 3}},
		{"the middle last", "www", []int{2, 0, 1}, []string{"", "w", "www"}, []int{3, 3, 3}},
		{"another behind them", "wwv", []int{1, 0}, []string{"", "wwv"}, []int{2, 2}},
		{"a fetch behind them", "wwf", []int{1, 0}, []string{"", "wwf"}, []int{2, 2}},
		{"others between them", "wwvwfww", []int{1, 0, 2, 4, 3}, []string{"", "wwv", "wwvwf", "wwvwf", "wwvwfww"}, []int{2, 3, 5, 5, 5}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				arena := record.NewArena(4 << 20)
				b := &pressed{records: arena.Get(100)}
				d := b.door(arena)
				defer d.Close()
				c := piped(d)
				var all []byte
				for i, kind := range tt.sent {
					all = append(all, frame(map[rune]kmsg.Request{'w': write, 'v': versions, 'f': fetchRequest(12, 1)}[kind], int32(i))...)
				}
				go func() { _, _ = c.Write(all) }()
				var answers tickets
				go answers.collect(c)
				for i, n := range tt.settled {
					synctest.Wait()
					b.settle(n)
					synctest.Wait()
					var want []int32
					for k := range len(tt.after[i]) {
						want = append(want, int32(k))
					}
					require.Equal(t, want, answers.list(), "after %d of %v", i+1, tt.settled)
					require.Equal(t, tt.begun[i], b.underWay())
				}
				b.records.Release()
			})
		})
	}
}

// Who has asked and waits for the acknowledgement is not idle; once it has come, it is.
func TestWhoWaitsIsNotIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &pressed{}
		d := b.door(record.NewArena(4 << 20))
		defer d.Close()
		c := piped(d)
		_, err := c.Write(frame(produceRequest(9, -1, 1, testBatch(t, 100)), 1))
		require.NoError(t, err)
		time.Sleep(3 * d.opts.IdleTimeout)
		require.Equal(t, 1, d.Connections())
		b.settle(0)
		readFrame(t, c)
		time.Sleep(2 * time.Second)
		require.Equal(t, uint64(1), d.metrics.cut[cutIdle].Load())
	})
}
