package log

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// layout is everything that must not show in what a log answers.
type layout struct {
	opts DirOptions
	cfg  Config
}

// layouts draws some, the defaults first.
func layouts(random *rand.Rand, n int) []layout {
	pick := func(from ...int64) int64 { return from[random.IntN(len(from))] }
	out := []layout{{opts: testOptions(nil), cfg: Config{Synced: true}}}
	for range n {
		l := layout{opts: testOptions(nil)}
		l.opts.TailBytes = pick(1, 600, 5000, 0)
		l.opts.Arena = record.NewArena(pick(1, 10_000, 1<<20))
		l.opts.OpenFiles = int(pick(1, 3, 0))
		l.opts.PageCacheBytes = pick(1, 3000, 0)
		l.opts.CheckpointInterval = time.Duration(pick(1, int64(time.Hour)))
		l.opts.resumeBytes = pick(300, 2500, 0)
		l.opts.Flusher = FlusherOptions{Workers: int(pick(1, 2, 16)), JournalAt: int(pick(1, 2)), JournalBytes: pick(-1, 4000)}
		l.cfg = Config{
			Synced: random.IntN(2) == 0, FlushInterval: time.Duration(pick(1, int64(time.Millisecond), int64(time.Hour))),
			SegmentBytes: pick(100, 700, 4000, 0), IndexInterval: int(pick(1, 200, 0)),
		}
		out = append(out, l)
	}
	return out
}

// twin is one log of several with the same history. What the history draws comes
// from a source of its own, the same for all.
type twin struct {
	t      *testing.T
	layout layout
	random *rand.Rand
	mem    *vfs.Mem
	d      *Dir
	l      *Log
	n      *listener
	epoch  record.Epoch
	ms     int64
	seq    [2]int32
}

func (w *twin) open() {
	w.layout.opts.FS = w.mem
	w.d = openTestDir(w.t, w.layout.opts)
	w.openLog()
}

func (w *twin) openLog() {
	w.n = newListener()
	var err error
	w.l, err = w.d.Open(testSpec(w.layout.cfg, w.n))
	require.NoError(w.t, err)
	w.n.listen(w.l)
}

func (w *twin) between(from, to record.Offset) record.Offset {
	return from + record.Offset(w.random.Int64N(int64(to-from)+1))
}

// step does one thing and returns what the log answers to it.
func (w *twin) step() string {
	switch op := w.random.IntN(20); {
	case op < 10:
		w.ms = max(w.ms+w.random.Int64N(30)-5, 0)
		values := make([]string, 1+w.random.IntN(3))
		for i := range values {
			values[i] = strings.Repeat(string(rune('a'+w.random.IntN(26))), w.random.IntN(200))
		}
		raw := batch(w.t, w.ms, values...)
		if id := w.random.IntN(3); id < 2 {
			raw = idempotent(w.t, int64(id), 0, w.seq[id], values...)
			w.seq[id] += int32(len(values))
		}
		first, next, err := tryAdd(w.l, w.epoch, raw)
		return fmt.Sprint("append ", first, next, err)
	case op < 12:
		off := w.between(w.l.Start(), w.l.End())
		w.epoch++
		if err := w.l.TruncateTo(off); err != nil {
			return "truncate " + err.Error()
		}
		w.l.mu.Lock()
		defer w.l.mu.Unlock()
		clear(w.seq[:])
		for id, p := range w.l.producers.byID {
			w.seq[id] = p.newest().lastSeq + 1
		}
		return fmt.Sprint("truncate ", off, w.l.end, w.seq)
	case op < 13:
		return fmt.Sprint("start ", w.l.AdvanceStart(w.between(w.l.Start(), w.l.End())))
	case op < 14:
		w.l.SetHighWatermark(w.between(w.l.Start(), w.l.End()))
		return fmt.Sprint("high watermark ", w.l.HighWatermark())
	case op < 15:
		if w.random.IntN(3) > 0 {
			return ""
		}
		start := w.l.End() + record.Offset(w.random.IntN(10))
		w.epoch++
		clear(w.seq[:])
		return fmt.Sprint("reset ", w.l.Reset(start))
	case op < 16:
		require.NoError(w.t, w.l.Close())
		w.openLog()
		return "reopened"
	case op < 17:
		require.NoError(w.t, w.d.Close(1))
		w.open()
		return "restarted"
	case op < 18:
		require.NoError(w.t, w.l.Close()) // the power goes behind a log that was closed
		after := w.mem.CrashClone(rand.New(rand.NewPCG(uint64(w.l.End()), 0)))
		require.NoError(w.t, w.d.Close(-1))
		w.mem = after
		w.open()
		return "power cut"
	default:
		return w.look()
	}
}

// look asks the log all that it can be asked.
func (w *twin) look() string {
	l := w.l
	var out strings.Builder
	fmt.Fprintln(&out, "log", l.Start(), l.End(), l.Err(), l.Damage()) // how old a high watermark a power cut leaves, shows
	if w.random.IntN(2) == 0 {
		evictAll(w.d)
	}
	fmt.Fprintf(&out, "%x\n", readEverything(w.t, l))
	for range 5 {
		from := w.between(l.Start(), l.End())
		limit := w.between(from, l.End())
		got := readAt(w.t, l, from, limit, 1)
		fmt.Fprintf(&out, "read %d %d: %x\n", from, limit, got)
		_, err := l.Read(l.End()+1+record.Offset(w.random.IntN(9)), limit, 1)
		fmt.Fprintln(&out, err)
		ms := w.random.Int64N(w.ms + 10)
		off, at, found, err := l.OffsetForTime(ms, limit)
		fmt.Fprintln(&out, "time", ms, limit, off, at, found, err)
		off, at, found, err = l.OffsetForTime(ms, math.MaxInt64)
		fmt.Fprintln(&out, "time", ms, off, at, found, err)
		asked := record.Epoch(w.random.IntN(int(w.epoch) + 2))
		epoch, end := l.EpochEnd(asked)
		if l.Start() < l.End() { // else nothing of them is on disk
			fmt.Fprintln(&out, "epoch", asked, epoch, end)
		}
	}
	for id := range w.seq {
		if w.seq[id] > 0 {
			_, _, err := tryAdd(l, w.epoch, idempotent(w.t, int64(id), 0, w.seq[id]+7, "a gap"))
			fmt.Fprintln(&out, "gap", err)
		}
	}
	return out.String()
}

// The same history has the same answers whatever the size of segments, arena, tail
// and page cache, the distance of index entries, the number of open files and of
// flush workers, the timing of flushes and checkpoints, with a journal or without.
func TestLayoutDoesNotShow(t *testing.T) {
	histories := 25
	if testing.Short() {
		histories = 6
	}
	for seed := range uint64(histories) {
		var twins []*twin
		for _, l := range layouts(rand.New(rand.NewPCG(seed, 1)), 4) {
			w := &twin{t: t, layout: l, random: rand.New(rand.NewPCG(seed, 2)), mem: vfs.NewMem()}
			w.open()
			twins = append(twins, w)
		}
		for step := range 60 {
			want := twins[0].step()
			for _, w := range twins[1:] {
				opts := w.layout.opts
				opts.FS, opts.Logger, opts.Arena, opts.Now = nil, nil, nil, nil
				require.Equal(t, want, w.step(), "history %d, step %d, with %+v and %+v", seed, step, opts, w.layout.cfg)
			}
		}
		for _, w := range twins {
			require.NoError(t, w.d.Close(1))
		}
	}
}
