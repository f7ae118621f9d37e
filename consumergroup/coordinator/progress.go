package coordinator

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// progress is what the leaders of partitions told: how far each is, and since
// when. Its methods may be called concurrently.
type progress struct {
	mu         sync.Mutex // guards the rest
	partitions map[progressKey]*partitionProgress
	wanted     map[api.TopicID]struct{} // topics whose offsets are dated
	heard      map[int32]time.Time      // when each broker last said that what it told is still so
	cleaned    time.Time                // when topics that are gone were last looked for
}

// cleanEvery is how often topics that are gone are looked for.
const cleanEvery = 10 * time.Minute

type progressKey struct {
	topic     api.TopicID
	partition int32
}

// partitionProgress remembers how the watermark rose, so that an offset can be
// dated; of a topic that no group here reads, only where it is. Old marks are thinned out: of those that are n seconds old there is
// about one every n/16 seconds.
type partitionProgress struct {
	node     int32
	epoch    record.Epoch
	logStart record.Offset
	marks    []mark // ascending; the last is the newest watermark
}

// mark says that the watermark was at high from a time on.
type mark struct {
	since time.Time
	high  record.Offset
}

// maxMarks bounds the marks of one partition: about 16 for every doubling of age.
const maxMarks = 160

func newProgress() *progress {
	return &progress{
		partitions: map[progressKey]*partitionProgress{}, wanted: map[api.TopicID]struct{}{}, heard: map[int32]time.Time{},
	}
}

// want says that a group here has offsets of a topic, or members that read it: from now
// on they can be dated.
func (p *progress) want(topic api.TopicID) {
	if topic.IsZero() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted[topic] = struct{}{}
}

// take notes what a broker told of the partitions that it leads.
func (p *progress) take(now time.Time, node int32, list []api.PartitionProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard[node] = now
	for i := range list {
		l := &list[i]
		key := progressKey{l.TopicID, l.Partition}
		known := p.partitions[key]
		if known == nil {
			known = &partitionProgress{}
			p.partitions[key] = known
		}
		if l.LeaderEpoch < known.epoch {
			continue // a leader of the past
		}
		known.node, known.epoch, known.logStart = node, l.LeaderEpoch, l.LogStart
		if _, wanted := p.wanted[l.TopicID]; !wanted && len(known.marks) > 0 && known.high() != l.HighWatermark {
			known.marks = known.marks[:0]
		}
		known.rise(now, l.HighWatermark)
	}
}

// high is the newest watermark. There is one once a leader has told anything.
func (p *partitionProgress) high() record.Offset { return p.marks[len(p.marks)-1].high }

// rise adds a mark. A watermark that fell (a new leader does not know it yet, or
// an unclean election) takes back the marks above it.
func (p *partitionProgress) rise(now time.Time, high record.Offset) {
	for len(p.marks) > 0 && p.marks[len(p.marks)-1].high >= high {
		if p.marks[len(p.marks)-1].high == high {
			return
		}
		p.marks = p.marks[:len(p.marks)-1]
	}
	p.marks = append(p.marks, mark{now, high})
	if len(p.marks) > maxMarks {
		p.thin(now)
	}
}

// thin drops marks that are close to their neighbours for their age.
func (p *partitionProgress) thin(now time.Time) {
	kept := p.marks[:1]
	for i := 1; i < len(p.marks); i++ {
		m := p.marks[i]
		age := now.Sub(m.since)
		if i == len(p.marks)-1 || m.since.Sub(kept[len(kept)-1].since) >= age/16 {
			kept = append(kept, m)
		}
	}
	if len(kept) > maxMarks {
		kept = append(kept[:1:1], kept[len(kept)-maxMarks/2:]...)
	}
	p.marks = slices.Clone(kept)
}

// clean drops partitions of topics that are gone, once in a while.
func (p *progress) clean(now time.Time, topics Topics) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.cleaned) < cleanEvery {
		return
	}
	p.cleaned = now
	live := map[api.TopicID]bool{}
	for name := range topics.All() {
		id, _ := topics.Topic(name)
		live[id] = true
	}
	for key := range p.partitions {
		if !live[key.topic] {
			delete(p.partitions, key)
		}
	}
	maps.DeleteFunc(p.wanted, func(topic api.TopicID, _ struct{}) bool { return !live[topic] })
}

// lag fills in what is known about l beside the committed offset. Who owns a partition
// and has not committed yet has all of it before him.
func (p *progress) lag(now time.Time, topic api.TopicID, l *api.PartitionLag) {
	l.LogStart, l.HighWatermark, l.Lag, l.LagTime, l.Age = record.UnknownOffset, record.UnknownOffset, -1, -1, -1
	p.mu.Lock()
	defer p.mu.Unlock()
	if !topic.IsZero() {
		p.wanted[topic] = struct{}{}
	}
	known := p.partitions[progressKey{topic, l.Partition}]
	if known == nil {
		return
	}
	high := known.high()
	l.LogStart, l.HighWatermark = known.logStart, high
	l.Age = now.Sub(p.heard[known.node]).Milliseconds()
	if l.Committed < 0 && l.MemberID == "" {
		return // nobody is behind
	}
	next := max(l.Committed, known.logStart)
	l.Lag, l.LagTime = int64(max(high-next, 0)), 0
	if l.Lag == 0 {
		return
	}
	i, _ := slices.BinarySearchFunc(known.marks, next+1, func(m mark, want record.Offset) int { return cmp.Compare(m.high, want) })
	l.LagTime = now.Sub(known.marks[i].since).Milliseconds()
	l.AtLeast = i == 0
}

// Progress takes what the broker of that id tells of the partitions that it
// leads: of those that changed, and by calling at all that the rest is as it was.
func (c *Coordinator) Progress(node int32, partitions []api.PartitionProgress) {
	now := time.Now()
	c.progress.take(now, node, partitions)
	c.progress.clean(now, c.cfg.Topics)
}

// Lags returns the lag of all groups coordinated here, by name. Groups that are
// being loaded, or cannot be, are left out.
func (c *Coordinator) Lags(ctx context.Context) ([]api.GroupLag, error) {
	var all []api.GroupLag
	for _, s := range c.loaded() {
		groups, err := call(ctx, s, func(reply func([]api.GroupLag, error)) {
			list := make([]api.GroupLag, 0, len(s.groups))
			now := time.Now()
			for _, g := range s.groups {
				l := g.listing()
				list = append(list, api.GroupLag{Group: g.id, State: l.State, Members: l.Members, Lags: s.lags(now, g)})
			}
			reply(list, nil)
		})
		switch api.CodeOf(err) {
		case api.CodeNone:
			all = append(all, groups...)
		case api.CodeNotCoordinator, api.CodeCoordinatorLoading, api.CodeCoordinatorNotAvailable:
		default:
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b api.GroupLag) int { return cmp.Compare(a.Group, b.Group) })
	return all, nil
}

// loaded returns the shards of now, ascending by partition.
func (c *Coordinator) loaded() []*shard {
	c.mu.RLock()
	defer c.mu.RUnlock()
	shards := make([]*shard, 0, len(c.shards))
	for _, s := range c.shards {
		shards = append(shards, s)
	}
	slices.SortFunc(shards, func(a, b *shard) int { return cmp.Compare(a.partition, b.partition) })
	return shards
}

// lags returns the lag of one group: of every partition that has an offset or an
// owner. It shows what is committed, so it needs no emit.
func (s *shard) lags(now time.Time, g *group) []api.PartitionLag {
	owner := map[api.TopicPartition]string{}
	for _, m := range s.describeMembers(g) {
		for _, tp := range m.Assigned {
			owner[tp] = m.MemberID
		}
	}
	lags := make([]api.PartitionLag, 0, max(len(g.offsets), len(owner)))
	for tp, c := range g.offsets {
		lags = append(lags, api.PartitionLag{TopicPartition: tp, Committed: c.offset, MemberID: owner[tp]})
	}
	for tp, member := range owner {
		if _, has := g.offsets[tp]; !has {
			lags = append(lags, api.PartitionLag{TopicPartition: tp, Committed: record.UnknownOffset, MemberID: member})
		}
	}
	for i := range lags {
		id, _ := s.cfg.Topics.Topic(lags[i].Topic)
		s.progress.lag(now, id, &lags[i])
	}
	slices.SortFunc(lags, func(a, b api.PartitionLag) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return lags
}
