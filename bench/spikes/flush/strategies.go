package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

const (
	syncWorkers   = 16
	journalBytes  = 64 << 20
	recycledBytes = 512 << 20 // what a file that does not grow has from the start
	wholeFiles    = 32        // so many of them at most
)

func strategyNames() []string {
	return []string{"fdatasync", "syncfs", "writeback", "journal", "filled"}
}

// wholeStrategies are those whose files have their whole size from the start.
func wholeStrategies() []string { return []string{"reserved", "recycled", "cold"} }

// appender owns one file: it has at most one append outstanding.
type appender struct {
	file *os.File
	size int64
	done chan error
}

// measure runs the closed loops for the given time.
func measure(o options, files []*os.File) (result, error) {
	appenders := make([]*appender, len(files))
	for i, f := range files {
		appenders[i] = &appender{file: f, done: make(chan error, 1)}
	}
	payload := make([]byte, o.size)
	for i := range payload {
		payload[i] = byte(i * 131)
	}
	e := &engine{payload: payload, queue: make(chan *appender, len(files))}
	flushers, err := e.start(o)
	if err != nil {
		return result{}, err
	}
	before := cpuTime()
	end := time.Now().Add(o.duration)
	var (
		loops sync.WaitGroup
		mu    sync.Mutex // guards sum and failed
		sum   = hdrhistogram.New(1, int64(time.Minute/time.Microsecond), 3)
		fail  error
	)
	for _, a := range appenders {
		loops.Go(func() {
			latencies, err := a.loop(e.queue, end, o.pause)
			mu.Lock()
			defer mu.Unlock()
			for _, l := range latencies {
				_ = sum.RecordValue(l.Microseconds()) // slower than a minute: the table's max would say so
			}
			if err != nil {
				fail = err
			}
		})
	}
	loops.Wait()
	close(e.queue)
	flushers.Wait()
	return result{Histogram: sum.Export(), Syncs: e.syncs.Load(), CPU: cpuTime() - before}, fail
}

func (a *appender) loop(queue chan<- *appender, end time.Time, pause time.Duration) ([]time.Duration, error) {
	var latencies []time.Duration
	for {
		begin := time.Now()
		if begin.After(end) {
			return latencies, nil
		}
		queue <- a
		if err := <-a.done; err != nil {
			return latencies, err
		}
		latencies = append(latencies, time.Since(begin))
		time.Sleep(pause)
	}
}

// engine makes appends durable by one of the strategies.
type engine struct {
	payload []byte
	queue   chan *appender
	syncs   atomic.Int64
	recycle bool // begin a file anew where it would grow

	journal     *os.File
	journalSize int64
	dirty       map[*appender]bool // written, and durable in the journal only
}

func (e *engine) start(o options) (*sync.WaitGroup, error) {
	var wg sync.WaitGroup
	round := e.syncfs
	switch o.strategy {
	case "fdatasync", "reserved", "recycled", "cold":
		e.recycle = o.strategy != "fdatasync"
		for range syncWorkers {
			wg.Go(func() {
				for a := range e.queue {
					err := e.write(a)
					if err == nil {
						err = e.fdatasync(a.file)
					}
					a.done <- err
				}
			})
		}
		return &wg, nil
	case "syncfs":
	case "writeback":
		round = e.writeback
	case "journal", "filled":
		f, err := os.Create(filepath.Join(o.dir, "journal"))
		if err != nil {
			return nil, err
		}
		if o.strategy == "filled" {
			if err := fill(f, journalBytes+1<<20); err != nil {
				return nil, err
			}
		}
		e.journal, e.dirty = f, map[*appender]bool{}
		round = e.journaled
	default:
		return nil, fmt.Errorf("strategy %q", o.strategy)
	}
	wg.Go(func() { e.gather(round) })
	return &wg, nil
}

// prepare gives a file what a strategy finds there.
func prepare(f *os.File, strategy string) error {
	switch strategy {
	case "reserved":
		if err := unix.Fallocate(int(f.Fd()), 0, 0, recycledBytes); err != nil {
			return err
		}
		return f.Sync()
	case "recycled", "cold":
		if err := fill(f, recycledBytes); err != nil || strategy == "recycled" {
			return err
		}
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	return nil
}

// fill gives a file its blocks.
func fill(f *os.File, bytes int64) error {
	zeros := make([]byte, 1<<20)
	for at := int64(0); at < bytes; at += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros, at); err != nil {
			return err
		}
	}
	return f.Sync()
}

// gather hands what has arrived to one round at a time.
func (e *engine) gather(round func([]*appender) error) {
	for first := range e.queue {
		group := []*appender{first}
		for more := true; more; {
			select {
			case a, ok := <-e.queue:
				if more = ok; ok {
					group = append(group, a)
				}
			default:
				more = false
			}
		}
		err := round(group)
		for _, a := range group {
			a.done <- err
		}
	}
}

func (e *engine) write(a *appender) error {
	if e.recycle && a.size+int64(len(e.payload)) > recycledBytes {
		a.size = 0
	}
	n, err := a.file.WriteAt(e.payload, a.size)
	a.size += int64(n)
	return err
}

func (e *engine) writeAll(group []*appender) error {
	for _, a := range group {
		if err := e.write(a); err != nil {
			return err
		}
	}
	return nil
}

func (e *engine) fdatasync(f *os.File) error {
	e.syncs.Add(1)
	return unix.Fdatasync(int(f.Fd()))
}

// syncAll syncs the files of a group, at most syncWorkers at once, and waits for all.
func (e *engine) syncAll(group []*appender) error {
	var (
		wg   sync.WaitGroup
		next atomic.Int64
		mu   sync.Mutex // guards fail
		fail error
	)
	for range min(syncWorkers, len(group)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(group); i = next.Add(1) - 1 {
				if err := e.fdatasync(group[i].file); err != nil {
					mu.Lock()
					fail = err
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return fail
}

func (e *engine) syncfs(group []*appender) error {
	if err := e.writeAll(group); err != nil {
		return err
	}
	e.syncs.Add(1)
	return unix.Syncfs(int(group[0].file.Fd()))
}

func (e *engine) writeback(group []*appender) error {
	if err := e.writeAll(group); err != nil {
		return err
	}
	for _, a := range group {
		if err := unix.SyncFileRange(int(a.file.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE); err != nil {
			return err
		}
	}
	return e.syncAll(group)
}

// journaled writes the group twice: into the journal, which is synced, and into
// the files, which are synced when the journal is full and begins anew.
func (e *engine) journaled(group []*appender) error {
	const headerSize = 16 // which file, where: what replay would need
	b := make([]byte, 0, len(group)*(headerSize+len(e.payload)))
	for _, a := range group {
		b = append(b, make([]byte, headerSize)...)
		b = append(b, e.payload...)
		e.dirty[a] = true
	}
	if _, err := e.journal.WriteAt(b, e.journalSize); err != nil {
		return err
	}
	e.journalSize += int64(len(b))
	if err := e.fdatasync(e.journal); err != nil {
		return err
	}
	if err := e.writeAll(group); err != nil {
		return err
	}
	if e.journalSize < journalBytes {
		return nil
	}
	all := make([]*appender, 0, len(e.dirty))
	for a := range e.dirty {
		all = append(all, a)
	}
	if err := e.syncAll(all); err != nil {
		return err
	}
	clear(e.dirty)
	e.journalSize = 0
	return nil
}
