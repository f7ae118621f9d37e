package kafka

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// An unclean election is refused where a client looks for the reason: at the partitions
// that it named. Where it named none, there is only the code.
func TestUncleanElections(t *testing.T) {
	elect := func(topics []kmsg.ElectLeadersRequestTopic) *kmsg.ElectLeadersResponse {
		req := kmsg.NewPtrElectLeadersRequest()
		req.ElectionType, req.Topics = 1, topics
		resp, err := electLeaders(t.Context(), &Door{services: stubServices(stub{})}, &call{version: 2, stats: &stats{}}, req)
		require.NoError(t, err)
		return resp
	}
	named := elect([]kmsg.ElectLeadersRequestTopic{{Topic: "t", Partitions: []int32{0, 3}}})
	require.Zero(t, named.ErrorCode)
	require.Len(t, named.Topics, 1)
	require.Len(t, named.Topics[0].Partitions, 2)
	for i, p := range named.Topics[0].Partitions {
		require.Equal(t, []int32{0, 3}[i], p.Partition)
		require.Equal(t, kerr.InvalidRequest, kerr.ErrorForCode(p.ErrorCode))
		require.Contains(t, *p.ErrorMessage, "penstock topic elect --unclean")
	}
	all := elect(nil)
	require.Equal(t, kerr.InvalidRequest, kerr.ErrorForCode(all.ErrorCode))
	require.Empty(t, all.Topics)
}
