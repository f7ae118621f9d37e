package coordinator

import (
	"maps"
	"slices"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// A state machine runs ahead of the log: it decides, and its records follow. When the log
// takes them is not known beforehand. When it refuses them for certain (too few replicas
// in sync, no room), the groups that decided something, and no others, go back to what
// the log has of them.
//
// That is kept in memory: each group has the values of its records by key, its offsets
// aside, which are only those committed anyway. It changes when a batch is committed. So to
// go back is what a load does, from there, with no request left waiting: sessions of the
// group end, as in a load, with the reason.
//
// A group that went back decides nothing for a while, longer each time. What a load has it do at
// once (its topics may be others, records of a half-way change may be left) would be
// refused again, and again. Its offsets are fetched and committed meanwhile.

// change is a record of what a group decided; value nil: a tombstone.
type change struct {
	g          *group
	key, value []byte
}

// keep notes that the batch is in the log.
func (b *batch) keep() {
	for i := range b.decided {
		c := &b.decided[i]
		c.g.backoff = 0
		if !isOffset(c.key) {
			set(&c.g.written, string(c.key), c.value, c.value == nil)
		}
	}
}

// isOffset reports whether a key is of a committed offset.
func isOffset(key []byte) bool {
	d := decoder{b: key}
	kind := d.int16()
	return kind == keyOffsetCommit || kind == keyOffsetCommitV0
}

// groupOf is the group that a key names.
func groupOf(key []byte) string {
	d := decoder{b: key}
	d.int16()
	return d.string()
}

// stored is what the log has of the group.
func (g *group) stored() *loadedGroup {
	lg := &loadedGroup{offsets: g.offsets, written: g.written}
	for _, key := range slices.Sorted(maps.Keys(g.written)) {
		e, used, err := decode(&record.Record{Key: []byte(key), Value: g.written[key]}, nil)
		if used && err == nil {
			lg.take(&e)
		}
	}
	return lg
}

// refused hears that the log did not take b, which has landed. If groups had decided
// something in it, it was alone under way: nothing else is in doubt.
func (s *shard) refused(b *batch, cause error) {
	now := time.Now()
	undone := map[string]bool{}
	var back []*group
	for i := range b.decided {
		// The first of a name: it may have been deleted, and made again, in this batch.
		if g := b.decided[i].g; !undone[g.id] {
			undone[g.id] = true
			back = append(back, g)
		}
	}
	var failed []output
	if len(back) > 0 {
		for _, later := range slices.Concat(s.batches.inFlight, s.batches.pending) {
			failed = append(failed, later.strip(undone)...)
		}
	}
	for _, g := range back {
		s.goBack(now, g, commitError(cause))
	}
	for i := range b.outputs {
		o := &b.outputs[i]
		if o.own || o.commit != nil || undone[o.group] {
			o.finish(s, cause)
		} else {
			o.finish(s, nil) // what it was to wait for is decided
		}
	}
	for i := range failed {
		failed[i].finish(s, cause)
	}
}

// strip takes out of a batch that was not appended what rests on what groups had decided,
// and returns the outputs among that.
func (b *batch) strip(undone map[string]bool) (failed []output) {
	kept := b.outputs[:0]
	for _, o := range b.outputs {
		if undone[o.about()] {
			failed = append(failed, o)
		} else {
			kept = append(kept, o)
		}
	}
	clear(b.outputs[len(kept):])
	b.outputs = kept
	b.decided = slices.DeleteFunc(b.decided, func(c change) bool { return undone[c.g.id] })
	if b.empty() || b.bad != nil {
		return failed
	}
	bytes, err := b.build()
	if err != nil {
		b.bad = err
		return failed
	}
	left := record.NewBuilder(record.BuilderOptions{})
	for rec, err := range record.Records(bytes, record.Limits{Internal: true}) {
		if err == nil && !undone[groupOf(rec.Key)] {
			err = left.Append(&record.Record{Timestamp: rec.Timestamp, Key: rec.Key, Value: rec.Value})
		}
		if err != nil {
			b.bad = err
			return failed
		}
	}
	b.builder = left
	b.groups = b.groups && left.Count() > 0
	return failed
}

// goBack puts a group where the log has it, and has it wait there.
func (s *shard) goBack(now time.Time, g *group, why *api.Error) {
	if later := s.groups[g.id]; later != nil && later != g {
		s.deadlines.set(later, time.Time{})
	}
	s.groups[g.id] = g
	s.dropAssignment(g.id)
	s.endSessions(g.id, why)
	lg := g.stored()
	s.rebuild(now, g, lg, s.namesFor(lg))
	g.notePresence(now)
	g.backoff = min(max(2*g.backoff, reloadSoonest), reloadLatest)
	g.refusal = why
	s.deadlines.set(g, now.Add(g.backoff))
	s.forgetIfVoid(g)
}

// goOn lets a group that went back decide again. Its members' sessions begin in full, as
// after a load: nobody could keep them meanwhile.
func (s *shard) goOn(now time.Time, g *group) {
	g.refusal = nil
	s.deadlines.set(g, time.Time{})
	lg := g.stored()
	s.rebuild(now, g, lg, s.namesFor(lg))
	s.settle(now, g, lg)
}

func (s *shard) namesFor(lg *loadedGroup) topicNames {
	return s.topicNames(&loaded{groups: map[string]*loadedGroup{"": lg}})
}

// endSessions ends the sessions of a group's members, and the requests of theirs that wait.
func (s *shard) endSessions(group string, why *api.Error) {
	for _, stream := range slices.Sorted(maps.Keys(s.sessions)) {
		if ses := s.sessions[stream]; ses.group == group {
			delete(s.sessions, stream)
			ses.finish(why)
		}
	}
	for stream, p := range s.polled {
		if p.group == group {
			delete(s.polled, stream)
			p.ended = why
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.calls)) {
		if c := s.calls[id]; c.group == group {
			delete(s.calls, id)
			c.answer(nil, why)
		}
	}
}
