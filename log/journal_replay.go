package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// journalEntry is a decoded entry; its bytes belong to the group's buffer.
type journalEntry struct {
	key      logKey
	kind     byte
	folder   string
	base     record.Offset
	position int64
	bytes    []byte
	at       int64 // of bytes, in the file
}

// decodeJournalHeader returns a file's generation, 0 when it holds nothing, and
// the salt of its groups.
func decodeJournalHeader(b []byte) (generation, salt uint64) {
	if len(b) < journalHeader || string(b[:4]) != journalMagic || binary.BigEndian.Uint16(b[4:]) != journalVersion {
		return 0, 0
	}
	if castagnoli(b[:24]) != binary.BigEndian.Uint32(b[24:]) {
		return 0, 0
	}
	return binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])
}

// decodeGroup returns the entries of a whole group.
func decodeGroup(b []byte, salt uint64) ([]journalEntry, error) {
	if len(b) < groupHeader || int64(binary.BigEndian.Uint32(b)) != int64(len(b)) {
		return nil, errors.New("not a whole group")
	}
	if got := binary.BigEndian.Uint64(b[8:]); got != salt {
		return nil, fmt.Errorf("group with salt %x, want %x", got, salt)
	}
	if got, want := castagnoli(b[8:]), binary.BigEndian.Uint32(b[4:]); got != want {
		return nil, fmt.Errorf("group: CRC is %08x, want %08x", got, want)
	}
	var out []journalEntry
	rest := b[groupHeader:]
	for count := binary.BigEndian.Uint32(b[16:]); count > 0; count-- {
		e, size, err := decodeEntry(rest)
		if err != nil {
			return nil, err
		}
		e.at = int64(len(b) - len(rest) + size - len(e.bytes))
		out, rest = append(out, e), rest[size:]
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%d bytes behind the last entry of a group", len(rest))
	}
	return out, nil
}

func decodeEntry(b []byte) (e journalEntry, size int, err error) {
	if len(b) < entryHeader {
		return e, 0, errors.New("torn journal entry")
	}
	e = journalEntry{
		key:  logKey{topicID: [16]byte(b), partition: int32(binary.BigEndian.Uint32(b[16:]))},
		kind: b[20],
		base: record.Offset(binary.BigEndian.Uint64(b[24:])), position: int64(binary.BigEndian.Uint64(b[32:])),
	}
	name, bytes := int(binary.BigEndian.Uint16(b[22:])), int64(binary.BigEndian.Uint32(b[40:]))
	if bytes > int64(len(b)-entryHeader-name) {
		return e, 0, errors.New("torn journal entry")
	}
	size = entryHeader + name + int(bytes)
	e.folder, e.bytes = string(b[entryHeader:entryHeader+name]), b[entryHeader+name:size]
	switch {
	case e.kind == entryVoid:
		return e, size, nil
	case e.kind != entryData:
		return e, 0, fmt.Errorf("journal entry of kind %d", e.kind)
	case e.base < 0 || e.position < 0 || e.position+bytes > maxSegmentBytes:
		return e, 0, fmt.Errorf("journal entry for byte %d of segment %d", e.position, e.base)
	}
	if _, _, ok := parseFolderName(e.folder); !ok || e.folder != filepath.Base(e.folder) {
		return e, 0, fmt.Errorf("journal entry for folder %q", clip(e.folder))
	}
	return e, size, nil
}

// maxSegmentBytes is the largest segment: positions are 32 bits in the index.
const maxSegmentBytes = 1<<31 - 1 + journalGroupMax

// replay writes what the journal holds into the segments, syncs them, and begins
// the journal anew. It runs before any log is open. Its memory is one group's.
func (j *journal) replay() (entries int, err error) {
	files, err := j.openExisting()
	if err != nil {
		return 0, err
	}
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.file.Close())
		}
	}()
	for _, f := range files {
		// The order of the files as it was read must be the order on disk, before one
		// of them is begun anew: a process that died may have left a header that only
		// the page cache has.
		if err := j.flusher.Flush(f.file); err != nil {
			return 0, err
		}
	}
	r := newJournalReplay(j)
	if err := r.run(files, func(logKey) bool { return true }); err != nil {
		return 0, err
	}
	for _, f := range files {
		// Durably, before anything else changes a segment.
		if err := j.renew(&journalSlot{}, f.file); err != nil {
			return 0, err
		}
	}
	return r.applied, nil
}

// apply writes what the journal holds of a closed log into its segments and syncs
// them: the log may have failed before it did so itself. Entries of logs that
// were closed well say what the segments say already.
func (j *journal) apply(key logKey) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var files []*journalFile
	for i := range j.slots {
		if s := &j.slots[i]; s.logs[key] != nil {
			files = append(files, &journalFile{file: s.file, generation: s.generation, salt: s.salt, size: s.at})
		}
	}
	if len(files) == 2 && files[0].generation > files[1].generation {
		files[0], files[1] = files[1], files[0]
	}
	return newJournalReplay(j).run(files, func(k logKey) bool { return k == key })
}

// journalFile is a journal file to be read.
type journalFile struct {
	file             vfs.File
	name             string
	generation, salt uint64
	size             int64
}

// openExisting opens the files that exist, in the order of use.
func (j *journal) openExisting() ([]*journalFile, error) {
	var files []*journalFile
	for _, name := range journalNames() {
		name = filepath.Join(j.folder, name)
		f, err := j.fs.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		jf, err := readJournalFile(f, name)
		if err != nil {
			return nil, err
		}
		j.next = max(j.next, jf.generation+1)
		files = append(files, jf)
	}
	if len(files) == 2 && files[0].generation > files[1].generation {
		files[0], files[1] = files[1], files[0]
	}
	return files, nil
}

func readJournalFile(f vfs.File, name string) (*journalFile, error) {
	jf := &journalFile{file: f, name: name}
	var err error
	if jf.size, err = f.Size(); err != nil {
		return nil, err
	}
	head := make([]byte, min(jf.size, journalHeader))
	if err := readFull(f, head, 0); err != nil {
		return nil, err
	}
	jf.generation, jf.salt = decodeJournalHeader(head)
	return jf, nil
}

// eachEntry visits the entries of the valid groups. A group that is not valid is
// the end of its file: it was never acknowledged.
func eachEntry(files []*journalFile, visit func(*journalEntry) error) error {
	var b []byte
	for _, f := range files {
		for at := int64(journalHeader); f.generation > 0 && f.size-at >= groupHeader; {
			head := make([]byte, 4)
			if err := readFull(f.file, head, at); err != nil {
				return err
			}
			size := int64(binary.BigEndian.Uint32(head))
			if size < groupHeader || size > f.size-at || size > 2*journalGroupMax {
				break
			}
			if int64(cap(b)) < size {
				b = make([]byte, size)
			}
			b = b[:size]
			if err := readFull(f.file, b, at); err != nil {
				return err
			}
			entries, err := decodeGroup(b, f.salt)
			if err != nil {
				break
			}
			for i := range entries {
				entries[i].at += at
				if err := visit(&entries[i]); err != nil {
					return err
				}
			}
			at += size
		}
	}
	return nil
}

// journalReplay writes entries into segments.
type journalReplay struct {
	fs      vfs.FS
	folder  string
	known   map[logKey]bool // the folder is that log's
	open    map[string]vfs.File
	applied int
}

func newJournalReplay(j *journal) *journalReplay {
	return &journalReplay{fs: j.fs, folder: j.folder, known: map[logKey]bool{}, open: map[string]vfs.File{}}
}

// run writes the entries of the wanted logs that are not void, and syncs what it
// wrote. It reads the files twice.
func (r *journalReplay) run(files []*journalFile, wanted func(logKey) bool) error {
	voids, n := map[logKey]int{}, 0 // the last void of a log, by the number of the entry
	err := eachEntry(files, func(e *journalEntry) error {
		if n++; e.kind == entryVoid {
			voids[e.key] = n
		}
		return nil
	})
	if err != nil {
		return err
	}
	n = 0
	err = eachEntry(files, func(e *journalEntry) error {
		n++
		if e.kind != entryData || n < voids[e.key] || !wanted(e.key) {
			return nil
		}
		return r.apply(e)
	})
	return errors.Join(err, r.finish())
}

// replayFiles is how many segments are open at once.
const replayFiles = 64

// apply writes one entry. A folder that is gone or another topic's, and a segment
// that retention has removed, want nothing any more.
func (r *journalReplay) apply(e *journalEntry) error {
	folder := filepath.Join(r.folder, e.folder)
	ours, seen := r.known[e.key]
	if !seen {
		b, err := readFile(r.fs, filepath.Join(folder, metadataName))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		id, decodeErr := decodeMetadata(b)
		ours = err == nil && decodeErr == nil && id == e.key.topicID
		r.known[e.key] = ours
	}
	if !ours {
		return nil
	}
	name := segmentPath(folder, e.base) + logExt
	f := r.open[name]
	if f == nil {
		if len(r.open) >= replayFiles {
			if err := r.finish(); err != nil {
				return err
			}
		}
		var err error
		if f, err = r.fs.Open(name); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		r.open[name] = f
	}
	r.applied++
	_, err := f.WriteAt(e.bytes, e.position)
	return err
}

// finish syncs and closes what is open.
func (r *journalReplay) finish() error {
	var errs []error
	for name, f := range r.open {
		errs = append(errs, f.Datasync(), f.Close())
		delete(r.open, name)
	}
	return errors.Join(errs...)
}
