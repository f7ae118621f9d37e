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

// Fetcher reads records.
type Fetcher interface {
	// Fetch waits for records as the request says. Errors of partitions are in
	// the results; an error means that ctx ended.
	Fetch(ctx context.Context, req *api.FetchRequest) ([]api.FetchResult, error)
	ListOffsets(ctx context.Context, queries []api.ListOffset) ([]api.ListOffsetResult, error)
	// MemoryShort says that fetches wait for what other readers hold.
	MemoryShort() bool
}

const (
	defaultFetchBytes     = 50 << 20
	defaultPartitionBytes = 1 << 20
	maxFetchWait          = 5 * time.Minute
	// fetchWindow is how many requests of a stream are kept behind the one that is
	// answered; one more may have been read.
	fetchWindow = 2
)

type fetchService struct{ door *PublicDoor }

func (s *fetchService) Fetch(ctx context.Context, in *pb.FetchRequest) (*wire.Fetched, error) {
	d := s.door.deliveries.begin(ctx)
	defer s.door.deliveries.end(d)
	req, err := fetchIn(in)
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	return s.fetch(ctx, in, req, d)
}

// fetch answers a request, whose other form is req.
func (s *fetchService) fetch(ctx context.Context, in *pb.FetchRequest, req *api.FetchRequest, d *delivery) (*wire.Fetched, error) {
	var results []api.FetchResult
	var records [][]*pb.Record
	var err error
	if in.GetStructured() {
		results, records, err = s.fetchRecords(ctx, req)
	} else {
		results, err = s.door.services.Fetcher.Fetch(ctx, req)
	}
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	out := s.response(ctx, in, results, records)
	out.Delivery = &d.Delivery
	return out, nil
}

// fetchRecords fetches for a client that sees records, not batches. It could not
// get past batches of which compaction has left no record, so they are passed over
// here. Other clients do that themselves.
func (s *fetchService) fetchRecords(ctx context.Context, req *api.FetchRequest) ([]api.FetchResult, [][]*pb.Record, error) {
	for {
		results, err := s.door.services.Fetcher.Fetch(ctx, req)
		if err != nil {
			return nil, nil, err
		}
		records := make([][]*pb.Record, len(results))
		answer, passed := false, false
		for i := range results {
			var skipped bool
			if records[i], skipped, err = s.firstRecords(ctx, req, i, &results[i]); err != nil {
				releaseResults(results)
				return nil, nil, err
			}
			answer = answer || len(records[i]) > 0 || results[i].Err != nil
			passed = passed || skipped
		}
		if answer || !passed {
			return results, records, nil
		}
		releaseResults(results) // wait for what comes behind
	}
}

// firstRecords decodes the result of a partition, and while that holds batches but
// no records, fetches what follows, without waiting.
func (s *fetchService) firstRecords(ctx context.Context, req *api.FetchRequest, i int, r *api.FetchResult) (records []*pb.Record, passed bool, err error) {
	p := &req.Partitions[i]
	for r.Err == nil && len(r.Batches) > 0 {
		var damage *api.Error
		if records, damage = decode(r.Batches, p.Offset); damage != nil {
			r.Err = damage
			break
		}
		if len(records) > 0 {
			break
		}
		p.Offset, passed = max(p.Offset, endOf(r.Batches)), true
		r.Release()
		next, err := s.door.services.Fetcher.Fetch(ctx, &api.FetchRequest{
			MinBytes: 1, MaxBytes: req.MaxBytes, Partitions: req.Partitions[i : i+1],
		})
		if err != nil {
			return nil, passed, err
		}
		*r = next[0]
	}
	return records, passed, nil
}

// endOf is the offset after the last batch, of batches that were decoded.
func endOf(runs []record.Slice) record.Offset {
	end := record.Offset(0)
	for rest := runs[len(runs)-1].Bytes; len(rest) > 0; {
		info, ok := record.Peek(rest)
		if !ok {
			break
		}
		end, rest = info.NextOffset(), rest[min(info.Size, len(rest)):]
	}
	return end
}

func releaseResults(results []api.FetchResult) {
	for i := range results {
		results[i].Release()
	}
}

// fetchTurn is a request of a stream that awaits its turn.
type fetchTurn struct {
	in  *pb.FetchRequest
	req *api.FetchRequest
}

// FetchStream is described in the package comment.
func (s *fetchService) FetchStream(stream grpc.BidiStreamingServer[pb.FetchRequest, wire.Fetched]) error {
	d := s.door.deliveries.begin(stream.Context())
	defer s.door.deliveries.end(d)
	return pipelined(stream.Context(), s.door.services.Cluster, fetchWindow, stream.Recv, fetchTurns(), func(ctx context.Context, queue <-chan fetchTurn) error {
		return s.sendFetched(ctx, stream, queue, d)
	})
}

// fetchTurns makes the turns of a stream. All requests between two that end waits share a
// channel, which the second one closes: however late their turn comes, they do not wait any
// more.
func fetchTurns() func(context.Context, *pb.FetchRequest) (fetchTurn, error) {
	ended := make(chan struct{})
	return func(_ context.Context, in *pb.FetchRequest) (fetchTurn, error) {
		req, err := fetchIn(in)
		if err != nil {
			return fetchTurn{}, err
		}
		if in.GetEndsWaits() {
			close(ended)
			ended = make(chan struct{})
		}
		req.Ended = ended
		return fetchTurn{in, req}, nil
	}
}

// sendFetched answers what is queued, in order.
func (s *fetchService) sendFetched(ctx context.Context, stream grpc.BidiStreamingServer[pb.FetchRequest, wire.Fetched], queue <-chan fetchTurn, d *delivery) error {
	for turn := range queue {
		out, err := s.fetch(ctx, turn.in, turn.req, d)
		if err != nil {
			return err
		}
		err = stream.Send(out)
		out.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *fetchService) ListOffsets(ctx context.Context, in *pb.ListOffsetsRequest) (*pb.ListOffsetsResponse, error) {
	queries := make([]api.ListOffset, len(in.GetPartitions()))
	for i, p := range in.GetPartitions() {
		ref, err := refIn(nil, p.GetTopic(), p.GetPartition())
		if err != nil {
			return nil, statusError(ctx, err, s.door.services.Cluster)
		}
		queries[i] = api.ListOffset{
			PartitionRef: ref, Timestamp: p.GetTimestampMs(),
			CurrentEpoch: record.Epoch(p.GetLeaderEpoch()), Checked: p.LeaderEpoch != nil,
		}
		switch p.GetQuery() {
		case pb.OffsetQuery_OFFSET_QUERY_EARLIEST:
			queries[i].Query = api.QueryEarliest
		case pb.OffsetQuery_OFFSET_QUERY_LATEST:
			queries[i].Query = api.QueryLatest
		case pb.OffsetQuery_OFFSET_QUERY_TIMESTAMP:
			queries[i].Query = api.QueryTimestamp
		case pb.OffsetQuery_OFFSET_QUERY_UNSPECIFIED:
			fallthrough
		default:
			e := api.Errorf(api.CodeInvalidArgument, "query %d is none of EARLIEST, LATEST, TIMESTAMP", p.GetQuery())
			return nil, statusError(ctx, e.At(p.GetTopic(), p.GetPartition()), s.door.services.Cluster)
		}
	}
	results, err := s.door.services.Fetcher.ListOffsets(ctx, queries)
	if err != nil {
		return nil, statusError(ctx, err, s.door.services.Cluster)
	}
	out := &pb.ListOffsetsResponse{Results: make([]*pb.ListOffsetsResult, len(results))}
	for i := range results {
		r := &results[i]
		out.Results[i] = &pb.ListOffsetsResult{
			Topic: r.Topic, Partition: r.Partition, Error: errorOut(ctx, r.Err, s.door.services.Cluster),
			Offset: int64(r.Offset), TimestampMs: r.Timestamp, LeaderEpoch: int32(r.LeaderEpoch),
		}
	}
	return out, nil
}

func fetchIn(in *pb.FetchRequest) (*api.FetchRequest, error) {
	req := &api.FetchRequest{
		MaxWait:    min(time.Duration(in.GetMaxWaitMs())*time.Millisecond, maxFetchWait),
		MinBytes:   max(int(in.GetMinBytes()), 1),
		MaxBytes:   min(int(in.GetMaxBytes()), defaultFetchBytes),
		Partitions: make([]api.FetchPartition, len(in.GetPartitions())),
	}
	if req.MaxBytes == 0 {
		req.MaxBytes = defaultFetchBytes
	}
	for i, p := range in.GetPartitions() {
		ref, err := refIn(p.GetTopicId(), p.GetTopic(), p.GetPartition())
		if err != nil {
			return nil, err
		}
		fp := api.FetchPartition{
			PartitionRef: ref,
			Offset:       record.Offset(p.GetFetchOffset()),
			MaxBytes:     min(int(p.GetMaxBytes()), defaultFetchBytes),
			LeaderEpoch:  record.UnknownEpoch,
		}
		if fp.MaxBytes == 0 {
			fp.MaxBytes = defaultPartitionBytes
		}
		if p.LeaderEpoch != nil {
			fp.LeaderEpoch = record.Epoch(p.GetLeaderEpoch())
		}
		if p.LastEpoch != nil {
			fp.LastEpoch, fp.KnowsLast = record.Epoch(p.GetLastEpoch()), p.GetLastEpoch() >= 0
		}
		req.Partitions[i] = fp
	}
	return req, nil
}

// response moves the batches of results into the message, one batch a
// slice, or the records of a structured one, and releases them.
func (s *fetchService) response(ctx context.Context, in *pb.FetchRequest, results []api.FetchResult, records [][]*pb.Record) *wire.Fetched {
	out := &wire.Fetched{FetchResponse: &pb.FetchResponse{
		CorrelationId: in.GetCorrelationId(),
		Results:       make([]*pb.FetchPartitionResult, len(results)),
		EndsWaits:     true,
	}}
	values := make([]pb.FetchPartitionResult, len(results))
	for i := range results {
		r, v := &results[i], &values[i]
		v.Topic, v.Partition = r.Topic, r.Partition
		if !r.TopicID.IsZero() {
			v.TopicId = r.TopicID[:]
		}
		v.HighWatermark, v.LogStartOffset = int64(r.HighWatermark), int64(r.LogStartOffset)
		if in.GetStructured() {
			v.Records = records[i]
		} else if err := split(out, v, r.Batches); err != nil {
			r.Err = err
		}
		r.Release()
		v.Error = errorOut(ctx, r.Err, s.door.services.Cluster)
		if d := r.Diverging; d != nil {
			v.Diverging = &pb.EpochEnd{Epoch: int32(d.Epoch), EndOffset: int64(d.End)}
		}
		out.Results[i] = v
	}
	return out
}

// split appends the batches of runs to the message, each with a reference of its own.
func split(out *wire.Fetched, v *pb.FetchPartitionResult, runs []record.Slice) *api.Error {
	before := len(out.Batches)
	for _, run := range runs {
		var err error
		if out.Batches, err = record.Split(out.Batches, run); err != nil {
			for j := before; j < len(out.Batches); j++ {
				out.Batches[j].Release()
			}
			out.Batches = out.Batches[:before]
			return api.Errorf(api.CodeStorageFailed, "a stored batch cannot be read: %w", err)
		}
	}
	v.BatchCount = uint32(len(out.Batches) - before)
	return nil
}
