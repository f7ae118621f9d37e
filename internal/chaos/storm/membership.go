package storm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/chaos/load"
)

// commandWait bounds one command of an operator, who then looks what came of it.
const commandWait = 5 * time.Second

// move gives a partition of the strict topic another replica in place of the node's,
// or of its last one. That it is refused or fails while something else is broken is
// no fault; that it does not end is.
func (s *storm) move(ctx context.Context, a Action) (heal, error) {
	ctx, cancel := context.WithTimeout(ctx, commandWait)
	defer cancel()
	t, err := s.admin.Admin().DescribeTopic(ctx, load.Strict)
	if err != nil {
		s.say("  no replicas are moved: %v", err)
		return s.moved, nil
	}
	p := t.Partitions[a.Seed%uint64(len(t.Partitions))]
	to := int32(-1)
	for _, id := range s.all() {
		if !slices.Contains(p.Replicas, int32(id)) {
			to = int32(id)
		}
	}
	if to < 0 {
		return s.moved, nil
	}
	replicas := slices.Clone(p.Replicas)
	at := max(0, slices.Index(replicas, int32(a.Node)))
	replicas[at] = to
	results, err := s.admin.Admin().AlterPartitionReassignments(ctx, 0, client.Reassignment{
		TopicPartition: client.TopicPartition{Topic: load.Strict, Partition: p.Partition}, Replicas: replicas,
	})
	for _, r := range results {
		err = errors.Join(err, r.Err)
	}
	s.say("  %s-%d: replicas %v become %v: %v", load.Strict, p.Partition, p.Replicas, replicas, err)
	return s.moved, nil
}

// moved waits until no replicas are on their way.
func (s *storm) moved(ctx context.Context) error {
	return s.settle(ctx, "replicas are still being moved", func(ctx context.Context) error {
		under, err := s.admin.Admin().ListPartitionReassignments(ctx)
		if err == nil && len(under) > 0 {
			err = fmt.Errorf("%+v", under[0])
		}
		return err
	})
}

// settle asks until the answer is good.
func (s *storm) settle(ctx context.Context, what string, ask func(context.Context) error) error {
	for deadline := time.Now().Add(recoverWait); ; {
		asking, cancel := context.WithTimeout(ctx, commandWait)
		err := ask(asking)
		cancel()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %s %s: %w", recoverWait, what, err)
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// voters lists who votes in the metadata quorum.
func (s *storm) voters(ctx context.Context) (voters, others []int32, err error) {
	c, err := s.admin.Admin().Cluster(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, b := range c.Brokers {
		if b.Voter {
			voters = append(voters, b.NodeID)
		} else {
			others = append(others, b.NodeID)
		}
	}
	return voters, others, nil
}

// vote gives the vote of a node to one that has none.
func (s *storm) vote(ctx context.Context, a Action) (heal, error) {
	ctx, cancel := context.WithTimeout(ctx, commandWait)
	defer cancel()
	voters, others, err := s.voters(ctx)
	if err == nil && len(others) > 0 {
		_, err = s.admin.Admin().AddVoter(ctx, others[0])
		if err == nil && slices.Contains(voters, int32(a.Node)) {
			_, err = s.admin.Admin().RemoveVoter(ctx, int32(a.Node))
		}
	}
	s.say("  the vote goes from node %d to %v: %v", a.Node, others, err)
	return s.voted, nil
}

// voted sees that there are three voters again, as many as the run began with.
func (s *storm) voted(ctx context.Context) error {
	return s.settle(ctx, "there are not three voters", func(ctx context.Context) error {
		voters, others, err := s.voters(ctx)
		switch {
		case err != nil:
			return err
		case len(voters) > voterCount:
			_, err = s.admin.Admin().RemoveVoter(ctx, voters[0])
		case len(voters) < voterCount && len(others) > 0:
			_, err = s.admin.Admin().AddVoter(ctx, others[0])
		default:
			return nil
		}
		return errors.Join(err, fmt.Errorf("%v vote", voters))
	})
}

// replace gives the disk of a killed node up. If that is refused, because what is on it
// may be the only copy, the node comes back with it.
func (s *storm) replace(ctx context.Context, a Action) (heal, error) {
	if err := s.lab.Kill(a.Node); err != nil {
		return nothing, err
	}
	startAgain := func(context.Context) error { return s.start(a.Node) }
	if elsewhere := s.damagedElsewhere(a.Node); elsewhere != "" {
		s.say("  not replaced: its copy may be the only whole one, for %s is damaged", elsewhere)
		return startAgain, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*commandWait)
	defer cancel()
	var err error
	for ctx.Err() == nil { // it is refused until the cluster knows that the broker is down
		if _, err = s.admin.Admin().ReplaceBroker(ctx, int32(a.Node), false); err == nil {
			break
		}
		_ = sleep(ctx, 500*time.Millisecond) // the loop ends with ctx
	}
	s.say("  the disk of node %d is given up: %v", a.Node, err)
	if err != nil {
		return startAgain, nil // refused in good order: it may be needed
	}
	s.forget(a.Node)
	return startAgain, os.RemoveAll(s.lab.DataDir(a.Node))
}
