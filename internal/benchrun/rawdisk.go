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
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/internal/punctual"
)

// The bare disk is asked for what it is asked for by latency: a record on each of
// three partitions a third of the time, synced on three replicas.
const (
	rawFlag  = "raw-disk"
	rawFiles = 3   // files of a process, and partitions
	rawBytes = 200 // about a batch of one record
)

// diskLatency is in milliseconds.
type diskLatency struct{ P50, P99 float64 }

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
	outputs, errs := make([][]byte, nodes), make([]error, nodes)
	var wg sync.WaitGroup
	for i := range nodes {
		wg.Go(func() {
			cmd := exec.CommandContext(ctx, self, "-"+rawFlag, dir, "-duration", l.duration.String()) //nolint:gosec // itself
			cmd.Stderr = os.Stderr
			outputs[i], errs[i] = cmd.Output()
		})
	}
	wg.Wait()
	all := newHistogram()
	for i := range nodes {
		s := &hdrhistogram.Snapshot{}
		if errs[i] == nil {
			errs[i] = json.Unmarshal(outputs[i], s)
		}
		if errs[i] == nil {
			all.Merge(hdrhistogram.Import(s))
		}
	}
	ms := func(q float64) float64 { return float64(all.ValueAtQuantile(q)) / 1000 }
	return diskLatency{P50: ms(50), P99: ms(99)}, errors.Join(errors.Join(errs...), os.RemoveAll(dir))
}

// newHistogram counts microseconds up to a minute.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, time.Minute.Microseconds(), 3)
}

// rawWorker is one such process; it prints its histogram.
func rawWorker(ctx context.Context, dir string, d time.Duration, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	found, errs := make([]*hdrhistogram.Histogram, rawFiles), make([]error, rawFiles)
	var wg sync.WaitGroup
	for i := range rawFiles {
		wg.Go(func() {
			found[i] = newHistogram()
			errs[i] = rawFile(ctx, filepath.Join(dir, fmt.Sprintf("%d-%d", os.Getpid(), i)), found[i])
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, h := range found[1:] {
		found[0].Merge(h)
	}
	return json.NewEncoder(out).Encode(found[0].Export())
}

// rawFile appends and syncs at a fixed rate; a turn that comes too late is timed
// from when it was due, as the records are.
func rawFile(ctx context.Context, name string, h *hdrhistogram.Histogram) (err error) {
	f, err := os.Create(name) //nolint:gosec // in the folder made for it
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	const every = rawFiles * time.Second / latencyRate
	b := make([]byte, rawBytes)
	for due := time.Now().Add(every); ; due = due.Add(every) {
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
		if err := h.RecordValue(max(1, time.Since(due).Microseconds())); err != nil {
			return err
		}
	}
}
