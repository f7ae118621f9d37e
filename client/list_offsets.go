package client

import (
	"context"
	"time"

	"google.golang.org/grpc"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// listOffsets looks up out[i] for each i in todo, one call a leader, and returns
// those that are to be tried again.
func (c *Client) listOffsets(ctx context.Context, where Offset, out []FoundOffset, todo []int) (again []int) {
	byLeader := map[string][]int{}
	snap := c.meta.snapshot()
	for _, i := range todo {
		address := snap.leader(out[i].TopicPartition)
		if address == "" {
			out[i].Err = leaderless(out[i].TopicPartition)
			again = append(again, i)
			continue
		}
		byLeader[address] = append(byLeader[address], i)
	}
	for address, indexes := range byLeader {
		again = append(again, c.listOffsetsAt(ctx, snap, address, where, out, indexes)...)
	}
	return again
}

func leaderless(tp TopicPartition) *Error {
	return &Error{Code: CodeLeaderNotAvailable, Message: "the partition has no leader", Topic: tp.Topic, Partition: tp.Partition, Retriable: true}
}

func (c *Client) listOffsetsAt(ctx context.Context, snap *snapshot, address string, where Offset, out []FoundOffset, indexes []int) (again []int) {
	req := &pb.ListOffsetsRequest{}
	for _, i := range indexes {
		p := &pb.ListOffsetsPartition{Topic: out[i].Topic, Partition: out[i].Partition}
		if epoch := snap.epoch(out[i].TopicPartition); epoch >= 0 {
			p.LeaderEpoch = &epoch
		}
		switch where.kind {
		case offsetEarliest:
			p.Query = pb.OffsetQuery_OFFSET_QUERY_EARLIEST
		case offsetTime:
			p.Query, p.TimestampMs = pb.OffsetQuery_OFFSET_QUERY_TIMESTAMP, where.value
		case offsetLatest, offsetExact, offsetNone:
			p.Query = pb.OffsetQuery_OFFSET_QUERY_LATEST
		}
		req.Partitions = append(req.Partitions, p)
	}
	var resp *pb.ListOffsetsResponse
	err := c.call(ctx, address, func(ctx context.Context, conn *grpc.ClientConn) error {
		var err error
		resp, err = pb.NewFetchServiceClient(conn).ListOffsets(ctx, req)
		return err
	})
	if err == nil && len(resp.GetResults()) != len(indexes) {
		err = &Error{Code: CodeUnknown, Message: "the broker answered for another number of partitions", Partition: -1, Broker: address}
	}
	for k, i := range indexes {
		if err != nil {
			out[i].Err = err
			if IsRetriable(err) || ctx.Err() != nil { // the caller says that ctx ended
				again = append(again, i)
			}
			continue
		}
		r := resp.GetResults()[k]
		out[i].Err, out[i].Offset, out[i].LeaderEpoch = nil, r.GetOffset(), r.GetLeaderEpoch()
		if ms := r.GetTimestampMs(); ms >= 0 && where.kind == offsetTime && r.GetOffset() >= 0 {
			out[i].Timestamp = time.UnixMilli(ms)
		}
		e := fromPB(r.GetError(), address)
		if newest := c.meta.snapshot().epoch(out[i].TopicPartition); e == nil && r.GetLeaderEpoch() >= 0 && r.GetLeaderEpoch() < newest {
			e = &Error{
				Code: CodeFencedLeaderEpoch, Message: "the answer is of a leader that was replaced", Topic: out[i].Topic,
				Partition: out[i].Partition, Broker: address, Retriable: true,
			}
		}
		if e != nil {
			out[i].Err, out[i].Offset = e, -1
			c.meta.hint(out[i].TopicPartition, e.leader)
			if e.Retriable {
				again = append(again, i)
			}
		}
	}
	return again
}
