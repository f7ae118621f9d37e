package sim

import "reflect"

// Counts says what a run went through: the faults, and what followed from them.
type Counts struct {
	Acked, Read                                                                                int
	Kills, PowerCuts, AllDown, Pauses, Cuts, OneWayCuts                                        int
	FullDisks, RefusedFull, PausedFull                                                         int
	LostPages, TornTails, Behind                                                               int
	CleanStops, FailedFlushes, HungFlushes, Stalls, SlowDisks                                  int
	LostBytes, LyingDisks, FoundDamage, TwoDisks, FailedResigns, Reports                       int
	GivenUp                                                                                    int
	ClockSteps, SlowLinks, LateImages                                                          int
	LastWords, FrozenLinks, LeaderSeries, LeaderMoves, Cascades, Reassignments, Moved, Dropped int
	Deletions, DeletedAway, DeletedMoving, RemovedLater, Recreated, RefusedDeletions           int
	ControllerChanges, LeaderFlaps, MinISRChanges                                              int
	DroppedMessages, RepeatedMessages, StalledMessages                                         int
	Overtaken, Replays, SkippedImages, Snapshots                                               int
	LateCommands, RepeatedCommands                                                             int
	Retained, Trimmed, BegunAnew, OutOfRange                                                   int
	Truncations, Rebuilds                                                                      int
	ISRChanges, UnknownISR, StaleISR                                                           int
	ELRElections, LastISRElections, RestartElections                                           int
	LossyElections, BestCopyElections, LostUnseen, Compared                                    int
	Duplicates, OutOfOrder, Failovers, Superseded                                              int
	TimedOut, Suspensions                                                                      int
	// RefusedTruncations must not happen where no records may be lost; replicas of
	// the others are found by their absence from the in-sync set.
	RefusedTruncations int
}

// Add sums the counts field by field.
func (c *Counts) Add(o *Counts) {
	v, u := reflect.ValueOf(c).Elem(), reflect.ValueOf(o).Elem()
	for i := range v.NumField() {
		v.Field(i).SetInt(v.Field(i).Int() + u.Field(i).Int())
	}
}

// Missing names what happened less often than least.
func (c *Counts) Missing(least int) []string {
	var out []string
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if v.Field(i).Int() < int64(least) && name != "RefusedTruncations" {
			out = append(out, name)
		}
	}
	return out
}
