package log

import (
	"slices"
	"strconv"
	"strings"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// FileKind says what a name in a data directory stands for. Its values are
// stable: tools print them.
type FileKind string

// The kinds of files and folders.
const (
	KindStrange    FileKind = "strange" // nothing we write is called that
	KindDataDir    FileKind = "data-directory"
	KindLock       FileKind = "lock"
	KindCheckpoint FileKind = "flushed-checkpoint"
	KindMarker     FileKind = "clean-stop"
	KindJournal    FileKind = "flush-journal"
	KindPartition  FileKind = "partition" // a folder
	KindSetAside   FileKind = "stray"     // a folder that the metadata did not mention
	KindDeleted    FileKind = "deleted"   // a folder or a segment that is being deleted
	KindDamaged    FileKind = "damaged"   // a folder that a rebuild has kept
	KindOther      FileKind = "other"     // not a log's, but known: the metadata log, lost+found
	KindMetadata   FileKind = "partition.metadata"
	KindEpochs     FileKind = "leader-epochs"
	KindSegment    FileKind = "segment"
	KindIndex      FileKind = "index"
	KindTimeIndex  FileKind = "time-index"
	KindSnapshot   FileKind = "producer-snapshot"
	KindReset      FileKind = "reset"     // a reset that the next open finishes
	KindTorn       FileKind = "torn"      // what recovery cut off
	KindCompacted  FileKind = "compacted" // a whole segment that is about to replace others
	KindTemporary  FileKind = "temporary" // unfinished; removed at open
)

// rootKind classifies a name in a data directory. others are names that other
// parts of the process keep there.
func rootKind(e vfs.Entry, others []string) FileKind {
	slots, journals := checkpointSlots(), journalNames()
	switch {
	case slices.Contains(others, e.Name), e.Folder && e.Name == "lost+found":
		return KindOther
	case !e.Folder && e.Name == lockName:
		return KindLock
	case !e.Folder && e.Name == markerName:
		return KindMarker
	case !e.Folder && slices.Contains(slots[:], e.Name):
		return KindCheckpoint
	case !e.Folder && slices.Contains(journals[:], e.Name):
		return KindJournal
	case !e.Folder:
		return KindStrange
	}
	if _, _, ok := parseFolderName(e.Name); ok {
		return KindPartition
	}
	if _, _, ok := parsePutAway(e.Name, strayExt); ok {
		return KindSetAside
	}
	if _, _, ok := parsePutAway(e.Name, deletedExt); ok {
		return KindDeleted
	}
	if _, _, ok := parsePutAway(e.Name, damagedExt); ok {
		return KindDamaged
	}
	return KindStrange
}

// parsePutAway takes the name of a folder apart that putAway has renamed:
// <topic>-<partition>.<8 hex digits>[.<number>]<ext>.
func parsePutAway(name, ext string) (topic string, partition int32, ok bool) {
	rest, found := strings.CutSuffix(name, ext)
	if !found {
		return "", 0, false
	}
	for range 2 {
		i := strings.LastIndexByte(rest, '.')
		if i < 0 {
			return "", 0, false
		}
		part := rest[i+1:]
		if rest = rest[:i]; len(part) == 8 && strings.Trim(part, "0123456789abcdef") == "" {
			if topic, partition, ok = parseFolderName(rest); ok {
				return topic, partition, true
			}
		}
		if _, err := strconv.ParseUint(part, 10, 31); err != nil {
			return "", 0, false
		}
	}
	return "", 0, false
}

// logKind classifies a name in a partition's folder; off is the offset that it is
// named after, if it is.
func logKind(e vfs.Entry) (kind FileKind, off record.Offset) {
	if e.Folder {
		return KindStrange, record.UnknownOffset
	}
	switch e.Name {
	case metadataName:
		return KindMetadata, record.UnknownOffset
	case epochsName:
		return KindEpochs, record.UnknownOffset
	case epochsName + temporary, resetName + temporary:
		return KindTemporary, record.UnknownOffset
	case resetName:
		return KindReset, record.UnknownOffset
	}
	if _, ok := parseOffsetName(e.Name, snapshotExt+temporary); ok {
		return KindTemporary, record.UnknownOffset
	}
	for _, k := range []struct {
		ext  string
		kind FileKind
	}{{logExt, KindSegment}, {indexExt, KindIndex}, {timeExt, KindTimeIndex}, {snapshotExt, KindSnapshot}} {
		if off, ok := parseOffsetName(e.Name, k.ext); ok {
			return k.kind, off
		}
	}
	if off, ok := parseOffsetName(e.Name, logExt+deletedExt); ok {
		return KindDeleted, off
	}
	if off, ok := parseTornName(e.Name); ok {
		return KindTorn, off
	}
	if off, ok := parseOffsetName(e.Name, cleanedExt); ok {
		return KindTemporary, off
	}
	if off, _, ok := parseSwapName(e.Name); ok {
		return KindCompacted, off
	}
	return KindStrange, record.UnknownOffset
}

// parseTornName reads <offset>.log.<position>[.<number>].torn.
func parseTornName(name string) (base record.Offset, ok bool) {
	rest, found := strings.CutSuffix(name, tornExt)
	if !found {
		return 0, false
	}
	stem, numbers, found := strings.Cut(rest, logExt+".")
	if base, ok = parseOffsetName(stem+logExt, logExt); !found || !ok {
		return 0, false
	}
	parts := strings.Split(numbers, ".")
	for _, p := range parts {
		if _, err := strconv.ParseUint(p, 10, 63); err != nil {
			return 0, false
		}
	}
	return base, len(parts) <= 2
}
