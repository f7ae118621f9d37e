package coordinator

import (
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup"
	"github.com/penstock/penstock/log/record"
)

// commit is one request to store offsets, on its way through a shard: checked,
// its records gathered into one batch or, rarely, several, and answered when all
// of those have ended. It belongs to the actor once it is enqueued.
type commit struct {
	req api.CommitOffsets
	// Who is answered: a caller, or the member of a session.
	reply   func([]api.CommittedOffset, error)
	session *session
	id      uint64

	group   *group
	results []api.CommittedOffset
	topics  []api.TopicID // of results
	waits   int           // batches that have not ended
	size    int64         // of what it holds of the room

	oneResult [1]api.CommittedOffset
	oneTopic  [1]api.TopicID
}

// room bounds the memory of commits that wait. It is shared by the shards.
type room struct {
	limit int64
	taken atomic.Int64
}

// take takes n unless that is too much. One commit always fits.
func (r *room) take(n int64) bool {
	if now := r.taken.Add(n); now > r.limit && now > n {
		r.taken.Add(-n)
		return false
	}
	return true
}

func (r *room) give(n int64) { r.taken.Add(-n) }

// bytes is about what the commit holds while it waits: the request, its records
// in the batch and again in the buffer that is appended.
func (c *commit) bytes() int64 {
	const each = 512
	n := each + len(c.req.Group)
	for i := range c.req.Offsets {
		o := &c.req.Offsets[i]
		n += each + 3*(len(o.Topic)+len(o.Metadata)) + 2*len(c.req.Group)
	}
	return int64(n)
}

// answer ends the commit.
func (c *commit) answer(results []api.CommittedOffset, err error) {
	if c.session == nil {
		c.reply(results, err)
		return
	}
	a := api.SessionCommitted{ID: c.id}
	if err != nil {
		a.Err = asError(err)
	}
	for i := range results {
		if results[i].Err != nil {
			a.Failed = append(a.Failed, results[i])
		}
	}
	c.session.answer(a)
}

// commit checks a request against the group as it is now, and gathers records of
// what passes.
func (s *shard) commit(c *commit) {
	g := s.groups[c.req.Group]
	err := commitAllowed(g, &c.req)
	if g != nil && g.refusal != nil && c.session != nil {
		err = g.refusal // its session has ended, which is not to look like a fence
	}
	if err == nil && c.session != nil && (g == nil || g.machine.Stream(c.req.MemberID) != c.session.stream) {
		err = api.Errorf(api.CodeFencedMemberEpoch, "group %q: another stream speaks for member %q", c.req.Group, c.req.MemberID)
	}
	if err != nil {
		s.emit(func(error) { c.answer(nil, err) })
		return
	}
	c.size = c.bytes()
	if !s.room.take(c.size) {
		c.answer(nil, api.Errorf(api.CodeOverloaded, "the commits that wait take %d of %d bytes: try again", s.room.taken.Load(), s.room.limit))
		return
	}
	if g == nil {
		g = newGroup(consumergroup.New(c.req.Group))
		s.groups[c.req.Group] = g
	}
	c.group = g
	now := time.Now()
	g.renew(now, c.req.MemberID)
	s.gatherCommit(now, c)
	s.forgetIfVoid(g)
}

// gatherCommit makes the records of a commit, and has it wait for their batches.
func (s *shard) gatherCommit(now time.Time, c *commit) {
	if n := len(c.req.Offsets); n <= 1 {
		c.results, c.topics = c.oneResult[:n], c.oneTopic[:n]
	} else {
		c.results, c.topics = make([]api.CommittedOffset, n), make([]api.TopicID, n)
	}
	var current *batch
	from := 0
	for i := range c.req.Offsets {
		b := s.gatherOffset(now, c, i)
		if b == nil {
			continue // refused
		}
		if current != nil && b != current {
			c.waits++
			current.outputs = append(current.outputs, output{commit: c, from: from, to: i})
			from = i
		}
		current = b
	}
	c.waits++
	s.after(output{commit: c, from: from, to: len(c.results)})
}

// gatherOffset checks one offset and adds its record; nil: it was refused.
func (s *shard) gatherOffset(now time.Time, c *commit, i int) *batch {
	o, r := &c.req.Offsets[i], &c.results[i]
	topic, err := s.checkOffset(c.group, &c.req, o)
	if err != nil {
		*r = api.CommittedOffset{
			TopicPartition: o.TopicPartition, Err: err.At(o.Topic, o.Partition), Offset: record.UnknownOffset,
			LeaderEpoch: o.LeaderEpoch, Metadata: o.Metadata, CommitTime: -1,
		}
		return nil
	}
	*r = api.CommittedOffset{
		TopicPartition: o.TopicPartition, Offset: o.Offset, LeaderEpoch: o.LeaderEpoch, Metadata: o.Metadata, CommitTime: now.UnixMilli(),
	}
	c.topics[i] = topic
	c.group.onTheWay[o.TopicPartition]++
	stored := c.stored(i)
	key := appendOffsetKey(s.scratch[:0], c.group.id, o.TopicPartition)
	s.scratch = appendOffsetValue(key, &stored)
	return s.persistAt(now, s.scratch[:len(key)], s.scratch[len(key):], false)
}

// stored is what the log has of a result that is not an error.
func (c *commit) stored(i int) committed {
	r := &c.results[i]
	return committed{offset: r.Offset, leaderEpoch: r.LeaderEpoch, metadata: r.Metadata, time: r.CommitTime, topic: c.topics[i]}
}

// finish hears that a batch with the records of the offsets [from, to) has ended.
func (c *commit) finish(s *shard, err error, from, to int) {
	for i := from; i < to; i++ {
		r := &c.results[i]
		if r.Err != nil {
			continue
		}
		c.group.arrived(r.TopicPartition)
		if err != nil {
			r.Err = commitError(err).At(r.Topic, r.Partition)
		} else {
			s.store(c.group, r.TopicPartition, c.stored(i))
		}
		if use := s.topicUse[r.Topic]; use != nil && use.stale {
			s.dropOffsetsOfOther(time.Now(), r.Topic)
		}
	}
	if c.waits--; c.waits == 0 {
		s.room.give(c.size)
		if s.groups[c.group.id] == c.group { // else: it was deleted, or everything is loaded again
			s.forgetIfVoid(c.group)
		}
		c.answer(c.results, nil)
	}
}

// outside reports whether a commit is not one of a member: of a tool, or of a consumer
// that assigns itself. Kafka's clients say so with the generation -1, whatever id they
// bring.
func outside(req *api.CommitOffsets) bool { return req.MemberID == "" || req.MemberEpoch < 0 }

// commitAllowed checks who commits. g is nil for a group that does not exist.
func commitAllowed(g *group, req *api.CommitOffsets) error {
	switch {
	case outside(req) && (g == nil || g.members() == 0):
		return nil
	case req.MemberID == "":
		return api.Errorf(api.CodeGroupNotEmpty, "group %q has %d members, and only they move its offsets: stop them first", req.Group, g.members())
	case g == nil:
		return api.Errorf(api.CodeUnknownMember, "group %q has no member %q", req.Group, req.MemberID)
	}
	if g.classic != nil {
		if code, message := g.classic.CheckCommit(req.MemberID, req.InstanceID, req.MemberEpoch); code != consumergroup.CodeNone {
			return api.Errorf(codeOf(code), "group %q: %s", req.Group, message)
		}
		return nil
	}
	if code, message := g.machine.CheckMember(req.MemberID, req.InstanceID, req.MemberEpoch); code != consumergroup.CodeNone {
		return api.Errorf(codeOf(code), "group %q: %s", req.Group, message)
	}
	return nil
}

// checkOffset checks one offset of a request that is allowed, and returns the
// topic that it is of.
func (s *shard) checkOffset(g *group, req *api.CommitOffsets, o *api.OffsetCommit) (api.TopicID, *api.Error) {
	topic, partitions := s.cfg.Topics.Topic(o.Topic)
	switch {
	case o.Offset < 0:
		return topic, api.Errorf(api.CodeInvalidCommitOffset, "the offset is %d, it must not be negative", o.Offset)
	case len(o.Metadata) > s.cfg.MaxMetadataBytes:
		return topic, api.Errorf(api.CodeOffsetMetadataTooLarge, "the metadata has %d bytes, at most %d are allowed", len(o.Metadata), s.cfg.MaxMetadataBytes)
	case partitions == 0:
		return topic, api.Errorf(api.CodeUnknownTopic, "there is no such topic")
	case o.Partition < 0 || o.Partition >= partitions:
		return topic, api.Errorf(api.CodeUnknownPartition, "the topic has partitions 0 to %d", partitions-1)
	}
	if outside(req) || g.classic != nil {
		return topic, nil // a classic group is fenced by its generation: who owns what, its members know
	}
	tp := consumergroup.TopicPartition{Topic: o.Topic, Partition: o.Partition}
	if code, message := g.machine.CheckCommit(req.MemberID, req.MemberEpoch, tp, consumergroup.TopicID(topic)); code != consumergroup.CodeNone {
		return topic, api.Errorf(codeOf(code), "group %q: %s", g.id, message)
	}
	return topic, nil
}
