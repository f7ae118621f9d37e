package log

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

const defaultTailBytes = 64 << 20

// Dir is a node's data directory: it owns the flush workers, the checkpoint and
// the memory of recent batches for all logs in it.
type Dir struct {
	fs      vfs.FS
	path    string
	logger  *slog.Logger
	arena   *record.Arena
	now     func() time.Time
	flusher Flusher

	// resumeBytes is how far apart the places are at which a recovery can begin.
	resumeBytes int64

	lock       vfs.File
	files      *openFiles
	pages      *pageCache
	pace       *readPace
	pool       *flushPool
	journal    *journal
	tail       *tailBudget
	checkpoint *checkpointer
	remover    *remover
	space      *space

	scratch sync.Pool // of *appendScratch

	collected map[logKey]logState // belongs to collect
	vectors   sync.Pool           // of *[][]byte, for writeGroup
	group     groupScratch        // belongs to commitGroup

	marker sync.Mutex // held while the clean-stop marker is read and removed

	mu     sync.Mutex // guards everything below
	logs   map[logKey]*Log
	opened map[logKey]bool // open, or being opened
	used   map[logKey]bool // was open since OpenDir
	// damaged are the folders that Rebuild kept.
	damaged map[logKey][]string
	// states is what the checkpoint keeps of logs that are not open.
	states     map[logKey]logState
	markerRead bool
	cleanEpoch int64
	clean      bool
	closed     bool
}

// OpenDir opens a data directory, or creates it, and locks it: *LockedError when
// a living process has it. Logs are opened one by one with Open.
func OpenDir(opts DirOptions) (_ *Dir, err error) {
	d := newDir(opts)
	if err := makeFolders(d.fs, d.path); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if d.lock, err = takeLock(d.fs, filepath.Join(d.path, lockName)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.remover.close()
			err = errors.Join(err, d.lock.Close())
		}
	}()
	deleted, err := d.tidy(opts.Others)
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", d.path, err)
	}
	if err := d.replayJournal(); err != nil {
		return nil, fmt.Errorf("data directory %s: flush journal: %w", d.path, err)
	}
	if err := d.loadCheckpoint(deleted); err != nil {
		return nil, fmt.Errorf("data directory %s: %w", d.path, err)
	}
	d.checkpoint.start()
	return d, nil
}

// loadCheckpoint reads what was promised. When slots exist and none can be read,
// nobody knows what was flushed: every log on disk then counts as one that may
// have lost bytes, for a cluster that believes it has them would be worse.
func (d *Dir) loadCheckpoint(deleted []logKey) error {
	states, lost, err := d.checkpoint.load()
	if err != nil {
		return err
	}
	for _, key := range deleted { // the crash may have come before the next checkpoint
		delete(states, key)
	}
	d.states = states
	if lost {
		d.logger.Error("no flushed checkpoint is readable: all logs count as damaged", "path", d.path)
		found, err := d.Scan()
		if err != nil {
			return err
		}
		for _, f := range found {
			if !f.HasID {
				continue
			}
			d.states[logKey{f.TopicID, f.Partition}] = logState{flushed: record.UnknownOffset, cleaned: math.MaxInt64, damage: DamageLostBytes}
		}
	}
	return d.checkpoint.create(d.path)
}

func newDir(opts DirOptions) *Dir {
	d := &Dir{
		path: opts.Path, logger: opts.Logger, arena: opts.Arena, now: opts.Now,
		flusher: opts.Flusher.Flusher,
		logs:    map[logKey]*Log{}, collected: map[logKey]logState{}, opened: map[logKey]bool{}, used: map[logKey]bool{}, damaged: map[logKey][]string{},
	}
	if d.now == nil {
		d.now = time.Now
	}
	if d.resumeBytes = opts.resumeBytes; d.resumeBytes <= 0 {
		d.resumeBytes = defaultResumeBytes
	}
	if d.flusher == nil {
		d.flusher = Fdatasync{}
	}
	d.pace = &readPace{Flusher: d.flusher, now: d.now}
	d.flusher = d.pace
	tailBytes := opts.TailBytes
	if tailBytes <= 0 && d.arena != nil {
		tailBytes = d.arena.Limit() / 2
	}
	if tailBytes <= 0 {
		tailBytes = defaultTailBytes
	}
	if d.arena == nil {
		d.arena = record.NewArena(2 * tailBytes)
	}
	d.files = newOpenFiles(opts.FS, opts.OpenFiles, opts.Logger)
	d.fs = d.files.fs
	d.pages = newPageCache(d.files, opts.PageCacheBytes, opts.Logger, d.now)
	d.tail = newTailBudget(tailBytes, d.arena)
	d.journal = newJournal(opts, d.files, d.flusher)
	d.pool = newFlushPool(opts.Flusher, d.commitGroup, d.now)
	d.space = &space{fs: d.fs, path: d.path, reserve: opts.DiskReserve, now: d.now}
	d.checkpoint = newCheckpointer(opts, d.fs, d.collect)
	d.remover = newRemover(d.fs, d.logger, opts.removePiece)
	return d
}

// replayJournal brings acknowledged bytes into the segments that had them in the
// journal only when the machine stopped.
func (d *Dir) replayJournal() error {
	entries, err := d.journal.replay()
	if entries > 0 {
		d.logger.Info("flush journal replayed", "path", d.path, "entries", entries)
	}
	return err
}

// takeLock locks the file and writes our pid into it.
func takeLock(fsys vfs.FS, name string) (vfs.File, error) {
	f, err := fsys.Lock(name)
	if errors.Is(err, vfs.ErrLocked) {
		locked := &LockedError{Path: filepath.Dir(name)}
		if b, readErr := readFile(fsys, name); readErr == nil {
			locked.PID, _ = strconv.Atoi(strings.TrimSpace(string(b))) // 0: unknown
		}
		return nil, locked
	}
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	pid := []byte(strconv.Itoa(os.Getpid()) + "\n")
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteAt(pid, 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock the data directory: %w", err), f.Close())
	}
	return f, nil
}

// tidy finishes interrupted removals, of which it returns the logs, and says what
// in the directory is not ours: that is left as it is.
func (d *Dir) tidy(others []string) (deleted []logKey, err error) {
	entries, err := d.fs.List(d.path)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(d.path, e.Name)
		switch rootKind(e, others) {
		case KindStrange:
			d.logger.Warn("nothing of ours has that name; it is left alone", "path", path)
		case KindDeleted:
			_, partition, _ := parsePutAway(e.Name, deletedExt)
			if id, err := d.readMetadata(path); err == nil && !d.exists(id, partition, entries) {
				deleted = append(deleted, logKey{id, partition})
			}
			if err := d.remover.remove(path); err != nil {
				return nil, err
			}
		case KindDamaged:
			_, partition, _ := parsePutAway(e.Name, damagedExt)
			if id, err := d.readMetadata(path); err == nil {
				d.noteDamagedCopy(logKey{id, partition}, path)
			}
		default:
		}
	}
	return deleted, nil
}

// exists says whether a partition has a folder: it may have come back since it was
// put away.
func (d *Dir) exists(id [16]byte, partition int32, entries []vfs.Entry) bool {
	return slices.ContainsFunc(entries, func(e vfs.Entry) bool {
		_, n, ok := parseFolderName(e.Name)
		if !ok || !e.Folder || n != partition {
			return false
		}
		other, err := d.readMetadata(filepath.Join(d.path, e.Name))
		return err == nil && other == id
	})
}

// collect gathers what the checkpoint says. The result is valid until the next
// call; the checkpointer makes one at a time.
func (d *Dir) collect() map[logKey]logState {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.collected)
	maps.Copy(d.collected, d.states)
	for key, l := range d.logs {
		d.collected[key] = l.state()
	}
	return d.collected
}

// Scan lists the partition folders on disk without opening them.
func (d *Dir) Scan() ([]Found, error) {
	entries, err := d.fs.List(d.path)
	if err != nil {
		return nil, err
	}
	var out []Found
	for _, e := range entries {
		topic, partition, ok := parseFolderName(e.Name)
		if !ok || !e.Folder {
			continue
		}
		f := Found{Topic: topic, Partition: partition, Path: filepath.Join(d.path, e.Name)}
		if id, err := d.readMetadata(f.Path); err == nil {
			f.TopicID, f.HasID = id, true
		} else {
			d.logger.Warn("a folder does not say which topic it belongs to; it is left alone", "path", f.Path, "error", err)
		}
		out = append(out, f)
	}
	return out, nil
}

func (d *Dir) readMetadata(folder string) ([16]byte, error) {
	b, err := readFile(d.fs, filepath.Join(folder, metadataName))
	if err != nil {
		return [16]byte{}, err
	}
	return decodeMetadata(b)
}

// Open opens a partition's log, or creates it, and recovers it (package comment,
// docs/FORMAT.md). ErrTopicID: the folder belongs to another topic; set it aside
// first. Look at Recovery for damage.
func (d *Dir) Open(spec Spec) (_ *Log, err error) {
	key := logKey{spec.TopicID, spec.Partition}
	if err := d.reserve(key, spec); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.mu.Lock()
			delete(d.opened, key)
			d.mu.Unlock()
		}
	}()
	if _, _, err := d.CleanMarker(); err != nil { // gone before the first write
		return nil, err
	}
	d.mu.Lock()
	promised, known := d.states[key]
	d.mu.Unlock()
	path := filepath.Join(d.path, folderName(spec.Topic, spec.Partition))
	if err := d.prepareFolder(path, spec, known); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if err := d.journal.apply(key); err != nil {
		return nil, fmt.Errorf("open %s: flush journal: %w", path, err)
	}
	l := d.newLog(path, spec)
	if err := l.recover(promised, known); err != nil {
		l.forgetFiles(l.segments)
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if !d.adopt(key, l) {
		l.forgetFiles(l.segments)
		return nil, ErrClosed
	}
	if !known || l.state() != promised {
		d.checkpoint.touch(0)
	}
	return l, nil
}

// adopt makes an opened log known, unless the directory was closed meanwhile.
func (d *Dir) adopt(key logKey, l *Log) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.logs[key] = l
	d.used[key] = true
	delete(d.states, key)
	return true
}

// stoppedInOrder says that a log is as a clean stop of the directory left it.
func (d *Dir) stoppedInOrder(key logKey) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clean && !d.used[key]
}

// promise changes what the checkpoint says of a log that is not open.
func (d *Dir) promise(key logKey, s logState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.states[key] = s
}

func (d *Dir) newLog(path string, spec Spec) *Log {
	cfg := spec.Config.withDefaults()
	return &Log{
		dir: d, fs: d.fs, path: path, folder: filepath.Base(path), key: logKey{spec.TopicID, spec.Partition}, spec: spec, cfg: cfg,
		logger:    d.logger.With("topic", spec.Topic, "partition", spec.Partition),
		tail:      tail{budget: d.tail, space: d.space},
		producers: newProducers(cfg.MaxProducers),
	}
}

func (d *Dir) reserve(key logKey, spec Spec) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	if d.opened[key] {
		return fmt.Errorf("%s: %w", folderName(spec.Topic, spec.Partition), ErrOpen)
	}
	d.opened[key] = true
	return nil
}

// prepareFolder makes the folder with its metadata, or checks whose it is. A
// folder without metadata and without bytes is what a crash left of a creation.
// known: the checkpoint knows the log, so that the folder was finished; else it may be
// that a process died before it had synced what it had made.
func (d *Dir) prepareFolder(path string, spec Spec, known bool) error {
	id, err := d.readMetadata(path)
	switch {
	case err == nil && id != spec.TopicID:
		return fmt.Errorf("it holds topic id %x, not %x: %w", id, spec.TopicID, ErrTopicID)
	case err == nil && known:
		return nil
	case err == nil:
		return d.finishFolder(path, overwrite(d.fs, filepath.Join(path, metadataName), encodeMetadata(id)))
	}
	if entries, listErr := d.fs.List(path); listErr == nil {
		for _, e := range entries {
			if kind, _ := logKind(e); kind == KindSegment {
				return fmt.Errorf("segments without a readable %s (%w): %w", metadataName, err, ErrTopicID)
			}
		}
	} else if !errors.Is(listErr, fs.ErrNotExist) {
		return listErr
	}
	if err := d.fs.Mkdir(path); err != nil {
		return err
	}
	return d.finishFolder(path, create(d.fs, filepath.Join(path, metadataName), encodeMetadata(spec.TopicID)))
}

// finishFolder makes a new partition's folder durable.
func (d *Dir) finishFolder(path string, err error) error {
	if err == nil {
		err = d.fs.SyncFolder(path)
	}
	if err == nil {
		err = d.fs.SyncFolder(d.path)
	}
	return err
}

// forget takes a closed log out; its state stays in the checkpoint.
func (d *Dir) forget(l *Log) {
	key := l.key
	state := l.state()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.logs[key] != l {
		return
	}
	delete(d.logs, key)
	delete(d.opened, key)
	d.states[key] = state
}

// CleanMarker says whether the last stop was clean, and the broker epoch that
// was registered then. The marker is removed, durably, by the first call; Open
// calls it too, so that it is gone before anything is written.
func (d *Dir) CleanMarker() (brokerEpoch int64, ok bool, err error) {
	d.marker.Lock()
	defer d.marker.Unlock()
	d.mu.Lock()
	read, epoch, clean := d.markerRead, d.cleanEpoch, d.clean
	d.mu.Unlock()
	if read {
		return epoch, clean, nil
	}
	name := filepath.Join(d.path, markerName)
	b, err := readFile(d.fs, name)
	if err == nil {
		if epoch, err = decodeMarker(b); err != nil {
			d.logger.Warn("the last stop counts as unclean", "error", err)
		}
		clean = err == nil
		if err := d.fs.Remove(name); err != nil {
			return 0, false, err
		}
		if err := d.fs.SyncFolder(d.path); err != nil {
			return 0, false, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return 0, false, err
	}
	d.mu.Lock()
	d.markerRead, d.cleanEpoch, d.clean = true, epoch, clean
	d.mu.Unlock()
	return epoch, clean, nil
}

// OldestFlush is how long the longest outstanding write or flush takes so far.
func (d *Dir) OldestFlush() time.Duration { return d.pool.oldest() }

// FlushTimes is how long syncs took so far.
func (d *Dir) FlushTimes() FlushTimes { return d.pace.flushTimes() }

// Cached is how many bytes of segments are left in the page cache.
func (d *Dir) Cached() int64 { return d.pages.held() }

// Unwritten is how many bytes of memory wait to be written by the logs.
func (d *Dir) Unwritten() int64 { return d.tail.unwritten.Load() }

// Reclaim lets the tails go of what is written, oldest first, as long as more of
// the arena is in use than recent batches may fill.
func (d *Dir) Reclaim() { d.tail.evict() }

// Close flushes and closes all logs, writes the checkpoint and, if everything
// went well and brokerEpoch is not negative, the clean-stop marker; then it
// releases the lock. It returns the failures of logs that had latched one.
func (d *Dir) Close(brokerEpoch int64) error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	logs := make([]*Log, 0, len(d.logs))
	for _, l := range d.logs {
		logs = append(logs, l)
	}
	d.mu.Unlock()

	err := closeAll(logs)
	d.remover.close()
	d.checkpoint.close()
	d.pool.done.Wait()
	err = errors.Join(err, d.journal.close(err == nil), d.checkpoint.write())
	d.pages.done.Wait()
	if err == nil && brokerEpoch >= 0 {
		err = d.writeMarker(brokerEpoch)
	}
	return errors.Join(err, d.lock.Close())
}

func (d *Dir) writeMarker(brokerEpoch int64) error {
	if err := create(d.fs, filepath.Join(d.path, markerName), encodeMarker(brokerEpoch)); err != nil {
		return err
	}
	return d.fs.SyncFolder(d.path)
}

// closeAll closes logs: each syncs files.
func closeAll(logs []*Log) error {
	return errors.Join(closeEach(logs)...)
}

// closeEach closes logs, several at once, and returns the error of each, or nil.
func closeEach(logs []*Log) []error {
	var wg sync.WaitGroup
	errs := make([]error, len(logs))
	slots := make(chan struct{}, defaultWorkers)
	for i, l := range logs {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = l.Close()
		})
	}
	wg.Wait()
	return errs
}
