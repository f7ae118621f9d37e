package broker

import (
	"context"
	"sync"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/broker/replica"
	"github.com/penstock/penstock/cluster/metadata"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

const (
	// progressInterval is how often leaders tell coordinators how far they are.
	progressInterval = time.Second
	// progressChunk bounds the partitions of one message.
	progressChunk = 10_000
)

// coordinatorNode is a broker that coordinates groups, in one session of its:
// after a restart it knows nothing.
type coordinatorNode struct {
	node  int32
	epoch int64
}

// teller tells coordinators how far the partitions are that this broker leads.
type teller struct {
	b     *Broker
	told  map[replica.Key]api.PartitionProgress // as of the last turn
	knows map[coordinatorNode]bool              // who got everything that was told
}

// tellProgress runs until ctx ends.
func (b *Broker) tellProgress(ctx context.Context) {
	t := &teller{b: b, told: map[replica.Key]api.PartitionProgress{}, knows: map[coordinatorNode]bool{}}
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		t.turn(ctx)
	}
}

// turn tells every coordinator what changed, and a new one everything. One that
// does not answer within the interval gets everything at the next turn.
func (t *teller) turn(ctx context.Context) {
	im := t.b.cfg.Images.Image()
	nodes := coordinatorsOf(im)
	if len(nodes) == 0 || t.b.suspended.Load() {
		clear(t.knows)
		return
	}
	all, changed := t.look(im)
	ctx, cancel := context.WithTimeout(ctx, progressInterval)
	defer cancel()
	var (
		wg sync.WaitGroup
		mu sync.Mutex // guards knows
	)
	knows := make(map[coordinatorNode]bool, len(nodes))
	for _, node := range nodes {
		list := changed
		if !t.knows[node] {
			list = all
		}
		wg.Go(func() {
			if err := t.b.tellNode(ctx, node.node, list); err != nil {
				t.b.logger.Debug("progress not told", "broker", node.node, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			knows[node] = true
		})
	}
	wg.Wait()
	t.knows = knows
}

// look returns how far the partitions led here are, and those of them that moved
// since it was called last.
func (t *teller) look(im *metadata.Image) (all, changed []api.PartitionProgress) {
	told := make(map[replica.Key]api.PartitionProgress, len(t.told))
	for _, l := range t.b.table.all() {
		p, leads := l.progressNow()
		if topic := im.Topic(l.topic); !leads || topic == nil || topic.Internal {
			continue
		}
		told[l.key] = p
		all = append(all, p)
		if p != t.told[l.key] {
			changed = append(changed, p)
		}
	}
	t.told = told
	return all, changed
}

// progressNow returns how far the replica is; false: it does not lead, or does
// not know its watermark yet.
func (l *localReplica) progressNow() (api.PartitionProgress, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.state.Role() != partition.RoleLeader {
		return api.PartitionProgress{}, false
	}
	high, known := l.state.Latest()
	return api.PartitionProgress{
		TopicID: l.key.Topic, Partition: l.partition, LeaderEpoch: l.state.Epoch(), LogStart: l.log.Start(), HighWatermark: high,
	}, known
}

// coordinatorsOf returns the brokers that lead a partition of the offsets topic.
func coordinatorsOf(im *metadata.Image) []coordinatorNode {
	t := im.Topic(offsetsTopic)
	if t == nil {
		return nil
	}
	var nodes []coordinatorNode
	seen := map[int32]bool{}
	for _, p := range t.Partitions {
		if p.Leader == metadata.NoNode || seen[p.Leader] {
			continue
		}
		seen[p.Leader] = true
		if broker := im.Broker(p.Leader); broker != nil {
			nodes = append(nodes, coordinatorNode{p.Leader, broker.Epoch})
		}
	}
	return nodes
}

// tellNode sends list, in pieces; at least one, which says that this broker lives.
func (b *Broker) tellNode(ctx context.Context, node int32, list []api.PartitionProgress) error {
	if node == b.cfg.NodeID {
		b.Progress(node, list)
		return nil
	}
	conn, err := b.cfg.Dialer.Conn(ctx, node)
	if err != nil {
		return err
	}
	for {
		piece := list[:min(len(list), progressChunk)]
		list = list[len(piece):]
		req := &pb.ProgressRequest{NodeId: b.cfg.NodeID, Partitions: make([]*pb.PartitionProgress, len(piece))}
		for i := range piece {
			p := &piece[i]
			req.Partitions[i] = &pb.PartitionProgress{
				TopicId: p.TopicID[:], Partition: p.Partition, LeaderEpoch: int32(p.LeaderEpoch),
				LogStart: int64(p.LogStart), HighWatermark: int64(p.HighWatermark),
			}
		}
		if _, err := pb.NewClusterServiceClient(conn).Progress(ctx, req); err != nil || len(list) == 0 {
			return err
		}
	}
}

// Progress takes what the leaders on a node tell coordinators.
func (b *Broker) Progress(node int32, partitions []api.PartitionProgress) {
	b.coordinator.Progress(node, partitions)
}
