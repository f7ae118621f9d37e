package log

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// InspectOptions say what to look at. Path is required.
type InspectOptions struct {
	// FS is where Path is; nil: the operating system, opened for reading only.
	FS vfs.FS
	// Path is a data directory, a partition's folder in one, or a single file.
	Path string
	// Partition looks at the partitions of this number alone; -1: all.
	Partition int32
	// Others are names in the data directory that do not belong to logs.
	Others []string
	// Progress hears now and then how many bytes of segments have been read and
	// how many there are; nil: nobody does.
	Progress func(done, total int64)
}

// Inspector looks at a data directory, or at a part of one, without opening it:
// it takes no lock, writes nothing and starts nothing, so that it works on the
// directory of a living process and on a copy. Its memory is bounded whatever
// the files hold. It is not safe for concurrent use.
type Inspector struct {
	fs   vfs.FS
	opts InspectOptions
	kind FileKind
	// root is the data directory around Path; empty: there is none.
	root string

	states   map[logKey]logState // of the newest valid checkpoint
	promises promises
	clean    bool                   // the clean-stop marker is there and valid
	live     bool                   // a living process has the directory open
	journal  map[string][]journaled // by segment file
	done     int64
	total    int64
}

// promises says what the checkpoint slots are good for.
type promises uint8

const (
	promisesAbsent promises = iota // no slot: nobody says what was flushed
	promisesLost                   // slots, none of them valid
	promisesKnown
)

// InspectedFile is a file, or a folder, that an Inspector found.
type InspectedFile struct {
	Kind FileKind
	Path string
	// Size in bytes; -1: not known, or a folder.
	Size int64
	// Topic and Partition are those of the folder around it, or of the folder
	// itself; Partition is -1 outside of one.
	Topic     string
	Partition int32
	// Offset is what the file is named after; -1: nothing.
	Offset record.Offset
}

// Name is the last part of the path.
func (f InspectedFile) Name() string { return filepath.Base(f.Path) }

// ErrNotOurs answers a path that is no data directory and no part of one.
var ErrNotOurs = errors.New("neither a data directory nor a partition's folder nor a file of one")

// Inspect finds out what a path is. ErrNotOurs: nothing that a log has written.
func Inspect(opts InspectOptions) (*Inspector, error) {
	in := &Inspector{fs: opts.FS, opts: opts}
	if in.fs == nil {
		in.fs = vfs.ReadOnly{}
	}
	in.opts.Path = filepath.Clean(opts.Path)
	if err := in.identify(); err != nil {
		return nil, err
	}
	if in.root == "" {
		return in, nil
	}
	in.readRoot()
	return in, nil
}

// identify sets kind and root.
func (in *Inspector) identify() error {
	path := in.opts.Path
	entries, err := in.fs.List(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return in.identifyFile(path)
	}
	if hasRootFiles(entries) {
		in.kind, in.root = KindDataDir, path
		return nil
	}
	holds := func(e vfs.Entry) bool { k, _ := logKind(e); return k != KindStrange }
	_, _, named := parseFolderName(filepath.Base(path))
	if slices.ContainsFunc(entries, holds) || named && len(entries) == 0 {
		in.kind, in.root = KindPartition, in.parentRoot(path)
		return nil
	}
	if slices.ContainsFunc(entries, func(e vfs.Entry) bool { return rootKind(e, nil) == KindPartition }) {
		in.kind, in.root = KindDataDir, path
		return nil
	}
	return fmt.Errorf("%s: %w", path, ErrNotOurs)
}

func (in *Inspector) identifyFile(path string) error {
	entry := vfs.Entry{Name: filepath.Base(path)}
	if kind := rootKind(entry, nil); slices.Contains(rootFileKinds(), kind) {
		in.kind, in.root = kind, filepath.Dir(path)
	} else if kind, _ := logKind(entry); kind != KindStrange {
		in.kind, in.root = kind, in.parentRoot(filepath.Dir(path))
	} else {
		return fmt.Errorf("%s: %w", path, ErrNotOurs)
	}
	f, err := in.fs.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

// rootFileKinds are the files at the top of a data directory.
func rootFileKinds() []FileKind { return []FileKind{KindCheckpoint, KindMarker, KindLock, KindJournal} }

// hasRootFiles tells a data directory by the files at its top.
func hasRootFiles(entries []vfs.Entry) bool {
	return slices.ContainsFunc(entries, func(e vfs.Entry) bool {
		return slices.Contains(rootFileKinds(), rootKind(e, nil))
	})
}

// parentRoot is the data directory around a partition's folder; empty: none.
func (in *Inspector) parentRoot(folder string) string {
	parent := filepath.Dir(folder)
	if entries, err := in.fs.List(parent); err == nil && hasRootFiles(entries) {
		return parent
	}
	return ""
}

// readRoot reads what the data directory says about its logs.
func (in *Inspector) readRoot() {
	_, in.live, _ = in.HeldBy() // who asks hears the error
	var best uint64
	for _, name := range checkpointSlots() {
		b, err := in.read(filepath.Join(in.root, name), maxCheckpointFile)
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(b) == 0 {
			continue
		}
		if in.promises == promisesAbsent {
			in.promises = promisesLost
		}
		if err != nil {
			continue // Verify says why
		}
		sequence, states, err := decodeCheckpoint(b)
		if err == nil && (in.promises != promisesKnown || sequence > best) {
			in.promises, best, in.states = promisesKnown, sequence, states
		}
	}
	b, err := in.read(filepath.Join(in.root, markerName), markerSize)
	if err == nil {
		_, err = decodeMarker(b)
		in.clean = err == nil
	}
	in.readJournal()
}

// Bounds of what is read whole; larger files are not ours.
const (
	maxCheckpointFile = 256 << 20 // 5 million logs
	maxEpochsFile     = 16 << 20
	maxSnapshotFile   = 64 << 20
	maxSmallFile      = 4 << 10
)

// tooLargeError refuses a file that is larger than any of its kind.
type tooLargeError struct{ size, most int64 }

func (e *tooLargeError) Error() string {
	return fmt.Sprintf("%d bytes, and no file of this kind has more than %d", e.size, e.most)
}

// read reads a whole file of at most so many bytes.
func (in *Inspector) read(path string, most int64) (_ []byte, err error) {
	f, err := in.fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > most {
		return nil, &tooLargeError{size, most}
	}
	b := make([]byte, size)
	return b, readFull(f, b, 0)
}

// HeldBy says whether a living process has the data directory open, and which; pid
// 0: not known. What is read then may be older than what comes next.
func (in *Inspector) HeldBy() (pid int, held bool, err error) {
	locker, ok := in.fs.(interface {
		Locked(name string) (bool, error)
	})
	if !ok || in.root == "" {
		return 0, false, nil
	}
	name := filepath.Join(in.root, lockName)
	if held, err = locker.Locked(name); !held || err != nil {
		return 0, false, err
	}
	if b, err := in.read(name, maxSmallFile); err == nil {
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	return pid, true, nil
}

// Files lists what Path holds: the files of the data directory, then folder by
// folder those of the partitions, segments ascending and their indexes beside
// them. A path that is a file lists itself.
func (in *Inspector) Files() ([]InspectedFile, error) {
	switch in.kind {
	case KindDataDir:
		return in.rootFiles()
	case KindPartition:
		return in.folderFiles(in.opts.Path, KindPartition)
	default:
		f := InspectedFile{Kind: in.kind, Path: in.opts.Path, Partition: -1, Offset: record.UnknownOffset, Size: in.size(in.opts.Path)}
		if kind, off := logKind(vfs.Entry{Name: f.Name()}); kind != KindStrange {
			f.Offset = off
			if topic, partition, ok := parseFolderName(filepath.Base(filepath.Dir(f.Path))); ok {
				f.Topic, f.Partition = topic, partition
			}
		}
		return []InspectedFile{f}, nil
	}
}

func (in *Inspector) rootFiles() ([]InspectedFile, error) {
	entries, err := in.fs.List(in.root)
	if err != nil {
		return nil, err
	}
	var out, folders []InspectedFile
	for _, e := range entries {
		f := InspectedFile{
			Kind: in.rootKind(e), Path: filepath.Join(in.root, e.Name), Size: -1, Partition: -1, Offset: record.UnknownOffset,
		}
		if !e.Folder {
			f.Size = in.size(f.Path)
		}
		switch f.Kind {
		case KindPartition:
			f.Topic, f.Partition, _ = parseFolderName(e.Name)
		case KindSetAside:
			f.Topic, f.Partition, _ = parsePutAway(e.Name, strayExt)
		case KindDeleted:
			f.Topic, f.Partition, _ = parsePutAway(e.Name, deletedExt)
		case KindDamaged:
			f.Topic, f.Partition, _ = parsePutAway(e.Name, damagedExt)
		default:
			out = append(out, f)
			continue
		}
		if in.opts.Partition >= 0 && f.Partition != in.opts.Partition {
			continue
		}
		if f.Kind != KindPartition {
			out = append(out, f)
			continue
		}
		inside, err := in.folderFiles(f.Path, f.Kind)
		if isMissing(err) { // its topic was deleted while we looked
			continue
		}
		if err != nil {
			return nil, err
		}
		folders = append(folders, inside...)
	}
	return append(out, folders...), nil
}

// rootKind also knows the metadata log by what is in it, wherever it is called.
func (in *Inspector) rootKind(e vfs.Entry) FileKind {
	kind := rootKind(e, in.opts.Others)
	if kind == KindStrange && e.Folder {
		const identity = "identity" // written by package cluster
		inside, err := in.fs.List(filepath.Join(in.root, e.Name))
		if err == nil && slices.ContainsFunc(inside, func(e vfs.Entry) bool { return e.Name == identity && !e.Folder }) {
			return KindOther
		}
	}
	return kind
}

// folderFiles lists a partition's folder, the folder itself first.
func (in *Inspector) folderFiles(folder string, kind FileKind) ([]InspectedFile, error) {
	entries, err := in.fs.List(folder)
	if err != nil {
		return nil, err
	}
	head := InspectedFile{Kind: kind, Path: folder, Size: -1, Partition: -1, Offset: record.UnknownOffset}
	if topic, partition, ok := parseFolderName(filepath.Base(folder)); ok {
		head.Topic, head.Partition = topic, partition
	}
	var plain, named []InspectedFile
	for _, e := range entries {
		f := head
		f.Path = filepath.Join(folder, e.Name)
		f.Kind, f.Offset = logKind(e)
		if !e.Folder {
			f.Size = in.size(f.Path)
		}
		if f.Offset >= 0 {
			named = append(named, f)
		} else {
			plain = append(plain, f)
		}
	}
	order := []FileKind{KindSegment, KindIndex, KindTimeIndex, KindSnapshot, KindTorn, KindCompacted, KindTemporary, KindDeleted}
	slices.SortStableFunc(named, func(a, b InspectedFile) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)))
	})
	return slices.Concat([]InspectedFile{head}, plain, named), nil
}

func (in *Inspector) size(path string) int64 {
	f, err := in.fs.Open(path)
	if err != nil {
		return -1
	}
	defer f.Close() //nolint:errcheck // it was only read
	size, err := f.Size()
	if err != nil {
		return -1
	}
	return size
}
