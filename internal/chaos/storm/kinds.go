package storm

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Kind names a fault.
type Kind string

// The kinds.
const (
	Kill       Kind = "kill -9"
	KillAll    Kind = "kill -9 of all"
	Pause      Kind = "pause"     // SIGSTOP, SIGCONT
	Cut        Kind = "cut"       // a network cut: Direction, Ports, Reset, Partial
	PowerOne   Kind = "power cut" // what was not synced is gone
	PowerAll   Kind = "power cut of all"
	DiskFull   Kind = "full disk"        // Leave bytes are left
	DiskHang   Kind = "hung disk"        // writes and syncs do not return
	DiskDead   Kind = "dead disk"        // every call fails, and what was not synced is gone
	FsyncFails Kind = "failed fsync"     // syncs fail, later ones succeed; then the pages are gone
	FsyncSlow  Kind = "slow fsync"       // every sync takes longer
	FsyncHangs Kind = "hung fsync"       // syncs do not return for seconds, writes do
	FlipBits   Kind = "flipped bits"     // in segments of a stopped node
	Rolling    Kind = "rolling restart"  // SIGTERM, one node after the other
	Clock      Kind = "clock skew"       // the wall clock jumps
	Move       Kind = "moved replicas"   // a partition gets another replica
	Vote       Kind = "moved vote"       // of the metadata quorum
	Replace    Kind = "replaced disk"    // given up for an empty one
	Loss       Kind = "lost packets"     // Percent of them, at random
	Slow       Kind = "slow network"     // packets take Delay, and overtake each other
	TornRaft   Kind = "torn raft log"    // of a killed node, where nothing was synced
	BadRaft    Kind = "damaged raft log" // of a killed node: it must not start

	SlowLink      Kind = "slow link"          // Rate bytes a second, each way
	FewFiles      Kind = "few open files"     // Leave more than it has open
	LittleMemory  Kind = "little memory"      // Leave more bytes than it uses
	BadIndex      Kind = "damaged index"      // of offsets or times
	BadEpochs     Kind = "damaged epochs"     // the leader epoch checkpoint
	BadSnapshot   Kind = "damaged snapshot"   // of producers
	BadTopicID    Kind = "damaged topic id"   // of a partition's folder
	BadCheckpoint Kind = "damaged checkpoint" // of what was flushed: one slot, or both
)

// Role says which node a fault hits.
type Role string

// The roles. A node may have more than one; the first that fits is taken.
const (
	Controller Role = "controller"
	Leader     Role = "leader"   // leads partitions of the strict topic; not the controller if there is another
	Follower   Role = "follower" // leads the fewest
)

// trait is what a schedule must know of a kind.
type trait struct {
	kind   Kind
	whole  bool // hits all nodes
	alone  bool // never one of a pair
	member bool // changes who is in the cluster, or where replicas are
	hold   [2]time.Duration
	weight int  // how many cards of the deck it has
	short  bool // quick enough for a short run
}

func traits() []trait {
	s := time.Second
	return []trait{
		{kind: Kill, hold: [2]time.Duration{s, 6 * s}, weight: 3, short: true},
		{kind: KillAll, whole: true, hold: [2]time.Duration{0, s}, weight: 1},
		{kind: Pause, hold: [2]time.Duration{s, 8 * s}, weight: 2, short: true},
		{kind: Cut, hold: [2]time.Duration{2 * s, 10 * s}, weight: 6, short: true},
		{kind: PowerOne, hold: [2]time.Duration{0, 4 * s}, weight: 2, short: true},
		{kind: PowerAll, whole: true, hold: [2]time.Duration{0, s}, weight: 2, short: true},
		{kind: DiskFull, hold: [2]time.Duration{3 * s, 10 * s}, weight: 1, short: true},
		{kind: DiskHang, hold: [2]time.Duration{2 * s, 9 * s}, weight: 1, short: true},
		{kind: DiskDead, hold: [2]time.Duration{s, 5 * s}, weight: 1},
		{kind: FsyncFails, hold: [2]time.Duration{s, 3 * s}, weight: 1},
		{kind: FsyncSlow, hold: [2]time.Duration{2 * s, 6 * s}, weight: 1},
		{kind: FsyncHangs, hold: [2]time.Duration{2 * s, 9 * s}, weight: 1},
		{kind: FlipBits, hold: [2]time.Duration{0, 2 * s}, weight: 2, short: true},
		{kind: Clock, hold: [2]time.Duration{2 * s, 8 * s}, weight: 1},
		{kind: Move, member: true, hold: [2]time.Duration{0, 3 * s}, weight: 2},
		{kind: Vote, member: true, hold: [2]time.Duration{0, 3 * s}, weight: 1},
		{kind: Replace, member: true, hold: [2]time.Duration{0, s}, weight: 1},
		{kind: Loss, hold: [2]time.Duration{2 * s, 10 * s}, weight: 2, short: true},
		{kind: Slow, hold: [2]time.Duration{2 * s, 10 * s}, weight: 2, short: true},
		{kind: TornRaft, hold: [2]time.Duration{0, 3 * s}, weight: 2, short: true},
		{kind: BadRaft, hold: [2]time.Duration{0, 3 * s}, weight: 1, short: true},
		{kind: SlowLink, hold: [2]time.Duration{2 * s, 10 * s}, weight: 2, short: true},
		{kind: FewFiles, hold: [2]time.Duration{2 * s, 8 * s}, weight: 2},
		{kind: LittleMemory, hold: [2]time.Duration{2 * s, 6 * s}, weight: 2},
		{kind: BadIndex, hold: [2]time.Duration{0, 2 * s}, weight: 2, short: true},
		{kind: BadEpochs, hold: [2]time.Duration{0, 2 * s}, weight: 2, short: true},
		{kind: BadSnapshot, hold: [2]time.Duration{0, 2 * s}, weight: 1, short: true},
		{kind: BadTopicID, hold: [2]time.Duration{0, 2 * s}, weight: 1},
		{kind: BadCheckpoint, hold: [2]time.Duration{0, 2 * s}, weight: 2, short: true},
		{kind: Rolling, whole: true, alone: true, weight: 1},
	}
}

func traitOf(kind Kind) trait {
	for _, t := range traits() {
		if t.kind == kind {
			return t
		}
	}
	return trait{kind: kind}
}

// Only picks kinds by their names out of those that can be had.
func Only(can []Kind, names []string) (kinds []Kind, err error) {
	for _, name := range names {
		k := Kind(strings.TrimSpace(name))
		if !slices.Contains(can, k) {
			return nil, fmt.Errorf("no fault %q here; there are: %q", k, can)
		}
		kinds = append(kinds, k)
	}
	return kinds, nil
}
