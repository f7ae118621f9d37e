package log

import (
	"log/slog"
	"time"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// DirOptions configure a data directory. FS, Path and Logger are required.
type DirOptions struct {
	FS   vfs.FS
	Path string
	// Arena gives the memory of reads from disk; nil: an own one of twice TailBytes.
	Arena *record.Arena
	// TailBytes is how much memory the recent batches of all logs together may
	// take before the oldest written ones are let go; 0: half of the arena's limit
	// (64 MiB without an arena). With all of it the arena would have no idle
	// memory left to give out again.
	TailBytes int64
	Flusher   FlusherOptions
	// OpenFiles is how many segment files are kept open; more only while more are
	// in use. 0: half of the process's limit (RLIMIT_NOFILE), 64 to 16384.
	OpenFiles int
	// DiskReserve is how many bytes Append leaves free, but for internal topics; 0:
	// the larger of 2 GiB and 5 % of the file system; -1: none.
	DiskReserve int64
	// CheckpointInterval is the least time between two flushed checkpoints; 0: 100 ms.
	CheckpointInterval time.Duration
	// PageCacheBytes is how much of the segments stays in the kernel's page cache,
	// for readers that lag; what was written or read longest ago leaves it. 0:
	// DefaultPageCacheBytes.
	PageCacheBytes int64
	// Others are names in the directory that belong to other parts of the process:
	// no log touches them. What nobody knows is reported once and left alone too.
	Others []string
	Logger *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time

	resumeBytes int64 // for tests; 0: defaultResumeBytes
	journalFill int64 // for tests; 0: defaultJournalFill
	removePiece int64 // for tests; 0: removePiece
}

// FlusherOptions configure how dirty files reach the disk.
type FlusherOptions struct {
	// Workers is how many logs may be written and synced at once; 0: 16.
	Workers int
	// Flusher syncs a file; nil: Fdatasync.
	Flusher Flusher
	// JournalAt is how many logs must wait for a flush at the same moment for a
	// group of them to go through the flush journal; 0: 4.
	JournalAt int
	// JournalBytes is the size of each of the journal's two files, which are made
	// when they are first needed; 0: 64 MiB; -1: no journal.
	JournalBytes int64
}

// Flusher makes what was written to a file durable. It is called by up to
// Workers goroutines at once, never twice at once for one file. Its error is
// terminal for the log.
type Flusher interface {
	Flush(f vfs.File) error
}

// Fdatasync is the Flusher that syncs each file by itself
// (docs/decisions/0001-flush.md).
type Fdatasync struct{}

// Flush calls fdatasync(2).
func (Fdatasync) Flush(f vfs.File) error { return f.Datasync() }

// DefaultPageCacheBytes is the default of DirOptions.PageCacheBytes.
const DefaultPageCacheBytes = 1 << 30

// Defaults of Config.
const (
	DefaultSegmentBytes       = 1 << 30
	DefaultSegmentAge         = 7 * 24 * time.Hour
	DefaultIndexInterval      = 4096
	DefaultFlushInterval      = time.Second
	DefaultProducerExpiration = 24 * time.Hour
	DefaultMaxProducers       = 10_000
)

// Config is what a topic's configuration says about one log. A zero field takes
// its default.
type Config struct {
	// SegmentBytes is the size at which a segment is full; a batch that alone is
	// larger gets its own segment. At most 2^31-1.
	SegmentBytes int64
	// SegmentAge is how long a segment takes records.
	SegmentAge time.Duration
	// RetentionAge is how old the newest record of a segment may become; <= 0: no limit.
	RetentionAge time.Duration
	// RetentionBytes is how large the log may become; <= 0: no limit.
	RetentionBytes int64
	// IndexInterval is the least number of bytes between two index entries.
	IndexInterval int
	// Synced: a group is flushed as soon as it is written. Otherwise it is
	// flushed FlushInterval after the first unflushed write.
	Synced        bool
	FlushInterval time.Duration
	// LogAppendTime: leader appends set the timestamps (message.timestamp.type).
	LogAppendTime bool
	// Compact keeps the newest record of each key only (Cleaner.Compact).
	Compact bool
	// MinDirtyRatio is how much of the log must be dirty, 0 to 1, before it is
	// worth a pass.
	MinDirtyRatio float64
	// DeleteRetention is how long a tombstone stays once it was compacted.
	DeleteRetention time.Duration
	// MinCompactionLag is how old a record must be to be compacted.
	MinCompactionLag time.Duration
	// ProducerExpiration is how long an idle idempotent producer is remembered.
	ProducerExpiration time.Duration
	// MaxProducers bounds how many are; the longest idle are forgotten first.
	MaxProducers int
}

func (c Config) withDefaults() Config {
	if c.SegmentBytes <= 0 {
		c.SegmentBytes = DefaultSegmentBytes
	}
	c.SegmentBytes = min(c.SegmentBytes, 1<<31-1)
	if c.SegmentAge <= 0 {
		c.SegmentAge = DefaultSegmentAge
	}
	if c.IndexInterval <= 0 {
		c.IndexInterval = DefaultIndexInterval
	}
	if c.FlushInterval <= 0 {
		c.FlushInterval = DefaultFlushInterval
	}
	if c.ProducerExpiration <= 0 {
		c.ProducerExpiration = DefaultProducerExpiration
	}
	if c.MaxProducers <= 0 {
		c.MaxProducers = DefaultMaxProducers
	}
	return c
}

// Spec says which partition to open, and how.
type Spec struct {
	Topic     string
	TopicID   [16]byte
	Partition int32
	Config    Config
	// Internal: the topic is one of the cluster's own, whose records may use three
	// quarters of the disk reserve.
	Internal bool
	// Notify hears how far writing and flushing got. It is called from a flush
	// worker with no lock held, never twice at once for one log; the log's next
	// group waits for it. What it says was true when the worker let go of the log:
	// a truncation since may have moved the offsets back, so whoever truncates
	// takes the call as a wake-up and reads Written and Flushed under its own
	// lock. nil: nobody listens.
	Notify func(Progress)
}

// Progress says how far a log's bytes got; both offsets are exclusive.
type Progress struct {
	Written, Flushed record.Offset
	// Err is terminal: the log has latched a failure.
	Err error
}

// Found is a partition folder on disk.
type Found struct {
	Topic     string
	Partition int32
	TopicID   [16]byte
	// HasID is false when partition.metadata is missing or unreadable.
	HasID bool
	Path  string
}

// Damage says what is wrong with bytes that were durable.
type Damage uint8

// The damages.
const (
	DamageNone Damage = iota
	// DamageMissing: the folder or its first segments are gone.
	DamageMissing
	// DamageCorrupt: bytes below the flushed offset are not what was written.
	DamageCorrupt
	// DamageLostBytes: the log ends below its flushed offset.
	DamageLostBytes
)

func (d Damage) String() string {
	switch d {
	case DamageNone:
		return "no damage"
	case DamageMissing:
		return "durable data is missing"
	case DamageCorrupt:
		return "durable data is corrupt"
	case DamageLostBytes:
		return "durable data is lost at the end"
	default:
		return "unknown damage"
	}
}

// Recovery is what opening a log found.
type Recovery struct {
	LastEpoch record.Epoch
	End       record.Offset
	// Flushed is what the checkpoint promised; what lies above it and was kept
	// has been written again and synced.
	Flushed record.Offset
	Damage  Damage
	// Cause says more about the damage; nil without.
	Cause error
	// TornBytes were cut off the end, zero bytes included.
	TornBytes int64
	// RewrittenBytes lay above the checkpoint and were written again.
	RewrittenBytes int64
}
