// Package sim runs whole clusters in one goroutine, from a seed.
//
// The state machines are the real ones: broker/partition for each replica,
// cluster/metadata for the image, cluster/controller for what the controller
// decides. The world around them is simulated: brokers that carry effects out as
// package broker does, disks, the network, clocks, the metadata log, clients.
//
//	         events, ordered by (time, number)
//	faults ──► faults.go has the list
//	clients ─► produce, up to five requests at a time, each repeated until it is known; consume
//	nodes ───► partition.Step ─► effects: append, flush, push, ack, propose, truncate
//	metalog ─► metadata.Apply ─► image ─► nodes, one after the other, late, some as snapshots
//	controller ► controller.Decide ─► commands ─► metalog
//
// Everything random comes from the seed, and nothing depends on the order of a
// map, so a seed replays to the same trace, whose hash tells. How rough a run is differs
// from seed to seed (mix.go). A run has a safety phase, in which faults come and go, and
// a liveness phase in two parts. First one node may stay away, and logs that failed stay
// failed: wherever a healthy replica is from which the leader may come, records are
// taken. Then all is healed, and within a bounded time every partition has its full
// in-sync set, takes records, and holds every acknowledged record in every replica.
//
// # What is checked
//
// invariant.go has the promises, those of the project's list of what must always hold
// that concern replication, under its numbers. A check runs at every step that could
// break its promise: a watermark that moves, a push that is taken, a log that is cut, a
// command that is applied, an answer to a client. check_test.go breaks each promise by
// hand and sees the check fire; internal/mutants breaks the product.
//
// What any leader has ever shown below its watermark is kept (part.committed). At every
// step it must be in the log of each member of the in-sync and eligible sets of the
// newest image, durably in a synced topic: that is StrongIsr of Kafka's TLA+ model and
// more, for it does not forget leaders that are gone. Only an election from the last
// in-sync set of a replicated topic may make another log the truth.
//
// # The network
//
// Messages of one replication session are one stream, in order. Sessions overtake each
// other, messages stall, get lost with their stream, and come again later: what a process
// that is dead sent still arrives, often just after its successor's first message.
//
// # Disks
//
// A log is a list of entries, one record each. Entries below durable survive a power cut, of those above
// a prefix does. A killed process loses nothing; what it finds above its checkpoint it writes again before
// it says so. A failed flush leaves entries readable and not durable.
//
// That model is quick. With Options.Quiet the logs are those of package log instead, on a
// file system in memory that loses un-synced pages in any order and tears them, in a
// synctest bubble: reallog.go. Every tenth seed of the tests is one of these.
//
// Disks fail together: lost bytes, found at a start or while the process runs, beside
// flushes that fail. As long as one replica that was in sync keeps what it was told to,
// nothing may be lost; in some runs (mix.beyond) all may lose bytes, and then it is the best copy
// that leads. Drives lie: at a power cut they forget what they confirmed, checkpoint
// included. Nothing may be lost then as long as somebody who has everything is compared.
// Disks fill up: leaders refuse, followers pause.
//
// # Log starts
//
// Leaders delete the oldest records, by retention and by request, followers do as their
// leader, and one that was away for long begins anew where its leader's log begins (trim.go). What is
// deleted is not lost; when a request was answered, nobody in sync has it any more.
//
// # Deleted topics
//
// Topics are deleted while brokers are away, cut off, behind, or while they move, and made
// again under the same name with another id, wanting the same folder (delete.go). In the
// end nothing of a deleted one is on any disk, that of brokers that were away, too, and
// nothing of any other topic went with it. What becomes of a replica on a disk says
// broker.FateOf, who has nothing left controller.Confirmations.
//
// One thing is allowed: a registration that a dead process left behind, committed after
// the deletion, says that its broker has nothing of the topic. What a later process of
// the broker has put on the disk is then set aside at its next start, not removed.
//
// # The metadata log
//
// Commands go to the controller and are committed, some late, some twice, some with an
// outcome that nobody learns; a command of a controller that was deposed may be committed
// seconds later, after others. That is harsher than Raft is.
//
// # What is not here
//
// Byte credits and the choice between the two replication streams, transport framing, hashicorp/raft,
// compaction, consumer groups.
package sim
