package broker

import (
	"context"
	"slices"
	"sync"

	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/log/record"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// maxIsrChanges keeps a command far below its 512 KiB.
const maxIsrChanges = 2000

// proposer carries ISR changes to the controller: whatever came while one
// proposal was on its way goes together in the next. Every change is answered,
// for its state machine proposes nothing else until then.
type proposer struct {
	b    *Broker
	wake chan struct{} // of capacity one

	mu    sync.Mutex // guards queue; a leaf
	queue []isrChange
}

type isrChange struct {
	local          *localReplica
	leaderEpoch    record.Epoch
	partitionEpoch int32
	members        []partition.Member
	damaged        []int32
	failed         []int32
}

func newProposer(b *Broker) *proposer { return &proposer{b: b, wake: make(chan struct{}, 1)} }

// add queues the change of e, an effect in out; what belongs to it is copied. It may be
// called with the replica's mutex held.
func (p *proposer) add(l *localReplica, e *partition.Effect, out *partition.Effects) {
	p.mu.Lock()
	p.queue = append(p.queue, isrChange{
		l, e.Epoch, e.PartitionEpoch, slices.Clone(out.Members), slices.Clone(out.Damaged), slices.Clone(out.Failed),
	})
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *proposer) take() []isrChange {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(len(p.queue), maxIsrChanges)
	batch := p.queue[:n:n]
	if p.queue = p.queue[n:]; len(p.queue) == 0 {
		p.queue = nil
	}
	return batch
}

func (p *proposer) run(ctx context.Context) {
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
		for batch := p.take(); len(batch) > 0; batch = p.take() {
			p.propose(ctx, batch)
		}
	}
}

// change is the command of a batch.
func (p *proposer) change(batch []isrChange) *metav1.ChangeIsr {
	change := &metav1.ChangeIsr{NodeId: p.b.cfg.NodeID, BrokerEpoch: p.b.brokerEpoch, Changes: make([]*metav1.IsrChange, len(batch))}
	for i, c := range batch {
		isr := make([]*metav1.IsrMember, len(c.members))
		for j, m := range c.members {
			isr[j] = &metav1.IsrMember{NodeId: m.Node, BrokerEpoch: m.BrokerEpoch}
		}
		change.Changes[i] = &metav1.IsrChange{
			TopicId: c.local.key.Topic[:], Partition: c.local.partition,
			LeaderEpoch: int32(c.leaderEpoch), PartitionEpoch: c.partitionEpoch, Isr: isr, Damaged: c.damaged, Failed: c.failed,
		}
	}
	return change
}

func (p *proposer) propose(ctx context.Context, batch []isrChange) {
	// An outcome that is not known after a session is as good as none: the state
	// machine counts both sets until the image settles it.
	ctx, cancel := context.WithTimeout(ctx, p.b.cfg.SessionTimeout)
	defer cancel()
	resp, err := p.b.cfg.Controller.Propose(ctx, &pb.ProposeRequest{Kind: &pb.ProposeRequest_ChangeIsr{ChangeIsr: p.change(batch)}})
	for i, c := range batch {
		outcome := proposalOutcome(err)
		if err == nil && i < len(resp.GetResults()) {
			outcome = changeOutcome(resp.GetResults()[i].GetCode())
		}
		c.local.proposed(c.partitionEpoch, outcome)
	}
}

func (l *localReplica) proposed(partitionEpoch int32, o partition.Outcome) {
	l.mu.Lock()
	todo := l.step(partition.ProposalResult(partitionEpoch, o))
	l.mu.Unlock()
	l.finish(todo)
}

// proposalOutcome is the outcome of a whole proposal. An error says nothing about
// what was applied, not even a typed refusal: it may answer a retry whose first
// try was committed before another controller took over. A broker that is refused
// for good hears so from the image.
func proposalOutcome(err error) partition.Outcome {
	if err == nil {
		return partition.OutcomeOK
	}
	return partition.OutcomeUnknown
}

// changeOutcome is the outcome of one change. A stale epoch means that a newer
// image is on its way, which may hold this very change.
func changeOutcome(code pb.ErrorCode) partition.Outcome {
	switch code {
	case pb.ErrorCode_ERROR_CODE_UNSPECIFIED:
		return partition.OutcomeOK
	case pb.ErrorCode_ERROR_CODE_INVALID_UPDATE_VERSION, pb.ErrorCode_ERROR_CODE_FENCED_LEADER_EPOCH,
		pb.ErrorCode_ERROR_CODE_UNKNOWN_LEADER_EPOCH, pb.ErrorCode_ERROR_CODE_NOT_CONTROLLER,
		pb.ErrorCode_ERROR_CODE_REQUEST_TIMED_OUT, pb.ErrorCode_ERROR_CODE_SHUTTING_DOWN:
		return partition.OutcomeUnknown
	default:
		return partition.OutcomeRefused
	}
}
