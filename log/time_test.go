package log

import (
	"fmt"
	"log/slog"
	"math"
	"path"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

const year9999 = 253402300799999

// timed builds a batch of records with these timestamps. headerMax lets the header
// claim a later one than the records have, which no reader can tell without
// decoding; 0: the truth.
func timed(t tester, headerMax int64, stamps ...int64) []byte {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	for _, ms := range stamps {
		require.NoError(t, b.Append(&record.Record{Timestamp: ms, Value: []byte("v")}))
	}
	out, err := b.Build(nil)
	require.NoError(t, err)
	if headerMax > max(slices.Max(stamps), 0) {
		record.SetAppendTime(out, headerMax) // sets the maximum, the flag and the CRC
		out[22] &^= 8
		record.SetProducer(out, -1, -1, -1) // the CRC again
	}
	return out
}

// stamped is a record as the model knows it.
type stamped struct {
	off record.Offset
	ms  int64
}

// timeModel compares look-ups by time with a scan of all records.
type timeModel struct {
	t       *rapid.T
	mem     *vfs.Mem
	d       *Dir
	l       *Log
	n       *listener
	cfg     Config
	now     atomic.Int64 // read by flush workers too
	records []stamped
	epoch   record.Epoch
	lied    bool // a header claims more than the records have that are left of its batch
}

func (m *timeModel) open() {
	opts := testOptions(m.mem)
	opts.Now = func() time.Time { return time.UnixMilli(m.now.Load()) }
	m.d = openTestDir(m.t, opts)
	m.n = newListener()
	var err error
	m.l, err = m.d.Open(testSpec(m.cfg, m.n))
	require.NoError(m.t, err)
	m.n.listen(m.l)
	require.Equal(m.t, DamageNone, m.l.Damage())
}

// instant draws a timestamp, the extremes often.
func instant() *rapid.Generator[int64] {
	return rapid.OneOf(
		rapid.SampledFrom([]int64{-1, 0, 1, 999, 1000, 1001, year9999, math.MaxInt64 - 1, math.MaxInt64}),
		rapid.Int64Range(-1, 50), rapid.Int64Range(1000, 1100), rapid.Int64Range(-1, math.MaxInt64),
	)
}

func (m *timeModel) append() {
	stamps := rapid.SliceOfN(instant(), 1, 4).Draw(m.t, "stamps")
	lie := int64(0)
	if rapid.IntRange(0, 5).Draw(m.t, "lie") == 0 {
		lie = instant().Draw(m.t, "header")
		m.lied = true
	}
	raw := timed(m.t, lie, stamps...)
	buf := inArena(m.l, raw)
	first, next, err := m.l.Append(m.epoch, []*record.Buf{buf}, m.now.Load())
	buf.Release()
	require.NoError(m.t, err)
	for i, ms := range stamps {
		if m.cfg.LogAppendTime {
			ms = m.now.Load()
		}
		m.records = append(m.records, stamped{first + record.Offset(i), ms})
	}
	if rapid.Bool().Draw(m.t, "wait") {
		m.n.waitFlushed(next)
	}
}

func (m *timeModel) truncate() {
	if m.l.End() == m.l.Start() {
		return
	}
	off := record.Offset(rapid.Int64Range(int64(m.l.Start()), int64(m.l.End())).Draw(m.t, "cut"))
	require.NoError(m.t, m.l.TruncateTo(off))
	m.records = slices.DeleteFunc(m.records, func(r stamped) bool { return r.off >= m.l.End() })
	m.epoch++
}

// reopen stops the log, or lets the machine crash, and may take its indexes away.
func (m *timeModel) reopen() {
	m.n.waitFlushed(m.l.End())
	old := m.d
	if rapid.Bool().Draw(m.t, "crash") {
		m.mem = m.mem.CrashClone(nil)
		require.NoError(m.t, old.Close(-1))
	} else {
		require.NoError(m.t, old.Close(1))
	}
	if rapid.Bool().Draw(m.t, "lose the indexes") {
		entries, err := m.mem.List(testPath + "/orders-0")
		require.NoError(m.t, err)
		for _, e := range entries {
			if ext := path.Ext(e.Name); ext == indexExt || ext == timeExt {
				require.NoError(m.t, m.mem.Remove(testPath+"/orders-0/"+e.Name))
			}
		}
	}
	m.open()
}

func (m *timeModel) look() {
	ms := rapid.OneOf(instant(), rapid.SampledFrom([]int64{math.MinInt64, math.MinInt64 + 1, -2, -1}), rapid.Int64()).Draw(m.t, "ms")
	limit := record.Offset(rapid.Int64Range(int64(m.l.Start()), int64(m.l.End())+1).Draw(m.t, "limit"))
	if rapid.Bool().Draw(m.t, "cold") {
		evictAll(m.d)
	}
	off, at, found, err := m.l.OffsetForTime(ms, limit)
	require.NoError(m.t, err)
	for _, r := range m.records {
		if r.off >= m.l.Start() && r.off < limit && r.ms >= ms {
			require.True(m.t, found, "%d ms below %d: the record at %d has %d", ms, limit, r.off, r.ms)
			require.Equal(m.t, r.off, off, "%d ms below %d", ms, limit)
			require.Equal(m.t, r.ms, at, "%d ms below %d", ms, limit)
			return
		}
	}
	require.False(m.t, found, "%d ms below %d: found %d with %d", ms, limit, off, at)
}

// newest compares the record with the greatest timestamp.
func (m *timeModel) newest() {
	want := stamped{record.UnknownOffset, -1}
	for _, r := range m.records {
		if r.off >= m.l.Start() && r.ms > want.ms {
			want = r
		}
	}
	off, at, found, err := m.l.NewestTime(m.l.End())
	require.NoError(m.t, err)
	if found || !m.lied {
		require.Equal(m.t, want.off >= 0, found)
		require.Equal(m.t, want, stamped{off, at})
	}
}

// A look-up by time finds what a scan of all records finds, whatever times they
// claim: over rolls, truncation, retention, crashes, lost indexes, both kinds of
// timestamps.
func TestTimesModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &timeModel{t: t, mem: vfs.NewMem(), cfg: Config{
			Synced: true, SegmentBytes: rapid.SampledFrom([]int64{100, 400, 1 << 20}).Draw(t, "segment"),
			IndexInterval: rapid.SampledFrom([]int{1, 150, 1 << 20}).Draw(t, "interval"),
		}}
		m.now.Store(1_800_000_000_000)
		m.open()
		defer func() { _ = m.d.Close(-1) }()
		t.Repeat(map[string]func(*rapid.T){
			"append":  func(t *rapid.T) { m.t = t; m.append() },
			"append2": func(t *rapid.T) { m.t = t; m.append() },
			"truncate": func(t *rapid.T) {
				m.t = t
				m.truncate()
			},
			"advance": func(t *rapid.T) {
				m.t = t
				off := record.Offset(rapid.Int64Range(int64(m.l.Start()), int64(m.l.End())).Draw(t, "start"))
				require.NoError(t, m.l.AdvanceStart(off))
				m.lied = true // the newest record of the first batch may be gone
			},
			"reopen": func(t *rapid.T) { m.t = t; m.reopen() },
			"type": func(t *rapid.T) {
				m.cfg.LogAppendTime = !m.cfg.LogAppendTime
				m.now.Add(1000)
				m.l.Configure(m.cfg)
			},
			"newest": func(t *rapid.T) { m.t = t; m.newest() },
			"look":   func(t *rapid.T) { m.t = t; m.look() },
			"look2":  func(t *rapid.T) { m.t = t; m.look() },
		})
	})
}

// Retention by time goes by the newest record of a segment, and says when one
// keeps it for ever.
func TestRetentionAndClaimedTimes(t *testing.T) {
	const now, week = int64(1_800_000_000_000), 7 * 24 * time.Hour
	fresh, old := now-1000, now-8*24*3600*1000
	for name, c := range map[string]struct {
		stamps  []int64 // of the first segment, a record each
		removed bool
		told    int
	}{
		"fresh":                 {[]int64{fresh, fresh}, false, 0},
		"old":                   {[]int64{old, old - 5}, true, 0},
		"one claims 1970":       {[]int64{fresh, 0}, false, 0},
		"1970 comes first":      {[]int64{1, fresh}, false, 0},
		"all claim 1970":        {[]int64{0, 1}, true, 0},
		"one claims year 9999":  {[]int64{old, year9999}, false, 1},
		"the end of time":       {[]int64{math.MaxInt64, old}, false, 1},
		"a clock that is off":   {[]int64{old, now + 3600_000}, false, 0},
		"no time, known lately": {[]int64{-1, -1}, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := &warnings{paths: map[string]int{}}
			opts := testOptions(vfs.NewMem())
			opts.Logger = slog.New(w)
			opts.Now = func() time.Time { return time.UnixMilli(now) }
			d := openTestDir(t, opts)
			n := newListener()
			l, err := d.Open(testSpec(Config{Synced: true, RetentionAge: week}, n))
			require.NoError(t, err)
			n.listen(l)
			for _, ms := range c.stamps {
				add(t, l, 1, timed(t, 0, ms))
			}
			n.waitFlushed(l.End())
			l.io.Lock()
			require.NoError(t, l.roll(l.End()))
			l.io.Unlock()
			add(t, l, 1, timed(t, 0, fresh))
			n.waitFlushed(l.End())
			l.SetHighWatermark(l.End())
			for range 3 {
				_, err = l.Retain(time.UnixMilli(now))
				require.NoError(t, err)
			}
			want := record.Offset(0)
			if c.removed {
				want = 2
			}
			require.Equal(t, want, l.Start())
			require.Equal(t, c.told, w.paths[segmentPath(l.path, 0)])
			if c.stamps[0] == -1 {
				_, err = l.Retain(time.UnixMilli(now).Add(week + time.Hour))
				require.NoError(t, err)
				require.GreaterOrEqual(t, l.Start(), record.Offset(2), "without times it is as old as it is known")
			}
			require.NoError(t, d.Close(-1))
		})
	}
}

// What a producer claims of the time makes a start neither fail nor roll more
// than once.
func TestSegmentAgeAndClaimedTimes(t *testing.T) {
	const now = int64(1_800_000_000_000)
	for _, ms := range []int64{math.MinInt64, -2, -1, 0, 1, now - 3600_000, now, now + 3600_000, year9999, math.MaxInt64} {
		t.Run(fmt.Sprint(ms), func(t *testing.T) {
			mem := vfs.NewMem()
			opts := testOptions(mem)
			opts.Now = func() time.Time { return time.UnixMilli(now) }
			d := openTestDir(t, opts)
			n := newListener()
			l, err := d.Open(testSpec(Config{Synced: true}, n))
			require.NoError(t, err)
			n.listen(l)
			raw := timed(t, 0, 5)
			record.SetAppendTime(raw, ms) // no door lets the worst of them in; a disk may hold them
			raw[22] &^= 8
			record.SetProducer(raw, -1, -1, -1)
			add(t, l, 1, raw)
			n.waitFlushed(1)
			require.NoError(t, d.Close(-1))
			for _, clone := range []*vfs.Mem{mem, mem.CrashClone(nil)} {
				opts.FS = clone
				d = openTestDir(t, opts)
				n = newListener()
				l, err = d.Open(testSpec(Config{Synced: true}, n))
				require.NoError(t, err)
				n.listen(l)
				require.Equal(t, DamageNone, l.Damage())
				for range 5 {
					_, err = l.Retain(time.UnixMilli(now))
					require.NoError(t, err)
					add(t, l, 1, timed(t, 0, now))
					n.waitFlushed(l.End())
				}
				old := ms > 0 && ms < now-int64(DefaultSegmentAge/time.Millisecond)
				require.Len(t, l.segments, map[bool]int{true: 2, false: 1}[old])
				before := len(l.segments)
				_, err = l.Retain(time.UnixMilli(now).Add(DefaultSegmentAge + time.Hour))
				require.NoError(t, err)
				require.Len(t, l.segments, before+1, "a time to come does not keep the segment open")
				for _, at := range []int64{math.MinInt64, 0, now, now + 1, year9999, math.MaxInt64} {
					_, _, _, err := l.OffsetForTime(at, l.End())
					if ms < -1 && err != nil {
						require.ErrorIs(t, err, record.ErrInvalidTimestamp)
						continue
					}
					require.NoError(t, err)
				}
				require.NoError(t, d.Close(-1))
			}
		})
	}
}
