package coordinator

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeLog is a partition of __consumer_offsets in memory.
type fakeLog struct {
	mu      sync.Mutex
	batches [][]byte
	appends int
	loads   int // calls of Bounds
	next    record.Offset
	hold    chan struct{}        // not nil: the ends of appends and Bounds wait for it to close
	outcome func() (bool, error) // whether the batch is stored, and what is answered; nil: yes, nil
	unread  error                // what Bounds answers; nil: the bounds
	// ends: what the n-th append waits for, and then for hold; those beyond: nothing.
	ends []chan struct{}
}

func (l *fakeLog) wait(ctx context.Context) error {
	l.mu.Lock()
	hold := l.hold
	l.mu.Unlock()
	if hold == nil {
		return nil
	}
	select {
	case <-hold:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Append stores the batch at once, in the order of the calls; hold and outcome
// say when and how Wait ends.
func (l *fakeLog) Append(buf *record.Buf) Appending {
	defer buf.Release()
	l.mu.Lock()
	defer l.mu.Unlock()
	a := fakeAppending{log: l}
	if l.appends < len(l.ends) {
		a.end = l.ends[l.appends]
	}
	l.appends++
	stored := true
	if l.outcome != nil {
		stored, a.err = l.outcome()
	}
	if stored {
		if _, err := record.Validate(buf.Bytes(), record.Limits{}); err != nil {
			a.err = err
			return a
		}
		batch := slices.Clone(buf.Bytes())
		record.Patch(batch, l.next, 1)
		info, _ := record.Peek(batch)
		l.next = info.NextOffset()
		l.batches = append(l.batches, batch)
	}
	return a
}

type fakeAppending struct {
	log *fakeLog
	end chan struct{} // nil: does not wait for it
	err error
}

func (a fakeAppending) Wait(ctx context.Context) error {
	if a.end != nil {
		select {
		case <-a.end:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := a.log.wait(ctx); err != nil {
		return err
	}
	return a.err
}

// mustAppend appends a batch that is there at once.
func (l *fakeLog) mustAppend(tb testing.TB, batch []byte) {
	tb.Helper()
	if err := l.Append(record.NewBuf(batch)).Wait(tb.Context()); err != nil {
		tb.Fatal(err)
	}
}

func offsetValue(c committed) []byte { return appendOffsetValue(nil, &c) }

func (l *fakeLog) Bounds(ctx context.Context) (record.Offset, record.Offset, error) {
	if err := l.wait(ctx); err != nil {
		return 0, 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.loads++
	return 0, l.next, l.unread
}

func (l *fakeLog) Read(_ context.Context, from, end record.Offset, _ int) ([]record.Slice, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, batch := range l.batches {
		if info, _ := record.Peek(batch); info.LastOffset() >= from && info.BaseOffset < end {
			buf := record.NewBuf(batch)
			defer buf.Release()
			return []record.Slice{record.SliceOf(buf, 0, len(batch))}, nil
		}
	}
	return nil, nil
}

func (l *fakeLog) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

var errUnknownOutcome = errors.New("the wire broke")

// fakeTopics are the topics of the cluster.
type fakeTopics struct {
	mu     sync.Mutex
	topics map[string]int32
	racks  map[string][][]string
	life   byte         // part of the ids
	listed atomic.Int64 // how often all were asked for
}

func (f *fakeTopics) Version() uint64 { return 1 }

func (f *fakeTopics) Topic(topic string) (api.TopicID, int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.topics[topic]
	if n == 0 {
		return api.TopicID{}, 0
	}
	id := api.TopicID{1, f.life}
	copy(id[2:], topic)
	return id, n
}

func (f *fakeTopics) Racks(topic string) [][]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.racks[topic]
}

func (f *fakeTopics) All() iter.Seq2[string, int32] {
	f.listed.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	topics := maps.Clone(f.topics)
	return func(yield func(string, int32) bool) {
		for _, name := range slices.Sorted(maps.Keys(topics)) {
			if !yield(name, topics[name]) {
				return
			}
		}
	}
}

func (f *fakeTopics) set(topic string, n int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.topics[topic] = n
}

// bed is a coordinator over one fake log; __consumer_offsets has one partition.
type bed struct {
	t      *testing.T
	c      *Coordinator
	log    *fakeLog
	topics *fakeTopics
	logger *slog.Logger
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{t: t, log: &fakeLog{}, topics: &fakeTopics{topics: map[string]int32{"a": 4, "b": 1}}, logger: slog.New(slog.DiscardHandler)}
	b.c = b.start()
	return b
}

// start makes a coordinator that leads the partition from now on.
func (b *bed) start() *Coordinator {
	b.t.Helper()
	c, err := New(Config{NodeID: 7, Topics: b.topics, Logger: b.logger})
	if err != nil {
		b.t.Fatal(err)
	}
	c.SetPartitions(1)
	c.Load(0, 1, b.log)
	return c
}

func (b *bed) close() {
	b.t.Helper()
	if err := b.c.Close(); err != nil {
		b.t.Fatal(err)
	}
}

// member is a program with a session. It acknowledges every assignment and
// beats every second, unless it is told not to.
type member struct {
	c       *Coordinator
	join    api.JoinGroup
	in      chan api.SessionMessage
	stop    context.CancelFunc
	done    chan struct{}
	err     error         // after done
	silent  bool          // does not beat
	every   time.Duration // between beats; 0: 1 s
	keeps   bool          // does not acknowledge
	onOut   func()
	mu      sync.Mutex // guards the rest
	updates []api.SessionUpdate
	answers []api.SessionCommitted
}

func (b *bed) member(join api.JoinGroup) *member {
	if join.Group == "" {
		join.Group = "g"
	}
	if join.Topics == nil && join.TopicPattern == "" {
		join.Topics = []string{"a"}
	}
	return &member{c: b.c, join: join}
}

func (m *member) start() *member {
	ctx, stop := context.WithCancel(context.Background())
	m.stop, m.in, m.done = stop, make(chan api.SessionMessage, 16), make(chan struct{})
	m.join.AttachNumber++
	beats := make(chan struct{})
	go func() {
		defer close(beats)
		for {
			select {
			case <-time.After(max(m.every, time.Second)):
				if !m.silent {
					m.send(api.SessionMessage{Heartbeat: api.GroupHeartbeat{MemberEpoch: m.epoch()}})
				}
			case <-m.done:
				return
			}
		}
	}()
	go func() {
		m.err = m.c.Session(ctx, m.join, m.in, m.out)
		close(m.done)
		<-beats
	}()
	return m
}

func (m *member) send(message api.SessionMessage) {
	select {
	case m.in <- message:
	case <-m.done:
	}
}

func (m *member) out(u api.SessionUpdate) error {
	if m.onOut != nil {
		m.onOut()
	}
	m.mu.Lock()
	if len(u.Commits) > 0 {
		m.answers = append(m.answers, u.Commits...)
		m.mu.Unlock()
		return nil
	}
	m.updates = append(m.updates, u)
	m.mu.Unlock()
	if !m.keeps {
		m.send(api.SessionMessage{Heartbeat: api.GroupHeartbeat{MemberEpoch: u.MemberEpoch, HasOwned: true, Owned: u.Assignment}})
	}
	return nil
}

func (m *member) last() api.SessionUpdate {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.updates) == 0 {
		return api.SessionUpdate{}
	}
	return m.updates[len(m.updates)-1]
}

func (m *member) epoch() int32 { return m.last().MemberEpoch }

// resume starts a new stream of the same member.
func (m *member) resume(c *Coordinator) *member {
	u := m.last()
	join := m.join
	join.MemberID, join.MemberEpoch, join.Owned = u.MemberID, u.MemberEpoch, u.Assignment
	return (&member{c: c, join: join, every: m.every, updates: []api.SessionUpdate{u}}).start()
}

// cut ends the stream without a leave.
func (m *member) cut() {
	m.stop()
	<-m.done
}

func commitOf(m *member, partition int32, offset record.Offset) *api.CommitOffsets {
	u := m.last()
	return &api.CommitOffsets{
		Group: m.join.Group, MemberID: u.MemberID, MemberEpoch: u.MemberEpoch,
		Offsets: []api.OffsetCommit{{TopicPartition: api.TopicPartition{Topic: "a", Partition: partition}, Offset: offset, LeaderEpoch: 3, Metadata: "x"}},
	}
}

// adminCommit stores an offset of a-partition for an empty group.
func adminCommit(group string, partition int32, offset record.Offset) *api.CommitOffsets {
	return &api.CommitOffsets{Group: group, Offsets: []api.OffsetCommit{{
		TopicPartition: api.TopicPartition{Topic: "a", Partition: partition}, Offset: offset, LeaderEpoch: record.UnknownEpoch,
	}}}
}
