package log

import (
	"errors"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// Recent batches out of memory, 16 of 16 KiB a read. Allocations and reads
// of files are none: allocs/op, and calls/op counted at the file system's seam.
func BenchmarkTailRead(b *testing.B) {
	const size, count = 16 << 10, 16
	faults := vfs.NewFaults(vfs.OS{})
	p := openBenchParts(b, faults, 1, size, Config{Synced: true})
	l := p.parts[0]
	for range count {
		_, err := p.append(l.Log)
		require.NoError(b, err)
	}
	l.progress.waitFlushed(count)
	slices := make([]record.Slice, 0, count)
	calls := faults.Count(vfs.OpRead)
	b.ReportAllocs()
	b.SetBytes(size * count)
	for b.Loop() {
		var err error
		if slices, err = l.ReadInto(slices[:0], ReadOptions{From: 0, Limit: count, MaxBytes: math.MaxInt}); err != nil {
			b.Fatal(err)
		}
		for i := range slices {
			slices[i].Release()
		}
	}
	require.Len(b, slices, count)
	b.ReportMetric(float64(faults.Count(vfs.OpRead)-calls)/float64(b.N), "calls/op")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/count, "ns/batch")
}

// Writers at half of what they can, timed from the moment each batch was due to
// its flush, alone and then beside a reader that starts over at the earliest
// record whenever it has come to the end. One round is one such pair.
func BenchmarkReplayBesideWriters(b *testing.B) {
	const (
		size, partitions = 64 << 10, 6
		outstanding      = 16 // batches of a partition, at most
		window           = 3 * time.Second
		kept             = 512 << 20 // bytes of a partition
	)
	cfg := Config{Synced: true, SegmentBytes: kept, RetentionBytes: kept}
	p := openBenchParts(b, vfs.OS{}, partitions, size, cfg)
	p.whole = true
	warmMemory(b, 3<<30)
	require.NoError(b, together(partitions*outstanding, func(i int) error {
		return p.write(p.parts[i%partitions], kept/size/outstanding)
	}))
	perSecond := p.most(b, partitions*outstanding, 2*time.Second)
	every := time.Duration(partitions / (perSecond / 2) * float64(time.Second))

	var alone, beside, ratios, replayed []float64
	for b.Loop() {
		p.retain(b)
		a := p.open(b, outstanding, every, window)
		p.retain(b)
		stop := make(chan struct{})
		var (
			wg    sync.WaitGroup
			bytes int64
			err   error
		)
		begin := time.Now()
		wg.Go(func() { bytes, err = p.replay(stop) })
		w := p.open(b, outstanding, every, window)
		took := time.Since(begin)
		close(stop)
		wg.Wait()
		require.NoError(b, err)
		alone, beside, ratios = append(alone, a), append(beside, w), append(ratios, w/a)
		replayed = append(replayed, float64(bytes)/1e6/took.Seconds())
	}
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(median(alone), "alone-p99-ms")
	b.ReportMetric(median(beside), "beside-p99-ms")
	b.ReportMetric(median(replayed), "replay-MB/s")
	b.ReportMetric(perSecond/2*size/1e6, "write-MB/s")
	b.ReportMetric(0, "ns/op")
}

// write appends so many batches, each after the flush of the one before.
func (p *benchParts) write(l *benchPart, n int) error {
	for range n {
		next, err := p.append(l.Log)
		if err != nil {
			return err
		}
		if err := l.progress.waitFlushed(next).Err; err != nil {
			return err
		}
	}
	return nil
}

// most is how many batches a second writers in closed loops append.
func (p *benchParts) most(b *testing.B, writers int, window time.Duration) float64 {
	b.Helper()
	begin := time.Now()
	counts := make([]int, writers)
	require.NoError(b, together(writers, func(i int) error {
		took, err := p.closedLoop(p.parts[i%len(p.parts)], begin, begin.Add(window))
		counts[i] = len(took)
		return err
	}))
	sum := 0
	for _, n := range counts {
		sum += n
	}
	return float64(sum) / window.Seconds()
}

// open appends to every partition on a schedule, whatever the flushes do, up to a
// bound on what is under way, and returns the p99 in ms.
func (p *benchParts) open(b *testing.B, outstanding int, every, window time.Duration) float64 {
	b.Helper()
	type appended struct {
		next record.Offset
		due  time.Time
	}
	begin := time.Now()
	all := make([][]time.Duration, len(p.parts))
	require.NoError(b, together(len(p.parts), func(i int) error {
		l, underWay := p.parts[i], make(chan appended, outstanding)
		var wg sync.WaitGroup
		var failed, refused error
		wg.Go(func() {
			for a := range underWay {
				failed = l.progress.waitFlushed(a.next).Err
				all[i] = append(all[i], time.Since(a.due))
			}
		})
		due := begin.Add(every * time.Duration(i) / time.Duration(len(p.parts)))
		for ; due.Before(begin.Add(window)); due = due.Add(every) {
			time.Sleep(time.Until(due))
			var next record.Offset
			if next, refused = p.append(l.Log); refused != nil {
				break
			}
			underWay <- appended{next, due}
		}
		close(underWay)
		wg.Wait()
		return errors.Join(failed, refused)
	}))
	took := slices.Concat(all...)
	slices.Sort(took)
	return quantile(took, 99)
}

// replay reads one partition after the other from its earliest record on.
func (p *benchParts) replay(stop <-chan struct{}) (bytes int64, err error) {
	var out []record.Slice
	for i := 0; ; i++ {
		l := p.parts[i%len(p.parts)]
		for off, end := l.Start(), l.Flushed(); off < end; {
			select {
			case <-stop:
				return bytes, nil
			default:
			}
			out, err = l.ReadInto(out[:0], ReadOptions{From: off, Limit: end, MaxBytes: 1 << 20})
			if errors.Is(err, ErrOffsetOutOfRange) {
				break // retention was faster
			}
			if err != nil {
				return bytes, err
			}
			for j := range out {
				for rest := out[j].Bytes; len(rest) > 0; {
					info, _ := record.Peek(rest)
					off, rest = info.NextOffset(), rest[info.Size:]
				}
				bytes += int64(len(out[j].Bytes))
				out[j].Release()
			}
		}
	}
}

// retain removes what lies beyond the size of the partitions, and waits until the
// file system has given the space back: the next syncs would.
func (p *benchParts) retain(b *testing.B) {
	b.Helper()
	for _, l := range p.parts {
		l.SetHighWatermark(l.Flushed())
		_, err := l.Retain(time.Now())
		require.NoError(b, err)
	}
	unix.Sync()
}
