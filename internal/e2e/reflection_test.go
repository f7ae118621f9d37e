package e2e

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/penstock/penstock/internal/chaos"
)

// reflected calls a server by what its reflection service tells, as grpcurl does.
type reflected struct {
	t        *testing.T
	conn     *grpc.ClientConn
	services []string
	files    *protoregistry.Files
}

func reflectOn(t *testing.T, address string) *reflected {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	require.NoError(t, err)
	ask := func(req *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		require.NoError(t, stream.Send(req))
		resp, err := stream.Recv()
		require.NoError(t, err)
		require.Nil(t, resp.GetErrorResponse())
		return resp
	}

	r := &reflected{t: t, conn: conn}
	set := map[string]*descriptorpb.FileDescriptorProto{}
	list := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	for _, s := range list.GetListServicesResponse().GetService() {
		r.services = append(r.services, s.GetName())
		found := ask(&reflectionpb.ServerReflectionRequest{
			MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: s.GetName()},
		})
		for _, b := range found.GetFileDescriptorResponse().GetFileDescriptorProto() {
			file := &descriptorpb.FileDescriptorProto{}
			require.NoError(t, proto.Unmarshal(b, file))
			set[file.GetName()] = file
		}
	}
	files := &descriptorpb.FileDescriptorSet{}
	for _, file := range set {
		files.File = append(files.File, file)
	}
	r.files, err = protodesc.NewFiles(files)
	require.NoError(t, err)
	return r
}

// call makes a unary call with a request in JSON and returns the answer likewise.
func (r *reflected) call(service, method, request string) string {
	r.t.Helper()
	found, err := r.files.FindDescriptorByName(protoreflect.FullName(service))
	require.NoError(r.t, err)
	desc := found.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(method))
	require.NotNil(r.t, desc, "%s has no method %s", service, method)
	in, out := dynamicpb.NewMessage(desc.Input()), dynamicpb.NewMessage(desc.Output())
	require.NoError(r.t, protojson.Unmarshal([]byte(request), in))
	require.NoError(r.t, r.conn.Invoke(r.t.Context(), "/"+service+"/"+method, in, out))
	b, err := protojson.Marshal(out)
	require.NoError(r.t, err)
	return string(b)
}

func TestReflection(t *testing.T) {
	w := start(t, chaos.Options{Nodes: 1, Config: []string{"offsets.topic.replication.factor: 1"}})
	r := reflectOn(t, w.nodes.Addr(1))
	require.ElementsMatch(t, []string{
		"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
		"penstock.v1.AdminService", "penstock.v1.FetchService", "penstock.v1.GroupService", "penstock.v1.ProduceService",
	}, r.services, "the services of the public listener, the internal one not among them")

	r.call("penstock.v1.AdminService", "CreateTopic", `{"name": "greetings", "partitions": 1}`)
	w.waitHealthy()
	produced := r.call("penstock.v1.ProduceService", "Produce",
		`{"partitions": [{"topic": "greetings", "compression": "COMPRESSION_ZSTD", "records": [{"key": "aw==", "value": "aGVsbG8=", "timestampMs": 7, "headers": [{"key": "h", "value": "AA=="}]}, {}]}]}`)
	require.NotContains(t, produced, `"error"`)
	fetched := r.call("penstock.v1.FetchService", "Fetch", `{"structured": true, "partitions": [{"topic": "greetings"}]}`)
	answer := &struct {
		Results []struct {
			HighWatermark string
			Records       []struct {
				Offset, TimestampMs string
				Key, Value          *string
				Headers             []struct{ Key, Value string }
			}
		}
	}{}
	require.NoError(t, json.Unmarshal([]byte(fetched), answer))
	require.Len(t, answer.Results, 1)
	got := answer.Results[0]
	require.Equal(t, "2", got.HighWatermark)
	require.Len(t, got.Records, 2)
	require.Equal(t, "aw==", *got.Records[0].Key)
	require.Equal(t, "aGVsbG8=", *got.Records[0].Value)
	require.Equal(t, "7", got.Records[0].TimestampMs)
	require.Equal(t, "h", got.Records[0].Headers[0].Key)
	require.Equal(t, "1", got.Records[1].Offset)
	require.Nil(t, got.Records[1].Key, "no key")
	require.Nil(t, got.Records[1].Value, "a tombstone")
}
