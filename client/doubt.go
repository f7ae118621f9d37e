package client

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// doubt is what a broker said of a consumer's position that would move it: that the
// offset is not in the log, that the log was truncated below it, or that nobody knows
// the leader epoch of what was read. A broker that was replaced and has not heard of it
// says so in good faith, to a client that has not heard either. So the partition is
// fetched no further until a majority of the brokers was asked who leads: only the newest
// leader's word counts, and another leader is asked anew (KIP-320).
type doubt struct {
	err    *Error
	leader int32 // leader epoch of the broker that said so
	// truncated: the log ceases at offset to be what was read; epoch is that of the batch
	// before it, -1: unknown.
	truncated bool
	offset    int64
	epoch     int32
}

// doubted is a subscription with a doubt.
type doubted struct {
	question
	doubt *doubt
	found FoundOffset // where the reset policy says to go on
}

// foundThere reports whether the leader in doubt has said where the reset policy goes on.
func (d *doubted) foundThere() bool {
	return d.found.Err == nil && d.found.LeaderEpoch == d.doubt.leader
}

// confirmWait bounds one round of questions about leaders.
const confirmWait = 2 * time.Second

// suspect notes a doubt. The caller holds mu.
func (k *Consumer) suspect(a asked, e *Error, diverging *pb.EpochEnd) {
	a.sub.doubt = &doubt{err: e, leader: a.leader, epoch: -1}
	if diverging != nil {
		a.sub.doubt.truncated, a.sub.doubt.offset, a.sub.doubt.epoch = true, diverging.GetEndOffset(), diverging.GetEpoch()
	}
	k.wakeResolver()
}

func (k *Consumer) doubts() (out []doubted) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.parts {
		if s.doubt != nil && !s.failed && !s.revoking.Load() {
			out = append(out, doubted{question: question{sub: s, version: s.version.Load()}, doubt: s.doubt})
		}
	}
	return out
}

// settleDoubts asks who leads, after it has looked up where to go on, so that neither
// answer can be a replaced leader's; true: some are to be tried again.
func (k *Consumer) settleDoubts(ctx context.Context, ds []doubted) (again bool) {
	if len(ds) == 0 {
		return false
	}
	k.lookUpResets(ctx, ds)
	majority := k.c.meta.confirm(ctx)
	snap := k.c.meta.snapshot()
	for i := range ds {
		d := &ds[i]
		var report error
		k.solve(d.question, func(s *subscription) {
			switch {
			case s.doubt != d.doubt:
			case snap.epoch(s.tp) != d.doubt.leader:
				s.doubt, s.notYet = nil, time.Time{} // ask who leads now
			case !majority:
				again = true
			default:
				var done bool
				done, report = k.believe(s, d)
				again = again || !done
			}
		})
		if report != nil {
			k.report(report)
		}
	}
	return again
}

// lookUpResets finds the offsets at which the reset policy goes on.
func (k *Consumer) lookUpResets(ctx context.Context, ds []doubted) {
	if k.cfg.reset == ResetError {
		return
	}
	found, todo := make([]FoundOffset, len(ds)), make([]int, 0, len(ds))
	for i := range ds {
		found[i].TopicPartition = ds[i].sub.tp
		if ds[i].doubt.err.Code == CodeOffsetOutOfRange && !ds[i].doubt.truncated {
			todo = append(todo, i)
		}
	}
	k.c.listOffsets(ctx, k.cfg.reset.offset(), found, todo)
	for i := range ds {
		ds[i].found = found[i]
	}
}

// believe acts on what the newest leader said; it returns the error that the
// application must know, and whether that is the end of it. The caller holds mu.
func (k *Consumer) believe(s *subscription, d *doubted) (done bool, report error) {
	e, position := d.doubt.err, s.fetchAt
	logger := k.c.cfg.logger.With("topic", s.tp.Topic, "partition", s.tp.Partition, "offset", position)
	switch {
	case e.Code != CodeOffsetOutOfRange:
		// A commit, or a topic of that name, of long ago.
		logger.Warn("no broker knows the leader epoch of what was read; going on without", "epoch", s.fetchEpoch)
		s.fetchEpoch, s.doubt, s.notYet = -1, nil, time.Time{}
		s.epoch.Store(-1)
	case k.cfg.reset == ResetError:
		s.doubt, s.failed = nil, true
		if !d.doubt.truncated {
			return true, e
		}
		return true, &LogTruncatedError{
			TopicPartition: s.tp, Position: position, LeaderEpoch: s.fetchEpoch, TruncatedTo: d.doubt.offset, Err: e,
		}
	case d.doubt.truncated:
		// What was fetched and not taken yet goes, and what of it is still in the log is
		// fetched again.
		at, epoch := d.doubt.offset, d.doubt.epoch
		if taken := s.taken.Load(); taken >= 0 && taken < at {
			at, epoch = taken, -1
		}
		logger.Warn("the log was truncated below what was read; going on from there", "at", at, "error", e)
		s.restart(At(at))
		s.begin(at, epoch)
	case !d.foundThere():
		return false, nil
	default:
		logger.Warn("offset out of range; starting anew", "at", d.found.Offset, "error", e)
		s.restart(At(d.found.Offset))
		s.begin(d.found.Offset, -1)
	}
	return true, nil
}

// offset is where a policy goes on.
func (p ResetPolicy) offset() Offset {
	if p == ResetLatest {
		return Latest()
	}
	return Earliest()
}

// confirm asks all brokers that count as alive who leads, takes over what is newer than
// what is known, and reports whether a majority of them answered.
func (m *metadata) confirm(ctx context.Context) (majority bool) {
	m.mu.Lock()
	names := make([]string, 0, len(m.wanted))
	for t := range m.wanted {
		names = append(names, t)
	}
	m.mu.Unlock()
	addresses := m.snapshot().live
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithTimeout(ctx, confirmWait)
	defer cancel()
	answers := make(chan *pb.MetadataResponse, len(addresses))
	for _, address := range addresses {
		wg.Go(func() {
			var resp *pb.MetadataResponse
			err := m.c.call(ctx, address, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
				resp, err = pb.NewAdminServiceClient(conn).Metadata(ctx, &pb.MetadataRequest{Topics: names})
				return err
			})
			if err != nil {
				resp = nil
			}
			answers <- resp
		})
	}
	answered := 0
	for i := 0; i < len(addresses) && !majority; i++ {
		if resp := <-answers; resp != nil {
			m.raise(resp)
			answered++
		}
		majority = 2*answered > len(addresses)
	}
	if answered > 0 {
		m.settle(nil)
	}
	return majority
}

// raise takes over what an answer says of partitions that it knows a newer leader epoch
// of. Unlike merge it leaves everything else as it is: the answer may be an old one.
func (m *metadata) raise(resp *pb.MetadataResponse) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.snapshot()
	next := *old
	next.topics, next.brokers = maps.Clone(old.topics), maps.Clone(old.brokers)
	for _, t := range resp.GetTopics() {
		known := old.topics[t.GetName()]
		if known == nil || !bytes.Equal(known.id[:], t.GetTopicId()) {
			m.refresh() // created anew
			continue
		}
		raised := &topicMeta{id: known.id, parts: slices.Clone(known.parts)}
		for _, p := range t.GetPartitions() {
			if i := int(p.GetPartition()); i >= 0 && i < len(raised.parts) && p.GetLeaderEpoch() > raised.parts[i].epoch {
				raised.parts[i] = partMeta{leader: p.GetLeader(), epoch: p.GetLeaderEpoch()}
				next.topics[t.GetName()] = raised
			}
		}
	}
	for _, b := range resp.GetBrokers() {
		if next.brokers[b.GetNodeId()] == "" {
			next.brokers[b.GetNodeId()] = b.GetAddress()
		}
	}
	m.snap.Store(&next)
}
