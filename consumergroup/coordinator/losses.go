package coordinator

import (
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// A partition of __consumer_offsets whose log was damaged in its last copy goes on with
// placeholders where batches could not be read (record.BuildPlaceholder). What was in them
// nobody knows: commits of some groups, and what some groups had decided.
//
// An offset of which an older record is left is told as that has it: the group processes some
// records again. Of one whose only record is lost, as is the rule where the log was compacted, nothing
// is left, and "nothing is committed" would have a consumer with auto.offset.reset=latest skip
// what it has not processed. So that is not said, of no group of the partition, for as long
// as a lost offset would be kept if its group had no members: a group that was
// there before has committed by then, was reset, or has lost nothing that it would still have.
// Until then the answer is CodeCoordinatorNotAvailable and what to do.
//
// What groups had decided and is lost they decide again. Members that a record is missing
// of are unknown and join anew; records that contradict each other the machine sorts out
// (consumergroup.Restore), for a partition stays with one of those who claim it.

// losses says what a log is known to lack.
type losses struct {
	placeholders int
	offsets      int64 // of the log, that they stand for
	latest       int64 // ms; when the last was written
}

// note takes in a placeholder.
func (l *losses) note(info *record.BatchInfo) {
	l.placeholders++
	l.offsets += int64(info.LastDelta) + 1
	l.latest = max(l.latest, info.MaxTimestamp)
}

// incomplete is until when a shard does not say that nothing is committed.
type incomplete struct {
	since time.Time    // belongs to the actor; zero: nothing is missing
	until atomic.Int64 // ms; 0: nothing is missing
}

// noteLosses takes in what a load has found.
func (s *shard) noteLosses(now time.Time, l *losses) {
	s.missing.since = time.Time{}
	s.missing.until.Store(0)
	if l.placeholders == 0 {
		return
	}
	since := time.UnixMilli(l.latest)
	until := since.Add(s.cfg.OffsetsRetention)
	if !now.Before(until) {
		return
	}
	s.missing.since = since
	s.missing.until.Store(until.UnixMilli())
	s.logger.Error("records of groups were given up as damaged: offsets that are known may be older than what was committed, and that none is committed is not said",
		"places", l.placeholders, "log_offsets", l.offsets, "given_up", since, "until", until)
}

// incomplete reports whether records may be missing that would count.
func (s *shard) incomplete(now time.Time) bool { return now.UnixMilli() < s.missing.until.Load() }

// mayBeLost refuses to say that nothing is committed where that may have been lost.
func (s *shard) mayBeLost(now time.Time, req *api.FetchOffsets, found []api.CommittedOffset) error {
	if len(req.Partitions) == 0 || !s.incomplete(now) {
		return nil // who asks for all there is gets all there is
	}
	for i := range found {
		if found[i].Offset < 0 {
			return api.Errorf(api.CodeCoordinatorNotAvailable,
				"whether group %q has committed an offset of %s-%d is not known: records of partition %d of __consumer_offsets were given up as damaged at %s; "+
					"stop its members and say where to go on (penstock group reset %s --topic %s --to 'shift 0' keeps what is known, and begins at the log start elsewhere)",
				req.Group, found[i].Topic, found[i].Partition, s.partition, s.missing.since.UTC().Format(time.RFC3339), req.Group, found[i].Topic)
		}
	}
	return nil
}

// unknownGroup says that there is no group of a name, as far as is known.
func (s *shard) unknownGroup(group string) *api.Error {
	if s.incomplete(time.Now()) {
		return api.Errorf(api.CodeUnknownGroup, "there is no group %q, or nothing is left of it: records of partition %d of __consumer_offsets were given up as damaged at %s",
			group, s.partition, s.missing.since.UTC().Format(time.RFC3339))
	}
	return api.Errorf(api.CodeUnknownGroup, "there is no group %q", group)
}

// Incomplete counts the partitions coordinated here of which records were given up that
// would still count.
func (c *Coordinator) Incomplete() (n int) {
	now := time.Now()
	for _, s := range c.loaded() {
		if s.incomplete(now) {
			n++
		}
	}
	return n
}
