package kafka

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// committing answers every commit with err, or each offset with each.
type committing struct {
	failing
	err, each *api.Error
}

func (c committing) CommitOffsets(_ context.Context, req *api.CommitOffsets) ([]api.CommittedOffset, error) {
	if c.err != nil {
		return nil, c.err
	}
	results := make([]api.CommittedOffset, len(req.Offsets))
	for i := range results {
		results[i].TopicPartition, results[i].Err = req.Offsets[i].TopicPartition, c.each
	}
	return results, nil
}

// A commit that may be sent again is answered with a word that clients of Kafka wait
// for, and not with one that they give up at.
func TestCommitThatMayBeSentAgain(t *testing.T) {
	busy := api.Errorf(api.CodeOverloaded, "too many wait")
	req := kmsg.NewPtrOffsetCommitRequest()
	topic := kmsg.NewOffsetCommitRequestTopic()
	topic.Topic, topic.Partitions = "t", []kmsg.OffsetCommitRequestTopicPartition{kmsg.NewOffsetCommitRequestTopicPartition()}
	req.Topics = append(req.Topics, topic)
	for name, c := range map[string]struct {
		offsets committing
		want    int16
	}{
		"stored":      {committing{}, 0},
		"busy":        {committing{err: busy}, kerr.CoordinatorLoadInProgress.Code},
		"busy of one": {committing{each: busy}, kerr.CoordinatorLoadInProgress.Code},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := offsetCommit(t.Context(), &Door{services: Services{Offsets: c.offsets}}, &call{stats: &stats{}, version: 8}, req)
			require.NoError(t, err)
			require.Equal(t, c.want, resp.Topics[0].Partitions[0].ErrorCode)
		})
	}
}

// Clients act by the code of a commit, so it is Kafka's in the same case.
func TestCommitCodes(t *testing.T) {
	for name, c := range map[string]struct {
		err        api.Code
		generation int32
		member     string
		version    int16
		want       *kerr.Error
	}{
		"not known whether written":               {err: api.CodeRequestTimedOut, generation: 1, member: "m", version: 8, want: kerr.CoordinatorNotAvailable},
		"metadata that is too long":               {err: api.CodeOffsetMetadataTooLarge, generation: 1, member: "m", version: 9, want: kerr.OffsetMetadataTooLarge},
		"from outside, into a group with members": {err: api.CodeGroupNotEmpty, generation: -1, version: 9, want: kerr.UnknownMemberID},
		"in a generation, by nobody":              {generation: 1, version: 8, want: kerr.UnknownMemberID},
		"an older member epoch":                   {err: api.CodeStaleMemberEpoch, generation: 1, member: "m", version: 9, want: kerr.StaleMemberEpoch},
		"a member epoch never given":              {err: api.CodeFencedMemberEpoch, generation: 1, member: "m", version: 9, want: kerr.StaleMemberEpoch},
		"a member epoch in an older version":      {err: api.CodeStaleMemberEpoch, generation: 1, member: "m", version: 8, want: kerr.UnsupportedVersion},
		"an older generation":                     {err: api.CodeIllegalGeneration, generation: 1, member: "m", version: 8, want: kerr.IllegalGeneration},
	} {
		t.Run(name, func(t *testing.T) {
			req := kmsg.NewPtrOffsetCommitRequest()
			req.Generation, req.MemberID = c.generation, c.member
			topic := kmsg.NewOffsetCommitRequestTopic()
			topic.Topic, topic.Partitions = "t", []kmsg.OffsetCommitRequestTopicPartition{kmsg.NewOffsetCommitRequestTopicPartition()}
			req.Topics = append(req.Topics, topic)
			offsets := committing{}
			if c.err != api.CodeNone {
				offsets.err = api.Errorf(c.err, "")
			}
			resp, err := offsetCommit(t.Context(), &Door{services: Services{Offsets: offsets}}, &call{stats: &stats{}, version: c.version}, req)
			require.NoError(t, err)
			require.Equal(t, c.want.Code, resp.Topics[0].Partitions[0].ErrorCode)
		})
	}
}

// fetching notes what it is asked for.
type fetching struct {
	failing
	asked *api.FetchOffsets
}

func (f *fetching) FetchOffsets(_ context.Context, req *api.FetchOffsets) ([]api.CommittedOffset, error) {
	f.asked = req
	return nil, nil
}

// A member that says who it is is checked (version 9); a tool and an older client,
// who cannot, are not.
func TestOffsetFetchNamesItsMember(t *testing.T) {
	for name, c := range map[string]struct {
		version int16
		member  *string
		epoch   int32
		want    bool
	}{
		"a member":                   {9, new("m"), 3, true},
		"a member without an epoch":  {9, new("m"), -1, true},
		"an epoch of nobody":         {9, nil, 3, true},
		"a tool":                     {9, nil, -1, false},
		"before members could do so": {8, nil, -1, false},
	} {
		t.Run(name, func(t *testing.T) {
			req := kmsg.NewPtrOffsetFetchRequest()
			group := kmsg.NewOffsetFetchRequestGroup()
			group.Group, group.MemberID, group.MemberEpoch = "g", c.member, c.epoch
			req.Groups = append(req.Groups, group)
			f := &fetching{}
			_, err := offsetFetch(t.Context(), &Door{services: Services{Offsets: f}}, &call{stats: &stats{}, version: c.version}, req)
			require.NoError(t, err)
			require.Equal(t, c.want, f.asked.ByMember)
			if c.want {
				require.Equal(t, value(c.member), f.asked.MemberID)
				require.Equal(t, c.epoch, f.asked.MemberEpoch)
			}
		})
	}
}
