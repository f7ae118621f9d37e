package log

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// Segments go, by size and by delete-records, under readers of all sorts: a reader
// gets whole batches that are what was written, or hears that its offset is out of
// range, with a start above it; and nobody takes a segment that was removed in
// order for damage.
func TestRetentionUnderReaders(t *testing.T) {
	for name, fsys := range map[string]vfs.FS{"memory": vfs.NewMem(), "disk": vfs.OS{}} {
		for _, openFiles := range []int{0, 1} { // as many as may be; every read opens its file
			t.Run(name+" "+strconv.Itoa(openFiles), func(t *testing.T) {
				opts := testOptions(fsys)
				opts.Path = t.TempDir()
				opts.OpenFiles = openFiles
				runRetentionUnderReaders(t, opts)
			})
		}
	}
}

func runRetentionUnderReaders(t *testing.T, opts DirOptions) {
	t.Helper()
	d := openTestDir(t, opts)
	n := newListener()
	l, err := d.Open(testSpec(Config{Synced: true, SegmentBytes: 1000, RetentionBytes: 4000, IndexInterval: 200}, n))
	require.NoError(t, err)
	n.listen(l)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, next := range []func(from record.Offset) record.Offset{
		func(from record.Offset) record.Offset { return from },                                      // on and on
		func(record.Offset) record.Offset { return l.Start() },                                      // always the oldest
		func(record.Offset) record.Offset { return max(0, l.Start()-5) },                            // what is gone
		func(record.Offset) record.Offset { return record.Offset(rand.Int64N(int64(l.End()) + 1)) }, // anywhere
	} {
		wg.Go(func() { readUnderRetention(t, l, next, stop) })
	}
	wg.Go(func() {
		for ms := int64(0); ; ms += 3 {
			select {
			case <-stop:
				return
			default:
				runtime.Gosched()
			}
			end := l.End()
			if off, at, found, err := l.OffsetForTime(ms%max(int64(end), 1), end); err != nil || found && at != int64(off) {
				t.Errorf("the record of time %d: offset %d, time %d, %v", ms, off, at, err)
				return
			}
		}
	})
	random := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		for range 5 {
			b := record.NewBuilder(record.BuilderOptions{})
			for i := range random.IntN(3) + 1 {
				off := int64(l.End()) + int64(i)
				require.NoError(t, b.Append(&record.Record{Timestamp: off, Value: binary.BigEndian.AppendUint64(make([]byte, 60), uint64(off))}))
			}
			raw, err := b.Build(nil)
			require.NoError(t, err)
			add(t, l, 1, raw)
		}
		require.NoError(t, n.waitFlushed(l.End()).Err)
		if random.IntN(2) == 0 {
			evictAll(d)
		}
		l.SetHighWatermark(l.End())
		if random.IntN(3) == 0 {
			require.NoError(t, l.AdvanceStart(l.Start()+(l.End()-l.Start())/2))
			continue
		}
		_, err := l.Retain(time.Now())
		require.NoError(t, err)
	}
	close(stop)
	wg.Wait()
	require.Equal(t, DamageNone, l.Damage())
	require.Greater(t, l.Start(), record.Offset(200))
	require.NoError(t, d.Close(-1))
}

// readUnderRetention reads until it is stopped. Each record says its offset.
func readUnderRetention(t *testing.T, l *Log, next func(record.Offset) record.Offset, stop <-chan struct{}) {
	t.Helper()
	from := record.Offset(0)
	for {
		select {
		case <-stop:
			return
		default:
			runtime.Gosched() // the writer's turn
		}
		from = next(from)
		slices, err := l.Read(from, l.End(), 700)
		if e, ok := errors.AsType[*OffsetError](err); ok {
			if e.Offset != from || e.Start <= from {
				t.Errorf("reading at %d: %v", from, err)
				return
			}
			from = e.Start
			continue
		}
		if err != nil {
			t.Errorf("reading at %d: %v", from, err)
			return
		}
		for i := range slices {
			for b := slices[i].Bytes; len(b) > 0; {
				info, ok := record.Peek(b)
				if !ok || info.Size > len(b) || !record.VerifyCRC(b[:info.Size]) || info.NextOffset() <= from {
					t.Errorf("reading at %d: a torn batch", from)
					return
				}
				for r, err := range record.Records(b[:info.Size], record.Limits{}) {
					if err != nil || binary.BigEndian.Uint64(r.Value[60:]) != uint64(r.Offset) {
						t.Errorf("reading at %d: a record at offset %d is another, %v", from, r.Offset, err)
						return
					}
				}
				from, b = info.NextOffset(), b[info.Size:]
			}
			slices[i].Release()
		}
	}
}
