package log

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// The flushed checkpoint; docs/FORMAT.md draws it.
const (
	checkpointMagic   = "PSCK"
	checkpointVersion = 2
	checkpointHeader  = 24
	checkpointEntry   = 64
	// checkpointEntry1 is the entry of version 1, which knew no compaction.
	checkpointEntry1 = 48

	defaultCheckpointInterval = 100 * time.Millisecond
	// checkpointBytes flushed since the last checkpoint bring the next one forward.
	checkpointBytes = 64 << 20
	// checkpointRate bounds what checkpoints of many logs write, in bytes a second.
	checkpointRate = 1 << 20
	// lazyInterval is how late a change that loses nothing may be: high watermarks.
	lazyInterval = time.Second
)

// checkpointSlots are written in turns, so that a torn write leaves the other.
func checkpointSlots() [2]string {
	return [2]string{"flushed-checkpoint.0", "flushed-checkpoint.1"}
}

func castagnoli(b []byte) uint32 {
	return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
}

// logKey names a partition for good: topic names may be used again, ids are not.
type logKey struct {
	topicID   [16]byte
	partition int32
}

// logState is what the checkpoint knows of one log.
type logState struct {
	flushed, highWatermark, start record.Offset
	// cleaned and dirty are those of Log.
	cleaned, dirty record.Offset
	damage         Damage
	// sound is Log.sound of a damaged log, where it is known.
	sound      record.Offset
	soundKnown bool
}

// encodeCheckpoint appends a checkpoint to b. The keys are those of states, ascending.
func encodeCheckpoint(b []byte, sequence uint64, keys []logKey, states map[logKey]logState) []byte {
	b = append(slices.Grow(b, checkpointHeader+checkpointEntry*len(keys)), checkpointMagic...)
	b = append(b, make([]byte, checkpointHeader-len(checkpointMagic))...)
	binary.BigEndian.PutUint16(b[4:], checkpointVersion)
	binary.BigEndian.PutUint64(b[8:], sequence)
	binary.BigEndian.PutUint32(b[16:], uint32(len(keys)))
	for _, key := range keys {
		s := states[key]
		b = append(b, key.topicID[:]...)
		b = binary.BigEndian.AppendUint32(b, uint32(key.partition))
		last, known := s.dirty, byte(0)
		if s.damage != DamageNone && s.soundKnown { // it is not compacted any more
			last, known = s.sound, 1
		}
		b = append(b, byte(s.damage), known, 0, 0)
		b = binary.BigEndian.AppendUint64(b, uint64(s.flushed))
		b = binary.BigEndian.AppendUint64(b, uint64(s.highWatermark))
		b = binary.BigEndian.AppendUint64(b, uint64(s.start))
		b = binary.BigEndian.AppendUint64(b, uint64(s.cleaned))
		b = binary.BigEndian.AppendUint64(b, uint64(last))
	}
	binary.BigEndian.PutUint32(b[20:], checkpointSum(b))
	return b
}

// checkpointSum covers everything but the field that holds it.
func checkpointSum(b []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Update(0, table, b[:20]), table, b[checkpointHeader:])
}

func decodeCheckpoint(b []byte) (sequence uint64, states map[logKey]logState, err error) {
	if len(b) < checkpointHeader || string(b[:4]) != checkpointMagic {
		return 0, nil, errors.New("not a checkpoint")
	}
	version, entry := binary.BigEndian.Uint16(b[4:]), int64(checkpointEntry)
	switch version {
	case checkpointVersion:
	case 1:
		entry = checkpointEntry1
	default:
		return 0, nil, fmt.Errorf("version %d, known are 1 and %d", version, checkpointVersion)
	}
	count := int64(binary.BigEndian.Uint32(b[16:]))
	size := checkpointHeader + count*entry
	if size > int64(len(b)) {
		return 0, nil, fmt.Errorf("%d entries do not fit into %d bytes", count, len(b))
	}
	b = b[:size] // an older, longer checkpoint may lie behind
	if got, want := checkpointSum(b), binary.BigEndian.Uint32(b[20:]); got != want {
		return 0, nil, fmt.Errorf("CRC is %08x, want %08x", got, want)
	}
	states = make(map[logKey]logState, count)
	for e := b[checkpointHeader:]; len(e) > 0; e = e[entry:] {
		key := logKey{topicID: [16]byte(e), partition: int32(binary.BigEndian.Uint32(e[16:]))}
		s := logState{
			damage:        Damage(e[20]),
			flushed:       record.Offset(binary.BigEndian.Uint64(e[24:])),
			highWatermark: record.Offset(binary.BigEndian.Uint64(e[32:])),
			start:         record.Offset(binary.BigEndian.Uint64(e[40:])),
		}
		if version >= 2 {
			s.cleaned = record.Offset(binary.BigEndian.Uint64(e[48:]))
			s.dirty = record.Offset(binary.BigEndian.Uint64(e[56:]))
		}
		if s.damage != DamageNone && e[21] == 1 {
			s.sound, s.soundKnown, s.dirty = s.dirty, true, 0
		}
		states[key] = s
	}
	return binary.BigEndian.Uint64(b[8:]), states, nil
}

// checkpointer writes the flushed checkpoint: at once for whoever must know that
// it is durable (truncation, a new log start), and by the housekeeper soon after
// something was flushed.
type checkpointer struct {
	fs       vfs.FS
	slots    [2]string
	interval time.Duration
	collect  func() map[logKey]logState
	logger   *slog.Logger

	// Every request takes a number; a write covers the numbers given out before
	// it collected, so that requests share writes.
	requested atomic.Uint64

	mu       sync.Mutex // serializes writes; guards the fields below
	covered  uint64
	sequence uint64
	written  int // size of the last one
	// keys and buf are those of the last one: of many logs, sorting is most of the work.
	keys []logKey
	buf  []byte

	flushed atomic.Int64 // bytes since the last checkpoint
	kick    chan struct{}
	lazy    chan struct{}
	full    chan struct{}
	stop    chan struct{}
	done    sync.WaitGroup
}

func newCheckpointer(opts DirOptions, fsys vfs.FS, collect func() map[logKey]logState) *checkpointer {
	c := &checkpointer{
		fs: fsys, interval: opts.CheckpointInterval, collect: collect, logger: opts.Logger,
		kick: make(chan struct{}, 1), lazy: make(chan struct{}, 1), full: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	if c.interval <= 0 {
		c.interval = defaultCheckpointInterval
	}
	for i, name := range checkpointSlots() {
		c.slots[i] = filepath.Join(opts.Path, name)
	}
	return c
}

// load reads the newer valid slot. lost is true when slots exist and none is
// valid: what was promised is then unknown.
func (c *checkpointer) load() (states map[logKey]logState, lost bool, err error) {
	valid, present := false, false
	for _, name := range c.slots {
		b, err := readFile(c.fs, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, false, err
		}
		present = present || len(b) > 0
		sequence, s, err := decodeCheckpoint(b)
		if err != nil {
			c.logger.Warn("flushed checkpoint is unreadable", "file", name, "error", err)
			continue
		}
		if !valid || sequence > c.sequence {
			valid, c.sequence, states = true, sequence, s
		}
	}
	if states == nil {
		states = map[logKey]logState{}
	}
	return states, present && !valid, nil
}

// create makes missing slots, so that from now on one is always valid.
func (c *checkpointer) create(folder string) error {
	for _, name := range c.slots {
		f, err := c.fs.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			f, err = c.fs.Create(name)
		}
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	if err := errors.Join(c.write(), c.write()); err != nil {
		return err
	}
	return c.fs.SyncFolder(folder)
}

// write makes the present state durable before it returns.
func (c *checkpointer) write() error {
	mine := c.requested.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.covered >= mine {
		return nil
	}
	covers := c.requested.Load()
	c.flushed.Store(0)
	states := c.collect()
	if !sameKeys(c.keys, states) {
		c.keys = sortedKeys(states)
	}
	c.buf = encodeCheckpoint(c.buf[:0], c.sequence+1, c.keys, states)
	// A failed write leaves the sequence, so that the next try takes the same
	// slot and the other one stays valid.
	if err := overwrite(c.fs, c.slots[(c.sequence+1)%2], c.buf); err != nil {
		return fmt.Errorf("write the flushed checkpoint: %w", err)
	}
	c.covered, c.written = covers, len(c.buf)
	c.sequence++
	return nil
}

// touch asks for a checkpoint soon; bytes is what was flushed.
func (c *checkpointer) touch(bytes int64) {
	signal(c.kick)
	if c.flushed.Add(bytes) >= checkpointBytes {
		signal(c.full)
	}
}

// touchLazily asks for a checkpoint some time.
func (c *checkpointer) touchLazily() { signal(c.lazy) }

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (c *checkpointer) start() { c.done.Go(c.run) }

// run is the housekeeper.
func (c *checkpointer) run() {
	for {
		select {
		case <-c.stop:
			return
		case <-c.kick:
		case <-c.lazy:
			select {
			case <-c.stop:
				return
			case <-c.kick:
			case <-time.After(lazyInterval):
			}
		}
		select {
		case <-c.stop:
			return
		case <-c.full:
		case <-time.After(c.pause()):
		}
		if err := c.write(); err != nil {
			// Nothing is lost: recovery then starts at the older checkpoint.
			c.logger.Error("flushed checkpoint failed; the older one stays valid", "error", err)
			signal(c.lazy)
		}
	}
}

// pause is the configured interval, longer for checkpoints of many logs.
func (c *checkpointer) pause() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(c.interval, time.Duration(c.written)*time.Second/checkpointRate)
}

// close ends the housekeeper.
func (c *checkpointer) close() {
	close(c.stop)
	c.done.Wait()
}

// sameKeys says whether keys are those of states.
func sameKeys(keys []logKey, states map[logKey]logState) bool {
	if len(keys) != len(states) {
		return false
	}
	for _, key := range keys {
		if _, ok := states[key]; !ok {
			return false
		}
	}
	return true
}

// sortedKeys makes the same states the same bytes.
func sortedKeys(states map[logKey]logState) []logKey {
	keys := make([]logKey, 0, len(states))
	for key := range states {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b logKey) int {
		if c := slices.Compare(a.topicID[:], b.topicID[:]); c != 0 {
			return c
		}
		return cmp.Compare(a.partition, b.partition)
	})
	return keys
}
