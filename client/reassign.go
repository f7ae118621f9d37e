package client

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// Reassignment gives a partition other replicas.
type Reassignment struct {
	TopicPartition
	// Replicas are all that it is to have; the first is the preferred leader.
	Replicas []int32
	// Cancel goes back to the replicas from before, and names none.
	Cancel bool
}

// PartitionResult is the outcome of a change for one partition.
type PartitionResult struct {
	TopicPartition
	Err error
}

// ReassignmentState is a reassignment under way.
type ReassignmentState struct {
	TopicPartition
	Leader                     int32 // node id; -1: none
	Replicas, Adding, Removing []int32
	Target, ISR                []int32
	Throttle                   int64 // bytes a second; 0: as the leader is configured
	// Progress has the added replicas, as the leader sees them; it is empty when
	// there is no leader or it did not answer.
	Progress []CatchUp
}

// CatchUp is how far a replica is behind its leader.
type CatchUp struct {
	NodeID        int32
	Offset        int64 // the next that it needs; -1: it has not called
	End           int64 // of the leader's log
	BytesBehind   int64 // of LogBytes, in proportion to the records
	RecordsBehind int64
	LogBytes      int64 // of the whole log
}

// AlterPartitionReassignments gives partitions other replicas, or takes that back,
// each on its own, and returns when it has begun: the new replicas catch up, then
// the old ones go. throttle is the bytes a second that a leader sends to the new
// replicas; 0: as the leader is configured. The results are in the order of the
// changes.
func (a *Admin) AlterPartitionReassignments(ctx context.Context, throttle int64, changes ...Reassignment) ([]PartitionResult, error) {
	req := &pb.AlterPartitionReassignmentsRequest{Throttle: throttle}
	for _, r := range changes {
		req.Partitions = append(req.Partitions, &pb.PartitionReassignment{Topic: r.Topic, Partition: r.Partition, Replicas: r.Replicas, Cancel: r.Cancel})
	}
	var out []PartitionResult
	err := a.change(ctx, func(ctx context.Context, s pb.AdminServiceClient) error {
		resp, err := s.AlterPartitionReassignments(ctx, req)
		out = resultsFrom(resp.GetResults())
		return err
	})
	return out, err
}

func resultsFrom(in []*pb.PartitionResult) []PartitionResult {
	out := make([]PartitionResult, len(in))
	for i, r := range in {
		out[i].TopicPartition = TopicPartition{r.GetTopic(), r.GetPartition()}
		if err := fromPB(r.GetError(), ""); err != nil {
			out[i].Err = err
		}
	}
	return out
}

// ListPartitionReassignments returns the reassignments under way, of the
// partitions named or of all, with the progress that their leaders tell.
func (a *Admin) ListPartitionReassignments(ctx context.Context, of ...TopicPartition) ([]ReassignmentState, error) {
	req := &pb.ListPartitionReassignmentsRequest{Partitions: partitionsOut(of)}
	resp, err := askAdmin(ctx, a.c, func(ctx context.Context, s pb.AdminServiceClient) (*pb.ListPartitionReassignmentsResponse, error) {
		return s.ListPartitionReassignments(ctx, req)
	})
	if err != nil {
		return nil, err
	}
	out := make([]ReassignmentState, len(resp.GetReassignments()))
	for i, r := range resp.GetReassignments() {
		out[i] = ReassignmentState{
			TopicPartition: TopicPartition{r.GetTopic(), r.GetPartition()}, Leader: r.GetLeader(), Replicas: r.GetReplicas(),
			Adding: r.GetAdding(), Removing: r.GetRemoving(), Target: r.GetTarget(), ISR: r.GetIsr(), Throttle: r.GetThrottle(),
			Progress: progressFrom(r.GetProgress()),
		}
	}
	return out, a.fillProgress(ctx, out)
}

func progressFrom(in []*pb.CatchUp) []CatchUp {
	var out []CatchUp
	for _, c := range in {
		out = append(out, CatchUp{
			NodeID: c.GetNodeId(), Offset: c.GetOffset(), End: c.GetLogEndOffset(),
			BytesBehind: c.GetBytesBehind(), RecordsBehind: c.GetRecordsBehind(), LogBytes: c.GetLogBytes(),
		})
	}
	return out
}

// fillProgress asks the leaders of those that have no progress yet. A leader that
// does not answer, or has just lost that role, leaves it empty.
func (a *Admin) fillProgress(ctx context.Context, list []ReassignmentState) error {
	byLeader := map[int32][]int{}
	for i := range list {
		if len(list[i].Progress) == 0 && len(list[i].Adding) > 0 && list[i].Leader >= 0 {
			byLeader[list[i].Leader] = append(byLeader[list[i].Leader], i)
		}
	}
	if len(byLeader) == 0 {
		return nil
	}
	cluster, err := a.describeCluster(ctx)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for _, b := range cluster.Brokers {
		if indexes := byLeader[b.NodeID]; len(indexes) > 0 && b.Address != "" {
			wg.Go(func() { a.progressAt(ctx, b.Address, list, indexes) })
		}
	}
	wg.Wait()
	return ctx.Err()
}

func (a *Admin) progressAt(ctx context.Context, address string, list []ReassignmentState, indexes []int) {
	req := &pb.ListPartitionReassignmentsRequest{}
	for _, i := range indexes {
		req.Partitions = append(req.Partitions, &pb.TopicPartition{Topic: list[i].Topic, Partition: list[i].Partition})
	}
	var resp *pb.ListPartitionReassignmentsResponse
	err := a.c.call(ctx, address, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = pb.NewAdminServiceClient(conn).ListPartitionReassignments(ctx, req)
		return err
	})
	if err != nil {
		return
	}
	found := map[TopicPartition][]CatchUp{}
	for _, r := range resp.GetReassignments() {
		found[TopicPartition{r.GetTopic(), r.GetPartition()}] = progressFrom(r.GetProgress())
	}
	for _, i := range indexes {
		list[i].Progress = found[list[i].TopicPartition]
	}
}

// PlannedMove is one partition of a plan.
type PlannedMove struct {
	TopicPartition
	From, To []int32 // node ids; the first is the preferred leader
}

func movesFrom(in []*pb.PlannedReassignment) []PlannedMove {
	out := make([]PlannedMove, len(in))
	for i, m := range in {
		out[i] = PlannedMove{TopicPartition{m.GetTopic(), m.GetPartition()}, m.GetFrom(), m.GetTo()}
	}
	return out
}

// Decommission says what is to become of a broker.
type Decommission struct {
	NodeID int32
	// Cancel lets the broker stay.
	Cancel bool
	// Throttle as in AlterPartitionReassignments.
	Throttle int64
	// DryRun plans and changes nothing.
	DryRun bool
}

// DecommissionBroker moves all replicas off a broker, or takes that back, and
// returns the plan when it has begun. Nothing new is placed on the broker. The
// cluster carries on by itself: the broker is empty when Cluster shows no replicas
// on it, and is forgotten when it then stops.
func (a *Admin) DecommissionBroker(ctx context.Context, d Decommission) ([]PlannedMove, error) {
	var out []PlannedMove
	err := a.change(ctx, func(ctx context.Context, s pb.AdminServiceClient) error {
		resp, err := s.DecommissionBroker(ctx, &pb.DecommissionBrokerRequest{
			NodeId: d.NodeID, Cancel: d.Cancel, Throttle: d.Throttle, DryRun: d.DryRun,
		})
		out = movesFrom(resp.GetMoves())
		return err
	})
	return out, err
}

// Rebalance says what is to be evened out.
type Rebalance struct {
	Topics []string // empty: all
	// Throttle as in AlterPartitionReassignments.
	Throttle int64
	// DryRun plans and changes nothing.
	DryRun bool
}

// Rebalance evens replicas and leaderships out over the brokers with few moves, and
// returns the plan when they have begun.
func (a *Admin) Rebalance(ctx context.Context, r Rebalance) ([]PlannedMove, error) {
	var out []PlannedMove
	err := a.change(ctx, func(ctx context.Context, s pb.AdminServiceClient) error {
		resp, err := s.Rebalance(ctx, &pb.RebalanceRequest{Topics: r.Topics, Throttle: r.Throttle, DryRun: r.DryRun})
		out = movesFrom(resp.GetMoves())
		return err
	})
	return out, err
}

// ElectPreferredLeaders lets the preferred leaders of partitions lead. The results
// are in the order of parts; CodeElectionNotNeeded says that one leads already.
func (a *Admin) ElectPreferredLeaders(ctx context.Context, parts ...TopicPartition) ([]PartitionResult, error) {
	var out []PartitionResult
	err := a.change(ctx, func(ctx context.Context, s pb.AdminServiceClient) error {
		resp, err := s.ElectLeaders(ctx, &pb.ElectLeadersRequest{Partitions: partitionsOut(parts)})
		out = resultsFrom(resp.GetResults())
		return err
	})
	return out, err
}
