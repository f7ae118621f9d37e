package broker

import (
	"github.com/penstock/penstock/broker/api"
)

// What a partition of __consumer_offsets gives up is less than others do (giveup.go): only what
// nobody can read. Its records are of many groups, and those behind the damage are the newest
// commits; without them groups would go on from older offsets, or, since the topic is
// compacted, from none. Placeholders take the places of the batches that cannot be read
// (commitlog.Log.GiveUpBatches), the same replica leads on, and others copy past the place.
// No election is lost, so nobody has to be there for it. What may be missing the
// coordinator reads off the placeholders, and does not pass for what never was.

// givesUpBatches reports whether the damaged log of this replica can go on without its bad
// batches alone.
func (l *localReplica) givesUpBatches() bool {
	return l.internal && l.topic == offsetsTopic && endIsWhole(l.log)
}

// giveUpBatches writes the placeholders. The log is whole then; that the metadata hears of it
// and the replica takes records again is up to the reconciler.
func (l *localReplica) giveUpBatches() error {
	given, err := l.log.GiveUpBatches()
	if err != nil {
		return api.Errorf(api.CodeStorageFailed, "the bad batches cannot be given up: %w", err).At(l.topic, l.partition)
	}
	for _, g := range given {
		l.logger.Error("records of consumer groups were given up by an operator's order: what was committed there is lost", "from", g.From, "to", g.Next, "bytes", g.Bytes)
	}
	return nil
}
