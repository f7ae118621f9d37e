package log

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/penstock/penstock/log/record"
)

// Severity says what a Finding means.
type Severity string

// The severities.
const (
	// SeverityNote: worth knowing, and nothing is wrong: an unflushed tail, what a
	// crash left and the next start cleans up.
	SeverityNote Severity = "note"
	// SeverityStrange: something that no log has written lies among the files. It
	// is left alone.
	SeverityStrange Severity = "strange"
	// SeverityDamage: bytes that were promised to be there are not what they should be.
	SeverityDamage Severity = "damage"
)

// Finding is one thing that Verify has to tell.
type Finding struct {
	Severity Severity
	Kind     FileKind
	Path     string
	// Position is the byte in the file; -1: the file as a whole.
	Position int64
	// Offset is the record offset that it is about; -1: none.
	Offset record.Offset
	// Problem is what is there, Want what would be right (empty: it goes without saying).
	Problem, Want string
}

func (f Finding) String() string {
	s := f.Path
	if f.Position >= 0 {
		s += fmt.Sprintf(": byte %d", f.Position)
	}
	if f.Offset >= 0 {
		s += fmt.Sprintf(": offset %d", f.Offset)
	}
	s += ": " + f.Problem
	if f.Want != "" {
		s += " (" + f.Want + ")"
	}
	return s
}

// Verification counts what Verify has looked at.
type Verification struct {
	Partitions, Segments, Batches, Records, Bytes int64
	Damages, Notes, Strangers                     int64
}

// findingsPerFile bounds what is told about one file; the rest is counted.
const findingsPerFile = 20

// verifier is one run of Verify.
type verifier struct {
	in     *Inspector
	ctx    context.Context //nolint:containedctx // of the run, which is one call
	report func(Finding)
	sum    Verification

	path   string // of the file that findings come from at present
	onFile int
}

// Verify checks all that can be checked: the CRC and the records of every batch;
// that batches are contiguous and their epochs do not fall; that indexes, epoch
// file and producer snapshots agree with the batches; that what the checkpoint
// promises is there. What lies above the flushed offset may be torn: that is the
// unflushed tail of a log that was not stopped in order. report hears each
// finding as it is made, in the order of the files; nil: only the counts matter.
// The error is of reading, or ctx's: then the check is not complete.
func (in *Inspector) Verify(ctx context.Context, report func(Finding)) (Verification, error) {
	v := &verifier{in: in, ctx: ctx, report: report}
	files, err := in.Files()
	if err != nil {
		return v.sum, err
	}
	in.done, in.total = 0, 0
	for _, f := range files {
		if f.Kind == KindSegment {
			in.total += max(f.Size, 0)
		}
	}
	if in.kind == KindDataDir {
		v.root(files)
	}
	for len(files) > 0 {
		n := 1
		for n < len(files) && files[0].Kind == KindPartition && files[n].Kind != KindPartition {
			n++
		}
		var err error
		switch {
		case files[0].Kind == KindPartition:
			err = v.folder(files[0], files[1:n])
		case in.kind == files[0].Kind && in.kind != KindDataDir:
			err = v.file(files[0])
		}
		if err != nil {
			return v.sum, err
		}
		files = files[n:]
	}
	if in.kind == KindDataDir && in.opts.Partition < 0 {
		v.absent()
	}
	return v.sum, nil
}

// find reports; it counts in any case.
func (v *verifier) find(f Finding) {
	switch f.Severity {
	case SeverityDamage:
		v.sum.Damages++
	case SeverityStrange:
		v.sum.Strangers++
	case SeverityNote:
		v.sum.Notes++
	}
	if f.Path != v.path {
		v.path, v.onFile = f.Path, 0
	}
	if v.onFile++; v.report == nil || v.onFile > findingsPerFile+1 {
		return
	}
	if v.onFile > findingsPerFile {
		f = Finding{Severity: f.Severity, Kind: f.Kind, Path: f.Path, Position: -1, Offset: -1, Problem: "further findings in this file are counted only"}
	}
	v.report(f)
}

// whole is a finding about a file as a whole.
func (v *verifier) whole(s Severity, kind FileKind, path, problem, want string) {
	v.find(Finding{Severity: s, Kind: kind, Path: path, Position: -1, Offset: record.UnknownOffset, Problem: problem, Want: want})
}

// root checks the files of the data directory itself.
func (v *verifier) root(files []InspectedFile) {
	valid := false
	for _, f := range files {
		if f.Kind == KindPartition {
			break
		}
		switch f.Kind {
		case KindStrange:
			v.whole(SeverityStrange, f.Kind, f.Path, "nothing of ours has that name", "it is left alone")
		case KindSetAside:
			v.whole(SeverityNote, f.Kind, f.Path, "set aside: the metadata did not mention it", "look into it, then delete it or rename it back")
		case KindDamaged:
			v.whole(SeverityNote, f.Kind, f.Path, "what is left of a damaged replica that is being copied anew", "it goes when the new copy is in sync")
		case KindDeleted:
			v.whole(SeverityNote, f.Kind, f.Path, "a deletion that was interrupted", "the next start finishes it")
		case KindMarker:
			v.marker(f)
		case KindCheckpoint:
			valid = v.slot(f) || valid
		case KindJournal:
			if err := v.in.Journal(f.Path, func(InspectedJournalEntry) error { return nil }); err != nil {
				v.whole(SeverityNote, f.Kind, f.Path, err.Error(), "the next start takes nothing from it")
			}
		default:
		}
	}
	logs := slices.ContainsFunc(files, func(f InspectedFile) bool { return f.Kind == KindPartition })
	if v.in.promises == promisesLost && !valid && logs { // before the first log it is a first start that was cut short
		v.whole(SeverityDamage, KindCheckpoint, v.in.root, "no flushed checkpoint is readable: nobody knows what was promised",
			"at the next start every log counts as one that may have lost records")
	}
}

// slot checks one slot of the checkpoint. A torn slot beside a valid one is what a
// crash leaves.
func (v *verifier) slot(f InspectedFile) bool {
	b, err := v.in.read(f.Path, maxCheckpointFile)
	if err == nil && len(b) > 0 {
		_, _, err = decodeCheckpoint(b)
	}
	if err != nil {
		v.whole(SeverityNote, f.Kind, f.Path, err.Error(), "the other slot holds; the next checkpoint replaces this one")
	}
	return err == nil && len(b) > 0
}

func (v *verifier) marker(f InspectedFile) {
	b, err := v.in.read(f.Path, markerSize)
	if err == nil {
		_, err = decodeMarker(b)
	}
	if err != nil {
		v.whole(SeverityNote, f.Kind, f.Path, err.Error(), "the last stop counts as unclean")
	}
}

// absent looks for logs that the checkpoint promises and that have no folder.
func (v *verifier) absent() {
	have := map[logKey]bool{}
	entries, err := v.in.fs.List(v.in.root)
	if err != nil {
		return
	}
	for _, e := range entries {
		name := e.Name
		_, partition, ok := parseFolderName(name)
		for _, ext := range []string{strayExt, deletedExt, damagedExt} {
			if !ok {
				_, partition, ok = parsePutAway(name, ext)
			}
		}
		if !ok || !e.Folder {
			continue
		}
		if b, err := v.in.read(filepath.Join(v.in.root, name, metadataName), maxSmallFile); err == nil {
			if id, err := decodeMetadata(b); err == nil {
				have[logKey{id, partition}] = true
			}
		}
	}
	for _, key := range sortedKeys(v.in.states) {
		s := v.in.states[key]
		if have[key] || s.flushed <= s.start && s.damage == DamageNone {
			continue
		}
		severity := SeverityDamage
		if v.in.live { // its topic may have been deleted while we looked
			severity = SeverityNote
		}
		v.find(Finding{
			Severity: severity, Kind: KindPartition, Path: v.in.root, Position: -1, Offset: s.start,
			Problem: fmt.Sprintf("no folder has topic id %x and partition %d", key.topicID, key.partition),
			Want:    fmt.Sprintf("offsets %d to %d were flushed; well only if a crash followed the deletion of the topic at once", s.start, s.flushed),
		})
	}
}

// file checks a single file by what it says itself, a segment with its indexes.
func (v *verifier) file(f InspectedFile) error {
	switch f.Kind {
	case KindCheckpoint:
		if v.in.size(f.Path) == 0 {
			v.whole(SeverityNote, f.Kind, f.Path, "empty", "the other slot holds")
		} else if b, err := v.in.read(f.Path, maxCheckpointFile); err != nil {
			return v.broken(f, err)
		} else if _, _, err := decodeCheckpoint(b); err != nil {
			return v.broken(f, err)
		}
	case KindMarker:
		b, err := v.in.read(f.Path, markerSize)
		if err == nil {
			_, err = decodeMarker(b)
		}
		return v.broken(f, err)
	case KindMetadata:
		b, err := v.in.read(f.Path, maxSmallFile)
		if err == nil {
			_, err = decodeMetadata(b)
		}
		return v.broken(f, err)
	case KindJournal:
		return v.broken(f, v.in.Journal(f.Path, func(InspectedJournalEntry) error { return nil }))
	case KindEpochs:
		b, err := v.in.read(f.Path, maxEpochsFile)
		if err == nil {
			_, err = decodeEpochs(b)
		}
		return v.broken(f, err)
	case KindSnapshot:
		_, err := v.snapshot(f.Path, f.Offset)
		return v.broken(f, err)
	case KindSegment, KindIndex, KindTimeIndex:
		p := v.newPartition(filepath.Dir(f.Path))
		p.alone = true
		p.next = f.Offset
		return p.segment(f.Offset, 0, true)
	default:
	}
	return nil
}

// broken reports a file that its decoder refuses; the rest is an error of reading.
func (v *verifier) broken(f InspectedFile, err error) error {
	if _, io := errors.AsType[*fs.PathError](err); io {
		return err
	}
	if err != nil {
		v.whole(SeverityDamage, f.Kind, f.Path, err.Error(), "")
	}
	return nil
}

func (v *verifier) snapshot(path string, off record.Offset) (*producers, error) {
	b, err := v.in.read(path, maxSnapshotFile)
	if err != nil {
		return nil, err
	}
	ps, at, err := decodeProducers(b, 0)
	if err == nil && at != off {
		err = fmt.Errorf("the snapshot is of offset %d", at)
	}
	return ps, err
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
