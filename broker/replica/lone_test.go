package replica

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// written is a partition of one-record batches below end.
type written struct {
	LeaderPartition // nil: nothing else is called

	batch          *record.Buf
	end, hw, start record.Offset
}

func (p *written) Read(_ *Session, dst []record.Slice, from record.Offset, _ int) (Run, error) {
	run := Run{Slices: dst, HighWatermark: p.hw, LogStart: p.start, Cleaned: from}
	if from < p.end {
		record.Patch(p.batch.Bytes(), from, 1)
		run.Slices = append(dst, record.SliceOf(p.batch, 0, p.batch.Len()))
	}
	return run, nil
}

// turn wakes the session and returns what leaves at once, and how long the sender waits then.
func turn(ls *leaderStream, s *Session) (pushes, batches int, wait time.Duration) {
	s.Wake()
	return sendAll(ls)
}

func sendAll(ls *leaderStream) (pushes, batches int, wait time.Duration) {
	for {
		wait = ls.gather()
		if len(ls.message.Pushes) == 0 {
			return pushes, batches, wait
		}
		pushes, batches = pushes+len(ls.message.Pushes), batches+len(ls.message.Batches)
		ls.releaseFrom(0)
	}
}

func lonely(t *testing.T, kind pb.StreamKind) (*leaderStream, *written, *Session) {
	t.Helper()
	server, err := NewServer(ServerConfig{Leaders: leaderMap{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ls := newLeaderStream(server, nil, &pb.StreamOpen{Kind: kind})
	ls.credit = 1 << 30
	p := &written{batch: testBatch(100)}
	s := &Session{stream: ls, part: p, key: testKey(0), id: 1, epoch: 1, open: true}
	ls.sessions[s.key] = s
	return ls, p, s
}

// A watermark travels with the next batch, and alone when none comes in time.
func TestWatermarksTravelWithBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ls, p, s := lonely(t, pb.StreamKind_STREAM_KIND_IN_SYNC)
		check := func(what string, pushes, batches int, wait time.Duration) func(int, int, time.Duration) {
			return func(gotPushes, gotBatches int, gotWait time.Duration) {
				t.Helper()
				if gotPushes != pushes || gotBatches != batches || gotWait != wait {
					t.Errorf("%s: %d pushes with %d batches, then a wait of %s; want %d, %d, %s", what, gotPushes, gotBatches, gotWait, pushes, batches, wait)
				}
			}
		}
		for range 10 {
			p.end++
			check("a batch", 1, 1, 0)(turn(ls, s))
			p.hw = p.end
			check("its watermark", 0, 0, loneWait)(turn(ls, s))
			check("the same", 0, 0, loneWait)(turn(ls, s))
			time.Sleep(loneWait * 3 / 5)
		}
		if s.sentHW != p.hw-1 {
			t.Errorf("the follower was told %d, want %d", s.sentHW, p.hw-1)
		}
		check("a part of the wait is over", 0, 0, loneWait*2/5)(sendAll(ls))
		time.Sleep(loneWait * 2 / 5)
		check("alone", 1, 0, 0)(sendAll(ls))
		if s.sentHW != p.hw {
			t.Errorf("the follower was told %d, want %d", s.sentHW, p.hw)
		}
		if len(ls.lone) > 0 {
			t.Errorf("%d watermarks are still to be told", len(ls.lone))
		}
		check("no news", 0, 0, 0)(turn(ls, s))
	})
}

// A log start waits for nothing, and takes the watermark along.
func TestLogStartsDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ls, p, s := lonely(t, pb.StreamKind_STREAM_KIND_IN_SYNC)
		p.end, p.hw = 1, 0
		turn(ls, s)
		p.hw = 1
		turn(ls, s)
		p.start = 1
		if pushes, batches, wait := turn(ls, s); pushes != 1 || batches != 0 || wait != 0 || s.sentHW != 1 {
			t.Errorf("%d pushes with %d batches, then a wait of %s; the watermark told is %d", pushes, batches, wait, s.sentHW)
		}
	})
}

// A follower that catches up judges by the watermark how far it is.
func TestWatermarksOfCatchingUpDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ls, p, s := lonely(t, pb.StreamKind_STREAM_KIND_CATCH_UP)
		p.hw = 1
		if pushes, _, _ := turn(ls, s); pushes != 1 {
			t.Errorf("%d pushes, want the watermark", pushes)
		}
	})
}
