package client

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// DeletedRecords is the answer of DeleteRecords for one partition.
type DeletedRecords struct {
	TopicPartition
	// LowWatermark: no replica that may lead keeps anything below it; -1: unknown.
	LowWatermark int64
	Err          error
}

// DeleteRecords lets each partition keep nothing before an offset: At, Latest
// (everything that is committed now), or AtTime (what is older; everything when no
// record is as young). It returns when every in-sync replica has done so; answers
// are in the order of parts, each with an error of its own. Deleting again, or
// what is gone already, does no harm.
func (a *Admin) DeleteRecords(ctx context.Context, before Offset, parts ...TopicPartition) ([]DeletedRecords, error) {
	if before.kind == offsetEarliest {
		return nil, &ConfigError{Faults: []string{"DeleteRecords takes At, Latest or AtTime; before the earliest record there is nothing"}}
	}
	ctx, cancel := a.c.patient(ctx)
	defer cancel()
	if err := a.c.checkPartitions(ctx, parts); err != nil {
		return nil, err
	}
	// Latest is looked up once: a retry must not delete what came meanwhile.
	offsets, err := a.resolve(ctx, before, parts)
	if err != nil {
		return nil, err
	}
	out := make([]DeletedRecords, len(parts))
	todo := make([]int, len(parts))
	for i := range parts {
		out[i].TopicPartition, todo[i] = parts[i], i
	}
	for n := 1; ; n++ {
		todo = a.c.deleteRecords(ctx, offsets, out, todo)
		if len(todo) == 0 {
			return out, nil
		}
		a.c.meta.refresh()
		if err := sleep(ctx, a.c.backoff(n)); err != nil {
			return out, errors.Join(out[todo[0]].Err, err)
		}
	}
}

// deleteRecords asks for out[i] for each i in todo, one call a leader, and returns
// those that are to be tried again.
func (c *Client) deleteRecords(ctx context.Context, before []FoundOffset, out []DeletedRecords, todo []int) (again []int) {
	byLeader := map[string][]int{}
	snap := c.meta.snapshot()
	for _, i := range todo {
		address := snap.leader(out[i].TopicPartition)
		if address == "" {
			out[i].LowWatermark, out[i].Err = -1, leaderless(out[i].TopicPartition)
			again = append(again, i)
			continue
		}
		byLeader[address] = append(byLeader[address], i)
	}
	for address, indexes := range byLeader {
		again = append(again, c.deleteRecordsAt(ctx, address, before, out, indexes)...)
	}
	return again
}

func (c *Client) deleteRecordsAt(ctx context.Context, address string, before []FoundOffset, out []DeletedRecords, indexes []int) (again []int) {
	// The broker's answer that it took too long says more than none.
	req := &pb.DeleteRecordsRequest{TimeoutMs: uint32(max(c.cfg.requestTimeout*9/10, 1).Milliseconds())}
	for _, i := range indexes {
		req.Partitions = append(req.Partitions, &pb.DeleteRecordsPartition{
			Topic: out[i].Topic, Partition: out[i].Partition, BeforeOffset: before[i].Offset,
		})
	}
	var resp *pb.DeleteRecordsResponse
	err := c.call(ctx, address, func(ctx context.Context, conn *grpc.ClientConn) error {
		var err error
		resp, err = pb.NewAdminServiceClient(conn).DeleteRecords(ctx, req)
		return err
	})
	if err == nil && len(resp.GetResults()) != len(indexes) {
		err = &Error{Code: CodeUnknown, Message: "the broker answered for another number of partitions", Partition: -1, Broker: address}
	}
	for k, i := range indexes {
		if err != nil {
			out[i].LowWatermark, out[i].Err = -1, err
			if IsRetriable(err) {
				again = append(again, i)
			}
			continue
		}
		r := resp.GetResults()[k]
		out[i].LowWatermark, out[i].Err = r.GetLowWatermark(), nil
		if e := fromPB(r.GetError(), address); e != nil {
			out[i].LowWatermark, out[i].Err = -1, e
			c.meta.hint(out[i].TopicPartition, e.leader)
			if e.Retriable {
				again = append(again, i)
			}
		}
	}
	return again
}
