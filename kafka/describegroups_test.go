package kafka

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// assigning is a group whose target assignment is older than its epoch.
type assigning struct{ stub }

func (assigning) DescribeGroup(context.Context, string) (*api.GroupDescription, error) {
	return &api.GroupDescription{Type: api.GroupTypeConsumer, State: "assigning", Epoch: 7, AssignmentEpoch: 6}, nil
}

func TestAGroupHasTwoEpochs(t *testing.T) {
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	req.Groups = []string{"g"}
	services := stubServices(stub{})
	services.GroupAdmin = assigning{}
	resp, err := consumerGroupDescribe(t.Context(), &Door{services: services}, &call{stats: &stats{}}, req)
	require.NoError(t, err)
	require.Equal(t, int32(7), resp.Groups[0].Epoch)
	require.Equal(t, int32(6), resp.Groups[0].AssignmentEpoch)
}
