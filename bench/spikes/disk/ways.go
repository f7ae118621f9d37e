package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

const (
	block     = 4096
	groupMost = 1 << 20
	// folioMost is the largest piece in which the kernel keeps pages: a range to
	// drop begins at a multiple, so that no piece hangs over its beginning.
	folioMost = 2 << 20
	// arenaBytes is the memory the groups lie in, over all writers.
	arenaBytes = 64 << 20
)

type way struct {
	name     string
	drop     bool
	lag      int64 // over all files
	roll     bool  // drop at the end of a segment
	segment  int64
	direct   bool
	truncate bool
	ideal    bool
}

func parseWay(name string) (way, error) {
	w := way{name: name, segment: 1 << 30}
	kind, arg, _ := strings.Cut(name, "-")
	mib, err := strconv.ParseInt(arg, 10, 64)
	switch {
	case name == "buffered":
	case kind == "drop" && err == nil:
		w.drop, w.lag = true, mib<<20
	case kind == "roll" && err == nil && mib > 0:
		w.roll, w.segment = true, mib<<20
	case name == "direct":
		w.direct = true
	case name == "direct-trunc":
		w.direct, w.truncate = true, true
	case name == "direct-ideal":
		w.direct, w.ideal = true, true
	default:
		return w, fmt.Errorf("way %q; known are buffered, drop-MIB, roll-MIB, direct, direct-trunc, direct-ideal", name)
	}
	return w, nil
}

type result struct {
	bytes        float64
	took         time.Duration
	cpu, machine time.Duration
	syncs, drops *hdrhistogram.Histogram // microseconds
	cached       int64
}

// writer owns one file at a time.
type writer struct {
	way
	dir   string
	files int
	keep  int64
	least int
	most  int
	lagOf int64 // of the reader; 0: none
	total *atomic.Int64

	memory  []byte // of groups
	staging []byte // aligned
	random  *rand.Rand

	file    *os.File
	number  int
	size    int64
	dropped int64
	old     []string
	reader  reader

	syncs, drops *hdrhistogram.Histogram
}

// measure runs the writers; written hears how much they wrote, ten times a second.
func measure(o options, dir string, w way, written func(int64) error) (result, error) {
	var total atomic.Int64
	writers := make([]*writer, o.files)
	for i := range writers {
		x := &writer{
			way: w, dir: filepath.Join(dir, strconv.Itoa(i)), files: o.files, keep: o.keep << 20 / int64(o.files), total: &total,
			least: o.least << 10, most: o.most << 10, lagOf: o.lag << 20 / int64(o.files),
			reader: reader{dir: filepath.Join(dir, strconv.Itoa(i)), segment: w.segment, b: make([]byte, groupMost)},
			memory: aligned(arenaBytes / o.files), staging: aligned(groupMost + 2*block),
			random: rand.New(rand.NewPCG(1, uint64(i))),
			syncs:  histogram(), drops: histogram(),
		}
		for j := range x.memory {
			x.memory[j] = byte(j * 131)
		}
		if err := errors.Join(os.Mkdir(x.dir, 0o755), x.next()); err != nil {
			return result{}, err
		}
		writers[i] = x
	}
	before, err := take()
	if err != nil {
		return result{}, err
	}
	begin := time.Now()
	errs := make([]error, len(writers)+1)
	var wg, reporter sync.WaitGroup
	done := make(chan struct{})
	reporter.Go(func() { errs[len(writers)] = report(&total, written, done) })
	for i, x := range writers {
		wg.Go(func() { errs[i] = x.run(begin.Add(o.duration)) })
	}
	wg.Wait()
	took := time.Since(begin)
	after, err := take()
	close(done)
	reporter.Wait()
	r := result{
		bytes: float64(total.Load()), took: took, cpu: after.cpu - before.cpu, machine: after.machine - before.machine,
		cached: after.cached - before.cached, syncs: histogram(), drops: histogram(),
	}
	for _, x := range writers {
		r.syncs.Merge(x.syncs)
		r.drops.Merge(x.drops)
		err = errors.Join(err, x.file.Close())
	}
	return r, errors.Join(err, errors.Join(errs...))
}

type reading struct {
	cpu, machine time.Duration
	cached       int64
}

func take() (r reading, err error) {
	var errs [3]error
	r.cpu, errs[0] = cpuTime()
	r.machine, errs[1] = machineTime()
	r.cached, errs[2] = meminfo("Cached")
	return r, errors.Join(errs[:]...)
}

func report(total *atomic.Int64, written func(int64) error, done <-chan struct{}) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var told int64
	for {
		select {
		case <-done:
			return nil
		case <-tick.C:
			now := total.Load()
			if err := written(now - told); err != nil {
				return err
			}
			told = now
		}
	}
}

func histogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, time.Minute.Microseconds(), 3)
}

// aligned makes memory that O_DIRECT takes.
func aligned(n int) []byte {
	b := make([]byte, n+block)
	skip := (block - int(uintptr(unsafe.Pointer(&b[0]))%block)) % block
	return b[skip : skip+n : skip+n]
}

func (x *writer) run(end time.Time) error {
	at := 0
	for time.Now().Before(end) {
		n := x.least + x.random.IntN(x.most-x.least+1)
		if x.ideal {
			n = n / block * block
			at = (at + block - 1) / block * block
		}
		if at+n > len(x.memory) {
			at = 0
		}
		if err := x.append(x.memory[at : at+n]); err != nil {
			return err
		}
		at += n
		x.total.Add(int64(n))
		if x.lagOf > 0 {
			if err := x.reader.follow(x.number-1, x.size, x.lagOf); err != nil {
				return err
			}
		}
	}
	return nil
}

// append makes a group durable.
func (x *writer) append(group []byte) error {
	if x.size+int64(len(group)) > x.segment {
		if err := x.next(); err != nil {
			return err
		}
	}
	begin := time.Now()
	if err := x.write(group); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(x.file.Fd())); err != nil {
		return err
	}
	_ = x.syncs.RecordValue(time.Since(begin).Microseconds()) // over a minute: the rate says so
	x.size += int64(len(group))
	if !x.drop {
		return nil
	}
	if upTo := (x.size - x.lag/int64(x.files)) / block * block; upTo > x.dropped {
		return x.dropTo(upTo)
	}
	return nil
}

func (x *writer) write(group []byte) error {
	if !x.direct || x.ideal {
		_, err := x.file.WriteAt(group, x.size)
		return err
	}
	// The last block of the group before is in front of staging.
	front := int(x.size % block)
	n := front + copy(x.staging[front:], group)
	padded := (n + block - 1) / block * block
	clear(x.staging[n:padded])
	if _, err := x.file.WriteAt(x.staging[:padded], x.size-int64(front)); err != nil {
		return err
	}
	copy(x.staging, x.staging[n/block*block:n])
	if x.truncate {
		return x.file.Truncate(x.size + int64(len(group)))
	}
	return nil
}

func (x *writer) dropTo(upTo int64) error {
	from := x.dropped / folioMost * folioMost
	begin := time.Now()
	err := unix.Fadvise(int(x.file.Fd()), from, upTo-from, unix.FADV_DONTNEED)
	_ = x.drops.RecordValue(time.Since(begin).Microseconds())
	x.dropped = upTo
	return err
}

// next begins a segment. What lags behind in the old one is dropped with it.
func (x *writer) next() error {
	if x.file != nil {
		if x.drop || x.roll {
			if err := x.dropTo(x.size); err != nil {
				return err
			}
		}
		x.old = append(x.old, x.file.Name())
		if err := x.file.Close(); err != nil {
			return err
		}
	}
	for int64(len(x.old))*x.segment > x.keep {
		if err := os.Remove(x.old[0]); err != nil {
			return err
		}
		x.old = x.old[1:]
	}
	flags := os.O_RDWR | os.O_CREATE | os.O_EXCL
	if x.direct {
		flags |= unix.O_DIRECT
	}
	f, err := os.OpenFile(filepath.Join(x.dir, strconv.Itoa(x.number)), flags, 0o644)
	x.file, x.size, x.dropped = f, 0, 0
	x.number++
	return err
}
