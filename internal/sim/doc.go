// Package sim runs whole clusters in one goroutine, from a seed.
//
// The state machines are the real ones: broker/partition for each replica,
// cluster/metadata for the image, cluster/controller for what the controller
// decides. The world around them is simulated: brokers that carry effects out as
// package broker does, disks, the network, clocks, the metadata log, clients.
//
//	         events, ordered by (time, number)
//	faults ──► kill, power cut, pause, link cuts, EIO, hanging flush, lost bytes, clock step
//	clients ─► produce, consume
//	nodes ───► partition.Step ─► effects: append, flush, push, ack, propose, truncate
//	metalog ─► metadata.Apply ─► image ─► nodes, one after the other, late
//	controller ► controller.Decide ─► commands ─► metalog
//
// Everything random comes from the seed, and nothing depends on the order of a
// map, so a seed replays to the same trace, whose hash tells. A run has a safety
// phase, in which faults come and go, and a liveness phase: everything is healed, and
// within a bounded time every partition has its full in-sync set, takes records, and every
// acknowledged record is in every replica.
//
// # What is checked, at every step that could break it
//
//   - What a leader shows below its high watermark never changes, whoever leads (RELIABILITY's "no
//     consumer-visible record disappears"), and each record is there once.
//   - Below the watermark of any presumed leader, the logs of all members of the committed in-sync
//     set are the same, on disk in a synced topic (StrongIsr of Kafka's TLA+ model).
//   - An acknowledged record is below the watermark of the one who acknowledged it, at its offset.
//   - A watermark does not fall within an epoch; no replica is ever asked to truncate below one
//     that it showed unless the election may lose records.
//   - A registration ends what the broker led: no leader resumes its epoch. A replica that may have
//     lost memory is in no set from which leaders come.
//   - Every image satisfies metadata.Image.Check.
//
// # Disks
//
// A log is a list of entries, one record each. Entries below durable survive a power cut, of those above
// a prefix does. A killed process loses nothing; what it finds above its checkpoint it writes again before
// it says so. A failed flush leaves entries readable and not durable.
//
// # What is not here
//
// Package log itself (its own crash tests have that), byte credits and the choice between the two
// replication streams, transport framing, hashicorp/raft (the metadata log is a model with unknown
// outcomes, repeated commands, changes of controller and images that are skipped), consumer groups.
package sim
