package coordinator

import (
	"context"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// ResetOffsets moves committed offsets of a group without members, and returns
// where each partition stood and stands. CodeGroupNotEmpty: members would go on
// from where they are, and commit that. A dry run checks all that a reset checks
// and changes nothing. A group that does not exist gets offsets.
func (c *Coordinator) ResetOffsets(ctx context.Context, groupID string, offsets []api.OffsetCommit, dryRun bool) ([]api.ResetOffset, error) {
	s, err := c.shardOf(groupID)
	if err != nil {
		return nil, err
	}
	return call(ctx, s, func(reply func([]api.ResetOffset, error)) {
		s.emit(func(err error) {
			if err != nil {
				reply(nil, errLoading())
				return
			}
			s.reset(groupID, offsets, dryRun, reply)
		})
	})
}

// reset runs when everything that was decided before is committed, so that it
// reads what it replaces.
func (s *shard) reset(groupID string, offsets []api.OffsetCommit, dryRun bool, reply func([]api.ResetOffset, error)) {
	req := api.CommitOffsets{Group: groupID, Offsets: offsets}
	g := s.groups[groupID]
	if err := commitAllowed(g, &req); err != nil {
		reply(nil, err)
		return
	}
	results := make([]api.ResetOffset, len(offsets))
	for i := range offsets {
		tp := offsets[i].TopicPartition
		results[i] = api.ResetOffset{TopicPartition: tp, Before: record.UnknownOffset, After: offsets[i].Offset}
		if g != nil {
			if c, ok := g.offsets[tp]; ok {
				results[i].Before = c.offset
			}
		}
		if dryRun {
			_, refused := s.checkOffset(g, &req, &offsets[i])
			failReset(&results[i], refused)
		}
	}
	if dryRun {
		reply(results, nil)
		return
	}
	s.commit(&commit{req: req, reply: func(committed []api.CommittedOffset, err error) {
		for i := range committed {
			failReset(&results[i], committed[i].Err)
		}
		reply(results, err)
	}})
}

func failReset(r *api.ResetOffset, err *api.Error) {
	if err != nil {
		r.Err, r.After = err.At(r.Topic, r.Partition), r.Before
	}
}
