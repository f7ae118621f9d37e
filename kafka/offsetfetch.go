package kafka

import (
	"cmp"
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/broker/api"
)

// lookUps is how many groups of one request are looked up at a time: each may wait
// for the metadata, and those that wait together wait once.
const lookUps = 64

// eachGroup looks up n groups of a request.
func eachGroup(n int, look func(i int) error) error {
	var g errgroup.Group
	g.SetLimit(lookUps)
	for i := range n {
		g.Go(func() error { return look(i) })
	}
	return g.Wait()
}

func offsetFetch(ctx context.Context, d *Door, c *call, req *kmsg.OffsetFetchRequest) (*kmsg.OffsetFetchResponse, error) {
	resp := kmsg.NewPtrOffsetFetchResponse()
	if c.version >= 8 {
		groups := distinct(req.Groups, func(g *kmsg.OffsetFetchRequestGroup) string { return g.Group })
		resp.Groups = make([]kmsg.OffsetFetchResponseGroup, len(groups))
		return resp, eachGroup(len(groups), func(i int) error {
			resp.Groups[i] = d.groupOffsets(ctx, c, &groups[i])
			return nil
		})
	}
	group := kmsg.NewOffsetFetchRequestGroup()
	group.Group = req.Group
	if req.Topics != nil {
		group.Topics = []kmsg.OffsetFetchRequestGroupTopic{}
	}
	for _, t := range req.Topics {
		group.Topics = append(group.Topics, kmsg.OffsetFetchRequestGroupTopic{Topic: t.Topic, Partitions: t.Partitions})
	}
	out := d.groupOffsets(ctx, c, &group)
	resp.ErrorCode = out.ErrorCode
	if out.ErrorCode != 0 && c.version < 2 {
		out.Topics = everyPartition(&group, out.ErrorCode)
	}
	for _, t := range out.Topics {
		topic := kmsg.NewOffsetFetchResponseTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			topic.Partitions = append(topic.Partitions, kmsg.OffsetFetchResponseTopicPartition{
				Partition: p.Partition, Offset: p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: p.Metadata, ErrorCode: p.ErrorCode,
			})
		}
		resp.Topics = append(resp.Topics, topic)
	}
	return resp, nil
}

// groupOffsets are those of one group: of the partitions named, or all when the
// list of topics is null.
func (d *Door) groupOffsets(ctx context.Context, c *call, g *kmsg.OffsetFetchRequestGroup) kmsg.OffsetFetchResponseGroup {
	out := kmsg.NewOffsetFetchResponseGroup()
	out.Group = g.Group
	var wanted []api.TopicPartition
	for _, t := range g.Topics {
		for _, p := range t.Partitions {
			wanted = append(wanted, api.TopicPartition{Topic: t.Topic, Partition: p})
		}
	}
	if wanted = distinct(wanted, itself); g.Topics != nil && len(wanted) == 0 {
		return out
	}
	offsets, err := d.services.Offsets.FetchOffsets(ctx, &api.FetchOffsets{
		Group: g.Group, Partitions: wanted,
		ByMember: c.version >= 9 && (g.MemberID != nil || g.MemberEpoch >= 0), MemberID: value(g.MemberID), MemberEpoch: g.MemberEpoch,
	})
	if e := asError(err); e != nil {
		if e.Code == api.CodeCoordinatorNotAvailable || e.Code == api.CodeRequestTimedOut {
			// Many versions of Java's consumer end at that word here, and here alone. This one
			// has all of them find the coordinator again, and ask again.
			e = api.Errorf(api.CodeNotCoordinator, "%w", e)
		}
		out.ErrorCode = c.ofGroup(e)
		return out
	}
	if g.Topics == nil {
		slices.SortFunc(offsets, func(a, b api.CommittedOffset) int {
			return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
		})
	}
	for i := range offsets {
		o := &offsets[i]
		if n := len(out.Topics); n == 0 || out.Topics[n-1].Topic != o.Topic {
			t := kmsg.NewOffsetFetchResponseGroupTopic()
			t.Topic = o.Topic
			out.Topics = append(out.Topics, t)
		}
		p := kmsg.NewOffsetFetchResponseGroupTopicPartition()
		p.Partition, p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode = o.Partition, int64(o.Offset), int32(o.LeaderEpoch), &o.Metadata, c.ofGroup(o.Err)
		t := &out.Topics[len(out.Topics)-1]
		t.Partitions = append(t.Partitions, p)
	}
	return out
}

// everyPartition says an error in the oldest way, which has no place for it but
// the partitions.
func everyPartition(g *kmsg.OffsetFetchRequestGroup, code int16) []kmsg.OffsetFetchResponseGroupTopic {
	var out []kmsg.OffsetFetchResponseGroupTopic
	for _, t := range g.Topics {
		topic := kmsg.OffsetFetchResponseGroupTopic{Topic: t.Topic}
		for _, p := range t.Partitions {
			part := kmsg.NewOffsetFetchResponseGroupTopicPartition()
			part.Partition, part.Offset, part.LeaderEpoch, part.Metadata, part.ErrorCode = p, -1, -1, new(""), code
			topic.Partitions = append(topic.Partitions, part)
		}
		out = append(out, topic)
	}
	return out
}
