package client

import (
	"context"
	"errors"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// OffsetMove is what a reset does to one partition of a group.
type OffsetMove struct {
	TopicPartition
	Before int64 // what is committed; -1: nothing
	After  int64
	// Clamped: what was asked for is not in the log; After is the nearest that is.
	Clamped bool
	Err     error // of this partition; it stays where it was
}

// PlanReset finds where a reset of a group's offsets goes, and changes nothing.
// AtTime past the last record means the end; an offset outside the log is
// brought to its nearest end. It is refused, with CodeGroupNotEmpty, while the
// group has members.
func (a *Admin) PlanReset(ctx context.Context, group string, to Offset, parts ...TopicPartition) ([]OffsetMove, error) {
	ctx, cancel := a.c.patient(ctx)
	defer cancel()
	found, err := a.resolve(ctx, to, parts)
	if err != nil {
		return nil, err
	}
	moves := make([]OffsetMove, len(found))
	for i, f := range found {
		moves[i] = OffsetMove{TopicPartition: f.TopicPartition, After: f.Offset}
	}
	return a.plan(ctx, group, moves)
}

// PlanShift is PlanReset by a number of records, forward or back, from what is
// committed; where nothing is, from the beginning of the log.
func (a *Admin) PlanShift(ctx context.Context, group string, by int64, parts ...TopicPartition) ([]OffsetMove, error) {
	ctx, cancel := a.c.patient(ctx)
	defer cancel()
	// All that is committed: to be asked for one that is not there, a coordinator that has lost
	// records does not answer.
	known, err := a.CommittedOffsets(ctx, group)
	if err != nil {
		return nil, err
	}
	committed := make([]CommittedOffset, len(parts))
	place := make(map[TopicPartition]int, len(parts))
	for i, tp := range parts {
		committed[i], place[tp] = CommittedOffset{TopicPartition: tp, Offset: -1}, i
	}
	for _, o := range known {
		if i, ok := place[o.TopicPartition]; ok {
			committed[i] = o
		}
	}
	starts, err := a.ListOffsets(ctx, Earliest(), parts...)
	if err != nil {
		return nil, err
	}
	begin := make(map[TopicPartition]FoundOffset, len(starts))
	for _, f := range starts {
		begin[f.TopicPartition] = f
	}
	moves := make([]OffsetMove, len(committed))
	for i, o := range committed {
		from := o.Offset
		if f := begin[o.TopicPartition]; from < 0 {
			o.Err, from = errors.Join(o.Err, f.Err), f.Offset
		}
		if o.Err != nil {
			return nil, o.Err
		}
		moves[i] = OffsetMove{TopicPartition: o.TopicPartition, After: from + by}
	}
	return a.plan(ctx, group, moves)
}

// PlanOffsets is PlanReset to the After of each move.
func (a *Admin) PlanOffsets(ctx context.Context, group string, moves []OffsetMove) ([]OffsetMove, error) {
	ctx, cancel := a.c.patient(ctx)
	defer cancel()
	return a.plan(ctx, group, moves)
}

// plan brings the moves into the logs, and asks the coordinator what it says.
func (a *Admin) plan(ctx context.Context, group string, moves []OffsetMove) ([]OffsetMove, error) {
	parts := make([]TopicPartition, len(moves))
	for i := range moves {
		parts[i] = moves[i].TopicPartition
	}
	var bounds [2][]FoundOffset
	for i, where := range []Offset{Earliest(), Latest()} {
		var err error
		if bounds[i], err = a.ListOffsets(ctx, where, parts...); err != nil {
			return nil, err
		}
	}
	out := make([]OffsetMove, len(moves))
	for i, m := range moves {
		low, high := bounds[0][i], bounds[1][i]
		switch {
		case low.Err != nil:
			return nil, low.Err
		case high.Err != nil:
			return nil, high.Err
		}
		after := min(max(m.After, low.Offset), high.Offset)
		out[i] = OffsetMove{TopicPartition: m.TopicPartition, Before: -1, After: after, Clamped: after != m.After}
	}
	return out, a.reset(ctx, group, out, true)
}

// ApplyReset moves the offsets of a group that has no members as planned.
func (a *Admin) ApplyReset(ctx context.Context, group string, moves []OffsetMove) ([]OffsetMove, error) {
	ctx, cancel := a.c.patient(ctx)
	defer cancel()
	out := make([]OffsetMove, len(moves))
	copy(out, moves)
	return out, a.reset(ctx, group, out, false)
}

func (a *Admin) reset(ctx context.Context, group string, moves []OffsetMove, dryRun bool) error {
	req := &pb.ResetOffsetsRequest{Group: group, DryRun: dryRun}
	for i := range moves {
		req.Offsets = append(req.Offsets, &pb.OffsetCommit{Topic: moves[i].Topic, Partition: moves[i].Partition, Offset: moves[i].After, LeaderEpoch: -1})
	}
	return a.c.atCoordinator(ctx, group, func(ctx context.Context, s pb.GroupServiceClient) error {
		resp, err := s.ResetOffsets(ctx, req)
		if err != nil {
			return err
		}
		for i, r := range resp.GetResults() {
			if i >= len(moves) {
				break
			}
			moves[i].Before, moves[i].After, moves[i].Err = r.GetBefore(), r.GetAfter(), nil
			if e := fromPB(r.GetError(), ""); e != nil {
				moves[i].Err = e
			}
		}
		return nil
	})
}
