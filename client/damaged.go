package client

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// DamagedReplica is a replica whose log is damaged, or what is kept of an earlier one.
type DamagedReplica struct {
	TopicPartition
	NodeID int32
	// Kept is the folder of a copy that is no replica any more, on that node; empty: this is a replica.
	Kept string
	// Leads: nobody could take over yet. The partition takes no records.
	Leads  bool
	Damage string
	// WholeTo is the first offset that cannot be read, End where the log ends.
	WholeTo, End int64
	// CanGiveUp: GiveUpDamaged is what would get the partition going again.
	CanGiveUp bool
}

// Damaged lists damaged replicas, and what is kept of earlier ones, as the brokers know
// them. A broker that does not answer is named in the error, beside what the others said.
func (a *Admin) Damaged(ctx context.Context) ([]DamagedReplica, error) {
	cluster, err := a.describeCluster(ctx)
	if err != nil {
		return nil, err
	}
	return a.damagedOn(ctx, cluster.Brokers)
}

// damagedOn asks all brokers that are alive at once. One of an earlier release knows nothing.
func (a *Admin) damagedOn(ctx context.Context, brokers []Broker) ([]DamagedReplica, error) {
	found, errs := make([][]DamagedReplica, len(brokers)), make([]error, len(brokers))
	var wg sync.WaitGroup
	for i, b := range brokers {
		if b.Fenced || b.Address == "" {
			continue
		}
		wg.Go(func() {
			err := a.c.call(ctx, b.Address, func(ctx context.Context, conn *grpc.ClientConn) error {
				resp, err := pb.NewAdminServiceClient(conn).ListDamaged(ctx, &pb.ListDamagedRequest{})
				for _, r := range resp.GetReplicas() {
					found[i] = append(found[i], DamagedReplica{
						TopicPartition: TopicPartition{r.GetTopic(), r.GetPartition()}, NodeID: b.NodeID, Kept: r.GetKept(),
						Leads: r.GetLeads(), Damage: r.GetDamage(), WholeTo: r.GetWholeTo(), End: r.GetLogEndOffset(), CanGiveUp: r.GetCanGiveUp(),
					})
				}
				return err
			})
			if CodeOf(err) != CodeUnsupported {
				errs[i] = err
			}
		})
	}
	wg.Wait()
	out := slices.Concat(found...)
	slices.SortStableFunc(out, func(x, y DamagedReplica) int {
		return cmp.Or(cmp.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition), cmp.Compare(x.NodeID, y.NodeID), cmp.Compare(x.Kept, y.Kept))
	})
	return out, errors.Join(errs...)
}

// damagedWait bounds how long Cluster waits for brokers that are slow to tell.
const damagedWait = time.Second

// damagedLeaders are the partitions whose leader is damaged, of brokers that answer soon.
func (a *Admin) damagedLeaders(ctx context.Context, brokers []Broker) []DamagedReplica {
	ctx, cancel := context.WithTimeout(ctx, damagedWait)
	defer cancel()
	all, _ := a.damagedOn(ctx, brokers) // one that hangs is fenced soon, which shows
	return slices.DeleteFunc(all, func(r DamagedReplica) bool { return !r.Leads })
}

// GiveUpDamaged lets a partition go on whose last holder is damaged: the best copy of all
// leads, as far as it is whole, and the records behind are lost. The files of the damaged
// replica are kept. Of __consumer_offsets only batches that cannot be read are lost, and the same
// replica leads on. It is refused while a replica is there that holds everything, or one is away.
// partitionEpoch is the state of the partition for which it is meant, from DescribeTopic; -1: whichever.
func (a *Admin) GiveUpDamaged(ctx context.Context, tp TopicPartition, partitionEpoch int32) error {
	ctx, cancel := a.c.patient(ctx)
	defer cancel()
	t, err := a.DescribeTopic(ctx, tp.Topic)
	if err != nil {
		return err
	}
	if tp.Partition < 0 || int(tp.Partition) >= len(t.Partitions) {
		return unknownPartition(tp, len(t.Partitions))
	}
	cluster, err := a.describeCluster(ctx)
	if err != nil {
		return err
	}
	leader := t.Partitions[tp.Partition].Leader
	i := slices.IndexFunc(cluster.Brokers, func(b Broker) bool { return b.NodeID == leader && b.Address != "" })
	if i < 0 {
		return leaderless(tp)
	}
	req := &pb.GiveUpDamagedRequest{Topic: tp.Topic, Partition: tp.Partition}
	if partitionEpoch >= 0 {
		req.PartitionEpoch = &partitionEpoch
	}
	err = a.c.call(ctx, cluster.Brokers[i].Address, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewAdminServiceClient(conn).GiveUpDamaged(ctx, req)
		return err
	})
	a.c.meta.refresh()
	return err
}
