package coordinator

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup"
	"github.com/penstock/penstock/log/record"
)

// loadBytes is how much of the log one Read asks for.
const loadBytes = 1 << 20

// loadedGroup is a group as the log has it.
type loadedGroup struct {
	epoch   int32
	hash    int64
	target  int32                        // the epoch of the target
	classic *consumergroup.StoredClassic // nil: it has no record
	members map[string]consumergroup.Member
	// targets and currents may name members that are gone: of one that comes
	// again all is written anew.
	targets  map[string][]idPartitions
	currents map[string]*storedCurrent
	patterns map[string][]string
	offsets  map[api.TopicPartition]committed
	changed  time.Time         // of the last record about the group or a member
	written  map[string][]byte // all but the offsets, as it stands in the log
}

// loaded is the content of one partition of __consumer_offsets.
type loaded struct {
	groups  map[string]*loadedGroup
	names   names // of groups and topics
	records int
	skipped int // of types that are not known, or malformed
	lost    losses
}

// load replays the log up to its high watermark.
func load(ctx context.Context, log Log) (*loaded, error) {
	l := &loaded{groups: map[string]*loadedGroup{}, names: names{}}
	next, end, err := log.Bounds(ctx)
	if err != nil {
		return nil, fmt.Errorf("bounds: %w", err)
	}
	for next < end {
		slices, err := log.Read(ctx, next, end, loadBytes)
		if err != nil {
			return nil, fmt.Errorf("read at offset %d: %w", next, err)
		}
		from := next
		for i := range slices {
			if err == nil {
				next, err = l.replay(slices[i].Bytes, next)
			}
			slices[i].Release()
		}
		if err != nil {
			return nil, err
		}
		if next == from {
			// Compaction may have emptied the range up to the watermark.
			return l, nil
		}
	}
	return l, nil
}

// replay applies a run of batches and returns the offset after it.
func (l *loaded) replay(run []byte, next record.Offset) (record.Offset, error) {
	for len(run) > 0 {
		batch, rest, err := record.Next(run)
		if err != nil {
			return next, fmt.Errorf("batch at or after offset %d: %w", next, err)
		}
		run = rest
		info, ok := record.Peek(batch)
		if !ok {
			return next, fmt.Errorf("batch at or after offset %d: %w", next, record.ErrCorrupt)
		}
		next = max(next, info.NextOffset())
		if info.Attributes.Control() {
			if record.IsPlaceholder(batch) {
				l.lost.note(&info)
			}
			continue
		}
		for rec, err := range record.Records(batch, record.Limits{Internal: true}) {
			if err != nil {
				return next, fmt.Errorf("batch at offset %d: %w", info.BaseOffset, err)
			}
			l.apply(&rec)
		}
	}
	return next, nil
}

// apply takes one record. One that does not decode is passed over: it must not
// keep every other group of the partition from being served.
func (l *loaded) apply(rec *record.Record) {
	l.records++
	e, used, err := decode(rec, l.names)
	if err != nil || !used {
		l.skipped++
		return
	}
	g := l.groups[e.group]
	if g == nil {
		g = &loadedGroup{offsets: map[api.TopicPartition]committed{}}
		l.groups[e.group] = g
	}
	if e.kind != keyOffsetCommit {
		g.changed = time.UnixMilli(rec.Timestamp)
		set(&g.written, string(rec.Key), bytes.Clone(rec.Value), e.tombstone)
	}
	g.take(&e)
	if g.void() {
		delete(l.groups, e.group)
	}
}

// take takes what one record says.
func (g *loadedGroup) take(e *entry) {
	switch e.kind {
	case keyOffsetCommit:
		if e.tombstone {
			delete(g.offsets, e.partition)
		} else {
			g.offsets[e.partition] = e.committed
		}
	case keyClassic:
		g.classic = e.classic // nil in a tombstone
	case keyGroupMetadata:
		g.epoch, g.hash = e.epoch, e.hash // 0 in a tombstone
	case keyTargetMetadata:
		g.target = e.epoch // likewise
	case keyTargetMember:
		set(&g.targets, e.member.ID, e.target, e.tombstone)
	case keyCurrentMember:
		set(&g.currents, e.member.ID, e.current, e.tombstone)
	case keyPattern:
		set(&g.patterns, e.pattern, e.topics, e.tombstone)
	case keyMemberMetadata:
		set(&g.members, e.member.ID, e.member, e.tombstone)
	}
}

// void reports whether nothing is left of a group. What is written of members
// that are gone does not count.
func (g *loadedGroup) void() bool {
	return g.epoch == 0 && g.classic == nil && len(g.members) == 0 && len(g.offsets) == 0 && len(g.targets) == 0 && len(g.currents) == 0
}

// set takes one record of many into a map that most groups do not have.
func set[V any](m *map[string]V, key string, value V, tombstone bool) {
	if tombstone {
		delete(*m, key)
		return
	}
	if *m == nil {
		*m = map[string]V{}
	}
	(*m)[key] = value
}
