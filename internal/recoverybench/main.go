// Command recoverybench shows what opening a log costs after its process was
// killed: a child fills a log, lets the checkpoint catch up, writes some more, and
// dies; the parent opens what is left and counts. Once for a small log and once for
// a large one, with as much above the checkpoint: the difference is what the size of
// the log costs.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/penstock/penstock/internal/vfs"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
)

const mib = 1 << 20

type options struct {
	dir         string
	small       int64 // sizes in bytes
	large       int64
	above       int64
	batch       int
	child       int64 // the size to fill; 0: the parent
	keepCaches  bool
	segmentSize int64
}

func main() {
	var o options
	small, large, above := flag.Int64("small", 100, "size of the small log, MiB"), flag.Int64("large", 10<<10, "size of the large log, MiB"),
		flag.Int64("above", 4, "what is written after the last checkpoint, MiB")
	flag.StringVar(&o.dir, "dir", "/var/tmp", "where the logs are made, and removed afterwards")
	flag.IntVar(&o.batch, "batch", 1024, "bytes of a batch")
	flag.Int64Var(&o.segmentSize, "segment", commitlog.DefaultSegmentBytes, "segment.bytes")
	flag.BoolVar(&o.keepCaches, "keep-caches", false, "do not drop the page cache, even as root")
	flag.Int64Var(&o.child, "child", 0, "for the child process")
	flag.Parse()
	o.small, o.large, o.above = *small*mib, *large*mib, *above*mib
	var err error
	if o.child > 0 {
		err = o.fill()
	} else {
		err = o.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (o *options) run() (err error) {
	o.dir, err = os.MkdirTemp(o.dir, "penstock-recovery-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	fmt.Printf("%s, %s, %d CPUs; batches of %d bytes, %d MiB above the checkpoint\n", time.Now().UTC().Format(time.DateOnly), runtime.Version(), runtime.NumCPU(), o.batch, o.above/mib)
	for _, size := range []int64{o.small, o.large} {
		if err := o.measure(size); err != nil {
			return err
		}
	}
	return nil
}

// measure lets a child fill a log and die, and opens it.
func (o *options) measure(size int64) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	path := filepath.Join(o.dir, strconv.FormatInt(size/mib, 10))
	child := exec.Command(exe, "-dir", path, "-child", strconv.FormatInt(size, 10), "-above", strconv.FormatInt(o.above/mib, 10), //nolint:noctx // it ends by itself
		"-batch", strconv.Itoa(o.batch), "-segment", strconv.FormatInt(o.segmentSize, 10))
	child.Stderr = os.Stderr
	began := time.Now()
	if err := child.Run(); err == nil || child.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		return fmt.Errorf("the child did not kill itself: %w", err)
	}
	filled := time.Since(began)
	cold, err := o.dropCaches()
	if err != nil {
		return err
	}
	counted := vfs.NewFaults(vfs.OS{})
	began = time.Now()
	d, err := commitlog.OpenDir(o.dirOptions(path, counted))
	if err != nil {
		return err
	}
	l, err := d.Open(o.spec())
	if err != nil {
		return errors.Join(err, d.Close(-1))
	}
	took := time.Since(began)
	r := l.Recovery()
	fmt.Printf("%6d MiB (filled in %v): opened in %v, page cache %s; %.1f MiB read in %d reads, %.1f MiB written, %.1f MiB of the log above the checkpoint, damage: %v\n",
		l.Size()/mib, filled.Round(time.Second), took.Round(time.Millisecond), cold, float64(counted.Bytes(vfs.OpRead))/mib, counted.Count(vfs.OpRead),
		float64(counted.Bytes(vfs.OpWrite))/mib, float64(r.RewrittenBytes)/mib, r.Damage)
	return errors.Join(d.Close(-1), os.RemoveAll(path))
}

// dropCaches empties the page cache, which only root may.
func (o *options) dropCaches() (string, error) {
	if o.keepCaches || os.Geteuid() != 0 {
		return "warm", nil
	}
	syscall.Sync()
	return "cold", os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0o200)
}

func (o *options) dirOptions(path string, fsys vfs.FS) commitlog.DirOptions {
	return commitlog.DirOptions{FS: fsys, Path: path, Logger: slog.New(slog.DiscardHandler), DiskReserve: -1}
}

func (o *options) spec() commitlog.Spec {
	return commitlog.Spec{Topic: "recovery", TopicID: [16]byte{1}, Config: commitlog.Config{Synced: true, SegmentBytes: o.segmentSize}}
}

// fill is the child: it ends with SIGKILL.
func (o *options) fill() error {
	d, err := commitlog.OpenDir(o.dirOptions(o.dir, vfs.OS{}))
	if err != nil {
		return err
	}
	moved := make(chan struct{}, 1)
	spec := o.spec()
	spec.Notify = func(commitlog.Progress) {
		select {
		case moved <- struct{}{}:
		default:
		}
	}
	l, err := d.Open(spec)
	if err != nil {
		return err
	}
	if err := o.append(l, o.child, l.Flushed, moved); err != nil {
		return err
	}
	time.Sleep(time.Second) // the checkpoint is written at most 100 ms later
	spec.Config.Synced, spec.Config.FlushInterval = false, time.Hour
	l.Configure(spec.Config)
	if err := o.append(l, o.above, l.Written, moved); err != nil {
		return err
	}
	return syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

// append appends so many bytes and waits until reached says so; a little is under
// way at a time.
func (o *options) append(l *commitlog.Log, bytes int64, reached func() record.Offset, moved <-chan struct{}) error {
	b := record.NewBuilder(record.BuilderOptions{})
	if err := b.Append(&record.Record{Timestamp: 1_700_000_000_000, Value: make([]byte, max(o.batch-80, 1))}); err != nil {
		return err
	}
	raw, err := b.Build(nil)
	if err != nil {
		return err
	}
	window := record.Offset(max(16*mib/len(raw), 1))
	for done := int64(0); done < bytes; done += int64(len(raw)) {
		buf := record.NewBuf(append([]byte(nil), raw...))
		_, next, err := l.Append(1, []*record.Buf{buf}, time.Now().UnixMilli())
		buf.Release()
		if err != nil {
			return err
		}
		for next-reached() > window && l.Err() == nil {
			<-moved
		}
	}
	for reached() < l.End() && l.Err() == nil {
		<-moved
	}
	return l.Err()
}
