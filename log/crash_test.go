package log

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// crashWorld is a data directory with a few logs, a random history that happens
// to them, and beside each log the slice of batches that it must be. At every
// change of the file system the power is cut on a clone, and the clone must
// recover to what the model says.
//
// The history is a function of the seed. Flushes happen when the history says so:
// a log is held back by taking its turn away from the pool.
type crashWorld struct {
	seed   uint64
	random *rand.Rand // of the history
	mem    *vfs.Mem
	faults *vfs.Faults
	now    atomic.Int64 // ms
	opts   DirOptions
	d      *Dir
	logs   []*crashLog
	nextID byte
	stray  int // folders set aside
	// seen counts over several histories; what was hit so often is tried only now and then.
	seen  map[string]int
	often int
	trace []string

	mu      sync.Mutex // guards all below, and what is expected of the logs
	events  uint64     // changes so far
	phase   string     // what the history does at the moment
	clean   bool       // the clean-stop marker may be there
	clones  int
	failure error
}

// crashLog is one log and its model.
type crashLog struct {
	spec Spec
	l    *Log
	ear  *listener
	// paused: appends gather, nothing is written.
	paused bool
	epoch  record.Epoch
	ms     int64

	// Guarded by crashWorld.mu: what a crash may leave. Several while an operation
	// that changes the log as a whole is under way.
	may []expectation
	// live: what this log reports as flushed must survive too.
	live *Log
	// removing: its folder may be gone.
	removing bool
}

// expectation is a log that a crash may leave: a prefix of the batches that ends
// at or above floor.
type expectation struct {
	batches  []modelBatch // all since the last reset, also those below the start
	base     record.Offset
	from, to record.Offset // the start lies here
	floor    record.Offset
}

func (e *expectation) end() record.Offset {
	if n := len(e.batches); n > 0 {
		return e.batches[n-1].info.NextOffset()
	}
	return e.base
}

// holding returns the base of the batch that holds an offset; off at the end.
func (e *expectation) holding(off record.Offset) record.Offset {
	for _, b := range e.batches {
		if b.info.BaseOffset <= off && off < b.info.NextOffset() {
			return b.info.BaseOffset
		}
	}
	return off
}

// want is the one thing that is expected when no operation is under way.
func (c *crashLog) want() *expectation { return &c.may[0] }

const crashLogs = 3

func newCrashWorld(seed uint64, opts DirOptions) *crashWorld {
	w := &crashWorld{
		seed: seed, random: rand.New(rand.NewPCG(seed, 0)),
		mem: vfs.NewMem(), seen: map[string]int{}, often: math.MaxInt, phase: "start",
	}
	w.faults = vfs.NewFaults(w.mem)
	w.now.Store(1_700_000_000_000)
	w.opts = opts
	w.opts.FS = w.faults
	w.opts.CheckpointInterval = time.Hour // the history says when
	w.opts.Now = func() time.Time { return time.UnixMilli(w.now.Load()) }
	return w
}

// run lets steps operations happen and returns the first thing that was wrong.
func (w *crashWorld) run(steps int) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("seed %d: %w\nHistory:\n%s", w.seed, err, strings.Join(w.trace[max(0, len(w.trace)-60):], "\n"))
		}
	}()
	w.mem.Watch(w.changed)
	for range crashLogs {
		w.logs = append(w.logs, w.newLog(len(w.logs)))
	}
	if err := w.openDir(); err != nil {
		return err
	}
	for range steps {
		if err := w.step(); err != nil {
			w.mem.Watch(nil)
			return errors.Join(err, w.stop())
		}
	}
	err = w.stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.failure, err)
}

func (w *crashWorld) newLog(partition int) *crashLog {
	w.nextID++
	c := &crashLog{epoch: 1, ms: 1000, may: []expectation{{}}}
	c.spec = Spec{Topic: "orders", TopicID: [16]byte{w.nextID}, Partition: int32(partition), Config: w.config()}
	return c
}

func (w *crashWorld) config() Config {
	return Config{
		Synced:        w.journals() || w.random.IntN(3) > 0,
		SegmentBytes:  []int64{300, 1500, 9000, 30_000}[w.random.IntN(4)],
		IndexInterval: 1 + w.random.IntN(600),
		FlushInterval: 1000 * time.Hour,
	}
}

// step does one operation and settles what it started.
func (w *crashWorld) step() error {
	c := w.logs[w.random.IntN(len(w.logs))]
	grouped := 0
	if w.journals() {
		grouped = 12
	}
	ops := []struct {
		weight int
		name   string
		do     func(*crashLog) error
	}{
		{30, "append", w.append},
		{10, "follow", w.follow},
		{8, "flush", w.flush},
		{6, "hold back", w.holdBack},
		{grouped, "group", w.group},
		{5, "truncate", w.truncate},
		{4, "advance start", w.advanceStart},
		{4, "retain", w.retain},
		{2, "reset", w.reset},
		{3, "configure", w.configure},
		{4, "checkpoint", w.checkpoint},
		{3, "close log", w.reopen},
		{2, "close dir", w.reopenDir},
		{1, "remove", w.remove},
		{1, "set aside", w.setAside},
		{2, "failed flush", w.failedFlush},
		{3, "fault", w.fault},
		{2, "look back", w.advanceTime},
	}
	total := 0
	for _, op := range ops {
		total += op.weight
	}
	n := w.random.IntN(total)
	for _, op := range ops {
		if n -= op.weight; n >= 0 {
			continue
		}
		w.enter(op.name)
		err := op.do(c)
		w.note("%s of partition %d: [%d, %d) flushed %d, err %v", op.name, c.spec.Partition, c.l.Start(), c.l.End(), c.l.Flushed(), err)
		if err != nil {
			return err
		}
		break
	}
	w.settle()
	for _, c := range w.logs {
		if err := w.compare(c); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failure
}

// note keeps what happened, for the report of a failure.
func (w *crashWorld) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

func (w *crashWorld) enter(phase string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.phase = phase
}

// settle waits until the pool has done what it may.
func (w *crashWorld) settle() {
	for _, c := range w.logs {
		if !c.paused {
			w.d.pool.drain(c.l)
		}
	}
}

// hold takes a log's turn away from the pool, let gives it back.
func (w *crashWorld) hold(c *crashLog) {
	p := w.d.pool
	p.drain(c.l)
	p.mu.Lock()
	defer p.mu.Unlock()
	c.l.turn, c.paused = turnQueued, true
}

// Those that are let at once may make a group.
func (w *crashWorld) let(logs ...*crashLog) {
	p := w.d.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range logs {
		if c.paused {
			c.paused = false
			p.queue.push(c.l)
		}
	}
	p.hire(1)
}

// compare checks the living log against its model, and what was written on the fly.
func (w *crashWorld) compare(c *crashLog) error {
	e := c.want()
	switch {
	case c.l.Err() != nil:
		return c.l.Err()
	case c.l.End() != e.end(), c.l.Start() != e.from:
		return fmt.Errorf("log holds [%d, %d), want [%d, %d)", c.l.Start(), c.l.End(), e.from, e.end())
	case c.l.Flushed() > c.l.Written(), c.l.Written() > c.l.End():
		return fmt.Errorf("flushed %d, written %d, end %d", c.l.Flushed(), c.l.Written(), c.l.End())
	case !c.paused && c.l.Written() != c.l.End():
		return fmt.Errorf("written %d of %d after the pool came to rest", c.l.Written(), c.l.End())
	}
	ps := newProducers(DefaultMaxProducers)
	for i := range e.batches {
		ps.update(&e.batches[i].info, 0)
	}
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	return sameProducers(c.l.producers, ps)
}

// between sets what is expected of a log while an operation is under way.
func (w *crashWorld) between(c *crashLog, live *Log, may ...expectation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.may, c.live = may, live
}

// newBatch builds what a producer sends, and pushes it to the model before the
// log can have written it.
func (w *crashWorld) newBatch(c *crashLog) []byte {
	e := c.want()
	b := record.NewBuilder(record.BuilderOptions{})
	size := w.random.IntN(80)
	if w.random.IntN(6) == 0 {
		size = w.random.IntN(7000)
	}
	for range 1 + w.random.IntN(3) {
		c.ms = max(c.ms+w.random.Int64N(20)-3, 0)
		value := make([]byte, size)
		for i := range value {
			value[i] = byte(w.random.Uint32())
		}
		must(b.Append(&record.Record{Timestamp: c.ms, Value: value}))
	}
	if id := w.random.Int64N(6) - 2; id >= 0 {
		sequence := int32(0)
		for _, old := range slices.Backward(e.batches) {
			if old.info.ProducerID == id {
				sequence = old.info.BaseSequence + old.info.LastDelta + 1
				break
			}
		}
		b.SetProducer(id, 0, sequence)
	}
	out, err := b.Build(nil)
	must(err)
	record.Patch(out, e.end(), c.epoch)
	info, _ := record.Peek(out)
	w.mu.Lock()
	defer w.mu.Unlock()
	e.batches = append(slices.Clip(e.batches), modelBatch{info, out})
	return out
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func (w *crashWorld) append(c *crashLog) error {
	if w.random.IntN(8) == 0 {
		c.epoch += 1 + record.Epoch(w.random.IntN(2))
	}
	for range 1 + w.random.IntN(3) {
		b := w.newBatch(c)
		if _, _, err := tryAdd(c.l, c.epoch, b); err != nil {
			return w.revive(c, err)
		}
		w.now.Add(w.random.Int64N(1000))
	}
	return nil
}

func (w *crashWorld) follow(c *crashLog) error {
	from := c.want().end()
	var bufs []*record.Buf
	for range 1 + w.random.IntN(2) {
		var run []byte
		for range 1 + w.random.IntN(3) {
			c.epoch += record.Epoch(w.random.IntN(8) / 7)
			run = append(run, w.newBatch(c)...)
		}
		bufs = append(bufs, record.NewBuf(run))
	}
	err := c.l.AppendFollower(from, c.want().end(), 0, bufs)
	for _, b := range bufs {
		b.Release()
	}
	return w.revive(c, err)
}

func (w *crashWorld) flush(c *crashLog) error {
	w.let(c)
	c.l.flushLater()
	w.settle()
	if c.l.Err() == nil && c.l.Flushed() != c.l.End() {
		return fmt.Errorf("flushed %d of %d", c.l.Flushed(), c.l.End())
	}
	return w.revive(c, c.l.Err())
}

func (w *crashWorld) holdBack(*crashLog) error {
	all := w.random.IntN(3) == 0
	var waiting []*crashLog
	for _, c := range w.logs {
		switch {
		case c.paused:
			waiting = append(waiting, c)
		case all || w.random.IntN(2) == 0:
			w.hold(c)
		}
	}
	w.let(waiting...)
	w.settle()
	return w.reviveAll()
}

// journals says whether small groups go through the flush journal.
func (w *crashWorld) journals() bool { return w.opts.Flusher.JournalBytes > 0 }

// group lets all logs be flushed at once; then bytes that the journal has may change.
func (w *crashWorld) group(c *crashLog) error {
	w.let(w.logs...)
	w.settle()
	for _, c := range w.logs {
		w.hold(c)
		if err := w.append(c); err != nil {
			return err
		}
	}
	w.let(w.logs...)
	w.settle()
	if err := w.reviveAll(); err != nil {
		return err
	}
	changes := map[string]func(*crashLog) error{"truncate": w.truncate, "reset": w.reset, "remove": w.remove, "close log": w.reopen}
	name := slices.Sorted(maps.Keys(changes))[w.random.IntN(len(changes))]
	if w.random.IntN(2) == 0 {
		return nil
	}
	w.enter(name)
	return changes[name](c)
}

func (w *crashWorld) offset(c *crashLog) record.Offset {
	e := c.want()
	return e.from + record.Offset(w.random.Int64N(int64(e.end()-e.from)+1))
}

func (w *crashWorld) truncate(c *crashLog) error {
	off := w.offset(c)
	e := *c.want()
	at := e.holding(off)
	during := e
	during.floor, during.from = min(max(e.floor, c.l.Flushed()), at), min(e.from, at)
	w.between(c, nil, during)
	if err := c.l.TruncateTo(off); err != nil {
		return w.revive(c, err)
	}
	end := c.l.End()
	if end > off || off-end > 40 {
		return fmt.Errorf("truncation to %d leaves %d", off, end)
	}
	for len(e.batches) > 0 && e.end() > end {
		e.batches = e.batches[:len(e.batches)-1]
	}
	e.batches = slices.Clip(e.batches)
	e.from = min(e.from, end)
	e.to, e.floor = e.from, min(e.floor, end)
	w.between(c, c.l, e)
	c.epoch++
	return nil
}

func (w *crashWorld) advanceStart(c *crashLog) error {
	off := w.offset(c)
	e := *c.want()
	e.to = max(e.to, off)
	w.between(c, c.l, e)
	if err := c.l.AdvanceStart(off); err != nil {
		if c.l.Err() == nil { // not latched: it must work when it is tried again
			if err = c.l.AdvanceStart(off); err != nil {
				return err
			}
		} else {
			return w.revive(c, err)
		}
	}
	w.started(c)
	return nil
}

// started takes over the start of the living log, which is durable.
func (w *crashWorld) started(c *crashLog) {
	e := *c.want()
	e.from = c.l.Start()
	e.to = e.from
	w.between(c, c.l, e)
}

func (w *crashWorld) retain(c *crashLog) error {
	c.l.SetHighWatermark(w.offset(c))
	cfg := c.spec.Config
	cfg.RetentionBytes = 1 + w.random.Int64N(20_000)
	if w.random.IntN(3) == 0 {
		cfg.SegmentAge = time.Millisecond // the active one is rolled too
	}
	c.l.Configure(cfg)
	e := *c.want()
	e.to = max(e.to, c.l.HighWatermark())
	w.between(c, c.l, e)
	if _, err := c.l.Retain(w.opts.Now()); err != nil {
		if c.l.Err() == nil {
			_, err = c.l.Retain(w.opts.Now())
		}
		if err != nil {
			return w.revive(c, err)
		}
	}
	w.started(c)
	c.l.Configure(c.spec.Config)
	w.settle()
	return w.revive(c, c.l.Err())
}

func (w *crashWorld) reset(c *crashLog) error {
	e := *c.want()
	base := max(e.end()+record.Offset(w.random.Int64N(60)-30), 0)
	fresh := expectation{base: base, from: base, to: base, floor: base}
	e.floor = max(e.floor, c.l.Flushed())
	w.between(c, nil, e, fresh)
	if err := c.l.Reset(base); err != nil {
		return w.revive(c, err)
	}
	w.between(c, c.l, fresh)
	return nil
}

func (w *crashWorld) configure(c *crashLog) error {
	c.spec.Config = w.config()
	c.l.Configure(c.spec.Config)
	w.settle()
	return w.revive(c, c.l.Err())
}

// checkpoint is the housekeeper's; a failure loses nothing.
func (w *crashWorld) checkpoint(*crashLog) error {
	return w.d.checkpoint.write()
}

func (w *crashWorld) advanceTime(c *crashLog) error {
	w.now.Add(10_000)
	evictAll(w.d)
	return w.readBack(c)
}

// readBack reads the living log through and through.
func (w *crashWorld) readBack(c *crashLog) error {
	got, err := everything(c.l)
	if err != nil {
		return err
	}
	e := c.want()
	return e.matches(&recovered{start: c.l.Start(), end: c.l.End(), bytes: got})
}

// closed notes that everything a log has is durable and nobody has it open.
func (w *crashWorld) closed(c *crashLog) {
	e := *c.want()
	e.floor = e.end()
	w.between(c, nil, e)
}

func (w *crashWorld) reopen(c *crashLog) error {
	w.let(c)
	if err := c.l.Close(); err != nil {
		return w.revive(c, err)
	}
	w.closed(c)
	return w.open(c)
}

func (w *crashWorld) reopenDir(*crashLog) error {
	w.markClean(true)
	for _, c := range w.logs {
		w.let(c)
	}
	epoch := int64(w.random.IntN(3) - 1)
	if err := w.d.Close(epoch); err != nil {
		return err
	}
	for _, c := range w.logs {
		w.closed(c)
	}
	if w.random.IntN(3) == 0 { // a power cut after the stop
		w.mem.Watch(nil)
		w.mem = w.mem.CrashClone(nil)
		w.faults.FS = w.mem
		w.mem.Watch(w.changed)
	}
	return w.openDir()
}

func (w *crashWorld) markClean(clean bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clean = clean
}

func (w *crashWorld) openDir() error {
	d, err := OpenDir(w.opts)
	if err != nil {
		w.faults.Heal()
		if d, err = OpenDir(w.opts); err != nil {
			return err
		}
	}
	w.d = d
	for _, c := range w.logs {
		if err := w.open(c); err != nil {
			return err
		}
		w.markClean(false)
	}
	return nil
}

// open opens a log and takes over what is in it: one of the things expected.
func (w *crashWorld) open(c *crashLog) error {
	c.ear, c.paused = newListener(), false
	spec := c.spec
	spec.Notify = c.ear.notify
	l, err := w.d.Open(spec)
	if err != nil {
		w.faults.Heal() // an injected fault may have hit the recovery
		if l, err = w.d.Open(spec); err != nil {
			return err
		}
	}
	c.l = l
	c.ear.listen(l)
	got, err := look(l)
	if err != nil {
		return err
	}
	e, err := matchAny(c.may, got)
	if err != nil {
		return err
	}
	e.floor = e.end()
	w.mu.Lock()
	c.may, c.live, c.removing = []expectation{e}, l, false
	w.mu.Unlock()
	c.epoch = max(c.epoch, l.LastEpoch())
	return nil
}

// revive brings a log that failed back through recovery. Without an error it does nothing.
func (w *crashWorld) revive(c *crashLog, err error) error {
	if err == nil && c.l.Err() == nil {
		return nil
	}
	w.faults.Heal()
	w.let(c)
	w.note("partition %d failed: %v, %v", c.spec.Partition, err, c.l.Err())
	if c.l.Err() == nil && !errors.Is(err, syscall.EIO) && !errors.Is(err, ErrFailed) {
		return err
	}
	floor := c.l.Flushed()
	w.mu.Lock()
	for i := range c.may {
		if c.live != nil { // not in the midst of a truncation or a reset
			c.may[i].floor = max(c.may[i].floor, floor)
		}
	}
	c.live = nil
	w.mu.Unlock()
	_ = c.l.Close() // it says what is known
	if w.random.IntN(2) == 0 {
		w.mem.EvictLost()
	}
	return w.open(c)
}

func (w *crashWorld) reviveAll() error {
	for _, c := range w.logs {
		if err := w.revive(c, nil); err != nil {
			return err
		}
	}
	return nil
}

func (w *crashWorld) remove(c *crashLog) error {
	w.let(c)
	w.settle()
	if err := w.revive(c, c.l.Err()); err != nil {
		return err
	}
	w.leaving(c)
	if err := w.d.Remove(c.l); err != nil {
		return err
	}
	return w.replaced(c)
}

// leaving: the folder is about to go; what a crash leaves in it does not matter.
func (w *crashWorld) leaving(c *crashLog) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.removing = true
	c.live = nil
	c.may[0].floor = 0
}

// replaced opens another log in the place of one that is gone: of a new topic of
// the same name, or the same partition come back.
func (w *crashWorld) replaced(c *crashLog) error {
	w.mu.Lock()
	if w.random.IntN(2) == 0 {
		w.nextID++
		c.spec.TopicID = [16]byte{w.nextID}
	}
	c.epoch, c.ms, c.removing = 1, 1000, false
	c.may, c.live = []expectation{{}}, nil
	w.mu.Unlock()
	return w.open(c)
}

func (w *crashWorld) setAside(c *crashLog) error {
	w.let(c)
	if err := c.l.Close(); err != nil {
		return w.revive(c, err)
	}
	w.closed(c)
	w.leaving(c)
	name := folderName(c.spec.Topic, c.spec.Partition)
	if err := w.d.SetAside(Found{
		Topic: c.spec.Topic, Partition: c.spec.Partition, TopicID: c.spec.TopicID, HasID: true, Path: filepath.Join(testPath, name),
	}); err != nil {
		return err
	}
	w.mu.Lock()
	w.stray++
	w.mu.Unlock()
	return w.replaced(c)
}

// failedFlush: the disk drops the pages of one sync and says so once.
func (w *crashWorld) failedFlush(c *crashLog) error {
	w.faults.Inject(vfs.Fault{Op: vfs.OpSync, Pattern: "*.log", Count: 1, Err: syscall.EIO})
	if err := w.append(c); err != nil {
		return err
	}
	if err := w.flush(c); err != nil {
		return err
	}
	w.faults.Heal()
	return w.reviveAll()
}

// fault lets any operation fail in the midst of another one.
func (w *crashWorld) fault(c *crashLog) error {
	ops := map[string]func(*crashLog) error{
		"append": w.append, "follow": w.follow, "flush": w.flush, "truncate": w.truncate, "advance start": w.advanceStart,
		"retain": w.retain, "reset": w.reset, "close log": w.reopen,
	}
	kinds := []vfs.Op{vfs.OpCreate, vfs.OpRead, vfs.OpWrite, vfs.OpTruncate, vfs.OpSync, vfs.OpFolder, vfs.OpRename, vfs.OpRemove}
	fault := vfs.Fault{
		Op: kinds[w.random.IntN(len(kinds))], After: w.random.IntN(6), Count: 1, Err: syscall.EIO, Partial: w.random.IntN(100),
	}
	w.faults.Inject(fault)
	name := slices.Sorted(maps.Keys(ops))[w.random.IntN(len(ops))]
	w.note("%+v in %s of partition %d", fault, name, c.spec.Partition)
	w.enter("fault, " + name)
	err := ops[name](c)
	w.settle()
	w.faults.Heal()
	if err != nil {
		return err
	}
	return w.reviveAll()
}

// stop ends the world; latched failures were the history's.
func (w *crashWorld) stop() error {
	if w.d == nil {
		return nil
	}
	w.enter("stop")
	w.markClean(true)
	for _, c := range w.logs {
		if c.l != nil {
			w.let(c)
		}
	}
	if err := w.d.Close(1); err != nil && !errors.Is(err, ErrFailed) {
		return err
	}
	return nil
}

// kindOf names the place in the code that a change belongs to.
func kindOf(phase string, e vfs.Event) string {
	class := strings.TrimPrefix(path.Ext(e.Name), ".")
	switch base := path.Base(e.Name); {
	case base == epochsName || base == epochsName+temporary:
		class = "epochs"
	case base == metadataName:
		class = "metadata"
	case base == markerName:
		class = "marker"
	case base == resetName || base == resetName+temporary:
		class = "reset"
	case strings.HasPrefix(base, "flushed-checkpoint"):
		class = "checkpoint"
	case strings.HasPrefix(base, "flush-journal"):
		class = "journal"
	case e.Name == testPath:
		class = "directory"
	case class == "":
		class = "folder"
	}
	return fmt.Sprintf("%s: %s %s", phase, e.Op, class)
}
