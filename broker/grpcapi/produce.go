package grpcapi

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// Producer appends records.
type Producer interface {
	// Produce appends what it accepts before it returns; it takes over the
	// references to the batches. Refusals are in the results. It may wait for
	// memory, and then ctx ends the wait.
	Produce(ctx context.Context, req *api.ProduceRequest) *api.Pending
	InitProducer(ctx context.Context) (id int64, epoch int16, err error)
}

const (
	defaultProduceTimeout = 30 * time.Second
	maxProduceTimeout     = 10 * time.Minute
	// produceWindow is how many requests of one stream may await their answer.
	produceWindow = 256
)

type produceService struct{ door *PublicDoor }

func (s *produceService) Produce(ctx context.Context, in *wire.Produce) (*pb.ProduceResponse, error) {
	req, err := s.request(in)
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	results, err := s.door.services.Producer.Produce(ctx, req).Wait(ctx)
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return s.response(ctx, in.GetCorrelationId(), results), nil
}

func (s *produceService) InitProducer(ctx context.Context, _ *pb.InitProducerRequest) (*pb.InitProducerResponse, error) {
	id, epoch, err := s.door.services.Producer.InitProducer(ctx)
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return &pb.InitProducerResponse{ProducerId: id, ProducerEpoch: int32(epoch)}, nil
}

// answer is a request of a stream that awaits its answer.
type answer struct {
	correlation uint64
	pending     *api.Pending
}

// ProduceStream is described in the package comment.
func (s *produceService) ProduceStream(stream grpc.BidiStreamingServer[wire.Produce, pb.ProduceResponse]) error {
	appended := func(ctx context.Context, in *wire.Produce) (answer, error) {
		req, err := s.request(in)
		if err != nil {
			return answer{}, err
		}
		return answer{in.GetCorrelationId(), s.door.services.Producer.Produce(ctx, req)}, nil
	}
	return pipelined(stream.Context(), s.door.services.Cluster, produceWindow, stream.Recv, appended, func(ctx context.Context, queue <-chan answer) error {
		return s.sendAnswers(ctx, stream, queue)
	})
}

func (s *produceService) sendAnswers(ctx context.Context, stream grpc.BidiStreamingServer[wire.Produce, pb.ProduceResponse], queue <-chan answer) error {
	timer := time.NewTimer(maxProduceTimeout)
	defer timer.Stop()
	for a := range queue {
		results, err := a.pending.WaitTimer(ctx, timer)
		if err != nil {
			return statusError(ctx, err, s.door.services.Cluster)
		}
		if err := stream.Send(s.response(ctx, a.correlation, results)); err != nil {
			return err
		}
	}
	return nil
}

// request checks the shape of a message and takes over its batches; on an error
// it has released them.
func (s *produceService) request(in *wire.Produce) (*api.ProduceRequest, error) {
	batches := in.Batches
	in.Batches = nil
	req, err := s.requestOf(in, batches)
	if err != nil {
		for _, b := range batches {
			b.Release()
		}
		return nil, err
	}
	return req, nil
}

func (s *produceService) requestOf(in *wire.Produce, batches []*record.Buf) (*api.ProduceRequest, error) {
	acks, err := acksIn(in.GetAcks())
	if err != nil {
		return nil, err
	}
	timeout := min(time.Duration(in.GetTimeoutMs())*time.Millisecond, maxProduceTimeout)
	if timeout == 0 {
		timeout = defaultProduceTimeout
	}
	req := newRequest(len(in.GetPartitions()))
	req.Acks, req.Timeout = acks, timeout
	rest := batches
	for i, p := range in.GetPartitions() {
		ref, err := refIn(p.GetTopicId(), p.GetTopic(), p.GetPartition())
		if err != nil {
			return nil, err
		}
		n := int(p.GetBatchCount())
		switch {
		case n > len(rest):
			return nil, api.Errorf(api.CodeInvalidArgument, "partition entry %d announces %d batches, but only %d are left in the message", i, n, len(rest)).At(p.GetTopic(), p.GetPartition())
		case n > 0 && len(p.GetRecords()) > 0:
			return nil, api.Errorf(api.CodeInvalidArgument, "an entry holds batches or records, not both").At(p.GetTopic(), p.GetPartition())
		case n == 0 && len(p.GetRecords()) == 0:
			return nil, api.Errorf(api.CodeInvalidArgument, "an entry holds neither batches nor records").At(p.GetTopic(), p.GetPartition())
		}
		req.Partitions[i] = api.ProducePartition{PartitionRef: ref, Batches: rest[:n:n]}
		rest = rest[n:]
	}
	if len(rest) > 0 {
		return nil, api.Errorf(api.CodeInvalidArgument, "%d of %d batches belong to no partition entry", len(rest), len(batches))
	}
	// Encoding comes last: nothing after it can fail and leave its bufs behind.
	for i, p := range in.GetPartitions() {
		if len(p.GetRecords()) == 0 {
			continue
		}
		buf, err := encode(p.GetRecords(), p.GetCompression(), s.door.services.Now())
		if err != nil {
			return nil, err.At(p.GetTopic(), p.GetPartition())
		}
		req.Partitions[i].Batches = []*record.Buf{buf}
	}
	return req, nil
}

// newRequest makes a request of n partitions; the common one takes one allocation.
func newRequest(n int) *api.ProduceRequest {
	if n != 1 {
		return &api.ProduceRequest{Partitions: make([]api.ProducePartition, n)}
	}
	one := &struct {
		req  api.ProduceRequest
		part [1]api.ProducePartition
	}{}
	one.req.Partitions = one.part[:]
	return &one.req
}

// newResponse makes an answer with n results; likewise.
func newResponse(n int) (*pb.ProduceResponse, []pb.ProducePartitionResult) {
	if n != 1 {
		return &pb.ProduceResponse{Results: make([]*pb.ProducePartitionResult, n)}, make([]pb.ProducePartitionResult, n)
	}
	one := &struct {
		resp   pb.ProduceResponse
		list   [1]*pb.ProducePartitionResult
		values [1]pb.ProducePartitionResult
	}{}
	one.resp.Results = one.list[:]
	return &one.resp, one.values[:]
}

func (s *produceService) response(ctx context.Context, correlation uint64, results []api.ProduceResult) *pb.ProduceResponse {
	out, values := newResponse(len(results))
	out.CorrelationId = correlation
	for i := range results {
		r, v := &results[i], &values[i]
		v.Topic, v.Partition = r.Topic, r.Partition
		if !r.TopicID.IsZero() {
			v.TopicId = r.TopicID[:]
		}
		v.BaseOffset, v.LogAppendTimeMs, v.LogStartOffset = int64(r.BaseOffset), r.LogAppendTime, int64(r.LogStartOffset)
		v.Error = errorOut(ctx, r.Err, s.door.services.Cluster)
		out.Results[i] = v
	}
	return out
}

func acksIn(a pb.Acks) (api.Acks, error) {
	switch a {
	case pb.Acks_ACKS_UNSPECIFIED, pb.Acks_ACKS_ALL:
		return api.AcksAll, nil
	case pb.Acks_ACKS_LEADER:
		return api.AcksLeader, nil
	case pb.Acks_ACKS_NONE:
		return api.AcksNone, nil
	default:
		return 0, api.Errorf(api.CodeInvalidArgument, "acks %d is none of ACKS_ALL, ACKS_LEADER, ACKS_NONE", a)
	}
}

// refIn checks the two ways to name a partition.
func refIn(id []byte, topic string, partition int32) (api.PartitionRef, error) {
	ref := api.PartitionRef{TopicID: api.TopicIDFrom(id), Topic: topic, Partition: partition}
	if len(id) != 0 && len(id) != len(ref.TopicID) {
		return ref, api.Errorf(api.CodeInvalidArgument, "a topic id has %d bytes, not %d", len(ref.TopicID), len(id))
	}
	if ref.TopicID.IsZero() && topic == "" {
		return ref, api.Errorf(api.CodeInvalidTopic, "neither a topic nor a topic id is given")
	}
	return ref, nil
}
