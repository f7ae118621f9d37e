package coordinator

import (
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
	classic *consumergroup.StoredClassic // nil: it has no record
	members map[string]consumergroup.Member
	offsets map[api.TopicPartition]committed
	changed time.Time // of the last record about the group or a member
}

// loaded is the content of one partition of __consumer_offsets.
type loaded struct {
	groups  map[string]*loadedGroup
	names   names // of groups and topics
	records int
	skipped int // of types that are not known, or malformed
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
	}
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
		g.epoch = e.epoch // 0 in a tombstone
	case keyMemberMetadata:
		if e.tombstone {
			delete(g.members, e.member.ID)
		} else {
			if g.members == nil {
				g.members = map[string]consumergroup.Member{}
			}
			g.members[e.member.ID] = e.member
		}
	}
	if g.epoch == 0 && g.classic == nil && len(g.members) == 0 && len(g.offsets) == 0 {
		delete(l.groups, e.group)
	}
}
