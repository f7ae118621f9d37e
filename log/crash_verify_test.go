package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// changed cuts the power: it is called around every change of the file system.
func (w *crashWorld) changed(e vfs.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure != nil {
		return
	}
	kind := kindOf(w.phase, e)
	// Each cut has chances of its own, so that it is the same whichever others are tried.
	w.events++
	random := rand.New(rand.NewPCG(w.seed, w.events))
	if w.seen[kind] > w.often && random.IntN(16) > 0 {
		return
	}
	w.seen[kind]++
	// What is told flushed at this moment is durable by now.
	logs := make([]expected, len(w.logs))
	for i, c := range w.logs {
		logs[i] = expected{spec: c.spec, may: slices.Clone(c.may), removing: c.removing}
		if c.live != nil {
			for j := range logs[i].may {
				logs[i].may[j].floor = max(logs[i].may[j].floor, c.live.Flushed())
			}
		}
	}
	v := &crashCheck{world: w, random: random, logs: logs, clean: w.clean, stray: w.stray, depth: 2}
	clone, how := strike(w.mem, random)
	untouched := clone.KillClone()
	if err := v.verify(clone); err != nil {
		w.failure = fmt.Errorf("%s at %q (done: %v): %w\nOn disk:\n%s", how, kind, e.Done, err, listing(untouched))
	}
}

// strike ends the process, and mostly the power too.
func strike(mem *vfs.Mem, random *rand.Rand) (clone *vfs.Mem, how string) {
	switch random.IntN(6) {
	case 0:
		return mem.KillClone(), "kill"
	case 1, 2:
		return mem.CrashClone(nil), "power cut that leaves what was synced"
	default:
		return mem.CrashClone(random), "power cut"
	}
}

// expected is what one log may be after a crash.
type expected struct {
	spec     Spec
	may      []expectation
	removing bool
}

// crashCheck recovers a clone and compares.
type crashCheck struct {
	world  *crashWorld
	random *rand.Rand
	logs   []expected
	clean  bool // the marker may be there
	stray  int
	depth  int  // how many more crashes
	gone   bool // a log whose folder was about to go has gone
	wrong  error
}

func (v *crashCheck) verify(mem *vfs.Mem) error {
	v.world.clones++
	random := v.random
	if random.IntN(10) == 0 {
		if err := v.inspect(mem, true); err != nil {
			return fmt.Errorf("before the recovery: %w", err)
		}
	}
	// A crash in the midst of the recovery: the second recovery must do as well.
	var again *vfs.Mem
	if v.depth > 0 && random.IntN(3) == 0 {
		in := random.IntN(60)
		mem.Watch(func(e vfs.Event) {
			if in--; in == 0 {
				v.world.seen[kindOf("recovery", e)]++
				again, _ = strike(mem, random)
			}
		})
	}
	opts := v.world.opts
	opts.FS = mem
	d, err := OpenDir(opts)
	if err != nil {
		return fmt.Errorf("the directory: %w", err)
	}
	after, err := v.recovered(d)
	mem.Watch(nil)
	if err == nil && v.depth > 0 && random.IntN(3) == 0 {
		err = v.goOn(d, mem, after)
	}
	if closeErr := d.Close(-1); err == nil {
		err = closeErr
	}
	if err == nil && random.IntN(10) == 0 {
		err = v.inspect(mem, false)
	}
	if err != nil || again == nil {
		return err
	}
	deeper := *v
	deeper.depth--
	if err := deeper.verify(again); err != nil {
		return fmt.Errorf("after a crash in the recovery: %w", err)
	}
	return nil
}

// inspect looks at all files from outside: nothing that was promised may be amiss.
func (v *crashCheck) inspect(mem *vfs.Mem, unfinished bool) error {
	// A checkpoint may promise what has gone with its folder.
	if v.gone || unfinished && slices.ContainsFunc(v.logs, func(x expected) bool { return x.removing }) {
		return nil
	}
	in, err := Inspect(InspectOptions{FS: mem, Path: testPath, Partition: -1})
	if errors.Is(err, ErrNotOurs) || errors.Is(err, fs.ErrNotExist) {
		return nil // the power was cut before there was anything
	}
	if err != nil {
		return err
	}
	_, err = in.Verify(context.Background(), func(f Finding) {
		if f.Severity != SeverityNote && v.wrong == nil {
			v.wrong = fmt.Errorf("%s: %s", f.Severity, f)
		}
	})
	return errors.Join(err, v.wrong)
}

// recovered opens all logs of a clone and returns what must be there from now on.
func (v *crashCheck) recovered(d *Dir) ([]expected, error) {
	if _, clean, err := d.CleanMarker(); err != nil {
		return nil, err
	} else if clean {
		if !v.clean {
			return nil, errors.New("the clean-stop marker is there while logs are open")
		}
		for i := range v.logs { // it was written last
			for j := range v.logs[i].may {
				v.logs[i].may[j].floor = v.logs[i].may[j].end()
			}
		}
	}
	found, err := d.Scan()
	if err != nil {
		return nil, err
	}
	if err := v.countStray(d); err != nil {
		return nil, err
	}
	var after []expected
	for _, x := range v.logs {
		there := slices.ContainsFunc(found, func(f Found) bool { return f.Partition == x.spec.Partition && f.Topic == x.spec.Topic })
		if x.removing && !there {
			v.gone = true
			continue
		}
		l, err := d.Open(x.spec)
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", x.spec.Partition, err)
		}
		got, err := look(l)
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", x.spec.Partition, err)
		}
		e, err := matchAny(x.may, got)
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", x.spec.Partition, err)
		}
		e.floor = e.end()
		after = append(after, expected{spec: x.spec, may: []expectation{e}})
	}
	return after, nil
}

func (v *crashCheck) countStray(d *Dir) error {
	entries, err := d.fs.List(d.path)
	if err != nil {
		return err
	}
	n := 0
	for _, e := range entries {
		if strings.HasSuffix(e.Name, strayExt) {
			n++
		}
	}
	if n < v.stray {
		return fmt.Errorf("%d folders are set aside, %d were", n, v.stray)
	}
	return nil
}

// goOn lets the recovered logs take records, and cuts the power again.
func (v *crashCheck) goOn(d *Dir, mem *vfs.Mem, after []expected) error {
	d.mu.Lock()
	logs := slices.Collect(maps.Values(d.logs))
	d.mu.Unlock()
	for i := range after {
		e := &after[i].may[0]
		for _, l := range logs {
			if l.Partition() != after[i].spec.Partition {
				continue
			}
			raw := plainBatch(fmt.Sprintf("after the crash, at %d", l.End()))
			epoch := max(l.LastEpoch(), 0)
			record.Patch(raw, l.End(), epoch)
			info, _ := record.Peek(raw)
			e.batches = append(slices.Clip(e.batches), modelBatch{info, raw})
			if _, _, err := tryAdd(l, epoch, raw); err != nil {
				return fmt.Errorf("append after the crash: %w", err)
			}
			l.flushLater()
			d.pool.drain(l)
			if l.Flushed() != l.End() {
				return fmt.Errorf("after the crash only %d of %d is flushed: %w", l.Flushed(), l.End(), l.Err())
			}
			e.floor = e.end()
		}
	}
	deeper := *v
	deeper.logs, deeper.clean, deeper.depth = after, false, v.depth-1
	clone, how := strike(mem, v.random)
	if err := deeper.verify(clone); err != nil {
		return fmt.Errorf("a second %s: %w", how, err)
	}
	return nil
}

func plainBatch(value string) []byte {
	b := record.NewBuilder(record.BuilderOptions{})
	must(b.Append(&record.Record{Timestamp: 5, Value: []byte(value)}))
	out, err := b.Build(nil)
	must(err)
	return out
}

// recovered is what a log turned out to hold.
type recovered struct {
	start, end record.Offset
	bytes      []byte // from the batch that holds start on
	epochs     epochs
	producers  *producers // nil: not looked at
}

// look reads a log that was just opened.
func look(l *Log) (*recovered, error) {
	if d := l.Damage(); d != DamageNone {
		return nil, fmt.Errorf("%v: %w", d, l.Recovery().Cause)
	}
	hw := l.HighWatermark()
	switch {
	case l.Flushed() != l.End(), l.Written() != l.End(), l.Recovery().End != l.End():
		return nil, fmt.Errorf("recovered to %d, flushed %d, written %d", l.End(), l.Flushed(), l.Written())
	case hw < l.Start(), hw > l.End():
		return nil, fmt.Errorf("high watermark %d of a log [%d, %d)", hw, l.Start(), l.End())
	}
	b, err := everything(l)
	if err != nil {
		return nil, err
	}
	return &recovered{l.Start(), l.End(), b, l.epochs, l.producers}, nil
}

// everything reads a log from its start.
func everything(l *Log) ([]byte, error) {
	var out []byte
	for off := l.Start(); off < l.End(); {
		slices, err := l.Read(off, l.End(), 1<<20)
		if err != nil {
			return nil, err
		}
		if len(slices) == 0 {
			return nil, fmt.Errorf("nothing at offset %d of %d", off, l.End())
		}
		for i := range slices {
			for b := slices[i].Bytes; len(b) > 0; {
				info, ok := record.Peek(b)
				if !ok || !record.VerifyCRC(b[:info.Size]) {
					return nil, fmt.Errorf("bad batch at offset %d", off)
				}
				off, b = info.NextOffset(), b[info.Size:]
			}
			out = append(out, slices[i].Bytes...)
			slices[i].Release()
		}
	}
	return out, nil
}

// matchAny returns the expectation that a log meets, cut to what it holds.
func matchAny(may []expectation, got *recovered) (expectation, error) {
	var errs []error
	for _, e := range may {
		err := e.matches(got)
		if err == nil {
			e.batches = slices.Clip(e.prefix(got.end))
			e.from, e.to = got.start, got.start
			return e, nil
		}
		errs = append(errs, err)
	}
	return expectation{}, errors.Join(errs...)
}

// prefix is the batches below an end.
func (e *expectation) prefix(end record.Offset) []modelBatch {
	n := len(e.batches)
	for n > 0 && e.batches[n-1].info.NextOffset() > end {
		n--
	}
	return e.batches[:n]
}

func (e *expectation) matches(got *recovered) error {
	if got.end < e.floor {
		return fmt.Errorf("log ends at %d, but %d was flushed", got.end, e.floor)
	}
	cut := expectation{batches: e.prefix(got.end), base: e.base}
	if cut.end() != got.end {
		return fmt.Errorf("log ends at %d, which is not the end of a batch of [%d, %d)", got.end, e.base, e.end())
	}
	if got.start < min(e.from, got.end) || got.start > e.to {
		return fmt.Errorf("log starts at %d, want %d to %d", got.start, e.from, e.to)
	}
	var want []byte
	var history epochs
	ps := newProducers(DefaultMaxProducers)
	for i := range cut.batches {
		b := &cut.batches[i]
		ps.update(&b.info, 0)
		if b.info.NextOffset() > got.start {
			want = append(want, b.bytes...)
			history.note(b.info.Epoch, max(b.info.BaseOffset, got.start))
		}
	}
	if !bytes.Equal(want, got.bytes) {
		return fmt.Errorf("%d bytes in [%d, %d) are not those that were appended (%d)", len(got.bytes), got.start, got.end, len(want))
	}
	if got.producers == nil {
		return nil
	}
	if got.start < got.end && !slices.Equal(got.epochs, history) {
		return fmt.Errorf("leader epochs are %v, want %v", got.epochs, history)
	}
	return sameProducers(got.producers, ps)
}

// sameProducers compares what is known of each producer. A snapshot may remember
// fewer of the last batches, never others.
func sameProducers(got, want *producers) error {
	for id, p := range want.byID {
		g := got.byID[id]
		if g == nil || g.epoch != p.epoch || !slices.Equal(g.batches[:g.count], p.batches[p.count-min(g.count, p.count):p.count]) {
			return fmt.Errorf("producer %d is %+v, want %+v", id, g, p)
		}
	}
	for id := range got.byID {
		if want.byID[id] == nil {
			return fmt.Errorf("producer %d is known, and never wrote", id)
		}
	}
	return nil
}

// listing is what a crash left, for people.
func listing(mem *vfs.Mem) string {
	var out strings.Builder
	folders := []string{testPath}
	for len(folders) > 0 {
		folder := folders[0]
		folders = folders[1:]
		entries, err := mem.List(folder)
		must(err)
		for _, e := range entries {
			name := folder + "/" + e.Name
			if e.Folder {
				folders = append(folders, name)
				continue
			}
			b, err := readFile(mem, name)
			must(err)
			fmt.Fprintf(&out, "%6d %s\n", len(b), name)
			if strings.HasPrefix(e.Name, "flushed-checkpoint") {
				sequence, states, err := decodeCheckpoint(b)
				fmt.Fprintf(&out, "       %d %v %v\n", sequence, states, err)
			}
		}
	}
	return out.String()
}
