package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/internal/punctual"
)

// The bare disk is asked for what it is asked for by latency: a record a millisecond, on
// the three partitions in turn, each synced on three replicas at the same moment.
const (
	rawFlag      = "raw-disk"
	rawBeginFlag = "raw-begin"
	rawFiles     = 3   // files of a process, and partitions
	rawBytes     = 200 // about a batch of one record
)

// rawLead is how long the processes have to be there before the first record is due.
const rawLead = 500 * time.Millisecond

// diskLatency is in milliseconds: of a sync, and of the slowest of the three syncs of a
// record, below which no acknowledgement of all replicas can be.
type diskLatency struct{ single, slowest struct{ p50, p99 float64 } }

// rawDisk runs as many processes as there are brokers, each with its files.
func (l *lab) rawDisk(ctx context.Context) (diskLatency, error) {
	dir, err := os.MkdirTemp(l.dir, "raw-")
	if err != nil {
		return diskLatency{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return diskLatency{}, err
	}
	begin := time.Now().Add(rawLead).UnixNano()
	found, errs := make([][]int64, nodes), make([]error, nodes)
	var wg sync.WaitGroup
	for i := range nodes {
		wg.Go(func() {
			cmd := exec.CommandContext(ctx, self, "-"+rawFlag, dir, "-"+rawBeginFlag, fmt.Sprint(begin), "-duration", l.duration.String()) //nolint:gosec // itself
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			errs[i] = errors.Join(err, json.Unmarshal(out, &found[i]))
		})
	}
	wg.Wait()
	return summarize(found), errors.Join(errors.Join(errs...), os.RemoveAll(dir))
}

// summarize takes microseconds by process and record; 0: not measured.
func summarize(found [][]int64) (d diskLatency) {
	all, slowest := newHistogram(), newHistogram()
	for i := range found[0] {
		if slices.ContainsFunc(found, func(process []int64) bool { return i >= len(process) || process[i] == 0 }) {
			continue // the time was over
		}
		most := int64(0)
		for _, process := range found {
			most = max(most, process[i])
			_ = all.RecordValue(process[i]) // no more than the run took
		}
		_ = slowest.RecordValue(most)
	}
	ms := func(h *hdrhistogram.Histogram, q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	d.single.p50, d.single.p99 = ms(all, 50), ms(all, 99)
	d.slowest.p50, d.slowest.p99 = ms(slowest, 50), ms(slowest, 99)
	return d
}

// newHistogram counts microseconds up to a minute.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, time.Minute.Microseconds(), 3)
}

// rawWorker is one such process; it prints the microseconds of each record.
func rawWorker(ctx context.Context, dir string, begin time.Time, d time.Duration, out io.Writer) error {
	ctx, cancel := context.WithDeadline(ctx, begin.Add(d))
	defer cancel()
	found, errs := make([]int64, int(d.Seconds()*latencyRate)), make([]error, rawFiles)
	var wg sync.WaitGroup
	for i := range rawFiles {
		wg.Go(func() {
			errs[i] = rawFile(ctx, filepath.Join(dir, fmt.Sprintf("%d-%d", os.Getpid(), i)), begin, found, i)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(found)
}

// rawFile appends and syncs every third record from first on; a turn that comes too late is
// timed from when it was due, as the records are.
func rawFile(ctx context.Context, name string, begin time.Time, found []int64, first int) (err error) {
	f, err := os.Create(name) //nolint:gosec // in the folder made for it
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := make([]byte, rawBytes)
	for i := first; i < len(found); i += rawFiles {
		due := begin.Add(time.Duration(i) * time.Second / latencyRate)
		punctual.Wait(ctx, due) // as the records are sent
		if ctx.Err() != nil {
			return nil // the time is over
		}
		if _, err := f.Write(b); err != nil {
			return err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return fmt.Errorf("fdatasync %s: %w", name, err)
		}
		found[i] = max(1, time.Since(due).Microseconds())
	}
	return nil
}
