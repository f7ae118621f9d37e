package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/cluster"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/log/record"
)

// A leader that was replaced, and has not heard of it, is one in good faith until its
// session ends. What it lets be read is committed and right. What it has not is another
// matter: its log may end before that of the newer leader, and begin later, for it removes
// old segments by its own clock. A consumer that is told by it that an offset is not in
// the log begins anew somewhere else, and reads everything twice or leaves records out. So
// nobody is told before the metadata log, as it was after the question came, names this
// broker as the leader. ListOffsets is answered at once, and may be old: docs/KAFKA.md.

const (
	// judgeWait is how long a request waits for the metadata at least, though it would
	// not wait for records, and judgeWaitMost how long at the most.
	judgeWait     = time.Second
	judgeWaitMost = 3 * time.Second
)

// settle answers a fetch that would send a client elsewhere. It waits as long as the
// client would for records, holding none.
func (b *Broker) settle(ctx context.Context, req *api.FetchRequest, results []api.FetchResult) ([]api.FetchResult, error) {
	releaseResults(results)
	asked := b.askMetadata(ctx, req.MaxWait)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.read(req, results, asked)
	return results, nil
}

// askMetadata brings the image up to what was committed when it was called, and reports
// whether that succeeded in time. Who waits costs nothing but a place: all of them share
// what is asked.
func (b *Broker) askMetadata(ctx context.Context, wait time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, min(max(wait, judgeWait), judgeWaitMost))
	var ending sync.WaitGroup
	defer ending.Wait()
	defer cancel()
	ending.Go(func() {
		select {
		case <-b.stopping: // a stopping broker keeps nobody waiting
			cancel()
		case <-ctx.Done():
		}
	})
	err := b.cfg.Images.ReadBarrier(ctx)
	// A controller of an earlier release cannot be asked: while the cluster is being
	// upgraded things are as they were.
	return err == nil || errors.Is(err, cluster.ErrCannotAsk)
}

// mayJudge says why a replica must not say, by what it held as leader of an epoch, what is
// not in the log; nil: it may. doubt: it must not only because nobody was asked since the
// request came.
func (b *Broker) mayJudge(l *localReplica, epoch record.Epoch, asked bool) (doubt bool, err *api.Error) {
	if !asked {
		return true, api.Errorf(api.CodeOffsetNotAvailable,
			"the log does not hold this, but the broker may have been replaced as the leader: the controller has not confirmed it since the request came").At(l.topic, l.partition)
	}
	t := b.cfg.Images.Image().TopicByID(metadata.ID(l.key.Topic))
	if t != nil && int(l.partition) < len(t.Partitions) {
		if p := t.Partitions[l.partition]; p.Leader == b.cfg.NodeID && record.Epoch(p.LeaderEpoch) == epoch {
			return false, nil
		}
	}
	return false, b.whyNot(api.PartitionRef{TopicID: l.key.Topic, Topic: l.topic, Partition: l.partition})
}
