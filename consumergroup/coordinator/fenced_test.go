package coordinator

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/broker/api"
)

// A heartbeat of the past is refused: what it lists would be taken for what the member has
// now. One that goes on in an older epoch because the answer was lost is taken, if it says
// what the member owns.
func TestConsumerHeartbeatsOfThePast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		p := &poller{b: b, id: "p"}
		require.NoError(t, p.beat(t, true))
		first, other := p.epoch, &poller{b: b, id: "other"}
		says := func(ctx context.Context, epoch int32, owned []api.OwnedPartition) (*api.ConsumerHeartbeatResult, error) {
			return b.c.ConsumerHeartbeat(ctx, &api.ConsumerHeartbeat{
				Group: "g", MemberID: "p", MemberEpoch: epoch, RebalanceTimeout: -1, HasOwned: owned != nil, Owned: owned,
			})
		}

		// It gives two up for another member, and the answer that says so in a new epoch is lost.
		require.NoError(t, other.beat(t, true))
		told, err := says(t.Context(), first, p.owned)
		require.NoError(t, err)
		kept := told.Assignment
		require.Len(t, kept, 2)
		require.Equal(t, first, told.MemberEpoch)
		lost, err := says(t.Context(), first, kept)
		require.NoError(t, err)
		require.Greater(t, lost.MemberEpoch, first)
		_, err = says(t.Context(), first, nil)
		wantCode(t, err, api.CodeFencedMemberEpoch)
		require.ErrorContains(t, err, "does not say what the member owns")
		again, err := says(t.Context(), first, kept)
		require.NoError(t, err)
		require.Equal(t, lost.MemberEpoch, again.MemberEpoch)

		// Once it has spoken in the new epoch, the older one is of the past, whatever it lists.
		second := lost.MemberEpoch
		_, err = says(t.Context(), second, nil)
		require.NoError(t, err)
		for _, owned := range [][]api.OwnedPartition{nil, kept, kept[:1], {}} {
			_, err = says(t.Context(), first, owned)
			wantCode(t, err, api.CodeFencedMemberEpoch)
		}
		_, err = says(t.Context(), second+1, kept)
		wantCode(t, err, api.CodeFencedMemberEpoch)

		// Another subscription begins a session anew, which remembers that.
		subscribes := func(epoch int32) error {
			_, err := b.c.ConsumerHeartbeat(t.Context(), &api.ConsumerHeartbeat{
				Group: "g", MemberID: "p", MemberEpoch: epoch, RebalanceTimeout: 60_000, HasTopics: true, Topics: []string{"a", "b"}, HasOwned: true, Owned: kept,
			})
			return err
		}
		wantCode(t, subscribes(first), api.CodeFencedMemberEpoch)
		require.NoError(t, subscribes(second))
		_, err = says(t.Context(), first, kept)
		wantCode(t, err, api.CodeFencedMemberEpoch)
		_, err = says(t.Context(), second, kept)
		require.NoError(t, err, "the member lost nothing by what was refused")
		b.close()
	})
}
