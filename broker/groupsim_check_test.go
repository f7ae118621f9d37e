package broker

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// simPromise is what must always hold.
type simPromise string

// The promises, with the numbers of the project's list of what must always hold.
const (
	keepsNotBack   simPromise = "9 a committed offset goes back by a reset alone"
	keepsNotLost   simPromise = "9 an acknowledged commit is not forgotten"
	keepsNoOffset  simPromise = "9 no offset is not said of what is committed"
	keepsSilent    simPromise = "9 nothing is said out of memory after the session"
	keepsOneOwner  simPromise = "10 a partition has one owner in an epoch"
	keepsFenced    simPromise = "10 a former owner's commit is not taken"
	keepsEpochUp   simPromise = "10 the group epoch does not fall"
	keepsNotRead   simPromise = "11 nothing is skipped"
	keepsOfItsLife simPromise = "11 an offset is of the topic that was read"
	keepsCommitted simPromise = "11 nothing is shown before the watermark has passed it"
	keepsAtRest    simPromise = "who is left shares the partitions, in the end"
	keepsSane      simPromise = "the simulated world is sound"
)

// simTruth is what the committed log says, read record by record: whichever coordinator
// comes next will know no more, and nobody may have been told more.
type simTruth struct {
	epoch       int32
	members     map[string]bool
	classic     *simGeneration   // nil: the coordinator assigns
	upgraded    int              // of the last coordinator that took it over, the newest image
	generations []*simGeneration // all there ever were
	currents    map[string]*simCurrent
	stood       map[string][]*simCurrent           // all there ever were
	offsets     map[api.TopicPartition][]simOffset // all there ever were, oldest first
	tags        map[string]bool                    // of commits that are in
	// What members did.
	claims map[simClaim]string
	read   map[simPlace]int64 // somebody processed everything below
}

// simPlace is a partition of one life of a topic.
type simPlace struct {
	topic     api.TopicID
	partition int32
}

type simClaim struct {
	partition api.TopicPartition
	epoch     int32
}

// simCurrent is where a member stands: since which epoch it may own what it may.
type simCurrent struct {
	epoch    int32
	assigned map[simPlace]int32
	revoking map[simPlace]int32
	unnamed  []string // topics that there were not: by their ids, records have nothing of them
}

// simOffset is a committed offset, -1 in a tombstone; batch is which batch had it.
type simOffset struct {
	batch  int
	topic  api.TopicID
	offset int64
}

func newSimTruth() simTruth {
	return simTruth{
		members: map[string]bool{}, currents: map[string]*simCurrent{}, stood: map[string][]*simCurrent{}, offsets: map[api.TopicPartition][]simOffset{},
		tags: map[string]bool{}, claims: map[simClaim]string{}, read: map[simPlace]int64{},
	}
}

// simTag says, beside an offset, who committed it.
type simTag struct {
	member    string
	life      int   // of its process
	epoch     int32 // that it committed in
	topicLife int   // of the topic that it read
	number    int
}

const simReset = "reset"

func (t simTag) String() string {
	return fmt.Sprintf("%s/%d/%d/%d/%d", t.member, t.life, t.epoch, t.topicLife, t.number)
}

func parseSimTag(s string) (t simTag) {
	_, _ = fmt.Sscanf(strings.ReplaceAll(s, "/", " "), "%s %d %d %d %d", &t.member, &t.life, &t.epoch, &t.topicLife, &t.number)
	return t
}

// The types of records that are looked at (DESIGN section 7).
const (
	simKeyOffset  = 1
	simKeyClassic = 2
	simKeyGroup   = 3
	simKeyMember  = 5
	simKeyCurrent = 8
)

// replay takes a batch that has just been committed. The caller holds mu.
func (w *simWorld) replay(b *simBatch) {
	if b.unknown {
		w.counts.Survived++
	}
	for rec, err := range record.Records(b.bytes, record.Limits{}) {
		if err != nil {
			w.brokenf(keepsSane, "a record in the log: %v", err)
			return
		}
		before := w.truth.number()
		switch binary.BigEndian.Uint16(rec.Key) {
		case simKeyOffset:
			w.replayOffset(&rec)
		case simKeyGroup:
			epoch := int32(0)
			if rec.Value != nil {
				epoch = int32(binary.BigEndian.Uint32(rec.Value[2:]))
			}
			w.truth.epoch = epoch
		case simKeyClassic:
			w.replayClassic(rec.Value)
		case simKeyMember:
			if id := simMemberOf(rec.Key); rec.Value != nil {
				w.truth.members[id] = true
			} else {
				delete(w.truth.members, id)
			}
		case simKeyCurrent:
			w.replayCurrent(simMemberOf(rec.Key), rec.Value)
		}
		if now := w.truth.number(); now < before {
			w.brokenf(keepsEpochUp, "it was %d and is %d", before, now)
		}
	}
}

// simMemberOf reads the second name of a key.
func simMemberOf(key []byte) string {
	group := int(binary.BigEndian.Uint16(key[2:]))
	return string(key[4+group+2:])
}

func (w *simWorld) replayCurrent(id string, value []byte) {
	t := &w.truth
	if value == nil {
		delete(t.currents, id)
		return
	}
	r := simReader{value[2:]}
	c := &simCurrent{epoch: r.int32()}
	r.int32() // the epoch before
	r.b = r.b[1:]
	c.assigned, c.revoking = r.places(c.epoch), r.places(c.epoch)
	c.unnamed = w.absent(w.committed[len(w.committed)-1].image)
	t.currents[id], t.stood[id] = c, append(t.stood[id], c)
	for other, d := range t.currents {
		for _, place := range c.places() {
			if other != id && d.has(place) {
				w.brokenf(keepsOneOwner, "%s has partition %d of %x by the log, and %s", other, place.partition, place.topic, id)
			}
		}
	}
}

func (c *simCurrent) places() (list []simPlace) {
	for _, set := range []map[simPlace]int32{c.assigned, c.revoking} {
		for p := range set {
			list = append(list, p)
		}
	}
	return list
}

func (c *simCurrent) has(p simPlace) bool {
	_, given := c.given(p)
	return given
}

func (c *simCurrent) given(p simPlace) (epoch int32, ok bool) {
	if epoch, ok = c.assigned[p]; !ok {
		epoch, ok = c.revoking[p]
	}
	return epoch, ok
}

// simReader reads what ConsumerGroupCurrentMemberAssignmentValue is made of.
type simReader struct{ b []byte }

func (r *simReader) int32() int32 {
	n := int32(binary.BigEndian.Uint32(r.b))
	r.b = r.b[4:]
	return n
}

func (r *simReader) count() int {
	n, size := binary.Uvarint(r.b)
	r.b = r.b[size:]
	return int(n)
}

func (r *simReader) ints() (list []int32) {
	for n := r.count() - 1; n > 0; n-- {
		list = append(list, r.int32())
	}
	return list
}

func (r *simReader) places(epoch int32) map[simPlace]int32 {
	set := map[simPlace]int32{}
	for n := r.count() - 1; n > 0; n-- {
		topic := api.TopicID(r.b[:16])
		r.b = r.b[16:]
		partitions := r.ints()
		var epochs []int32
		for tags := r.count(); tags > 0; tags-- { // there is one: the epochs
			r.count()
			r.count()
			epochs = r.ints()
		}
		for i, p := range partitions {
			set[simPlace{topic, p}] = epoch
			if epochs != nil {
				set[simPlace{topic, p}] = epochs[i]
			}
		}
	}
	return set
}

// replayOffset checks a commit against what the log says before it: the coordinator that
// took it knew just that.
func (w *simWorld) replayOffset(rec *record.Record) {
	t := &w.truth
	var key kmsg.OffsetCommitKey
	if err := key.ReadFrom(rec.Key); err != nil {
		w.brokenf(keepsSane, "the key of an offset: %v", err)
		return
	}
	p := api.TopicPartition{Topic: key.Topic, Partition: key.Partition}
	last := simOffset{offset: -1}
	if all := t.offsets[p]; len(all) > 0 {
		last = all[len(all)-1]
	}
	next := simOffset{batch: len(w.committed) - 1, offset: -1}
	if rec.Value == nil {
		if today, _ := w.newest().topic(p.Topic); last.offset >= 0 && last.topic == today {
			w.brokenf(keepsNotLost, "%v of %v is deleted, and its topic is not", last.offset, p)
		}
		t.offsets[p] = append(t.offsets[p], next)
		return
	}
	var value kmsg.OffsetCommitValue
	if err := value.ReadFrom(rec.Value); err != nil {
		w.brokenf(keepsSane, "the value of an offset: %v", err)
		return
	}
	next.topic, next.offset = value.TopicID, value.Offset
	t.offsets[p] = append(t.offsets[p], next)
	t.tags[value.Metadata] = true
	if strings.HasPrefix(value.Metadata, simReset) {
		if members := t.memberIDs(); len(members) > 0 {
			w.brokenf(keepsFenced, "a reset of %v, of a group with the members %v", p, members)
		}
		return
	}
	if next.offset < last.offset && next.topic == last.topic {
		w.brokenf(keepsNotBack, "%v: %d after %d, by %s", p, next.offset, last.offset, value.Metadata)
	}
	w.checkCommitter(p, next, parseSimTag(value.Metadata))
}

func (w *simWorld) checkCommitter(p api.TopicPartition, o simOffset, tag simTag) {
	topic := o.topic
	if w.truth.classicCounts() {
		w.checkClassicCommitter(p, o, tag)
		return
	}
	c := w.truth.currents[tag.member]
	given, owns := int32(0), false
	if c != nil {
		given, owns = c.given(simPlace{topic, p.Partition})
	}
	switch {
	case lifeOf(topic) > tag.topicLife && w.sinceClassic(topic):
		w.ofFormer(p, o)
	case lifeOf(topic) > tag.topicLife:
		w.brokenf(keepsOfItsLife, "%v: %s read the %d. topic of that name, and committed for the %d.", p, tag, tag.topicLife, lifeOf(topic))
	case !owns:
		w.brokenf(keepsFenced, "%v: %s does not own it by the log", p, tag)
	case tag.epoch < given || tag.epoch > c.epoch:
		w.brokenf(keepsFenced, "%v: %s has it since epoch %d, and stands at %d", p, tag, given, c.epoch)
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// moving: members are on their way to what they are to have.
func (t *simTruth) moving() bool {
	for _, c := range t.currents {
		if c.epoch != t.epoch || len(c.revoking) > 0 {
			return true
		}
	}
	return false
}

// checkUpdate is called when a member is told something: it was committed, if not just now.
func (w *simWorld) checkUpdate(id string, u *api.SessionUpdate) {
	if !slices.ContainsFunc(w.truth.stood[id], func(c *simCurrent) bool { return c.epoch == u.MemberEpoch && c.hasAll(u.Assignment) }) {
		w.brokenf(keepsCommitted, "%s is told epoch %d and %v, which the log never had", id, u.MemberEpoch, u.Assignment)
	}
}

// hasAll reports whether a member was told to own partitions, of whichever topics of their names.
func (c *simCurrent) hasAll(parts []api.TopicPartition) bool {
	for _, p := range parts {
		found := slices.Contains(c.unnamed, p.Topic)
		for place := range c.assigned {
			found = found || place.partition == p.Partition && string(place.topic[:1]) == p.Topic
		}
		if !found {
			return false
		}
	}
	return true
}

// checkAnswer is called when a commit of a session is answered.
func (w *simWorld) checkAnswer(s *simStream, a *api.SessionCommitted) {
	w.countCommit(codeOfAnswer(a))
	if codeOfAnswer(a) == api.CodeNone && !w.truth.tags[s.commits[a.ID]] {
		w.brokenf(keepsCommitted, "%s: the commit %s is acknowledged, and not in the log", s.c.id, s.commits[a.ID])
	}
}

func (w *simWorld) countCommit(code api.Code) {
	switch code {
	case api.CodeNone:
		w.counts.Commits++
	case api.CodeCoordinatorLoading:
		w.counts.Loading++
	case api.CodeRequestTimedOut:
		w.counts.Doubts++
	case api.CodeStaleMemberEpoch, api.CodeUnknownMember, api.CodeFencedMemberEpoch:
		w.counts.Zombies++
	case api.CodeIllegalGeneration, api.CodeRebalanceInProgress:
		w.counts.ClassicFenced++
	case api.CodeUnknownTopic:
		w.counts.FormerTopics++
	default:
	}
}

// claim notes that a member learned that it has a partition.
func (w *simWorld) claim(c *simClient, p api.TopicPartition, epoch int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	who := fmt.Sprintf("%s/%d", c.id, c.life)
	if c.classic != nil && c.instance != "" {
		who = "classic " + c.instance // whose next process takes its place, and its generation
	}
	claim := simClaim{p, epoch}
	if other, taken := w.truth.claims[claim]; taken && other != who {
		w.brokenf(keepsOneOwner, "%v is %s's in epoch %d, and %s's", p, other, epoch, who)
	}
	w.truth.claims[claim] = who
}

// processed lets a member read the next record.
func (w *simWorld) processed(c *simClient, p api.TopicPartition, o *simOwned) {
	w.mu.Lock()
	defer w.mu.Unlock()
	place := simPlace{o.topic, p.Partition}
	if most := w.truth.read[place]; o.pos > most {
		w.brokenf(keepsNotRead, "%s reads %v at %d, nobody has read %d", c.id, p, o.pos, most)
	}
	o.pos++
	w.truth.read[place] = max(w.truth.read[place], o.pos)
}

// judge checks what a broker answered to a call.
func (w *simWorld) judge(c *simCall) {
	code := api.CodeOf(c.err)
	if code == api.CodeNone && len(c.results) > 0 && c.results[0].Err != nil {
		code = c.results[0].Err.Code
	}
	switch {
	case c.do != nil:
	case c.commit != nil || c.reset:
		w.countCommit(code)
		if code == api.CodeNone && !w.truth.tags[c.offsets[0].Metadata] {
			w.brokenf(keepsCommitted, "call %d: %s is acknowledged, and not in the log", c.n, c.offsets[0].Metadata)
		}
		if c.reset && code == api.CodeNone {
			w.counts.Resets++
		}
	case code != api.CodeNone:
		if code == api.CodeCoordinatorLoading {
			w.counts.Loading++
		}
	default:
		w.judgeOffsets(c)
	}
}

// judgeOffsets checks what is said to be committed: it was, at some time between the
// question and the answer.
func (w *simWorld) judgeOffsets(c *simCall) {
	w.counts.Fetches++
	if c.lapsed {
		w.brokenf(keepsSilent, "call %d at %d", c.n, c.node.id)
	}
	said := map[api.TopicPartition]int64{}
	for _, p := range c.parts {
		said[p] = -1
	}
	if len(c.parts) == 0 {
		for p := range w.truth.offsets {
			said[p] = -1
		}
	}
	for i := range c.results {
		said[c.results[i].TopicPartition] = int64(c.results[i].Offset)
	}
	for p, offset := range said {
		w.judgeOffset(c, p, offset)
	}
}

func (w *simWorld) judgeOffset(c *simCall, p api.TopicPartition, said int64) {
	var may []int64
	shown := false
	last := simOffset{offset: -1}
	for _, o := range w.truth.offsets[p] {
		if o.batch < c.since {
			last = o
			continue
		}
		may = append(may, w.seen(c, p, o)...)
	}
	may = append(may, w.seen(c, p, last)...)
	for _, o := range w.truth.offsets[p] {
		shown = shown || o.offset == said
	}
	switch {
	case slices.Contains(may, said):
	case said < 0:
		w.brokenf(keepsNoOffset, "call %d at %d: %v has no offset, it has been %v since it was asked", c.n, c.node.id, p, may)
	case !shown:
		w.brokenf(keepsCommitted, "call %d at %d: %v is said to be at %d, which the log does not have", c.n, c.node.id, p, said)
	default:
		w.brokenf(keepsNotLost, "call %d at %d: %v is said to be at %d, it has been %v since it was asked", c.n, c.node.id, p, said, may)
	}
}

// seen is what may be said of a committed offset: that of a topic of which the broker may
// know another life is none, and of one that is deleted it goes in its time.
func (w *simWorld) seen(c *simCall, p api.TopicPartition, o simOffset) []int64 {
	may := []int64{}
	for at := c.images; at < len(w.images); at++ {
		id, partitions := simImage{w.images[at]}.topic(p.Topic)
		if id != o.topic || o.offset < 0 {
			may = append(may, -1)
		}
		if id == o.topic || partitions == 0 {
			may = append(may, o.offset)
		}
	}
	slices.Sort(may)
	return slices.Compact(may)
}

// simCounts is how often what a run is there for came up.
type simCounts struct {
	Moved, MovedMidRebalance, TwoCoordinators, AskedOld, AskedLapsed, StoodStill, Cut, Crashed, Slow int
	Lost, Survived, Doubts, Refused, Pipelined, Loads, Loading, Barriers                             int
	Zombies, Fenced, Superseded, Paused, Left, Died, Restarted                                       int
	Grown, Deleted, Created, FormerTopics, Resets, Commits, Fetches                                  int
	ClassicJoins, ClassicAssigned, ClassicSynced, ClassicCommits, ClassicFenced                      int
	Matched, MatchCreated, MatchDeleted, MatchGrown, RefusedDecisions                                int
	HostedSynced, Upgraded, Downgraded, Rolled                                                       int
}

func (c *simCounts) add(other simCounts) {
	sum, more := reflect.ValueOf(c).Elem(), reflect.ValueOf(other)
	for i := range sum.NumField() {
		sum.Field(i).SetInt(sum.Field(i).Int() + more.Field(i).Int())
	}
}

// missing names what came up less than so often.
func (c simCounts) missing(least int64) (names []string) {
	v := reflect.ValueOf(c)
	for i := range v.NumField() {
		if v.Field(i).Int() < least {
			names = append(names, v.Type().Field(i).Name)
		}
	}
	return names
}
