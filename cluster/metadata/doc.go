// Package metadata is the state of a cluster and the rules by which it changes:
// brokers and their sessions, topics, the leader and the in-sync set of every
// partition, topic configs, producer ids.
//
// It is pure. An [Image] is the state at one index of the metadata log, and
// [Apply] is the only way to the next one:
//
//	Apply(image, index, command) -> (image, result, error)
//
// Every node applies the same commands in the same order and so holds the same
// image; whatever Apply reads is in its arguments. A command is refused, never
// half applied: a refusal (an [*Error] with a [Code]) moves the index and the
// memory of outcomes, nothing else.
//
// # Sharing
//
// A reader keeps an image as long as it likes, while the next ones are made, so
// nothing in an image is ever written to. A change of one partition copies the
// partition, its topic's list of pointers and, of the sorted map of topics, one
// chunk and the spine (see ordered): a few KiB, also with 100,000 partitions.
// What did not change is the same pointer in both images. A hash trie (as in
// the usual persistent maps) would copy a little less a change, but iterates in
// hash order; everything here must be in key order, since command effects,
// snapshots and reconcilers depend on it.
//
// # Brokers
//
// RegisterBroker begins a session. Its Raft index is the broker epoch; commands
// of an older one are refused. Node id and storage id (of the data directory)
// name each other for good. Applying a registration ends the previous session:
// every partition that the broker led gets a new leader epoch, even when the
// same broker is elected again, because followers may hold what it lost.
//
// A replica keeps its place in ISR and ELR over a restart if it can hold what it
// acknowledged: it is undamaged, and either its topic is synced or the stop was
// clean (the clean marker names the epoch of the session that ended). Otherwise
// it leaves both and LastISR keeps who could hold every acknowledged record. A
// replica that the registration does not mention counts as missing.
//
// A new session is unfenced; FenceBroker takes the broker out of every in-sync
// set of more than one member and ends its leaderships, UnfenceBroker lets it
// take part again. All three elect in the same Apply, so failover costs one Raft
// round. Elections that need a clock or may lose records are left to package
// controller, which proposes ElectLeaders; both use [Image.Elect].
//
// # In-sync sets
//
// Leaders ask for changes with ChangeIsr (KIP-497). Each change is checked on its
// own: leader, leader epoch, partition epoch, and for every member its broker
// epoch (KIP-903) and that it is unfenced (KIP-841). A leader whose log
// failed resigns by a set without itself, which may be empty only where an eligible
// leader takes over at once. Every change, also one to the
// same set, has a new partition epoch, which settles earlier proposals. Below
// its minimum, those who left stay eligible leaders (KIP-966).
//
// # Reassignments
//
// ReassignPartitions gives a partition a target; what it adds is a replica like
// the others, outside of the in-sync set until the leader takes it in, and the
// replicas from before stay. FinishReassignments makes the target the replicas, and
// is refused while one of it is not in sync or the set is below its minimum. An
// added replica is dropped before (by a cancellation, by another target) only while
// the set keeps its minimum without it. [Partition.ReplicationFactor] and with it
// the minimum count the replicas from before, until the switch.
//
// # Snapshots
//
//	snapshot = magic "PSKIMG01"
//	           uvarint length, ImageHeader
//	           uvarint length, ImageEntry      (header.entries times)
//	           CRC-32C of all before it, 4 bytes big-endian
//
// Entries come in the order brokers, topics, remembered outcomes, staged
// registrations, each by ascending key, so equal images give equal bytes.
// [Image.Check] lists the invariants that hold for every image; ReadSnapshot
// refuses bytes that break one.
package metadata
