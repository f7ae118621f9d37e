package client

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// sourceBench is a consumer whose source is moved by hand: what its goroutines would do
// with the wakes that they get is the test's to do.
type sourceBench struct {
	t   benchT
	k   *Consumer
	src *source
}

// benchT is a testing.T or a rapid.T.
type benchT interface {
	require.TestingT
	Helper()
}

// newSourceBench has a broker that heeds ends_waits.
func newSourceBench(t benchT, partitions int) *sourceBench {
	t.Helper()
	k := &Consumer{
		c: &Client{}, cfg: defaultConsumerConfig(), life: context.Background(), arrived: make(chan struct{}, 1),
		parts: map[TopicPartition]*subscription{}, inHand: map[*subscription]int{}, sources: map[string]*source{},
	}
	k.polled.k = k
	src := newSource(k, "b")
	src.answered, src.endsWaits = true, true
	k.sources["b"] = src
	b := &sourceBench{t, k, src}
	for range partitions {
		b.gain()
	}
	return b
}

// gain adds a partition that can be fetched.
func (b *sourceBench) gain() *subscription {
	s := newSubscription(tp("t", int32(len(b.k.parts))), At(0), false)
	s.active, s.leader = true, "b"
	s.begin(0, -1)
	b.k.parts[s.tp] = s
	return s
}

// polls has the source make the next poll, and returns the partitions that it asks for.
func (b *sourceBench) polls() []asked { return b.asks(false) }

// asksBetween has it make a request in between.
func (b *sourceBench) asksBetween() []asked { return b.asks(true) }

func (b *sourceBench) asks(between bool) []asked {
	b.t.Helper()
	before := b.src.count
	req := b.src.prepare(between)
	if req == nil {
		require.Equal(b.t, before, b.src.count)
		return nil
	}
	require.Equal(b.t, before+1, b.src.count)
	require.Equal(b.t, between, req.GetEndsWaits())
	require.Equal(b.t, between, req.GetMaxWaitMs() == 0)
	return b.src.underWay[before].parts
}

// answers delivers one record of every partition that the oldest request asks for.
func (b *sourceBench) answers() { b.answer(func(asked) bool { return true }) }

// answersNothing is what a broker does whose records come later.
func (b *sourceBench) answersNothing() { b.answer(func(asked) bool { return false }) }

func (b *sourceBench) answer(has func(asked) bool) {
	b.t.Helper()
	resp := &wire.Fetched{FetchResponse: &pb.FetchResponse{CorrelationId: b.src.underWay[0].number, EndsWaits: true}}
	for _, a := range b.src.underWay[0].parts {
		if !has(a) {
			resp.Results = append(resp.Results, &pb.FetchPartitionResult{})
			continue
		}
		builder := record.NewBuilder(record.BuilderOptions{})
		require.NoError(b.t, builder.Append(&record.Record{Value: []byte("v")}))
		raw, err := builder.Build(nil)
		require.NoError(b.t, err)
		record.Patch(raw, record.Offset(a.from), 1)
		resp.Batches = append(resp.Batches, record.SliceOf(record.NewBuf(raw), 0, len(raw)))
		resp.Results = append(resp.Results, &pb.FetchPartitionResult{BatchCount: 1})
	}
	require.True(b.t, b.k.deliver(b.src, resp))
}

// woken takes the wakes that the source's goroutines were given.
func (b *sourceBench) woken() (poll, between bool) {
	select {
	case <-b.src.wake:
		poll = true
	default:
	}
	select {
	case <-b.src.between:
		between = true
	default:
	}
	return poll, between
}

func (b *sourceBench) quiet(why ...any) {
	b.t.Helper()
	poll, between := b.woken()
	require.False(b.t, poll || between, why...)
}

func (b *sourceBench) wakesPoll() {
	b.t.Helper()
	poll, between := b.woken()
	require.Equal(b.t, []bool{true, false}, []bool{poll, between}, "a wake for the poll alone")
}

func (b *sourceBench) wakesBetween() {
	b.t.Helper()
	poll, between := b.woken()
	require.Equal(b.t, []bool{false, true}, []bool{poll, between}, "a wake for a request in between alone")
}

// names are the partitions that were asked for.
func names(parts []asked) (numbers []int32) {
	for _, a := range parts {
		numbers = append(numbers, a.sub.tp.Partition)
	}
	return numbers
}

// TestRecordsAskNothingInBetween: with a consumer at the end of its partitions each record
// costs one poll, and wakes whoever polls.
func TestRecordsAskNothingInBetween(t *testing.T) {
	b := newSourceBench(t, 2)
	require.Len(t, b.polls(), 2)
	for range 10 {
		require.Empty(t, b.asksBetween())
		b.answers()
		b.quiet()
		require.True(t, b.k.take(&b.k.polled))
		b.quiet()
		require.Len(t, b.polls(), 2)
		b.k.polled.Release()
	}
}

// TestRoomIsUsedAtOnce: what could not be fetched for want of room is, once there is, by a
// poll, or in between while one is under way.
func TestRoomIsUsedAtOnce(t *testing.T) {
	t.Run("nothing else under way", func(t *testing.T) {
		b := newSourceBench(t, 1)
		for range maxChunks {
			require.Len(t, b.polls(), 1)
			b.answers()
		}
		require.Empty(t, b.polls())
		b.quiet()
		require.True(t, b.k.take(&b.k.polled))
		b.wakesPoll()
		require.Len(t, b.polls(), 1)
	})
	t.Run("a poll of others under way", func(t *testing.T) {
		b := newSourceBench(t, 2)
		full := b.k.parts[tp("t", 0)]
		full.chunks = maxChunks - 1
		require.Len(t, b.polls(), 2)
		b.answers()
		require.Equal(t, []int32{1}, names(b.polls()), "the one with room")
		b.quiet()
		require.True(t, b.k.take(&b.k.polled))
		b.wakesBetween()
		require.Equal(t, []int32{0}, names(b.asksBetween()))

		full.chunks = maxChunks // of what it asks for
		b.answersNothing()      // the poll
		require.Empty(t, b.polls(), "the answer to the other one is about to come")
		b.answers()
		require.Equal(t, []int32{1}, names(b.polls()))
		require.Empty(t, b.asksBetween())
		b.quiet()
	})
	t.Run("bytes", func(t *testing.T) {
		b := newSourceBench(t, 1)
		b.k.cfg.prefetchBytes = 1
		require.Len(t, b.polls(), 1)
		b.answers()
		require.Empty(t, b.polls())
		b.quiet()
		require.True(t, b.k.take(&b.k.polled))
		b.wakesPoll()
	})
	t.Run("no bytes for what comes in between", func(t *testing.T) {
		b := newSourceBench(t, 1)
		require.Len(t, b.polls(), 1)
		b.gain()
		b.k.buffered = b.k.cfg.prefetchBytes
		b.k.wakeSources()
		b.wakesBetween()
		require.Empty(t, b.asksBetween())
		b.k.buffered = 0
		b.k.wakeSources()
		b.wakesBetween()
		require.Equal(t, []int32{1}, names(b.asksBetween()))
	})
}

// TestOnePollTakesAllInTheEnd: after a request in between, whatever it brought, there is
// one poll of everything, and not two requests that end each other's waits for ever.
func TestOnePollTakesAllInTheEnd(t *testing.T) {
	b := newSourceBench(t, 1)
	require.Len(t, b.polls(), 1)
	b.gain()
	b.k.wakeSources()
	b.wakesBetween()
	require.Equal(t, []int32{1}, names(b.asksBetween()))
	b.gain()
	b.k.wakeSources()
	b.quiet("two are under way, and answered soon")
	require.Empty(t, b.asksBetween())
	b.answersNothing()
	require.Empty(t, b.polls())
	require.Empty(t, b.asksBetween(), "it would end the wait of no poll")
	b.k.wakeSources()
	b.quiet()
	b.answersNothing()
	require.Len(t, b.polls(), 3)
	require.Empty(t, b.asksBetween())
	b.quiet()
}

// TestASeekIsNotHeldUp: the partition is fetched from where it was seeked to although a
// poll of where it was before is under way, and the answer to that counts for nothing.
func TestASeekIsNotHeldUp(t *testing.T) {
	b := newSourceBench(t, 2)
	require.Len(t, b.polls(), 2)
	s := b.k.parts[tp("t", 1)]
	s.restart(At(5))
	s.begin(5, -1)
	b.k.wakeSources()
	b.wakesBetween()
	parts := b.asksBetween()
	require.Equal(t, []int32{1}, names(parts))
	require.EqualValues(t, 5, parts[0].from)
	b.answer(func(a asked) bool { return a.sub == s })
	require.Empty(t, b.k.queue, "of the place it has left")
	b.answers()
	require.Len(t, b.k.queue, 1)
	require.EqualValues(t, 5, b.k.queue[0].from)
}

// TestAPartitionThatGoesBackIsFetched although nothing else happens at its broker.
func TestAPartitionThatGoesBackIsFetched(t *testing.T) {
	b := newSourceBench(t, 1)
	require.Len(t, b.polls(), 1)
	b.answers()
	s := b.k.parts[tp("t", 0)]
	s.chunks = maxChunks
	require.Empty(t, b.polls())
	require.True(t, b.k.take(&b.k.polled))
	_, _ = b.woken()
	require.Empty(t, b.k.queue)
	s.chunks = maxChunks
	require.Empty(t, b.polls())
	s.chunks = 0
	b.k.back(s, 0)
	b.wakesPoll()
	require.Len(t, b.polls(), 1)
}

// TestBrokersOfBeforeEndsWaits are asked for one thing at a time, and to wait shortly; the
// first request of a stream, which finds out, is not to wait at all.
func TestBrokersOfBeforeEndsWaits(t *testing.T) {
	b := newSourceBench(t, 1)
	b.src.answered, b.src.endsWaits = false, false
	wait := func() uint32 {
		req := b.src.prepare(false)
		require.NotNil(t, req)
		require.False(t, req.GetEndsWaits())
		return req.GetMaxWaitMs()
	}
	answer := func(endsWaits bool) {
		resp := &pb.FetchResponse{CorrelationId: b.src.number, EndsWaits: endsWaits, Results: []*pb.FetchPartitionResult{{}}}
		require.True(t, b.k.deliver(b.src, &wire.Fetched{FetchResponse: resp}))
	}
	require.Zero(t, wait())
	b.k.wakeSources()
	b.quiet("of a broker that is not known yet")
	answer(false)
	require.EqualValues(t, shortWait.Milliseconds(), wait())
	b.gain()
	b.k.wakeSources()
	b.quiet()
	require.Nil(t, b.src.prepare(true))
	answer(false)
	require.Len(t, b.polls(), 2)
	b.answersNothing() // as a newer one
	b.src.hangUp(nil, 0)
	delete(b.k.parts, tp("t", 1))
	require.Zero(t, wait(), "who answers a new stream may be another release")
	answer(true)
	require.EqualValues(t, b.k.cfg.maxWait.Milliseconds(), wait())
}

// TestAnswersToAnotherRequestAreRefused, and change nothing.
func TestAnswersToAnotherRequestAreRefused(t *testing.T) {
	b := newSourceBench(t, 1)
	none := &pb.FetchResponse{}
	require.False(t, b.k.deliver(b.src, &wire.Fetched{FetchResponse: none}), "nothing is under way")
	require.Len(t, b.polls(), 1)
	for _, resp := range []*pb.FetchResponse{
		{CorrelationId: b.src.number + 1, Results: []*pb.FetchPartitionResult{{}}},
		{CorrelationId: b.src.number},
	} {
		require.False(t, b.k.deliver(b.src, &wire.Fetched{FetchResponse: resp}))
		require.Equal(t, 1, b.src.count)
	}
	b.answers()
}

// TestNoSpinning: whatever the application does and the broker answers, and however late
// the source's goroutines run, no answer causes a request in between, so that there are
// at most as many as the application has done things; and once all is quiet, one poll asks
// for everything that there is room for.
func TestNoSpinning(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newSourceBench(t, 3)
		b.k.cfg.prefetchBytes = rapid.SampledFrom([]int64{200, 1 << 20}).Draw(t, "prefetch")
		var wake, between bool // given to goroutines that have not run yet
		polling := true        // run looks by itself first
		events, requests := 0, 0
		collect := func() {
			w, n := b.woken()
			wake, between = wake || w, between || n
		}
		sends := func() { // what the goroutines do
			collect()
			if polling && len(b.polls()) == 0 && b.src.count == 0 {
				polling = false
			}
			if wake && !polling {
				wake, polling = false, true
				return
			}
			if between {
				between = false
				if len(b.asksBetween()) > 0 {
					requests++
				}
			}
		}
		some := func() *subscription {
			return b.k.parts[tp("t", int32(rapid.IntRange(0, len(b.k.parts)-1).Draw(t, "partition")))]
		}
		steps := map[string]func(){
			"goroutines": sends,
			"answer": func() {
				if b.src.count > 0 {
					b.answer(func(asked) bool { return rapid.Bool().Draw(t, "records") })
					polling = polling || b.src.count == 0
				}
			},
			"take": func() {
				events += len(b.k.queue)
				if b.k.take(&b.k.polled) {
					b.k.polled.Release()
				}
			},
			"seek": func() {
				events++
				s := some()
				s.restart(At(0))
				s.begin(0, -1)
				b.k.wakeSources()
			},
			"pause or resume": func() {
				events++
				s := some()
				s.paused = !s.paused
				b.k.wakeSources()
			},
			"gain": func() {
				if len(b.k.parts) < 6 {
					events++
					b.gain()
					b.k.wakeSources()
				}
			},
		}
		kinds := []string{"answer", "gain", "goroutines", "pause or resume", "seek", "take"}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			steps[rapid.SampledFrom(kinds).Draw(t, "step")]()
		}
		quiet := 0
		for range 20 {
			sends()
			collect()
			if b.src.count == 2 || b.src.count == 1 && b.src.underWay[0].between { // a broker without records
				b.answersNothing()
				polling = polling || b.src.count == 0
			}
			if !wake && !between && (b.src.count == 1 || b.src.idle) {
				quiet++
			}
		}
		require.GreaterOrEqual(t, quiet, 10, "it goes on and on")
		require.LessOrEqual(t, requests, events)
		if b.k.buffered < b.k.cfg.prefetchBytes {
			for _, s := range b.k.parts {
				require.False(t, s.fetchable("b"), "partition %d is forgotten", s.tp.Partition)
			}
		}
	})
}
