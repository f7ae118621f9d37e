package log

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// modelBatch is a batch as it must be in the log.
type modelBatch struct {
	info  record.BatchInfo
	bytes []byte
}

// model is a log as a slice of batches, beside the real one.
type model struct {
	mem  *vfs.Mem
	opts DirOptions
	cfg  Config
	d    *Dir
	l    *Log
	n    *listener

	// batches holds all since the last reset, also those that retention removed.
	batches []modelBatch
	start   record.Offset
	base    record.Offset // of the last reset
	epoch   record.Epoch
	ms      int64
}

func (m *model) end() record.Offset {
	if n := len(m.batches); n > 0 {
		return m.batches[n-1].info.NextOffset()
	}
	return m.base
}

func (m *model) open(t *rapid.T) {
	m.opts.FS = m.mem
	m.d = openTestDir(t, m.opts)
	m.n = newListener()
	var err error
	m.l, err = m.d.Open(testSpec(m.cfg, m.n))
	require.NoError(t, err)
	require.Equal(t, DamageNone, m.l.Damage(), "%v", m.l.Recovery().Cause)
	m.n.listen(m.l)
}

// newBatch draws a batch; of an idempotent producer half of the time.
func (m *model) newBatch(t *rapid.T) []byte {
	values := rapid.SliceOfN(rapid.StringMatching(`[a-z]{0,40}`), 1, 4).Draw(t, "values")
	m.ms += rapid.Int64Range(-3, 20).Draw(t, "time")
	m.ms = max(m.ms, 0)
	b := record.NewBuilder(record.BuilderOptions{})
	for _, v := range values {
		require.NoError(t, b.Append(&record.Record{Timestamp: m.ms, Value: []byte(v)}))
	}
	if id := rapid.Int64Range(-2, 2).Draw(t, "producer"); id >= 0 {
		sequence := int32(0)
		if last := m.lastOf(id); last != nil {
			sequence = last.info.BaseSequence + last.info.LastDelta + 1
		}
		b.SetProducer(id, 0, sequence)
	}
	out, err := b.Build(nil)
	require.NoError(t, err)
	return out
}

func (m *model) lastOf(id int64) *modelBatch {
	for i := range slices.Backward(m.batches) {
		if m.batches[i].info.ProducerID == id {
			return &m.batches[i]
		}
	}
	return nil
}

func (m *model) push(b []byte) {
	record.Patch(b, m.end(), m.epoch)
	info, _ := record.Peek(b)
	m.batches = append(m.batches, modelBatch{info, b})
}

func (m *model) appendLeader(t *rapid.T) {
	b := m.newBatch(t)
	want := m.end()
	first, next := add(t, m.l, m.epoch, b)
	m.push(b)
	require.Equal(t, want, first)
	require.Equal(t, m.end(), next)
}

func (m *model) appendFollower(t *rapid.T) {
	from := m.end()
	var run []byte
	for range rapid.IntRange(1, 3).Draw(t, "run") {
		b := m.newBatch(t)
		m.push(b)
		run = append(run, b...)
	}
	buf := inArena(m.l, run)
	require.NoError(t, m.l.AppendFollower(from, m.end(), 0, []*record.Buf{buf}))
	buf.Release()
}

func (m *model) resend(t *rapid.T) {
	last := m.lastOf(rapid.Int64Range(0, 2).Draw(t, "producer"))
	if last == nil {
		t.Skip("nothing to resend")
	}
	_, _, err := tryAdd(m.l, m.epoch, last.bytes)
	require.Equal(t, &DuplicateError{last.info.BaseOffset, last.info.NextOffset()}, err)
	gap := bytes.Clone(last.bytes)
	b := record.NewBuilder(record.BuilderOptions{})
	require.NoError(t, b.Append(&record.Record{Value: []byte("gap")}))
	b.SetProducer(last.info.ProducerID, 0, last.info.BaseSequence+last.info.LastDelta+2)
	gap, err = b.Build(gap[:0])
	require.NoError(t, err)
	_, _, err = tryAdd(m.l, m.epoch, gap)
	require.ErrorIs(t, err, ErrOutOfOrderSequence)
}

func (m *model) read(t *rapid.T) {
	from := record.Offset(rapid.Int64Range(int64(m.start), int64(m.end())).Draw(t, "from"))
	limit := record.Offset(rapid.Int64Range(int64(from), int64(m.end())+2).Draw(t, "limit"))
	most := rapid.IntRange(1, 1000).Draw(t, "bytes")
	got := readAt(t, m.l, from, limit, most)
	var want []byte
	for _, b := range m.batches {
		if b.info.NextOffset() <= from || b.info.BaseOffset >= limit || from >= limit {
			continue
		}
		if len(want) > 0 && len(want)+len(b.bytes) > most {
			break
		}
		want = append(want, b.bytes...)
	}
	// A read may end early at the end of a segment or of what is on disk.
	require.True(t, bytes.HasPrefix(want, got), "read [%d, %d)", from, limit)
	require.Equal(t, len(want) > 0, len(got) > 0)
	for _, off := range []record.Offset{m.start - 1, m.end() + 1} {
		_, err := m.l.Read(off, limit, most)
		require.ErrorIs(t, err, ErrOffsetOutOfRange)
	}
}

func (m *model) truncate(t *rapid.T) {
	off := record.Offset(rapid.Int64Range(int64(m.start), int64(m.end())).Draw(t, "to"))
	require.NoError(t, m.l.TruncateTo(off))
	end := m.l.End()
	require.LessOrEqual(t, end, off)
	m.cut(t, end)
	// Only what shares a batch, or a Buf that was not written, may go with it.
	require.LessOrEqual(t, int64(off-end), int64(12))
	m.epoch++
}

// cut drops what the real log no longer has; its end must be a batch's.
func (m *model) cut(t *rapid.T, end record.Offset) {
	for len(m.batches) > 0 && m.end() > end {
		m.batches = m.batches[:len(m.batches)-1]
	}
	require.Equal(t, end, m.end(), "the log ends between batches")
	m.start = min(m.start, end)
}

func (m *model) advanceStart(t *rapid.T) {
	off := record.Offset(rapid.Int64Range(int64(m.start), int64(m.end())).Draw(t, "start"))
	require.NoError(t, m.l.AdvanceStart(off))
	m.start = off
}

func (m *model) retain(t *rapid.T) {
	m.l.SetHighWatermark(record.Offset(rapid.Int64Range(int64(m.start), int64(m.end())).Draw(t, "hw")))
	cfg := m.cfg
	cfg.RetentionBytes = rapid.Int64Range(1, 3000).Draw(t, "retention")
	m.l.Configure(cfg)
	before := m.l.HighWatermark()
	_, err := m.l.Retain(time.Now())
	require.NoError(t, err)
	require.GreaterOrEqual(t, m.l.Start(), m.start)
	require.LessOrEqual(t, m.l.Start(), max(before, m.start))
	m.start = m.l.Start()
	m.l.Configure(m.cfg)
}

func (m *model) reset(t *rapid.T) {
	m.base = m.end() + record.Offset(rapid.Int64Range(-5, 100).Draw(t, "by"))
	m.base = max(m.base, 0)
	require.NoError(t, m.l.Reset(m.base))
	m.start, m.batches = m.base, nil
}

func (m *model) reopen(t *rapid.T) {
	if rapid.Bool().Draw(t, "log only") {
		require.NoError(t, m.l.Close())
		n := newListener()
		l, err := m.d.Open(testSpec(m.cfg, n))
		require.NoError(t, err)
		m.l, m.n = l, n
		n.listen(l)
	} else {
		require.NoError(t, m.d.Close(7))
		m.open(t)
		_, clean, err := m.d.CleanMarker()
		require.NoError(t, err)
		require.True(t, clean)
	}
	require.Equal(t, m.end(), m.l.End(), "a clean stop loses nothing")
	require.Zero(t, m.l.Recovery().TornBytes)
}

// crash cuts the power: what was reported flushed must survive, nothing else
// than a prefix may.
func (m *model) crash(t *rapid.T) {
	var random *rand.Rand
	if seed := rapid.Uint64().Draw(t, "seed"); seed%4 != 0 {
		random = rand.New(rand.NewPCG(seed, 1))
	}
	promised := m.l.Flushed()
	after := m.mem.CrashClone(random)
	_ = m.d.Close(-1)
	m.mem = after
	m.open(t)
	require.GreaterOrEqual(t, m.l.End(), promised, "flushed bytes are lost")
	m.cut(t, m.l.End())
	require.Equal(t, m.start, m.l.Start())
	m.epoch++
}

func (m *model) flush(t *rapid.T) {
	if m.cfg.Synced {
		require.NoError(t, m.n.waitFlushed(m.end()).Err)
		require.Equal(t, m.end(), m.l.Flushed())
	} else {
		m.n.waitWritten(m.end())
	}
}

func (m *model) offsetForTime(t *rapid.T) {
	ms := rapid.Int64Range(0, m.ms+5).Draw(t, "ms")
	off, at, ok, err := m.l.OffsetForTime(ms, math.MaxInt64)
	require.NoError(t, err)
	for _, b := range m.batches {
		if b.info.NextOffset() <= m.start || b.info.MaxTimestamp < ms {
			continue
		}
		require.True(t, ok)
		require.Equal(t, max(b.info.BaseOffset, m.start), off)
		require.Equal(t, b.info.MaxTimestamp, at)
		return
	}
	require.False(t, ok)
}

func (m *model) check(t *rapid.T) {
	require.Equal(t, m.end(), m.l.End())
	require.Equal(t, m.start, m.l.Start())
	require.NoError(t, m.l.Err())
	hw := m.l.HighWatermark()
	require.GreaterOrEqual(t, hw, m.start)
	require.LessOrEqual(t, hw, m.end())
	require.LessOrEqual(t, m.l.Flushed(), m.l.Written())
	require.LessOrEqual(t, m.l.Written(), m.l.End())
	want := record.UnknownEpoch
	for _, b := range m.batches {
		if b.info.NextOffset() > m.start {
			want = b.info.Epoch
		}
	}
	if m.start < m.end() {
		require.Equal(t, want, m.l.LastEpoch())
		asked := want - 1
		_, end := m.l.EpochEnd(asked)
		for _, b := range m.batches {
			if b.info.Epoch > asked && b.info.NextOffset() > m.start {
				require.Equal(t, max(b.info.BaseOffset, m.start), end)
				break
			}
		}
	}
}

func TestLogIsASlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{mem: vfs.NewMem(), opts: testOptions(nil)}
		m.opts.TailBytes = rapid.Int64Range(1, 4000).Draw(t, "tail")
		m.opts.Flusher.Workers = rapid.IntRange(1, 3).Draw(t, "workers")
		m.opts.Flusher.JournalAt = rapid.SampledFrom([]int{1, 1000}).Draw(t, "journal at")
		m.opts.Flusher.JournalBytes = rapid.Int64Range(100, 5000).Draw(t, "journal bytes")
		m.cfg = Config{
			Synced:        rapid.IntRange(0, 3).Draw(t, "synced") > 0,
			SegmentBytes:  rapid.Int64Range(100, 3000).Draw(t, "segment"),
			IndexInterval: rapid.IntRange(1, 400).Draw(t, "interval"),
			FlushInterval: time.Hour,
		}
		m.open(t)
		defer func() { _ = m.d.Close(-1) }()
		t.Repeat(map[string]func(*rapid.T){
			"":               m.check,
			"append":         m.appendLeader,
			"append again":   m.appendLeader,
			"follow":         m.appendFollower,
			"resend":         m.resend,
			"read":           m.read,
			"read again":     m.read,
			"flush":          m.flush,
			"truncate":       m.truncate,
			"advance start":  m.advanceStart,
			"retain":         m.retain,
			"reset":          m.reset,
			"reopen":         m.reopen,
			"crash":          m.crash,
			"offset at time": m.offsetForTime,
		})
		require.True(t, bytes.HasSuffix(m.all(), readEverything(t, m.l)))
	})
}

func (m *model) all() []byte {
	var out []byte
	for _, b := range m.batches {
		out = append(out, b.bytes...)
	}
	return out
}
