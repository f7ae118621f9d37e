package log

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// keyedRecord is a record of a compacted topic; no value: a tombstone.
type keyedRecord struct {
	key, value string
}

// keyed builds a batch; producer < 0: of none.
func keyed(t tester, codec record.Codec, ms, producer int64, sequence int32, records ...keyedRecord) []byte {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{Codec: codec})
	for i, r := range records {
		rec := record.Record{Timestamp: ms + int64(i), Key: []byte(r.key)}
		if r.value != "" {
			rec.Value = []byte(r.value)
		}
		require.NoError(t, b.Append(&rec))
	}
	if producer >= 0 {
		b.SetProducer(producer, 0, sequence)
	}
	out, err := b.Build(nil)
	require.NoError(t, err)
	return out
}

func recordsOf(t tester, b []byte) []record.Record {
	t.Helper()
	var out []record.Record
	for r, err := range record.Records(bytes.Clone(b), record.Limits{}) {
		require.NoError(t, err)
		out = append(out, r)
	}
	return out
}

// compactModel is what was appended to a compacted log, beside the log.
type compactModel struct {
	mem     *vfs.Mem
	d       *Dir
	l       *Log
	n       *listener
	cfg     Config
	cleaner *Cleaner
	clock   *atomic.Int64 // ms
	journal int           // JournalAt

	batches []modelBatch
	start   record.Offset
	epoch   record.Epoch
	hw      record.Offset // what the cluster has committed; the log may know less
	// touched is the end of what a compaction may have changed so far, and
	// compacted when it first may have gone over a tombstone.
	touched   record.Offset
	compacted map[record.Offset]int64
}

func newCompactModel(t *rapid.T) *compactModel {
	m := &compactModel{mem: vfs.NewMem(), clock: &atomic.Int64{}, compacted: map[record.Offset]int64{}, epoch: 1}
	m.clock.Store(1_000_000)
	m.cfg = Config{
		Synced: true, Compact: true, IndexInterval: rapid.SampledFrom([]int{1, 200}).Draw(t, "index interval"),
		SegmentBytes:    rapid.Int64Range(200, 1500).Draw(t, "segment bytes"),
		DeleteRetention: time.Duration(rapid.SampledFrom([]int{0, 1, 50}).Draw(t, "delete retention")) * time.Second,
	}
	m.journal = rapid.IntRange(0, 1).Draw(t, "journal")
	memory := rapid.SampledFrom([]int64{1, 100, 200, 1 << 20}).Draw(t, "memory") // a few keys, or all
	m.cleaner = NewCleaner(CleanerOptions{Memory: memory, BytesPerSecond: -1})
	m.open(t)
	return m
}

func (m *compactModel) options(mem *vfs.Mem) DirOptions {
	opts := testOptions(mem)
	opts.Now = func() time.Time { return time.UnixMilli(m.clock.Load()) }
	opts.Flusher.JournalAt = m.journal
	return opts
}

func (m *compactModel) open(t tester) {
	t.Helper()
	m.d = openTestDir(t, m.options(m.mem))
	m.n = newListener()
	var err error
	m.l, err = m.d.Open(testSpec(m.cfg, m.n))
	require.NoError(t, err)
	require.Equal(t, DamageNone, m.l.Damage(), "%v", m.l.Recovery().Cause)
	m.n.listen(m.l)
}

func (m *compactModel) end() record.Offset {
	if n := len(m.batches); n > 0 {
		return m.batches[n-1].info.NextOffset()
	}
	return 0
}

func (m *compactModel) append(t *rapid.T) {
	records := make([]keyedRecord, rapid.IntRange(1, 4).Draw(t, "records"))
	for i := range records {
		records[i].key = fmt.Sprintf("key %d", rapid.IntRange(0, 6).Draw(t, "key"))
		if rapid.IntRange(0, 3).Draw(t, "tombstone") > 0 {
			records[i].value = fmt.Sprintf("value %d.%d", m.end(), i)
		}
	}
	codec := rapid.SampledFrom([]record.Codec{record.CodecNone, record.CodecNone, record.CodecLZ4, record.CodecZstd}).Draw(t, "codec")
	producer, sequence := rapid.Int64Range(-3, 2).Draw(t, "producer"), int32(0)
	for _, b := range m.batches {
		// A copy that began above offset 0 does not know who wrote below.
		if b.info.ProducerID == producer && m.l.producers.byID[producer] != nil {
			sequence = b.info.BaseSequence + b.info.LastDelta + 1
		}
	}
	raw := keyed(t, codec, m.clock.Load(), producer, sequence, records...)
	_, next := add(t, m.l, m.epoch, raw)
	record.Patch(raw, m.end(), m.epoch)
	info, _ := record.Peek(raw)
	m.batches = append(m.batches, modelBatch{info, raw})
	require.Equal(t, m.end(), next)
	require.Equal(t, next, m.n.waitFlushed(next).Flushed)
}

func (m *compactModel) commit(t *rapid.T) {
	if len(m.batches) > 0 {
		i := rapid.IntRange(0, len(m.batches)-1).Draw(t, "committed")
		m.hw = max(m.hw, m.batches[i].info.NextOffset())
		m.l.SetHighWatermark(m.hw)
	}
}

// expectTouch notes what a pass that begins now may change.
func (m *compactModel) expectTouch(l *Log) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m.touched = max(m.touched, min(l.highWatermark, l.flushed, l.active().base))
}

func (m *compactModel) compact(t *rapid.T) {
	m.expectTouch(m.l)
	did, err := m.cleaner.Compact(context.Background(), m.l)
	require.NoError(t, err)
	require.LessOrEqual(t, did.After, did.Before+200*did.Dropped+1000)
	m.noteTombstones(t, did.To)
}

// noteTombstones remembers when a pass first saw each tombstone.
func (m *compactModel) noteTombstones(t tester, below record.Offset) {
	t.Helper()
	for _, b := range m.batches {
		for _, r := range recordsOf(t, b.bytes) {
			if r.Value == nil && r.Offset < below && m.compacted[r.Offset] == 0 {
				m.compacted[r.Offset] = m.clock.Load()
			}
		}
	}
}

func (m *compactModel) crash(t *rapid.T) {
	var random *rand.Rand
	if rapid.Bool().Draw(t, "some unsynced survives") {
		random = rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
	}
	clone := m.mem.CrashClone(random)
	require.NoError(t, m.d.Close(-1))
	m.mem = clone
	m.open(t)
}

// crashInPass cuts the power at some change that a pass makes.
func (m *compactModel) crashInPass(t *rapid.T) {
	when := rapid.IntRange(0, 60).Draw(t, "change")
	var random *rand.Rand
	if rapid.Bool().Draw(t, "some unsynced survives") {
		random = rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
	}
	var clone *vfs.Mem
	m.expectTouch(m.l)
	var mu sync.Mutex // the checkpoint is written meanwhile
	m.mem.Watch(func(vfs.Event) {
		mu.Lock()
		defer mu.Unlock()
		if when--; when == -1 {
			clone = m.mem.CrashClone(random)
		}
	})
	did, err := m.cleaner.Compact(context.Background(), m.l)
	m.mem.Watch(nil)
	mu.Lock()
	left := clone
	mu.Unlock() // Close waits for a checkpoint, which may still be telling of a change
	require.NoError(t, err)
	m.noteTombstones(t, did.To)
	if left == nil {
		return
	}
	require.NoError(t, m.d.Close(-1))
	m.mem = left
	m.open(t)
}

func (m *compactModel) restart(t *rapid.T) {
	require.NoError(t, m.d.Close(7))
	m.open(t)
}

func (m *compactModel) truncate(t *rapid.T) {
	for len(m.batches) > 0 && m.end() > m.hw {
		m.batches = m.batches[:len(m.batches)-1]
	}
	require.NoError(t, m.l.TruncateTo(m.hw))
	require.Equal(t, m.end(), m.l.End())
	m.epoch++
}

func (m *compactModel) deleteRecords(t *rapid.T) {
	hw := m.l.HighWatermark()
	if hw <= m.start {
		return
	}
	m.start += record.Offset(rapid.Int64Range(0, int64(hw-m.start)).Draw(t, "start") / 2)
	require.NoError(t, m.l.AdvanceStart(m.start))
}

// follow lets a new replica copy the log and go on in its place.
func (m *compactModel) follow(t *rapid.T) {
	for _, b := range m.batches {
		if b.info.BaseOffset < m.start && m.start < b.info.NextOffset() {
			return // a copy begins with a whole batch
		}
	}
	old, oldDir, mem := m.l, m.d, vfs.NewMem()
	follower := *m
	follower.mem = mem
	follower.open(t)
	if m.start > 0 {
		require.NoError(t, follower.l.Reset(m.start))
	}
	for follower.l.End() < old.End() {
		from := follower.l.End()
		slices, err := old.Read(from, old.End(), rapid.IntRange(1, 2000).Draw(t, "fetch"))
		require.NoError(t, err)
		var bufs []*record.Buf
		to := from
		for i := range slices {
			for rest := slices[i].Bytes; len(rest) > 0; {
				info, _ := record.Peek(rest)
				bufs = append(bufs, record.NewBuf(bytes.Clone(rest[:info.Size])))
				rest, to = rest[info.Size:], info.NextOffset()
			}
			slices[i].Release()
		}
		require.NoError(t, follower.l.AppendFollower(from, to, old.Cleaned(), bufs))
		for _, b := range bufs {
			b.Release()
		}
		require.Equal(t, to, follower.n.waitFlushed(to).Flushed)
	}
	if m.start == 0 {
		require.Equal(t, old.epochs, follower.l.epochs, "where epochs begin")
	}
	for id, p := range follower.l.producers.byID {
		require.Equal(t, old.producers.byID[id].newest(), p.newest(), "producer %d", id)
	}
	follower.l.SetHighWatermark(old.HighWatermark())
	require.NoError(t, oldDir.Close(-1))
	*m = follower
}

// state is what a reader of the records makes of them.
func state(records []record.Record) map[string]string {
	out := map[string]string{}
	for _, r := range records {
		if r.Value == nil {
			delete(out, string(r.Key))
		} else {
			out[string(r.Key)] = string(r.Value)
		}
	}
	return out
}

func (m *compactModel) check(t *rapid.T) {
	require.Equal(t, m.end(), m.l.End())
	require.NoError(t, m.l.Err())
	wrote := map[record.Offset]*modelBatch{}
	var all, present []record.Record
	newest := map[int64]record.BatchInfo{}
	for i := range m.batches {
		b := &m.batches[i]
		wrote[b.info.BaseOffset] = b
		all = append(all, recordsOf(t, b.bytes)...)
		if b.info.ProducerID >= 0 {
			newest[b.info.ProducerID] = b.info
		}
	}
	next := m.l.Start()
	for rest := m.readAll(t); len(rest) > 0; {
		info, ok := record.Peek(rest)
		require.True(t, ok)
		b := rest[:info.Size]
		rest = rest[info.Size:]
		m.checkBatch(t, wrote[info.BaseOffset], info, b, next)
		present = append(present, recordsOf(t, b)...)
		next = info.NextOffset()
	}
	require.Equal(t, max(m.end(), m.l.Start()), next)
	m.checkRecords(t, all, present)
	for id, info := range newest {
		p := m.l.producers.byID[id]
		if p == nil && info.BaseOffset < m.start {
			continue // a follower that began later does not know it
		}
		require.NotNil(t, p, "producer %d", id)
		require.Equal(t, info.BaseOffset, p.newest().base, "producer %d", id)
		require.Equal(t, sequenceAfter(info.BaseSequence, info.LastDelta), p.newest().lastSeq)
	}
}

func (m *compactModel) readAll(t tester) []byte {
	t.Helper()
	var out []byte
	for from := m.l.Start(); from < m.l.End(); {
		b := readAt(t, m.l, from, m.l.End(), 1<<20)
		require.NotEmpty(t, b, "nothing at offset %d of %d", from, m.l.End())
		out = append(out, b...)
		for len(b) > 0 {
			info, ok := record.Peek(b)
			require.True(t, ok)
			from, b = info.NextOffset(), b[info.Size:]
		}
	}
	return out
}

// checkBatch holds what is read against what was written at its offset.
func (m *compactModel) checkBatch(t tester, w *modelBatch, info record.BatchInfo, b []byte, next record.Offset) {
	t.Helper()
	require.NotNil(t, w, "no batch was written at offset %d", info.BaseOffset)
	if info.BaseOffset > next {
		require.LessOrEqual(t, info.BaseOffset, m.l.Cleaned(), "a gap above the cleaned offset")
		require.LessOrEqual(t, info.BaseOffset, m.touched)
	}
	if info.BaseOffset >= m.touched {
		require.Equal(t, w.bytes, b, "an untouched batch")
		return
	}
	require.True(t, record.VerifyCRC(b))
	_, err := record.Validate(b, record.Limits{Internal: true})
	require.NoError(t, err)
	require.Equal(t, [6]any{w.info.LastDelta, w.info.Epoch, w.info.ProducerID, w.info.ProducerEpoch, w.info.BaseSequence, w.info.Attributes.Control()},
		[6]any{info.LastDelta, info.Epoch, info.ProducerID, info.ProducerEpoch, info.BaseSequence, info.Attributes.Control()})
	written := map[record.Offset]record.Record{}
	for _, r := range recordsOf(t, w.bytes) {
		written[r.Offset] = r
	}
	for _, r := range recordsOf(t, b) {
		require.Equal(t, written[r.Offset], r)
	}
}

// checkRecords holds the records that are there against those that were written.
func (m *compactModel) checkRecords(t tester, all, present []record.Record) {
	t.Helper()
	start := m.l.Start()
	readable := func(r record.Record) bool { return r.Offset < start }
	all = slices.DeleteFunc(all, readable)
	present = slices.DeleteFunc(present, readable)
	require.Equal(t, state(all), state(present), "the latest values")
	latest, below := map[string]record.Record{}, map[string]record.Offset{}
	for _, r := range all {
		latest[string(r.Key)] = r
	}
	there := map[record.Offset]bool{}
	compacted := m.l.dirty
	if base, ok := m.l.tail.base(); ok { // what is still in memory is as it was written
		compacted = min(compacted, base)
	}
	for _, r := range present {
		there[r.Offset] = true
		if r.Offset >= compacted {
			continue
		}
		before, twice := below[string(r.Key)]
		require.False(t, twice, "%s is at offsets %d and %d, compacted below %d", r.Key, before, r.Offset, compacted)
		below[string(r.Key)] = r.Offset
	}
	for _, key := range slices.Sorted(maps.Keys(latest)) {
		r := latest[key]
		since := m.compacted[r.Offset]
		gone := r.Value == nil && since > 0 && m.clock.Load() >= since+m.cfg.DeleteRetention.Milliseconds()
		if !gone {
			require.True(t, there[r.Offset], "the latest record of %s, at offset %d, is gone", key, r.Offset)
		}
	}
}

// Whatever is appended, compacted, cut, restarted and copied, power cuts in the
// middle included: the log holds the latest record of each key, every record that
// is there is what was written at its offset, and what no compaction may touch is
// as it was to the byte.
func TestCompactionModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newCompactModel(t)
		defer func() { _ = m.d.Close(-1) }()
		t.Repeat(map[string]func(*rapid.T){
			"append":        m.append,
			"append more":   m.append,
			"commit":        m.commit,
			"commit all":    func(*rapid.T) { m.hw = m.l.End(); m.l.SetHighWatermark(m.hw) },
			"compact":       m.compact,
			"crash in pass": m.crashInPass,
			"crash":         m.crash,
			"restart":       m.restart,
			"truncate":      m.truncate,
			"delete":        m.deleteRecords,
			"follow":        m.follow,
			"evict":         func(*rapid.T) { evictAll(m.d) },
			"time passes": func(t *rapid.T) {
				m.clock.Add(int64(rapid.IntRange(1, 60_000).Draw(t, "ms")))
			},
			"roll": func(t *rapid.T) {
				m.l.io.Lock()
				defer m.l.io.Unlock()
				if m.l.active().size > 0 {
					require.NoError(t, m.l.roll(m.l.Written()))
				}
			},
			"": m.check,
		})
	})
}
