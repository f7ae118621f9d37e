package log

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// The flush journal; docs/FORMAT.md draws it.
const (
	journalMagic   = "PSFJ"
	journalVersion = 1
	journalHeader  = 32
	groupHeader    = 20
	entryHeader    = 44

	// journalGroupMax bounds the bytes of one group.
	journalGroupMax = 8 << 20

	defaultJournalBytes = 64 << 20
	// defaultJournalFill is how far the files are filled ahead of the groups.
	defaultJournalFill = 1 << 20
	// journalSyncers is how many segments are synced at once to free a journal
	// file. Each sync alone is a commit of the file system's own journal, which holds
	// up the groups; syncs at the same moment share one.
	journalSyncers = 64
)

func journalNames() [2]string { return [2]string{"flush-journal.0", "flush-journal.1"} }

// The kinds of journal entries.
const (
	entryData byte = 1 // bytes of a segment
	entryVoid byte = 2 // earlier entries of the log no longer hold
)

// errJournalBusy: the journal has no room until segments are synced.
var errJournalBusy = errors.New("flush journal is full")

// journal makes small appends to many logs durable with one write and one sync.
//
// A group holds, for each log, the bytes that were written to its active segment
// and where. Once the group is synced they are durable, though the segments'
// pages may not be; opening the directory writes them into the segments again
// before any log is recovered. Two files take turns: when one is full the other
// goes on, and the first is free again once every segment that it has entries of
// was synced. Entries of bytes that are about to change (a truncation, a swap of
// segments) are voided first, by an entry that says so.
//
// What stays true, and recovery relies on: every byte of a segment that is below
// the log's flushed end is on disk in the segment, or in an entry that holds. So
// a log may join a group only when all it had written before is flushed.
type journal struct {
	fs      vfs.FS
	folder  string
	files   *openFiles
	limit   int64 // bytes of one file; <= 0: no journal
	ahead   int64 // how far the files are filled ahead of the groups
	flusher Flusher
	logger  *slog.Logger
	done    sync.WaitGroup // of releases

	mu      sync.Mutex // guards everything below, held over the write of a group; a leaf lock
	slots   [2]journalSlot
	current int
	next    uint64 // generation
	failed  error  // a sync of the journal failed: it takes no groups any more
	lacking bool   // the last write failed, which was logged
	started bool   // the files are open
	closing bool
	grown   *sync.Cond // groups were written, or none will be
}

// journalSlot is one of the two files.
type journalSlot struct {
	file       vfs.File
	generation uint64
	salt       uint64
	at         int64 // end of the groups
	// filled is the end of what the file system has blocks for: below it a sync
	// writes nothing but the bytes of the group.
	filled int64
	// logs have entries in this file, or may have: of a group whose sync failed.
	logs map[logKey]*Log
	// releasing: it is full; its groups hold until release is done.
	releasing bool
}

func newJournal(opts DirOptions, files *openFiles, flusher Flusher) *journal {
	j := &journal{
		fs: files.fs, folder: opts.Path, files: files, limit: opts.Flusher.JournalBytes, flusher: flusher, logger: opts.Logger, next: 1,
	}
	if j.limit == 0 {
		j.limit = defaultJournalBytes
	}
	if j.ahead = opts.journalFill; j.ahead <= 0 {
		j.ahead = defaultJournalFill
	}
	j.grown = sync.NewCond(&j.mu)
	return j
}

// group is a group in the making.
type group struct {
	b     []byte
	count int
}

// begin makes the group anew, in b.
func (g *group) begin(b []byte) { g.b, g.count = append(b[:0], make([]byte, groupHeader)...), 0 }

// end lets go of the bytes.
func (g *group) end() { g.b = nil }

// entrySize is what a log's bytes take in a group.
func entrySize(folder string, bytes int64) int64 { return int64(entryHeader+len(folder)) + bytes }

func (g *group) add(key logKey, folder string, base record.Offset, position int64, bufs [][]byte) {
	at := len(g.b)
	g.head(key, entryData, len(folder), base, position)
	g.b = append(g.b, folder...)
	for _, b := range bufs {
		g.b = append(g.b, b...)
	}
	binary.BigEndian.PutUint32(g.b[at+40:], uint32(len(g.b)-at-entryHeader-len(folder)))
}

func (g *group) void(key logKey) { g.head(key, entryVoid, 0, 0, 0) }

func (g *group) head(key logKey, kind byte, name int, base record.Offset, position int64) {
	g.b = append(g.b, key.topicID[:]...)
	g.b = binary.BigEndian.AppendUint32(g.b, uint32(key.partition))
	g.b = append(g.b, kind, 0)
	g.b = binary.BigEndian.AppendUint16(g.b, uint16(name))
	g.b = binary.BigEndian.AppendUint64(g.b, uint64(base))
	g.b = binary.BigEndian.AppendUint64(g.b, uint64(position))
	g.b = append(g.b, 0, 0, 0, 0)
	g.count++
}

// seal completes the group for a file. Its salt tells the group from what an
// earlier use of the file left there, and from records of clients that look like one.
func (g *group) seal(salt uint64) []byte {
	binary.BigEndian.PutUint32(g.b, uint32(len(g.b)))
	binary.BigEndian.PutUint64(g.b[8:], salt)
	binary.BigEndian.PutUint32(g.b[16:], uint32(g.count))
	binary.BigEndian.PutUint32(g.b[4:], castagnoli(g.b[8:]))
	return g.b
}

func encodeJournalHeader(generation, salt uint64) []byte {
	b := append([]byte(journalMagic), 0, journalVersion, 0, 0)
	b = binary.BigEndian.AppendUint64(b, generation)
	b = binary.BigEndian.AppendUint64(b, salt)
	b = binary.BigEndian.AppendUint32(b, castagnoli(b))
	return append(b, 0, 0, 0, 0)
}

func newSalt() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return binary.BigEndian.Uint64(b[:])
}

// write makes a group durable. On an error it is not, and nothing of it will be
// believed; the caller syncs the segments instead. errJournalBusy: no room yet.
func (j *journal) write(g *group, staged []stagedLog) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return j.failed
	}
	if err := j.start(); err != nil {
		return j.lack(err)
	}
	// Segments hold their files open until they are synced: when there are too
	// many, a file that is not full makes them free all the same.
	if full := j.slots[j.current].at+int64(len(g.b)) > j.limit; full || j.files.crowded() {
		if err := j.turn(); err != nil && full {
			return err
		}
	}
	slot := &j.slots[j.current]
	if slot.logs == nil {
		slot.logs = map[logKey]*Log{}
	}
	for i := range staged {
		slot.logs[staged[i].log.key] = staged[i].log
	}
	return j.put(g)
}

// put writes and syncs a group behind the last one. The caller holds mu.
func (j *journal) put(g *group) error {
	slot := &j.slots[j.current]
	b := g.seal(slot.salt)
	j.fill(slot, slot.at+int64(len(b)))
	if _, err := slot.file.WriteAt(b, slot.at); err != nil {
		return j.lack(err)
	}
	if err := j.flusher.Flush(slot.file); err != nil {
		// The kernel may have dropped the pages and call them clean: whatever is
		// written here from now on proves nothing.
		j.failed = fmt.Errorf("flush journal: %w", err)
		j.grown.Broadcast()
		j.logger.Error("the flush journal failed; every segment is synced by itself from now on", "error", err)
		return j.failed
	}
	slot.at += int64(len(b))
	j.grown.Broadcast()
	j.lacking = false
	return nil
}

// fill writes zeros ahead of groups that reach to end, in steps. A sync of a file
// that has grown is a commit of the file system's journal, which takes longer than
// writing the bytes; in a file that has its blocks, a sync is that of the bytes.
// When there is no space the groups grow the file themselves. The caller holds mu.
func (j *journal) fill(slot *journalSlot, end int64) {
	if end <= slot.filled {
		return
	}
	to := min(end+j.ahead, max(j.limit, end))
	if to > end {
		if _, err := slot.file.WriteAt(make([]byte, to-end), end); err != nil {
			to = end
		}
	}
	slot.filled = to
}

// lack logs the first of several failed writes.
func (j *journal) lack(err error) error {
	if !j.lacking {
		j.logger.Warn("flush journal cannot be written; segments are synced by themselves", "error", err)
	}
	j.lacking = true
	return fmt.Errorf("flush journal: %w", err)
}

// start makes the files on first use: a node with few partitions has none. The
// caller holds mu.
func (j *journal) start() error {
	if j.started {
		return nil
	}
	for i, name := range journalNames() {
		slot := &j.slots[i]
		if slot.file != nil {
			continue
		}
		f, err := openOrCreate(j.fs, filepath.Join(j.folder, name))
		if err != nil {
			return err
		}
		if err := j.renew(slot, f); err != nil {
			return errors.Join(err, f.Close())
		}
		if slot.filled, err = f.Size(); err != nil {
			return errors.Join(err, f.Close())
		}
		slot.file = f
	}
	if err := j.fs.SyncFolder(j.folder); err != nil {
		return err
	}
	j.started = true
	return nil
}

func openOrCreate(fsys vfs.FS, name string) (vfs.File, error) {
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fsys.Create(name)
	}
	return f, err
}

// renew begins a file anew: what its groups say no longer holds. The caller
// holds mu, or is alone.
func (j *journal) renew(slot *journalSlot, f vfs.File) error {
	salt := newSalt()
	if _, err := f.WriteAt(encodeJournalHeader(j.next, salt), 0); err != nil {
		return err
	}
	if err := j.flusher.Flush(f); err != nil {
		return err
	}
	slot.generation, slot.salt, slot.at = j.next, salt, journalHeader
	slot.logs, slot.releasing = nil, false
	j.next++
	return nil
}

// turn lets the other file go on and frees the full one. The caller holds mu.
func (j *journal) turn() error {
	other := 1 - j.current
	if j.slots[other].releasing {
		return errJournalBusy
	}
	// The other file was begun anew after this one came into use: generations
	// ascend in the order of use, by which replay goes.
	full := j.current
	j.current = other
	j.slots[full].releasing = true
	logs := make([]*Log, 0, len(j.slots[full].logs))
	for _, l := range j.slots[full].logs {
		logs = append(logs, l)
	}
	j.done.Go(func() { j.release(full, logs) })
	return nil
}

// release syncs the segments that a file has entries of, and lets it be used
// again. When a segment cannot be synced its log is latched, and the file keeps
// the only durable copy: it stays as it is for the next open to replay.
func (j *journal) release(i int, logs []*Log) {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex // guards lost
		lost error
	)
	work := make(chan *Log)
	for range journalSyncers {
		wg.Go(func() {
			for l := range work {
				if err := l.syncJournaled(); err != nil {
					mu.Lock()
					lost = errors.Join(lost, err)
					mu.Unlock()
				}
			}
		})
	}
	for k, l := range logs {
		j.needed(k, len(logs))
		work <- l
	}
	close(work)
	wg.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	if lost == nil {
		slot := &j.slots[i]
		lost = j.renew(slot, slot.file)
	}
	if lost != nil {
		j.logger.Error("a flush journal file stays in use", "file", journalNames()[i], "error", lost)
	}
}

// needed waits until it is time to sync segment k of n: they are spread over the
// time in which the other file fills by half, for a thousand syncs at once would
// hold up the groups. When nothing is written there is no hurry.
func (j *journal) needed(k, n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for !j.due(k, n) {
		j.grown.Wait()
	}
}

// due says that segment k of n may be synced. A journal that failed or closes
// grows no more, so nothing waits for that. The caller holds mu.
func (j *journal) due(k, n int) bool {
	return j.closing || j.failed != nil || j.files.crowded() || j.slots[j.current].at*2*int64(n) >= j.limit*int64(k)
}

// live says whether the journal holds entries of a log.
func (j *journal) live(key logKey) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.slots[0].logs[key] != nil || j.slots[1].logs[key] != nil
}

// void makes the entries of a log void, durably; without any it does nothing.
// The bytes that they hold must be durable elsewhere, or no longer wanted.
func (j *journal) void(key logKey) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.slots[0].logs[key] == nil && j.slots[1].logs[key] == nil {
		return nil
	}
	if j.failed != nil {
		return j.failed
	}
	var g group
	g.begin(nil)
	g.void(key)
	if err := j.put(&g); err != nil { // a little over the limit does not matter
		return err
	}
	delete(j.slots[0].logs, key)
	delete(j.slots[1].logs, key)
	return nil
}

// close ends the journal. empty: every log was closed well, so that nothing in
// it matters any more.
func (j *journal) close(empty bool) error {
	j.mu.Lock()
	j.closing = true
	j.grown.Broadcast()
	j.mu.Unlock()
	j.done.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	var errs []error
	// The older file first: the newer one may say what of it is void.
	slots := []*journalSlot{&j.slots[0], &j.slots[1]}
	slices.SortFunc(slots, func(a, b *journalSlot) int { return cmp.Compare(a.generation, b.generation) })
	for _, slot := range slots {
		if slot.file == nil {
			continue
		}
		if empty && j.failed == nil && slot.at > journalHeader {
			errs = append(errs, j.renew(slot, slot.file))
		}
		errs = append(errs, slot.file.Close())
		slot.file = nil
	}
	return errors.Join(errs...)
}
