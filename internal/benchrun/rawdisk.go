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

// The bare disk is asked for what a load asks it for: batches on the partitions in turn,
// each synced on three replicas at the same moment. Files are let go of, and ended, as segments are.
const (
	rawFlag        = "raw-disk"
	rawBeginFlag   = "raw-begin"
	rawPatternFlag = "raw-pattern"
	rawSegmentSize = 64 << 20
)

// rawPattern is the files of a process, which are the partitions, the bytes of a batch and
// batches a second.
type rawPattern struct{ files, bytes, rate int }

// latencyPattern is that of latency: a batch is about one record.
func latencyPattern() rawPattern {
	return rawPattern{files: latencyPartitions, bytes: 200, rate: latencyRate}
}

// setting is a row's.
func (p rawPattern) setting() string {
	return fmt.Sprintf("%d processes, %d files each, %d B + fdatasync, each at once in all processes, %d/s", nodes, p.files, p.bytes, p.rate)
}

// String is the value of rawPatternFlag.
func (p rawPattern) String() string { return fmt.Sprintf("%d,%d,%d", p.files, p.bytes, p.rate) }

func parsePattern(s string) (p rawPattern, err error) {
	if _, err := fmt.Sscanf(s, "%d,%d,%d", &p.files, &p.bytes, &p.rate); err != nil || p.files < 1 || p.bytes < 1 || p.rate < 1 {
		return p, fmt.Errorf("-%s %q is not files,bytes,rate, each at least 1", rawPatternFlag, s)
	}
	return p, nil
}

// rawLead is how long the processes have to be there before the first record is due.
const rawLead = 500 * time.Millisecond

// diskLatency is in milliseconds: of a sync, and of the slowest of the three syncs of a
// record, below which no acknowledgement of all replicas can be.
type diskLatency struct{ single, slowest struct{ p50, p99 float64 } }

// rawDisk runs as many processes as there are brokers, each with its files.
func (l *lab) rawDisk(ctx context.Context, p rawPattern) (diskLatency, error) {
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
			cmd := exec.CommandContext(ctx, self, "-"+rawFlag, dir, "-"+rawBeginFlag, fmt.Sprint(begin), "-"+rawPatternFlag, p.String(), "-duration", l.duration.String()) //nolint:gosec // itself
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

// rawMain is one such process.
func rawMain(ctx context.Context, o *options, out io.Writer) error {
	p, err := parsePattern(o.rawWhat)
	if err != nil {
		return err
	}
	return rawWorker(ctx, o.raw, time.Unix(0, o.rawBegin), o.duration, p, out)
}

// rawWorker does its work; it prints the microseconds of each record.
func rawWorker(ctx context.Context, dir string, begin time.Time, d time.Duration, p rawPattern, out io.Writer) error {
	ctx, cancel := context.WithDeadline(ctx, begin.Add(d))
	defer cancel()
	found, errs := make([]int64, int(d.Seconds()*float64(p.rate))), make([]error, p.files)
	var wg sync.WaitGroup
	for i := range p.files {
		wg.Go(func() {
			errs[i] = rawFile(ctx, filepath.Join(dir, fmt.Sprintf("%d-%d", os.Getpid(), i)), begin, p, found, i)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(found)
}

// rawFile appends and syncs every so manieth batch from first on; a turn that comes too late
// is timed from when it was due, as the records are. What a file of before held is freed as
// the next one grows: at once it would hold the disk up, which is why a broker does not.
func rawFile(ctx context.Context, name string, begin time.Time, p rawPattern, found []int64, first int) (err error) {
	r := &rawAppender{name: name, batch: slices.Repeat([]byte("penstock"), p.bytes/8+1)[:p.bytes]}
	defer func() { err = errors.Join(err, r.close()) }()
	for i := first; i < len(found); i += p.files {
		due := begin.Add(time.Duration(float64(i) / float64(p.rate) * float64(time.Second)))
		punctual.Wait(ctx, due) // as the records are sent
		if ctx.Err() != nil {
			break // the time is over
		}
		if err := r.append(); err != nil {
			return err
		}
		found[i] = max(1, time.Since(due).Microseconds())
		if err := r.free(); err != nil {
			return err
		}
	}
	return nil
}

// rawAppender writes file after file.
type rawAppender struct {
	name          string
	batch         []byte
	n             int
	file, last    *os.File
	at, kept      int64 // in file
	lastRemaining int64
}

func (r *rawAppender) append() error {
	if r.file == nil || r.at >= rawSegmentSize {
		if err := r.roll(); err != nil {
			return err
		}
	}
	if _, err := r.file.Write(r.batch); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(r.file.Fd())); err != nil {
		return fmt.Errorf("fdatasync %s: %w", r.file.Name(), err)
	}
	r.at += int64(len(r.batch))
	return nil
}

func (r *rawAppender) roll() (err error) {
	if err := discardFile(r.last); err != nil {
		return err
	}
	r.last, r.lastRemaining, r.at, r.kept = r.file, r.at, 0, 0
	r.file, err = os.Create(fmt.Sprintf("%s.%d", r.name, r.n)) //nolint:gosec // in the folder made for it
	r.n++
	return err
}

// free lets go of the pages, and of as much of the file before, as was appended.
func (r *rawAppender) free() error {
	if r.at-r.kept < rawPiece {
		return nil
	}
	if err := letGo(r.file, r.kept, r.at); err != nil {
		return err
	}
	freed := r.at - r.kept
	r.kept = r.at
	if r.last == nil {
		return nil
	}
	r.lastRemaining = max(0, r.lastRemaining-freed)
	return r.last.Truncate(r.lastRemaining)
}

func (r *rawAppender) close() error { return errors.Join(discardFile(r.last), discardFile(r.file)) }

// discardFile closes and removes f, unless it is nil.
func discardFile(f *os.File) error {
	if f == nil {
		return nil
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}
