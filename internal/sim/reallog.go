package sim

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/internal/vfs"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
)

// dataDir is a node's data directory with the real package log in it, on a file system
// in memory. The package's goroutines run in a synctest bubble, whose time the world
// moves on with its own: after each step all of them have come to rest, so that what
// they did is the same each time. A flush waits until the world lets it go on. The
// entries of a disk are then a copy of what the log was given, read anew when it is
// opened; what is durable is what the log says.
type dataDir struct {
	n      *node
	mem    *vfs.Mem
	faults *vfs.Faults
	dir    *commitlog.Dir
	logs   []*commitlog.Log // by partition; nil: none

	// pass: flushes do not wait, for the world itself waits for them.
	pass atomic.Bool

	mu      sync.Mutex // guards what follows
	waiting []*flushTurn
	owner   map[string]int // the partition that has the folder of a topic's name
	news    map[int]bool   // partitions whose log has something to tell
}

// flushTurn is a flush that waits.
type flushTurn struct {
	part    int
	file    namedFile
	verdict chan error
}

// namedFile knows whose it is.
type namedFile struct {
	vfs.File
	name string
}

type namedFS struct{ vfs.FS }

// Open implements vfs.Files.
func (f namedFS) Open(name string) (vfs.File, error) {
	file, err := f.FS.Open(name)
	return namedFile{file, name}, err
}

// Create implements vfs.Files.
func (f namedFS) Create(name string) (vfs.File, error) {
	file, err := f.FS.Create(name)
	return namedFile{file, name}, err
}

const (
	realFolder = "/data"
	// realTail holds the records of a run, realSegment few of them.
	realTail    = 1 << 20
	realSegment = 2700
	// realKey makes a batch larger than half a sector, so that a power cut often tears one.
	realKey = 200
)

// openDir opens what a process finds.
func (n *node) openDir(mem *vfs.Mem) {
	d := &dataDir{n: n, mem: mem, faults: vfs.NewFaults(mem), owner: map[string]int{}, news: map[int]bool{}}
	n.data = d
	d.pass.Store(true)
	defer d.pass.Store(false)
	var err error
	d.dir, err = commitlog.OpenDir(commitlog.DirOptions{
		FS: namedFS{d.faults}, Path: realFolder, TailBytes: realTail, Logger: slog.New(slog.DiscardHandler),
		Flusher: commitlog.FlusherOptions{Workers: 4, Flusher: d, JournalBytes: -1},
	})
	if err != nil {
		n.w.fail(Acked, "node %d: data directory: %v", n.id, err)
		return
	}
	found, err := d.dir.Scan()
	if err != nil {
		n.w.fail(Acked, "node %d: data directory: %v", n.id, err)
	}
	for len(n.disks) < len(n.w.parts) {
		n.disks = append(n.disks, nil)
	}
	clear(n.disks)
	for _, f := range found {
		if f.HasID {
			d.open(int(f.TopicID[15]) - 1)
		}
	}
}

// open opens a log and reads it.
func (d *dataDir) open(part int) *disk {
	w, p := d.n.w, d.n.w.parts[part]
	pass := d.pass.Swap(true)
	defer d.pass.Store(pass)
	d.mu.Lock()
	d.owner[p.name] = part
	d.mu.Unlock()
	for len(d.logs) < len(w.parts) {
		d.logs = append(d.logs, nil)
	}
	l, err := d.dir.Open(commitlog.Spec{
		Topic: p.name, TopicID: p.topic,
		Config: commitlog.Config{Synced: p.synced, SegmentBytes: realSegment, IndexInterval: 200, FlushInterval: 300 * time.Millisecond},
		Notify: func(commitlog.Progress) {
			d.mu.Lock()
			d.news[part] = true
			d.mu.Unlock()
		},
	})
	if err != nil {
		w.fail(Acked, "partition %d: node %d: open: %v", part, d.n.id, err)
		return &disk{}
	}
	d.logs[part] = l
	k := &disk{real: l, durable: int(l.Flushed()), promised: int(l.Recovery().Flushed)}
	k.damage = partition.Damage(l.Recovery().Damage) // The numbers are the same.
	if l.Recovery().TornBytes > 0 {
		w.counts.TornTails++
	}
	k.start = int(l.Start())
	k.entries = make([]entry, k.start)
	for at := l.Start(); at < l.End(); {
		slices, err := l.Read(at, l.End(), 1<<20)
		if err != nil || len(slices) == 0 {
			w.fail(Acked, "partition %d: node %d: read at %d of %d: %v", part, d.n.id, at, l.End(), err)
			break
		}
		for i := range slices {
			for b := slices[i].Bytes; len(b) > 0; {
				info, _ := record.Peek(b)
				k.entries = append(k.entries, decodeEntry(b[:info.Size], &info))
				at, b = info.NextOffset(), b[info.Size:]
			}
			slices[i].Release()
		}
	}
	d.n.disks[part] = k
	for _, e := range k.entries[k.start:] {
		if of, known := w.sent[e.value]; known && of != part {
			w.fail(Gone, "partition %d: node %d finds value %d in its log, which was sent to partition %d", part, d.n.id, e.value, of)
		}
	}
	return k
}

// remove deletes a log.
func (d *dataDir) remove(part int) error {
	l := d.logs[part]
	d.logs[part] = nil
	return d.dir.Remove(l)
}

// setAside keeps the folder of a log that the image does not account for.
func (d *dataDir) setAside(part int) error {
	l, p := d.logs[part], d.n.w.parts[part]
	d.logs[part] = nil
	if err := l.Close(); err != nil {
		return err
	}
	return d.dir.SetAside(commitlog.Found{Topic: p.name, TopicID: p.topic, HasID: true})
}

// decodeEntry is encodeEntry's way back.
func decodeEntry(b []byte, info *record.BatchInfo) entry {
	e := entry{epoch: info.Epoch, producer: info.ProducerID, sequence: info.BaseSequence, value: -1}
	for r, err := range record.Records(b, record.Limits{Internal: true}) {
		if err == nil && len(r.Value) == 8 {
			e.value = int64(binary.BigEndian.Uint64(r.Value))
		}
	}
	return e
}

// encodeEntry makes a batch of an entry, as its producer sends it.
func encodeEntry(e entry) *record.Buf {
	b := record.NewBuilder(record.BuilderOptions{})
	b.SetProducer(e.producer, 0, e.sequence)
	if err := b.Append(&record.Record{Timestamp: 1, Key: make([]byte, realKey), Value: binary.BigEndian.AppendUint64(nil, uint64(e.value))}); err != nil {
		panic(err) // eight bytes fit
	}
	raw, err := b.Build(nil)
	if err != nil {
		panic(err)
	}
	return record.NewBuf(raw)
}

// Flush implements commitlog.Flusher.
func (d *dataDir) Flush(f vfs.File) error {
	file, ok := f.(namedFile)
	if d.pass.Load() || !ok {
		return f.Datasync()
	}
	t := &flushTurn{file: file, verdict: make(chan error)}
	d.mu.Lock()
	t.part = d.owner[topicOf(file.name)]
	d.waiting = append(d.waiting, t)
	d.mu.Unlock()
	if err := <-t.verdict; err != nil {
		d.faults.Inject(vfs.Fault{Op: vfs.OpSync, Pattern: path.Base(file.name), Count: 1, Err: err})
	}
	return f.Datasync()
}

// topicOf reads the topic from the folder of a file: t2-0 is of t2.
func topicOf(name string) string {
	return strings.TrimSuffix(path.Base(path.Dir(name)), "-0")
}

// take returns the flushes that have begun to wait, and the partitions with news.
func (d *dataDir) take() (turns []*flushTurn, news []int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	turns, d.waiting = d.waiting, nil
	slices.SortFunc(turns, func(a, b *flushTurn) int { return a.part - b.part })
	for part := range d.news {
		news = append(news, part)
	}
	slices.Sort(news)
	clear(d.news)
	return turns, news
}

// rest lets the goroutines of all logs come to rest, and hears what they did.
func (w *World) rest() {
	if w.opts.Quiet == nil {
		return
	}
	for again := true; again; {
		w.opts.Quiet()
		again = false
		for _, n := range w.nodes {
			if n.data == nil {
				continue
			}
			turns, news := n.data.take()
			for _, t := range turns {
				n.data.begin(t)
			}
			for _, part := range news {
				again = true
				if n.up && n.replicas[part] != nil {
					n.run(n.replicas[part].progress)
				}
			}
		}
	}
}

// begin lets a flush end some time later, if its process lives so long.
func (d *dataDir) begin(t *flushTurn) {
	r := d.n.replicas[t.part]
	if r == nil {
		t.verdict <- nil
		return
	}
	r.turn, r.flushing = t, true
	if d.n.flushSince.IsZero() {
		d.n.flushSince = d.n.w.now
	}
	d.n.after(r.flushTime(), "flushed", func() { r.letGo() })
}

// letGo ends a flush of the real log, well or not.
func (r *replica) letGo() {
	t := r.turn
	if t == nil {
		return
	}
	r.turn, r.flushing, r.n.flushSince = nil, false, time.Time{}
	if r.n.failing && !r.n.data.pass.Load() {
		r.n.flushFailed()
		t.verdict <- syscall.EIO
		return
	}
	t.verdict <- nil
}

// progress hears how far the real log got.
func (r *replica) progress() {
	l := r.disk.real
	if r.failed || l == nil {
		return
	}
	if l.Err() != nil {
		r.step(partition.LogFailed())
		return
	}
	r.disk.durable = int(l.Flushed())
	r.step(partition.Progress(l.Written(), l.Flushed()))
}

// still lets a flush of the log that is under way end, and keeps others from waiting,
// while do changes the log.
func (r *replica) still(do func() error) error {
	d := r.n.data
	d.pass.Store(true)
	defer d.pass.Store(false)
	r.letGo()
	d.letGoWaiting(r.part)
	r.w().opts.Quiet()
	return do()
}

// letGoWaiting ends the flushes of a partition that the world has not seen begin.
func (d *dataDir) letGoWaiting(part int) {
	d.mu.Lock()
	var turns []*flushTurn
	d.waiting = slices.DeleteFunc(d.waiting, func(t *flushTurn) bool {
		if t.part != part {
			return false
		}
		turns = append(turns, t)
		return true
	})
	d.mu.Unlock()
	for _, t := range turns {
		t.verdict <- nil
	}
}

// close ends the process's use of its data directory, of which mem is a copy by now
// unless it is a clean stop, and returns what is left.
func (d *dataDir) close(clean bool) error {
	d.pass.Store(true)
	for _, r := range d.n.replicas {
		if r != nil {
			r.letGo()
		}
	}
	for _, gone := range d.n.departed {
		gone.r.letGo()
	}
	d.mu.Lock()
	turns := d.waiting
	d.waiting = nil
	d.mu.Unlock()
	for _, t := range turns {
		t.verdict <- nil
	}
	d.n.w.opts.Quiet()
	d.n.data = nil
	if d.dir == nil {
		return nil
	}
	err := d.dir.Close(-1)
	if clean {
		return err
	}
	return nil
}

// remains is what is there of a process's files after its death. Pages of a failed
// sync may have left the memory of the machine.
func (d *dataDir) remains(powerCut bool) *vfs.Mem {
	if d.n.w.chance(50) {
		d.mem.EvictLost()
	}
	if powerCut {
		return d.mem.CrashClone(rand.New(rand.NewPCG(d.n.w.rng.Uint64(), 1)))
	}
	return d.mem.KillClone()
}

// appendReal appends an entry to the real log as leader. It returns where the entry
// is, whether it was there before, and the last sequence of the producer where the log
// refuses: -1 if it knows none.
func (d *disk) appendReal(w *World, e entry) (at int, dup bool, last int32, err error) {
	b := encodeEntry(e)
	defer b.Release()
	first, _, err := d.real.Append(e.epoch, []*record.Buf{b}, w.now.UnixMilli())
	w.opts.Quiet()
	if dup, ok := errors.AsType[*commitlog.DuplicateError](err); ok {
		return int(dup.First), true, 0, nil
	}
	if seq, ok := errors.AsType[*commitlog.SequenceError](err); ok {
		return 0, false, seq.Expected - 1, err
	}
	return int(first), false, 0, err
}

// takeReal appends what a leader pushed.
func (d *disk) takeReal(w *World, from int, entries []entry) error {
	var bufs []*record.Buf
	for i, e := range entries {
		b := encodeEntry(e)
		record.Patch(b.Bytes(), record.Offset(from+i), e.epoch)
		bufs = append(bufs, b)
	}
	err := d.real.AppendFollower(record.Offset(from), record.Offset(from+len(entries)), 0, bufs)
	for _, b := range bufs {
		b.Release()
	}
	w.opts.Quiet()
	return err
}
