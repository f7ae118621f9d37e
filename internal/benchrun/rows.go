package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/bench"
	"github.com/penstock/penstock/internal/chaos"
)

// onCluster runs do on three new processes.
func (l *lab) onCluster(ctx context.Context, do func(*chaos.Cluster) error) (err error) {
	c, stop, err := l.cluster(ctx)
	if err != nil {
		return err
	}
	return errors.Join(do(c), stop())
}

const samplePeriod = 250 * time.Millisecond

// watched is load, and beside it the most resident memory that was seen of each node, in MiB.
func (l *lab) watched(ctx context.Context, c *chaos.Cluster, workload string, args ...string) (*bench.Report, []float64, error) {
	pids := c.Pids()
	mib := make([]float64, len(pids))
	sampling, stop := context.WithCancel(ctx)
	var sampler sync.WaitGroup
	sampler.Go(func() { // until stop
		for pause(sampling, samplePeriod) == nil {
			for i, pid := range pids {
				if n, err := bench.Resident(pid); err == nil { // a node that ended fails the load
					mib[i] = max(mib[i], float64(n)/(1<<20))
				}
			}
		}
	})
	r, err := l.load(ctx, c, workload, args...)
	stop()
	sampler.Wait()
	return r, mib, err
}

const kib = 1024

// produceKiB measures records of 1 KiB, and right after it what the disk takes.
func (l *lab) produceKiB(ctx context.Context) error {
	return l.onCluster(ctx, func(c *chaos.Cluster) error {
		var rates, disks, shares []float64
		var setting string
		for range l.runs {
			topic := l.topic("kib")
			if err := l.create(ctx, c, topic, partitions, "synced"); err != nil {
				return err
			}
			if err := l.warmMemory(); err != nil {
				return err
			}
			r, err := l.load(ctx, c, "produce", append(l.timed(topic), "--record-size", fmt.Sprint(kib))...)
			if err != nil {
				return err
			}
			if err := l.drop(ctx, c, topic); err != nil {
				return err
			}
			disk, err := l.rawWrite()
			if err != nil {
				return err
			}
			rate := float64(r.Bytes) / 1e6 / r.Seconds
			l.say("  %.0f MB/s; a third of what the bare disk takes is %.0f", rate, disk/nodes)
			rates, disks, shares = append(rates, rate), append(disks, disk/nodes), append(shares, 100*rate*nodes/disk)
			setting = describe(r)
		}
		l.table.add(figure{"produce, 1 KiB", setting, "MB/s", rates})
		l.table.add(figure{"bare disk: a third of what it takes", rawWriteSetting, "MB/s", disks})
		l.table.add(figure{"produce, 1 KiB: share of that third", setting, "%", shares})
		return nil
	})
}

const (
	rawPiece        = 1 << 20
	rawFileBytes    = 512 << 20
	rawWriteMost    = 5 * time.Second
	rawWriteSetting = "right after, 3 writers, 1 MiB + fdatasync at a time, pages let go"
)

// rawWrite is how many MB/s the disk takes from as many writers as there are nodes.
func (l *lab) rawWrite() (float64, error) {
	dir, err := os.MkdirTemp(l.dir, "raw-")
	if err != nil {
		return 0, err
	}
	written, errs := make([]int64, nodes), make([]error, nodes)
	var writers sync.WaitGroup
	began := time.Now()
	until := began.Add(min(l.duration, rawWriteMost))
	for i := range nodes {
		writers.Go(func() { written[i], errs[i] = rawWriter(filepath.Join(dir, fmt.Sprint(i)), until) })
	}
	writers.Wait()
	took := time.Since(began)
	var sum int64
	for _, n := range written {
		sum += n
	}
	return float64(sum) / 1e6 / took.Seconds(), errors.Join(errors.Join(errs...), os.RemoveAll(dir))
}

// rawWriter goes from file to file, as a log does from segment to segment.
func rawWriter(name string, until time.Time) (written int64, err error) {
	piece := slices.Repeat([]byte("penstock"), rawPiece/8)
	for n := 0; time.Now().Before(until); n++ {
		if written, err = rawSegment(fmt.Sprintf("%s-%d", name, n), piece, written, until); err != nil {
			return written, err
		}
	}
	return written, nil
}

func rawSegment(name string, piece []byte, written int64, until time.Time) (_ int64, err error) {
	f, err := os.Create(name) //nolint:gosec // in the folder made for it
	if err != nil {
		return written, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for at := int64(0); at < rawFileBytes && time.Now().Before(until); at += rawPiece {
		if _, err := f.Write(piece); err != nil {
			return written, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return written, fmt.Errorf("fdatasync %s: %w", name, err)
		}
		if err := letGo(f, at, at+rawPiece); err != nil {
			return written, err
		}
		written += rawPiece
	}
	return written, nil
}

// readSetting is what figures of reading from disks say of themselves.
const readSetting = "read_bytes of /proc/PID/io, three brokers, whole run"

// tail measures readers of what was written last, whose bytes no disk should be asked for.
// Those of a single MiB seek with every few answers.
func (l *lab) tail(ctx context.Context) error {
	return l.onCluster(ctx, func(c *chaos.Cluster) error {
		topic := l.topic("tail")
		if err := l.fill(ctx, c, topic); err != nil {
			return err
		}
		for _, n := range []struct{ mib, readers int }{{32, 1}, {32, 4}, {32, 16}, {1, 1}} {
			var rates, busy, disk []float64
			for range l.runs {
				r, err := l.load(ctx, c, "consume", append(l.timed(topic), "--newest", fmt.Sprint(n.mib<<20), "--readers", fmt.Sprint(n.readers))...)
				if err != nil {
					return err
				}
				l.say("  %d MiB, %d readers: %.0f records/s, %d bytes from disks", n.mib, n.readers, r.RecordsPerSec, *r.BrokerDiskReads)
				rates, busy = append(rates, r.RecordsPerSec), append(busy, busyPercent(r))
				disk = append(disk, float64(*r.BrokerDiskReads)/(1<<20))
			}
			what := fmt.Sprintf("newest %d MiB, again and again, to %d readers at once", n.mib, n.readers)
			l.table.add(figure{what + ", together", "100 B, 6 partitions", "records/s", rates})
			l.table.add(figure{what + ": of the processors, brokers and readers", "their processor time", "%", busy})
			l.table.add(figure{what + ": read from disks", readSetting, "MiB", disk})
		}
		return nil
	})
}

// busyPercent is how much of the machine's processors brokers and load took; the kernel's
// own threads are not in it.
func busyPercent(r *bench.Report) float64 {
	secondsPerGB := r.CPUSecondsPerGB.Client + *r.CPUSecondsPerGB.Broker
	gbPerSecond := r.RecordsPerSec * float64(r.RecordSize) / 1e9
	return 100 * secondsPerGB * gbPerSecond / float64(runtime.NumCPU())
}

// both measures producing and consuming at once.
func (l *lab) both(ctx context.Context) error {
	return l.onCluster(ctx, func(c *chaos.Cluster) error {
		var produced, consumed []float64
		var setting string
		for range l.runs {
			topic := l.topic("both")
			if err := errors.Join(l.create(ctx, c, topic, partitions, "synced"), l.warmMemory()); err != nil {
				return err
			}
			r, err := l.load(ctx, c, "e2e", l.timed(topic)...)
			if err != nil {
				return err
			}
			l.say("  %.0f records/s in, %.0f out", r.RecordsPerSec, r.ConsumedPerSec)
			produced, consumed = append(produced, r.RecordsPerSec), append(consumed, r.ConsumedPerSec)
			setting = describe(r)
			if err := l.drop(ctx, c, topic); err != nil {
				return err
			}
		}
		l.table.add(figure{"produce and consume at once: produced", setting, "records/s", produced})
		l.table.add(figure{"produce and consume at once: consumed", setting, "records/s", consumed})
		return nil
	})
}
