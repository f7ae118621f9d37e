package wire_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// What the .proto files declare is served: a method that is left out here is answered
// like one of a later release.
func TestEveryMethodIsRegistered(t *testing.T) {
	s := grpc.NewServer()
	defer s.Stop()
	impl := &services{}
	wire.RegisterProduce(s, impl)
	wire.RegisterFetch(s, impl)
	wire.RegisterCluster(s, impl)
	served := s.GetServiceInfo()
	for _, declared := range []*grpc.ServiceDesc{&pb.ProduceService_ServiceDesc, &pb.FetchService_ServiceDesc, &pb.ClusterService_ServiceDesc} {
		var want, got []string
		for _, m := range declared.Methods {
			want = append(want, m.MethodName)
		}
		for _, m := range declared.Streams {
			want = append(want, m.StreamName)
		}
		for _, m := range served[declared.ServiceName].Methods {
			got = append(got, m.Name)
		}
		require.ElementsMatch(t, want, got, declared.ServiceName)
	}
}
