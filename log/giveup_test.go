package log

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// positions of fields in a batch's header.
const (
	atBase   = 0
	atLength = 8
	atMagic  = 16
)

// hurtLog is a log of five segments of some batches each, in which a test spoils bytes.
type hurtLog struct {
	t   *testing.T
	mem *vfs.Mem
	fs  vfs.FS
	d   *Dir
	l   *Log
	// whole is what was written, by the base offset of its batch.
	whole map[record.Offset][]byte
}

func newHurtLog(t *testing.T, fsys func(*vfs.Mem) vfs.FS, cfg Config, batches ...[]byte) *hurtLog {
	t.Helper()
	h := &hurtLog{t: t, mem: vfs.NewMem(), whole: map[record.Offset][]byte{}}
	h.fs = fsys(h.mem)
	cfg.Synced = true
	var n *listener
	h.d, h.l, n = openTestLog(t, h.fs, cfg)
	for i, b := range batches {
		first, _ := add(t, h.l, record.Epoch(1+i/5), b)
		h.whole[first] = nil
	}
	n.waitFlushed(h.l.End())
	for rest := readEverything(t, h.l); len(rest) > 0; {
		info, _ := record.Peek(rest)
		h.whole[info.BaseOffset], rest = bytes.Clone(rest[:info.Size]), rest[info.Size:]
	}
	return h
}

func plain(fs *vfs.Mem) vfs.FS { return fs }

func someBatches(t *testing.T, n int) [][]byte {
	t.Helper()
	out := make([][]byte, n)
	for i := range out {
		out[i] = batch(t, int64(1000+i), fmt.Sprint("value ", i), strings.Repeat("x", i))
	}
	return out
}

// at is where the batch with a base offset is.
func (h *hurtLog) at(base record.Offset) (s *segment, position int64) {
	h.t.Helper()
	h.l.mu.Lock()
	s = h.l.segmentOf(base)
	h.l.mu.Unlock()
	for off := s.base; off < base; {
		position += int64(len(h.whole[off]))
		info, _ := record.Peek(h.whole[off])
		off = info.NextOffset()
	}
	return s, position
}

// spoil changes the bytes of the batch with a base offset, and lets a scrub find out.
func (h *hurtLog) spoil(base record.Offset, change func(b []byte)) {
	h.t.Helper()
	s, position := h.at(base)
	f, err := h.mem.Open(s.file.name)
	require.NoError(h.t, err)
	b := bytes.Clone(h.whole[base])
	change(b)
	_, err = f.WriteAt(b, position)
	require.NoError(h.t, err)
	require.NoError(h.t, f.Datasync())
	require.NoError(h.t, f.Close())
}

// given requires that giving up takes just these offsets, and that all others are as they were,
// now and when the log is opened again, and that records are taken.
func (h *hurtLog) given(want ...GivenUp) {
	h.t.Helper()
	require.ErrorIs(h.t, scrubAll(h.t, h.l), ErrCorrupt)
	end := h.l.End()
	given, err := h.l.GiveUpBatches()
	require.NoError(h.t, err)
	require.Equal(h.t, want, given)
	h.check(want, end)
	epochs := h.epochs()
	require.NoError(h.t, h.d.Close(-1))
	h.d = openTestDir(h.t, testOptions(h.fs))
	h.t.Cleanup(func() { checkTestDir(h.t, h.d, h.fs) })
	n := newListener()
	spec := testSpec(Config{Synced: true, SegmentBytes: h.l.cfg.SegmentBytes}, n)
	h.l, err = h.d.Open(spec)
	require.NoError(h.t, err)
	n.listen(h.l)
	h.check(want, end)
	require.Equal(h.t, h.epochs(), epochs, "a log that is opened believes its batches alone")
	first, _ := add(h.t, h.l, 99, batch(h.t, 1, "new"))
	require.Equal(h.t, end, first)
	n.waitFlushed(end + 1)
}

func (h *hurtLog) epochs() epochs {
	h.l.mu.Lock()
	defer h.l.mu.Unlock()
	return h.l.epochs
}

func (h *hurtLog) check(given []GivenUp, end record.Offset) {
	h.t.Helper()
	require.Equal(h.t, DamageNone, h.l.Damage())
	require.Equal(h.t, end, h.l.End())
	evictAll(h.d)
	require.NoError(h.t, scrubAll(h.t, h.l))
	next := record.Offset(0)
	for rest := readEverything(h.t, h.l); len(rest) > 0; {
		info, _ := record.Peek(rest)
		b := rest[:info.Size]
		rest = rest[info.Size:]
		require.Equal(h.t, next, info.BaseOffset)
		next = info.NextOffset()
		if len(given) > 0 && info.BaseOffset == given[0].From {
			require.True(h.t, record.IsPlaceholder(b), "at offset %d", info.BaseOffset)
			found := GivenUp{info.BaseOffset, next, int64(len(b))}
			require.Equal(h.t, given[0], found)
			given = given[1:]
			continue
		}
		require.Equal(h.t, h.whole[info.BaseOffset], b, "at offset %d", info.BaseOffset)
	}
	require.Empty(h.t, given)
	require.Equal(h.t, end, next)
}

// one is what is given up with the batch of a base offset alone.
func (h *hurtLog) one(base record.Offset) GivenUp {
	info, ok := record.Peek(h.whole[base])
	require.True(h.t, ok)
	return GivenUp{base, info.NextOffset(), int64(info.Size)}
}

// Whatever is wrong with a batch, it goes alone: in a sealed segment and in the active one,
// at either end of one, with an index that knows every batch and with one that knows the first.
func TestGiveUpBatches(t *testing.T) {
	for _, interval := range []int{1, 1 << 20} {
		for name, change := range map[string]func(b []byte){
			"content":     func(b []byte) { b[len(b)-1] ^= 1 },
			"length":      func(b []byte) { b[atLength+3] ^= 4 },
			"long":        func(b []byte) { b[atLength+1] ^= 0x40 },
			"negative":    func(b []byte) { b[atLength] ^= 0x80 },
			"base offset": func(b []byte) { b[atBase+7] ^= 1 },
			"magic":       func(b []byte) { b[atMagic] = 0 },
			"all zero":    func(b []byte) { clear(b) },
		} {
			for _, i := range []int{0, 7, 12, 28, 29} {
				t.Run(fmt.Sprintf("%s of batch %d, index every %d", name, i, interval), func(t *testing.T) {
					h := newHurtLog(t, plain, Config{SegmentBytes: 900, IndexInterval: interval}, someBatches(t, 30)...)
					require.Greater(t, len(h.l.segments), 3)
					base := record.Offset(2 * i)
					h.spoil(base, change)
					s, position := h.at(base)
					h.given(h.one(base))
					kept, err := readFile(h.mem, fmt.Sprintf("%s%s.%d%s", s.path, logExt, position, tornExt))
					require.NoError(t, err)
					want := bytes.Clone(h.whole[base])
					change(want)
					require.Equal(t, want, kept, "what could not be read is not kept")
				})
			}
		}
	}
}

// Several at once: beside each other they become one, with others between them they stay apart;
// all of a segment may go.
func TestGiveUpSeveralBatches(t *testing.T) {
	bad := func(b []byte) { b[atMagic], b[atLength] = 0, 0x7f }
	h := newHurtLog(t, plain, Config{SegmentBytes: 900, IndexInterval: 1}, someBatches(t, 30)...)
	for _, base := range []record.Offset{2, 4, 10, 40} {
		h.spoil(base, bad)
	}
	two := h.one(2)
	two.Next, two.Bytes = 6, two.Bytes+h.one(4).Bytes
	h.given(two, h.one(10), h.one(40))

	h = newHurtLog(t, plain, Config{SegmentBytes: 900, IndexInterval: 1}, someBatches(t, 30)...)
	s := h.l.segments[2]
	for base := s.base; base < s.next; base += 2 {
		h.spoil(base, bad)
	}
	h.given(GivenUp{s.base, s.next, s.size})
}

// A record may hold copies of batches, of this log too. None of them is taken for what follows.
func TestGiveUpSeesThroughCopies(t *testing.T) {
	for _, interval := range []int{1, 1 << 20} {
		batches := someBatches(t, 10)
		var copies []byte
		for i := range 5 { // as whole as can be, and in order
			b := bytes.Clone(batches[i])
			record.Patch(b, record.Offset(12+2*i), 2)
			copies = append(copies, b...)
		}
		batches[5] = batch(t, 1, string(copies), "end")
		h := newHurtLog(t, plain, Config{IndexInterval: interval}, batches...)
		h.spoil(10, func(b []byte) { binary.BigEndian.PutUint32(b[atLength:], uint32(bytes.Index(b, copies)-12)) })
		h.given(h.one(10))
	}
}

// The leader epochs are those of what is left, as followers see them: one that began in what
// was given up begins behind it.
func TestGiveUpTheBeginningOfAnEpoch(t *testing.T) {
	bad := func(b []byte) { b[atMagic], b[atLength] = 0, 0x7f }
	h := newHurtLog(t, plain, Config{}, someBatches(t, 12)...)
	h.spoil(8, bad)
	h.spoil(10, bad) // the first of epoch 2
	lost := h.one(8)
	lost.Next, lost.Bytes = 12, lost.Bytes+h.one(10).Bytes
	h.given(lost)
	epoch, end := h.l.EpochEnd(1)
	require.Equal(t, record.Epoch(1), epoch)
	require.Equal(t, record.Offset(12), end)
}

// A sector that cannot be read takes the batches in it, not those around it.
func TestGiveUpABadSector(t *testing.T) {
	var faults *vfs.Faults
	h := newHurtLog(t, func(m *vfs.Mem) vfs.FS { faults = vfs.NewFaults(m); return faults }, Config{IndexInterval: 1}, someBatches(t, 30)...)
	h.spoil(20, func(b []byte) { b[len(b)-1] ^= 1 })
	require.ErrorIs(t, scrubAll(t, h.l), ErrCorrupt)
	faults.Inject(vfs.Fault{Op: vfs.OpRead, Pattern: "*.log", Err: syscall.EIO, Count: 2})
	given, err := h.l.GiveUpBatches()
	require.NoError(t, err)
	require.Equal(t, record.Offset(0), given[0].From)
	require.Less(t, given[0].Bytes, int64(2*sectorSize))
	require.Equal(t, h.one(20), given[len(given)-1])
	h.check(given, 60)
}

// A power cut at any moment leaves a log that is damaged as before, or whole; never one that
// passes for whole and is not. The order can be given again.
func TestGiveUpAndAPowerCut(t *testing.T) {
	h := newHurtLog(t, plain, Config{SegmentBytes: 900}, someBatches(t, 30)...)
	for _, base := range []record.Offset{4, 40} {
		h.spoil(base, func(b []byte) { b[len(b)-1] ^= 1 })
	}
	want := []GivenUp{h.one(4), h.one(40)}
	require.ErrorIs(t, scrubAll(t, h.l), ErrCorrupt)
	require.NoError(t, h.d.checkpoint.write())
	random := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex // guards left and random: the checkpointer writes, too
	var left []*vfs.Mem
	h.mem.Watch(func(vfs.Event) {
		mu.Lock()
		defer mu.Unlock()
		left = append(left, h.mem.CrashClone(nil), h.mem.CrashClone(random))
	})
	_, err := h.l.GiveUpBatches()
	require.NoError(t, err)
	h.mem.Watch(nil)
	mu.Lock()
	defer mu.Unlock()
	end := h.l.End()
	require.Greater(t, len(left), 20)
	hurt := 0
	for _, mem := range left {
		d := openTestDir(t, testOptions(mem))
		l, err := d.Open(testSpec(Config{Synced: true, SegmentBytes: 900}, nil))
		require.NoError(t, err)
		require.Equal(t, end, l.End())
		if l.Damage() != DamageNone {
			require.Equal(t, DamageCorrupt, l.Damage())
			hurt++
			_, err = l.GiveUpBatches()
			require.NoError(t, err)
		}
		(&hurtLog{t: t, mem: mem, fs: mem, d: d, l: l, whole: h.whole}).check(want, end)
		require.NoError(t, d.Close(-1))
	}
	require.Positive(t, hurt)
	require.Less(t, hurt, len(left))
}

// What ends before what it had flushed is not given up in part.
func TestGiveUpNothingOfALogThatLostItsEnd(t *testing.T) {
	h := newHurtLog(t, plain, Config{}, someBatches(t, 10)...)
	_, err := h.l.GiveUpBatches()
	require.ErrorContains(t, err, "not damaged")
	h.spoil(10, func(b []byte) { b[atLength] ^= 0x80 })
	require.ErrorIs(t, scrubAll(t, h.l), ErrCorrupt)
	require.NoError(t, h.d.Close(-1))
	_, l, _ := openTestLog(t, h.mem, Config{Synced: true})
	require.Equal(t, record.Offset(10), l.End())
	_, err = l.GiveUpBatches()
	require.ErrorIs(t, err, ErrDamaged)
	require.Equal(t, DamageCorrupt, l.Damage())
}
