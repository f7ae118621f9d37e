package log

import (
	"errors"
	"io"
	"path/filepath"

	"github.com/penstock/penstock/log/record"
)

// maxJournaled bounds how many entries of the flush journal are remembered; a real
// one holds far fewer.
const maxJournaled = 1 << 20

// journaled is a run of bytes of a segment that the flush journal has: until the
// next start writes them into the segment, they may be nowhere else.
type journaled struct {
	at, size int64
	file     string
	from     int64 // position of the bytes in that file
}

// readJournal finds what the journal holds of which segment. A living process has
// the bytes in the segments too.
func (in *Inspector) readJournal() {
	if in.live {
		return
	}
	j := &journal{fs: in.fs, folder: in.root}
	files, err := j.openExisting()
	if err != nil {
		return // Verify says why
	}
	held := map[logKey]map[string][]journaled{}
	n := 0
	for _, f := range files {
		_ = eachEntry([]*journalFile{f}, func(e *journalEntry) error {
			if e.kind == entryVoid {
				delete(held, e.key)
			} else if n++; n <= maxJournaled {
				if held[e.key] == nil {
					held[e.key] = map[string][]journaled{}
				}
				path := segmentPath(filepath.Join(in.root, e.folder), e.base) + logExt
				held[e.key][path] = append(held[e.key][path], journaled{e.position, int64(len(e.bytes)), f.name, e.at})
			}
			return nil
		})
		_ = f.file.Close()
	}
	in.journal = map[string][]journaled{}
	for key, segments := range held {
		for path, runs := range segments {
			if id, err := in.TopicID(filepath.Join(filepath.Dir(path), metadataName)); err == nil && id == key.topicID {
				in.journal[path] = runs
			}
		}
	}
}

// inspectedFile is what the Inspector needs of an open file.
type inspectedFile interface {
	io.ReaderAt
	io.Closer
	Size() (int64, error)
}

// openSegment opens a segment file as the next start would find it: with what the
// journal has of it.
func (in *Inspector) openSegment(path string) (inspectedFile, error) {
	f, err := in.fs.Open(path)
	if err != nil {
		return nil, err
	}
	runs := in.journal[path]
	if len(runs) == 0 {
		return f, nil
	}
	o := &overlaid{file: f, runs: runs, journals: map[string]inspectedFile{}}
	if o.size, err = f.Size(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	o.own = o.size
	for _, r := range runs {
		o.size = max(o.size, r.at+r.size)
		if o.journals[r.file] == nil {
			if o.journals[r.file], err = in.fs.Open(r.file); err != nil {
				delete(o.journals, r.file)
				return nil, errors.Join(err, o.Close())
			}
		}
	}
	return o, nil
}

// overlaid is a segment file with the journal's bytes over it.
type overlaid struct {
	file      inspectedFile
	own, size int64 // of the file itself, and with the journal
	runs      []journaled
	journals  map[string]inspectedFile
}

func (o *overlaid) Size() (int64, error) { return o.size, nil }

func (o *overlaid) Close() error {
	err := o.file.Close()
	for _, f := range o.journals {
		err = errors.Join(err, f.Close())
	}
	return err
}

// ReadAt reads b from off, where the file, with the journal, has it.
func (o *overlaid) ReadAt(b []byte, off int64) (int, error) {
	if off >= o.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), o.size-off))
	short := n < len(b)
	b = b[:n]
	clear(b)
	if own := o.own - off; own > 0 {
		if err := readFull(o.file, b[:min(own, int64(n))], off); err != nil {
			return 0, err
		}
	}
	for _, r := range o.runs {
		from, to := max(r.at, off), min(r.at+r.size, off+int64(n))
		if from >= to {
			continue
		}
		if err := readFull(o.journals[r.file], b[from-off:to-off], r.from+from-r.at); err != nil {
			return 0, err
		}
	}
	if short {
		return n, io.EOF
	}
	return n, nil
}

// InspectedJournalEntry is an entry of a flush journal file.
type InspectedJournalEntry struct {
	TopicID   [16]byte
	Partition int32
	// Void: what the journal has of this log before this entry no longer holds. The
	// other fields say nothing then.
	Void   bool
	Folder string
	// Base is that of the segment, Position the byte in it, Size the number of bytes.
	Base     record.Offset
	Position int64
	Size     int64
	// At is where in the journal file the bytes are.
	At int64
}

// Journal visits the entries of a flush journal file that the next start would
// believe. visit's error ends the walk and comes back.
func (in *Inspector) Journal(path string, visit func(InspectedJournalEntry) error) (err error) {
	f, err := in.fs.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	jf, err := readJournalFile(f, path)
	if err != nil {
		return err
	}
	if jf.generation == 0 && jf.size > 0 {
		return errNoJournal
	}
	return eachEntry([]*journalFile{jf}, func(e *journalEntry) error {
		return visit(InspectedJournalEntry{
			TopicID: e.key.topicID, Partition: e.key.partition, Void: e.kind == entryVoid, Folder: e.folder,
			Base: e.base, Position: e.position, Size: int64(len(e.bytes)), At: e.at,
		})
	})
}

var errNoJournal = errors.New("not a flush journal")
