package broker

import (
	"errors"
	"slices"
	"sync/atomic"

	"github.com/penstock/penstock/cluster"
	"github.com/penstock/penstock/cluster/metadata"
)

// departed is a replica that a reassignment took away: it is out of service, and its data
// is still there.
//
// The image that says so may be an old one. The partition may have come back here since,
// and its leader, which knows, have counted what this replica acknowledged in the meantime: to
// delete it now would take a copy from under the in-sync set. So the replica ends first, and
// then the metadata is asked. Whatever was counted of it is shown by an image as new as that;
// what comes later cannot be of this replica.
type departed struct {
	l *localReplica
	// asOf is the index of an image that holds all that was committed when the replica had
	// ended; 0: not known yet.
	asOf atomic.Uint64
}

// depart takes in replicas that have ended.
func (r *reconciler) depart(moved []*localReplica) {
	if len(moved) == 0 {
		return
	}
	batch := make([]*departed, len(moved))
	for i, l := range moved {
		batch[i] = &departed{l: l}
	}
	r.departed = append(r.departed, batch...)
	r.proposals.Go(func() { r.ask(batch) })
}

// ask is a goroutine of the reconciler, which waits for it.
func (r *reconciler) ask(batch []*departed) {
	err := r.b.cfg.Images.ReadBarrier(r.proposing)
	if err != nil && !errors.Is(err, cluster.ErrCannotAsk) {
		return // the broker stops: its next process finds the data
	}
	index := r.b.cfg.Images.Image().Index()
	for _, d := range batch {
		d.asOf.Store(index)
	}
	r.b.reconcileSoon()
}

// leave returns the departed replicas whose data is to go now. One that is placed here again
// is closed, and adopt opens it.
func (r *reconciler) leave(im *metadata.Image) (gone []*localReplica) {
	var deleted []*localReplica
	r.departed = slices.DeleteFunc(r.departed, func(d *departed) bool {
		l := d.l
		switch FateOf(im, l.key, r.b.cfg.NodeID, l.log.LastEpoch(), false) {
		case FateDelete:
			deleted = append(deleted, l)
		case FateSetAside:
			r.b.setAside(l)
		case FateMoved:
			asOf := d.asOf.Load()
			if asOf == 0 || im.Index() < asOf {
				return false
			}
			gone = append(gone, l)
		case FateStay:
			t := im.TopicByID(metadata.ID(l.key.Topic))
			if int(l.partition) >= len(t.Partitions) || t.Partitions[l.partition].Replica(r.b.cfg.NodeID) == nil {
				return false // until the partition is well elsewhere
			}
			r.takeBack(l)
		}
		return true
	})
	r.removeDeleted(deleted)
	return gone
}

// takeBack closes the log of a replica that is placed here again.
func (r *reconciler) takeBack(l *localReplica) {
	if l.failedLog() || l.hurt.Load() { // as retire does
		r.expect(l)
	}
	err := l.log.Close()
	l.logger.Info("the replica is placed here again before its data was removed: it goes on with that", "error", err)
}
