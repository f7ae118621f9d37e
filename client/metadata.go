package client

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// snapshot is what the client knows of the cluster; immutable.
type snapshot struct {
	taken   time.Time // zero: nothing is known yet
	brokers map[int32]string
	live    []string // addresses of the brokers that are not fenced
	topics  map[string]*topicMeta
}

type topicMeta struct {
	id    [16]byte
	parts []partMeta
}

// partMeta is a partition's leadership. leader -1: none.
type partMeta struct {
	leader int32
	epoch  int32
}

// leader returns the address of a partition's leader, empty when none is known.
func (s *snapshot) leader(tp TopicPartition) string {
	t := s.topics[tp.Topic]
	if t == nil || tp.Partition < 0 || int(tp.Partition) >= len(t.parts) || t.parts[tp.Partition].leader < 0 {
		return ""
	}
	return s.brokers[t.parts[tp.Partition].leader]
}

// epoch returns the leader epoch of a partition, -1 when it is not known.
func (s *snapshot) epoch(tp TopicPartition) int32 {
	t := s.topics[tp.Topic]
	if t == nil || tp.Partition < 0 || int(tp.Partition) >= len(t.parts) {
		return -1
	}
	return t.parts[tp.Partition].epoch
}

// metadata keeps the snapshot fresh. One goroutine asks; everybody else reads the
// snapshot, wakes the goroutine and waits for news.
type metadata struct {
	c    *Client
	snap atomic.Pointer[snapshot]
	wake chan struct{} // capacity 1

	mu      sync.Mutex      // guards what follows
	wanted  map[string]bool // topics of interest
	news    chan struct{}   // closed at the end of every refresh, then replaced
	lastErr error           // of the newest refresh
	tell    map[int]func(*snapshot)
	nextID  int
}

// refreshGapMax bounds the pause between refreshes while somebody waits for a
// leader: it is paid once more in every failover.
const refreshGapMax = 200 * time.Millisecond

func newMetadata(c *Client) *metadata {
	m := &metadata{
		c:      c,
		wake:   make(chan struct{}, 1),
		wanted: map[string]bool{},
		news:   make(chan struct{}),
		tell:   map[int]func(*snapshot){},
	}
	m.snap.Store(&snapshot{})
	return m
}

func (m *metadata) snapshot() *snapshot { return m.snap.Load() }

// refresh asks for a new snapshot soon.
func (m *metadata) refresh() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// want makes topics part of the snapshot.
func (m *metadata) want(topics ...string) {
	added := false
	m.mu.Lock()
	for _, t := range topics {
		added = added || !m.wanted[t]
		m.wanted[t] = true
	}
	m.mu.Unlock()
	if added {
		m.refresh()
	}
}

// forget stops looking for a topic.
func (m *metadata) forget(topic string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.wanted, topic)
}

// listen calls f after every change, on the refreshing goroutine, until the
// returned function is called.
func (m *metadata) listen(f func(*snapshot)) (remove func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.nextID
	m.nextID++
	m.tell[id] = f
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.tell, id)
	}
}

// next returns a channel that is closed after the next refresh, whatever its
// outcome, and the outcome of the newest one.
func (m *metadata) next() (<-chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.news, m.lastErr
}

// topic waits until the topic is known. It returns the error of CodeUnknownTopic
// once brokers have denied it for the time of WithUnknownTopicWait, and a
// *BootstrapError when no broker answers for as long.
func (m *metadata) topic(ctx context.Context, name string) (*topicMeta, error) {
	began := time.Now()
	for {
		if t := m.snapshot().topics[name]; t != nil {
			return t, nil
		}
		news, err := m.next()
		m.want(name)
		if t := m.snapshot().topics[name]; t != nil {
			return t, nil
		}
		if waited := time.Since(began); waited >= m.c.cfg.unknownWait && (err != nil || m.askedSince(began)) {
			m.forget(name)
			if err != nil {
				return nil, err
			}
			return nil, unknownTopic(name)
		}
		m.refresh()
		select {
		case <-news:
		case <-ctx.Done():
			if err != nil {
				return nil, err
			}
			return nil, ctx.Err()
		case <-m.c.life.Done():
			return nil, ErrClosed
		}
	}
}

// partition is topic for one that must have a partition: a topic may have got more
// since the snapshot, so the brokers are asked once more before it is denied.
func (m *metadata) partition(ctx context.Context, tp TopicPartition) (*topicMeta, error) {
	began := time.Now()
	t, err := m.topic(ctx, tp.Topic)
	for err == nil && tp.Partition >= 0 && int(tp.Partition) >= len(t.parts) && !m.askedSince(began) {
		news, lastErr := m.next()
		if m.askedSince(began) {
			break
		}
		m.refresh()
		select {
		case <-news:
		case <-ctx.Done():
			return nil, errors.Join(lastErr, ctx.Err())
		case <-m.c.life.Done():
			return nil, ErrClosed
		}
		t, err = m.topic(ctx, tp.Topic)
	}
	if err == nil && (tp.Partition < 0 || int(tp.Partition) >= len(t.parts)) {
		err = unknownPartition(tp, len(t.parts))
	}
	return t, err
}

func (m *metadata) askedSince(t time.Time) bool { return m.snapshot().taken.After(t) }

func unknownTopic(name string) *Error {
	return &Error{Code: CodeUnknownTopic, Message: "the brokers know no such topic", Topic: name, Partition: -1, Retriable: true}
}

// run refreshes when woken and when the snapshot is old.
func (m *metadata) run(ctx context.Context) {
	failures, calm := 0, 0
	for {
		timer := time.NewTimer(m.c.cfg.metadataMaxAge)
		select {
		case <-m.wake:
		case <-timer.C:
			calm = 0
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
		before := m.snapshot()
		err := m.once(ctx)
		m.settle(err)
		pause := time.Duration(0)
		switch {
		case err != nil:
			failures++
			pause = m.c.backoff(failures)
			m.refresh()
		default:
			failures = 0
			calm++
			if changed(before, m.snapshot()) {
				calm = 1
			}
			pause = min(m.c.backoff(calm), refreshGapMax)
		}
		if sleep(ctx, pause) != nil {
			return
		}
		if time.Since(m.snapshot().taken) > 10*time.Second {
			calm = 0
		}
	}
}

// settle publishes the outcome of a refresh.
func (m *metadata) settle(err error) {
	m.mu.Lock()
	m.lastErr = err
	close(m.news)
	m.news = make(chan struct{})
	tell := make([]func(*snapshot), 0, len(m.tell))
	for _, f := range m.tell {
		tell = append(tell, f)
	}
	m.mu.Unlock()
	if err != nil {
		m.c.cfg.logger.Warn("metadata refresh failed", "error", err)
		return
	}
	for _, f := range tell {
		f(m.snapshot())
	}
}

// once asks the cluster and merges the answer. With no topic of interest it asks
// for brokers only.
func (m *metadata) once(ctx context.Context) error {
	m.mu.Lock()
	names := make([]string, 0, len(m.wanted))
	for t := range m.wanted {
		names = append(names, t)
	}
	m.mu.Unlock()
	resp, err := ask(ctx, m.c, func(ctx context.Context, conn *grpc.ClientConn, _ string) (*pb.MetadataResponse, error) {
		admin := pb.NewAdminServiceClient(conn)
		if len(names) > 0 {
			return admin.Metadata(ctx, &pb.MetadataRequest{Topics: names})
		}
		d, err := admin.DescribeCluster(ctx, &pb.DescribeClusterRequest{})
		return &pb.MetadataResponse{Brokers: d.GetBrokers()}, err
	})
	if err != nil {
		return err
	}
	m.merge(resp)
	return nil
}

// merge makes the next snapshot. Brokers learn of changes at different times, so
// of one topic the greater leader epoch of each partition is kept.
func (m *metadata) merge(resp *pb.MetadataResponse) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.snapshot()
	s := &snapshot{
		taken:   time.Now(),
		brokers: make(map[int32]string, len(resp.GetBrokers())),
		topics:  make(map[string]*topicMeta, len(resp.GetTopics())),
	}
	for _, b := range resp.GetBrokers() {
		s.brokers[b.GetNodeId()] = b.GetAddress()
		if !b.GetFenced() && b.GetAddress() != "" {
			s.live = append(s.live, b.GetAddress())
		}
	}
	for _, t := range resp.GetTopics() {
		next := &topicMeta{parts: make([]partMeta, len(t.GetPartitions()))}
		copy(next.id[:], t.GetTopicId())
		for i := range next.parts {
			next.parts[i] = partMeta{leader: -1, epoch: -1}
		}
		for _, p := range t.GetPartitions() {
			if i := p.GetPartition(); i >= 0 && int(i) < len(next.parts) {
				next.parts[i] = partMeta{leader: p.GetLeader(), epoch: p.GetLeaderEpoch()}
			}
		}
		if prev := old.topics[t.GetName()]; prev != nil && prev.id == next.id {
			for i := range min(len(prev.parts), len(next.parts)) {
				if prev.parts[i].epoch > next.parts[i].epoch {
					next.parts[i] = prev.parts[i]
				}
			}
		}
		s.topics[t.GetName()] = next
	}
	m.snap.Store(s)
}

// hint takes a leader from a broker's refusal, when it is newer than what is
// known, and refreshes otherwise.
func (m *metadata) hint(tp TopicPartition, h *pb.LeaderHint) {
	if h == nil || h.GetNodeId() < 0 || !m.applyHint(tp, h) {
		m.refresh()
		return
	}
	m.settle(nil)
}

func (m *metadata) applyHint(tp TopicPartition, h *pb.LeaderHint) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.snapshot()
	t := old.topics[tp.Topic]
	if t == nil || int(tp.Partition) >= len(t.parts) || t.parts[tp.Partition].epoch >= h.GetLeaderEpoch() {
		return false
	}
	if h.GetAddress() == "" && old.brokers[h.GetNodeId()] == "" {
		return false
	}
	s := *old
	s.topics = maps.Clone(old.topics)
	next := &topicMeta{id: t.id, parts: append([]partMeta(nil), t.parts...)}
	next.parts[tp.Partition] = partMeta{leader: h.GetNodeId(), epoch: h.GetLeaderEpoch()}
	s.topics[tp.Topic] = next
	if h.GetAddress() != "" && s.brokers[h.GetNodeId()] != h.GetAddress() {
		s.brokers = maps.Clone(old.brokers)
		s.brokers[h.GetNodeId()] = h.GetAddress()
	}
	m.snap.Store(&s)
	return true
}

// changed reports whether a leadership or an address differs.
func changed(a, b *snapshot) bool {
	if len(a.topics) != len(b.topics) || len(a.brokers) != len(b.brokers) || len(a.live) != len(b.live) {
		return true
	}
	for name, t := range b.topics {
		prev := a.topics[name]
		if prev == nil || prev.id != t.id || len(prev.parts) != len(t.parts) {
			return true
		}
		for i := range t.parts {
			if prev.parts[i] != t.parts[i] {
				return true
			}
		}
	}
	return false
}
