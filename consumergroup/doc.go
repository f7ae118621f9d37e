// Package consumergroup is the state machine of one consumer group, after
// KIP-848: the coordinator assigns, members reconcile, and a partition never
// has two owners. It is pure. The coordinator's shell calls
//
//	g.Step(now, event, &effects)
//
// carries out the effects in order, and calls again with EventTimer at
// Effects.Deadline and with EventAssign when Effects.Assign is set (after the
// events that wait, so that a hundred joins cost one assignment).
//
// # Epochs
//
// The group epoch goes up with every change of membership, subscription or
// topics, and is persisted. The target assignment is computed for a group
// epoch. A member's epoch is the target epoch it has moved to; it stays behind
// while the member still has something to give up. Each partition remembers the
// member epoch in which it was given: a commit must carry an epoch from there
// up to the member's (KIP-1251), so a commit that was on its way while the
// epoch rose is good, and one by a former owner never is.
//
// # Reconciliation
//
// What a member may own by its own view is its owned set, and holder maps each
// partition to the one member that has it there. For each member:
//
//	owned - target not empty:  tell it owned & target, at its old epoch
//	                           wait for heartbeats that no longer list the rest;
//	                           each partition gone from them is free at once
//	else:                      raise its epoch to the target's and give it the
//	                           partitions of its target that nobody holds
//
// An update that changes the assignment is followed by no other until the
// member's heartbeat listed exactly what it was told. Without that rule, a
// heartbeat sent before a partition arrived, and received after the partition
// was taken back, would look as if it had been given up. A member that does not
// answer within its rebalance timeout is fenced: removed, its partitions free.
//
// A partition is of a topic, and topics that follow each other under one name are not
// the same: the machine remembers of which one a member has what it owns. When that is
// not the one of today, the member has to give it up, and may get it anew in a later
// epoch; until then it commits nothing there.
//
// # Members and streams
//
// The machine knows members. A stream is an opaque number that the shell gives
// to a connection; a member has at most one, the one with the newest attach
// number. A member that lost its stream keeps everything until its session
// deadline and, coming back with its id, its epoch and what it owns, loses
// nothing. A member that comes back with epoch 0 says that it owns nothing.
// One that claims what it was not given, or an epoch it cannot have, is fenced.
//
// A static member (group.instance.id) that leaves keeps its place, though not
// its ownership, for its session timeout. A new member of the same instance
// takes the place over at once; the older is fenced (KIP-345).
//
// # Classic members
//
// A member of the classic protocol is hosted: it asks and is never told. See
// hosted.go for how its requests map to the above, and convert.go for how a group
// goes from one protocol to the other.
//
// # Loading
//
// Persisted are the group epoch, the members (who they are and what they subscribe
// to), the target, and where each member stands: what it was told to own, what it
// was told to give up, and since which epoch it has each partition. A record that
// frees a partition comes before the one that gives it away, so that the log never
// has two owners of one. After Restore everybody stands where it stood, with full
// deadlines; a member that comes back says what it owns, as after any stream that
// it lost.
//
// A build of before these records may have had the group last, or may have it next.
// It writes the group epoch without a hash of the topics. Then members are away:
// each comes back with its claims, and until all have come or run out, the group
// gives nothing to anybody and takes nothing away; then the epoch rises and a
// target is computed from the claims.
//
// # States
//
//	empty        no members
//	assigning    the group epoch is ahead of the target, or members are awaited
//	reconciling  some member is not yet where its target is
//	stable       all are
package consumergroup
