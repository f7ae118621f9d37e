// Package logtest opens logs for tests and checks them when the test is over: what
// is on disk, what is in memory, and that what counts as flushed survives a power cut.
package logtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/penstock/penstock/internal/vfs"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
)

// Path is where Open makes the data directory unless it is told.
const Path = "/data"

// Dir is a data directory under test.
type Dir struct {
	*commitlog.Dir
	tb   testing.TB
	opts commitlog.DirOptions
	logs []*opened
	// checked: the test has called Check itself.
	checked bool
}

type opened struct {
	*commitlog.Log
	spec commitlog.Spec
}

// Open opens a data directory. When the test is over it is checked and closed, unless the
// test has called Check itself. A missing FS is one in memory, a missing Arena one of 1 MiB.
func Open(tb testing.TB, opts commitlog.DirOptions) *Dir {
	tb.Helper()
	if opts.FS == nil {
		opts.FS = vfs.NewMem()
	}
	if opts.Path == "" {
		opts.Path = Path
	}
	if opts.Arena == nil {
		opts.Arena = record.NewArena(1 << 20)
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	d, err := commitlog.OpenDir(opts)
	if err != nil {
		tb.Fatal(err)
	}
	dir := &Dir{Dir: d, tb: tb, opts: opts}
	tb.Cleanup(func() {
		if dir.checked {
			return
		}
		if err := dir.Check(); err != nil {
			tb.Errorf("the logs of this test are not as they should be: %v", err)
		}
	})
	return dir
}

// Log opens a log that takes part in the check.
func (d *Dir) Log(spec commitlog.Spec) *commitlog.Log {
	d.tb.Helper()
	l, err := d.Open(spec)
	if err != nil {
		d.tb.Fatal(err)
	}
	d.logs = append(d.logs, &opened{l, spec})
	return l
}

// Check closes the directory and returns what is wrong with it: offsets in memory
// that contradict each other; on a Mem, records that counted as flushed and are gone
// after a power cut; buffers that are still referenced; batches, indexes, epochs,
// producer snapshots or checkpoints that contradict each other. Logs that have
// latched a failure or are damaged are left out, and those that were removed.
func (d *Dir) Check() error {
	d.checked = true
	var errs []error
	for _, l := range d.logs {
		errs = append(errs, offsets(l.Log))
	}
	errs = append(errs, d.powerCut())
	failed := false
	for _, l := range d.logs {
		failed = failed || l.Err() != nil || l.Damage() != commitlog.DamageNone
	}
	if err := d.Close(-1); err != nil && !failed {
		errs = append(errs, err)
	}
	if n := d.opts.Arena.InUse(); n != 0 {
		errs = append(errs, fmt.Errorf("%d bytes of the arena are referenced after the directory was closed", n))
	}
	if !failed {
		errs = append(errs, Verify(d.opts.FS, d.opts.Path))
	}
	return errors.Join(errs...)
}

// offsets checks what a log says of itself. It reads in an order in which a log
// that goes on meanwhile does not contradict itself.
func offsets(l *commitlog.Log) error {
	start, flushed, written := l.Start(), l.Flushed(), l.Written()
	hw, end := l.HighWatermark(), l.End()
	if l.Err() == nil && (start > end || flushed > written || written > end || hw > end || hw < start) {
		return fmt.Errorf("%s-%d: start %d, flushed %d, written %d, high watermark %d, end %d", l.Topic(), l.Partition(), start, flushed, written, hw, end)
	}
	return nil
}

// powerCut recovers a clone of a file system in memory.
func (d *Dir) powerCut() error {
	mem, ok := d.opts.FS.(*vfs.Mem)
	if !ok {
		return nil
	}
	flushed := map[*opened]record.Offset{}
	for _, l := range d.logs {
		if there := d.there(l.Log); there && l.Err() == nil && l.Damage() == commitlog.DamageNone {
			flushed[l] = l.Flushed()
		}
	}
	opts := d.opts
	opts.FS, opts.Arena = mem.CrashClone(nil), nil
	after, err := commitlog.OpenDir(opts)
	if err != nil {
		return fmt.Errorf("after a power cut: %w", err)
	}
	var errs []error
	for l, promised := range flushed {
		spec := l.spec
		spec.Notify = nil
		again, err := after.Open(spec)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("after a power cut: %w", err))
		case again.Damage() != commitlog.DamageNone:
			errs = append(errs, fmt.Errorf("%s-%d after a power cut: %w", l.Topic(), l.Partition(), again.Recovery().Cause))
		case again.End() < promised:
			errs = append(errs, fmt.Errorf("%s-%d ends at %d after a power cut, and %d was flushed", l.Topic(), l.Partition(), again.End(), promised))
		}
	}
	return errors.Join(errors.Join(errs...), after.Close(-1))
}

// there says that a log is the one in its folder still.
func (d *Dir) there(l *commitlog.Log) bool {
	found, err := d.Scan()
	if err != nil {
		return false
	}
	for _, f := range found {
		if f.TopicID == l.TopicID() && f.Partition == l.Partition() {
			return true
		}
	}
	return false
}

// Verify looks at all files of a data directory that nobody has open.
func Verify(fsys vfs.FS, path string) error {
	in, err := commitlog.Inspect(commitlog.InspectOptions{FS: fsys, Path: path, Partition: -1})
	if err != nil {
		return err
	}
	var errs []error
	_, err = in.Verify(context.Background(), func(f commitlog.Finding) {
		if f.Severity == commitlog.SeverityDamage {
			errs = append(errs, errors.New(f.String()))
		}
	})
	return errors.Join(append(errs, err)...)
}
