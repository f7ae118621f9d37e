package replica

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// endless is a leader's partition that always has another batch of 100 KiB.
type endless struct {
	LeaderPartition // nil: nothing else is called

	batch  *record.Buf
	reads  int
	moving bool
	hw     func() record.Offset // nil: nobody writes
}

func (p *endless) Read(_ *Session, dst []record.Slice, from record.Offset, _ int) (Run, error) {
	p.reads++
	record.Patch(p.batch.Bytes(), from, 1)
	run := Run{Slices: append(dst, record.SliceOf(p.batch, 0, p.batch.Len())), Cleaned: from}
	if p.hw != nil {
		run.HighWatermark = p.hw()
	}
	return run, nil
}

// sends drives a stream for a time and returns how many bytes it sent of each partition.
func sends(t *testing.T, ls *leaderStream, parts []*endless, d time.Duration) (sent []int) {
	t.Helper()
	for i, p := range parts {
		s := &Session{stream: ls, part: p, key: testKey(i), id: uint64(i + 1), open: true, moving: p.moving}
		ls.sessions[s.key] = s
		p.reads = 0
		s.Wake()
	}
	for end := time.Now().Add(d); time.Now().Before(end); {
		ls.credit = 1 << 30
		wait := ls.gather()
		ls.releaseFrom(0)
		time.Sleep(max(wait, 100*time.Microsecond)) // what a message takes: 10 GB/s at the most
	}
	for _, p := range parts {
		sent = append(sent, p.reads*p.batch.Len())
	}
	return sent
}

// Catching up keeps to its rate while there is other traffic, all streams of a node
// together, and takes what it gets a moment after that has ended. The in-sync
// stream never waits. Partitions of a stream get as much each.
func TestCatchingUpGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 10 << 20
		traffic := new(Traffic)
		server, err := NewServer(ServerConfig{Leaders: leaderMap{}, Logger: slog.New(slog.DiscardHandler), CatchUpRate: rate, Traffic: traffic})
		if err != nil {
			t.Fatal(err)
		}
		stream := func(kind pb.StreamKind) *leaderStream {
			return newLeaderStream(server, nil, &pb.StreamOpen{Kind: kind})
		}
		parts := func() (ps []*endless) {
			for range 5 {
				ps = append(ps, &endless{batch: testBatch(100 << 10)})
			}
			return ps
		}
		sum := func(sent []int) (all int) {
			for i, n := range sent {
				if all += n; n < sent[0]*8/10 || n > sent[0]*12/10 {
					t.Errorf("partition %d got %d bytes, partition 0 got %d", i, n, sent[0])
				}
			}
			return all
		}
		idle := sum(sends(t, stream(pb.StreamKind_STREAM_KIND_CATCH_UP), parts(), time.Second))
		if idle < 100*rate {
			t.Errorf("%d bytes in a second in which nobody else was there", idle)
		}
		traffic.Note(time.Now())
		if busy := sum(sends(t, stream(pb.StreamKind_STREAM_KIND_CATCH_UP), parts(), quiet*9/10)); busy < rate*7/10 || busy > rate*12/10 {
			t.Errorf("%d bytes in a second beside others, the rate is %d", busy, rate)
		}
		if again := sum(sends(t, stream(pb.StreamKind_STREAM_KIND_CATCH_UP), parts(), time.Second)); again < 100*rate {
			t.Errorf("%d bytes in a second after others have gone", again)
		}
		traffic.Note(time.Now())
		if first := sum(sends(t, stream(pb.StreamKind_STREAM_KIND_CATCH_UP), parts(), quiet/3)) + sum(sends(t, stream(pb.StreamKind_STREAM_KIND_CATCH_UP), parts(), quiet/3)); first > rate*9/10 {
			t.Errorf("%d bytes in two thirds of a second on two streams", first)
		}
		time.Sleep(time.Minute)
		if inSync := sum(sends(t, stream(pb.StreamKind_STREAM_KIND_IN_SYNC), parts(), time.Second)); inSync < 100*rate {
			t.Errorf("%d bytes in a second on the in-sync stream", inSync)
		}
		if !traffic.recent(time.Now()) {
			t.Error("the in-sync stream is no traffic")
		}
	})
}

// What producers write meanwhile does not count: a follower comes closer at the
// rate, however much that is.
func TestCatchingUpOvertakesProducers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, written = 10 << 20, 50 << 20 // a second
		traffic := new(Traffic)
		server, err := NewServer(ServerConfig{Leaders: leaderMap{}, Logger: slog.New(slog.DiscardHandler), CatchUpRate: rate, Traffic: traffic})
		if err != nil {
			t.Fatal(err)
		}
		batch := testBatch(100 << 10)
		info, _ := record.Peek(batch.Bytes())
		perOffset := float64(batch.Len()) / float64(info.NextOffset()-info.BaseOffset)
		began := time.Now()
		p := &endless{batch: batch, hw: func() record.Offset {
			return record.Offset(time.Since(began).Seconds() * written / perOffset)
		}}
		traffic.Note(time.Now())
		const d = quiet * 9 / 10
		sent := sends(t, newLeaderStream(server, nil, &pb.StreamOpen{Kind: pb.StreamKind_STREAM_KIND_CATCH_UP}), []*endless{p}, d)[0]
		if closer := float64(sent) - written*d.Seconds(); closer < rate*d.Seconds()*8/10 || closer > rate*d.Seconds()*13/10 {
			t.Errorf("%.0f bytes closer in %v, the rate is %d a second", closer, d, rate)
		}
	})
}

// So does a follower count what it gives leaders credit for.
func TestCatchUpCreditOvertakesProducers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, written, window = 10 << 20, 50 << 20, 1 << 20
		traffic := new(Traffic)
		f, err := NewFollower(FollowerConfig{Transport: hangs{}, Logger: slog.New(slog.DiscardHandler), CatchUpRate: rate, CatchUpCredit: window, Traffic: traffic})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		l := newLink(f, 2)
		st := l.streams[kindCatchUp]
		r := &receiver{stream: st}
		s := &Subscription{link: l, kind: kindCatchUp, phase: subOn, session: 1}
		traffic.Note(time.Now())
		const d = quiet * 9 / 10
		granted, at := int64(0), record.Offset(0)
		for began := time.Now(); time.Since(began) < d; {
			wait, _, _ := st.collect(time.Now(), false)
			if n := int64(st.request.GetCreditBytes()); n > 0 { // the leader uses all of it, an offset a byte
				granted += n
				to := at + record.Offset(n)
				hw := record.Offset(time.Since(began).Seconds() * written)
				if !r.accepts(s, Push{Session: 1, From: at, To: to, HighWatermark: hw}, n) {
					t.Fatal("not accepted")
				}
				at, st.granted = to, 0
			}
			time.Sleep(min(max(wait, time.Millisecond), 10*time.Millisecond))
		}
		if closer := float64(granted) - written*d.Seconds(); closer < rate*d.Seconds()*7/10 || closer > rate*d.Seconds()*13/10 {
			t.Errorf("%.0f bytes closer in %v, the rate is %d a second", closer, d, rate)
		}
	})
}

// A follower gives leaders credit to catch up at its rate while there is other
// traffic, and at once when there is none.
func TestCatchUpCreditGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 10 << 20
		traffic := new(Traffic)
		f, err := NewFollower(FollowerConfig{Transport: hangs{}, Logger: slog.New(slog.DiscardHandler), CatchUpRate: rate, CatchUpCredit: 1 << 20, Traffic: traffic})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		l := newLink(f, 2)
		granted := func(kind streamKind) (sum int64) {
			st := l.streams[kind]
			for end := time.Now().Add(time.Second); time.Now().Before(end); {
				wait, _, _ := st.collect(time.Now(), false)
				sum += int64(st.request.GetCreditBytes())
				st.granted = 0 // all of it was used and written
				time.Sleep(min(max(wait, time.Millisecond), 10*time.Millisecond))
			}
			return sum
		}
		if n := granted(kindCatchUp); n < 50<<20 {
			t.Errorf("%d bytes in a second in which nobody else was there", n)
		}
		traffic.Note(time.Now())
		if n := granted(kindCatchUp); n < rate*7/10 || n > rate*13/10 {
			t.Errorf("%d bytes in a second beside others, the rate is %d", n, rate)
		}
		traffic.Note(time.Now())
		if n := granted(kindInSync); n < 50<<20 {
			t.Errorf("%d bytes in a second for the in-sync stream", n)
		}
	})
}

// hangs is a leader that cannot be reached yet.
type hangs struct{}

func (hangs) Open(ctx context.Context, _ int32) (FollowerStream, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
