package log

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/penstock/penstock/log/record"
)

// The sentinels of this package, for errors.Is. Most come wrapped in, or are
// matched by, one of the typed errors below.
var (
	// ErrLocked: another live process holds the data directory.
	ErrLocked = errors.New("data directory is in use")
	// ErrClosed: the log or the directory is closed.
	ErrClosed = errors.New("log is closed")
	// ErrFailed: a write or a flush failed; the log takes nothing any more.
	ErrFailed = errors.New("log failed")
	// ErrOffsetOutOfRange: the offset lies before the log's start or past its end.
	ErrOffsetOutOfRange = errors.New("offset out of range")
	// ErrCorrupt: bytes that were once durable are not what was written.
	ErrCorrupt = errors.New("log is corrupt")
	// ErrDamaged: the log lost or corrupted durable bytes and is read-only.
	ErrDamaged = errors.New("log is damaged")
	// ErrNotContiguous: a follower append does not continue the log.
	ErrNotContiguous = errors.New("append does not continue the log")
	// ErrStaleEpoch: an append in an older leader epoch than the log's last one.
	ErrStaleEpoch = errors.New("leader epoch falls")
	// ErrInvalidBatch: a buffer given to append is not whole batches.
	ErrInvalidBatch = errors.New("invalid batch")
	// ErrTopicID: the folder on disk belongs to another topic of the same name.
	ErrTopicID = errors.New("folder belongs to another topic")
	// ErrOpen: the partition is open already.
	ErrOpen = errors.New("partition is open")
	// ErrBusy: an append came while the log was being truncated or reset, or that,
	// or a deletion, came in the way of a compaction.
	ErrBusy = errors.New("log is being truncated")
	// ErrReadMemory: readers hold all the memory that they may; some of it comes
	// free when one of them goes on.
	ErrReadMemory = errors.New("readers hold all their memory")
	// ErrDiskFull: the file system is below its reserve.
	ErrDiskFull = errors.New("disk is below its reserve")
	// ErrOpenFiles: too many files are open; a read may be tried again.
	ErrOpenFiles = errors.New("too many open files")
	// ErrDuplicate: every batch of an append is already in the log.
	ErrDuplicate = errors.New("duplicate of an earlier append")
	// ErrOutOfOrderSequence: a producer's batch does not continue its sequence.
	ErrOutOfOrderSequence = errors.New("out of order sequence")
	// ErrProducerFenced: a newer instance of the producer has written.
	ErrProducerFenced = errors.New("producer epoch is fenced")
	// ErrUnknownProducer: a sequence above 0 from a producer the log knows nothing of.
	ErrUnknownProducer = errors.New("unknown producer id")
)

// LockedError says who holds the data directory.
type LockedError struct {
	Path string
	PID  int // 0: unknown
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("data directory %s is in use by another process", e.Path)
	}
	return fmt.Sprintf("data directory %s is in use by process %d", e.Path, e.PID)
}

// Is matches ErrLocked.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// OffsetError says which offsets the log holds: [Start, End).
type OffsetError struct {
	Offset, Start, End record.Offset
}

func (e *OffsetError) Error() string {
	return fmt.Sprintf("offset %d is out of range: the log holds [%d, %d)", e.Offset, e.Start, e.End)
}

// Is matches ErrOffsetOutOfRange.
func (e *OffsetError) Is(target error) bool { return target == ErrOffsetOutOfRange }

// CorruptionError names the place where durable bytes are wrong.
type CorruptionError struct {
	Path     string
	Position int64         // byte in the file
	Offset   record.Offset // the first offset that cannot be read
	Reason   string
}

func (e *CorruptionError) Error() string {
	return fmt.Sprintf("%s is corrupt at byte %d (offset %d): %s", e.Path, e.Position, e.Offset, e.Reason)
}

// Is matches ErrCorrupt.
func (e *CorruptionError) Is(target error) bool { return target == ErrCorrupt }

// FailedError is what a latched log answers for good.
type FailedError struct {
	Path string
	Op   string // what failed: "write", "flush", ...
	Err  error
}

func (e *FailedError) Error() string {
	return fmt.Sprintf("log %s failed for good: %s: %v", e.Path, e.Op, e.Err)
}

// Passing reports whether what failed for is a resource that comes back: space,
// quota, open files. Opening the log again may then succeed.
func (e *FailedError) Passing() bool {
	for _, errno := range [...]error{syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE} {
		if errors.Is(e.Err, errno) {
			return true
		}
	}
	return false
}

// Is matches ErrFailed.
func (e *FailedError) Is(target error) bool { return target == ErrFailed }

// Unwrap returns the cause.
func (e *FailedError) Unwrap() error { return e.Err }

// DamagedError refuses a change to a log that is read-only because of damage.
type DamagedError struct {
	Path   string
	Damage Damage
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("log %s is read-only: %s; it takes records again after a reset", e.Path, e.Damage)
}

// Is matches ErrDamaged.
func (e *DamagedError) Is(target error) bool { return target == ErrDamaged }

// DiskFullError says how much is free, how much must stay free, and how much
// there was no room for, in bytes.
type DiskFullError struct {
	Path          string
	Free, Reserve int64
	Wanted        int64 // 0: nothing was asked for
}

func (e *DiskFullError) Error() string {
	if e.Wanted > 0 {
		return fmt.Sprintf("%s has %d bytes free and keeps %d in reserve: no room for %d", e.Path, e.Free, e.Reserve, e.Wanted)
	}
	return fmt.Sprintf("%s has %d bytes free, fewer than its reserve of %d", e.Path, e.Free, e.Reserve)
}

// Is matches ErrDiskFull.
func (e *DiskFullError) Is(target error) bool { return target == ErrDiskFull }

// DuplicateError is the answer to an append whose batches are all in the log
// already: they are at [First, Next). Nothing was appended. It is a success for
// the producer, under the same condition as the first send (DESIGN 5).
type DuplicateError struct {
	First, Next record.Offset
}

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("batch is already at offsets [%d, %d)", e.First, e.Next)
}

// Is matches ErrDuplicate.
func (e *DuplicateError) Is(target error) bool { return target == ErrDuplicate }

// SequenceError refuses a batch of an idempotent producer. Its Reason is
// ErrOutOfOrderSequence, ErrProducerFenced or ErrUnknownProducer.
type SequenceError struct {
	Reason        error
	ProducerID    int64
	ProducerEpoch int16 // of the batch
	Sequence      int32 // first of the batch
	CurrentEpoch  int16 // the newest the log knows; -1: none
	Expected      int32 // the sequence that would be right
}

func (e *SequenceError) Error() string {
	return fmt.Sprintf("%v: producer %d epoch %d sequence %d; expected epoch %d sequence %d",
		e.Reason, e.ProducerID, e.ProducerEpoch, e.Sequence, e.CurrentEpoch, e.Expected)
}

// Unwrap returns the Reason.
func (e *SequenceError) Unwrap() error { return e.Reason }

// InvalidBatchError names the buffer of an append that is not acceptable.
type InvalidBatchError struct {
	Index  int // which of the buffers
	Reason string
}

func (e *InvalidBatchError) Error() string {
	return fmt.Sprintf("invalid batch in buffer %d: %s", e.Index, e.Reason)
}

// Is matches ErrInvalidBatch.
func (e *InvalidBatchError) Is(target error) bool { return target == ErrInvalidBatch }

// OpenFilesError says that too many files are open and none of the log's could be spared.
type OpenFilesError struct {
	Path string // what could not be opened
	Open int    // segment files that are open, all of them in use
	Err  error  // EMFILE: this process has too many; ENFILE: the machine
}

func (e *OpenFilesError) Error() string {
	return fmt.Sprintf("%s: %v; %d segment files are in use; raise the limit of open files (ulimit -n) or lower log.open.files", e.Path, e.Err, e.Open)
}

// Is matches ErrOpenFiles.
func (e *OpenFilesError) Is(target error) bool { return target == ErrOpenFiles }

// Unwrap returns the cause.
func (e *OpenFilesError) Unwrap() error { return e.Err }
