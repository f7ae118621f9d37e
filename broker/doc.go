// Package broker serves the partitions that the metadata places on a node. It
// owns the goroutines, the locks and the order of start and stop; what a replica
// does is decided by package partition, how bytes reach followers by package
// replica, where they lie by package log, who leads by package cluster.
//
// # What is where
//
//	broker.go, config.go, register.go     start and stop; what it is told; recovery and registration
//	produce.go, producerids.go, admission.go    producers, and the door at which they wait for memory
//	fetch.go, readers.go, offsets.go, judge.go  consumers; what is said only when the metadata confirms it
//	topics.go, settings.go, operate.go, reassign.go, deleterecords.go    administration
//	describe.go, awaitleaders.go, applied.go    what Kafka clients ask besides; waiting for the metadata
//	groups.go, groupcalls.go, groupmetrics.go, progress.go    groups: coordinators, calls, lag
//	local.go, local_leader.go, local_follower.go    the shell of one replica, as leader, as follower
//	table.go, reconcile.go, departed.go   all replicas, which there should be, and those that were moved away
//	proposer.go, tick.go, clean.go, scrub.go    what goes on in the background
//	retire.go, giveup.go, giveupbatches.go    logs that failed; damage in the last holder
//	errors.go, metrics.go                 outcomes as api errors; figures
//
// # A record's way
//
//	produce.go   validate, append to the leader's log, register the waiter
//	   log       gather, write, sync; Notify -> local.go: progress
//	   replica   push to the followers; their acks -> local_leader.go: Ack
//	local.go     the state machine moves the watermark: requests are answered
//	fetch.go     long polls wake and read below the watermark
//
// Produce returns after the append, with a Pending that completes later: nobody
// waits on a goroutine of his own for an acknowledgement.
//
// # The shell of a replica
//
// localReplica pairs a partition.Replica with its log. Every event is fed under
// the replica's mutex; effects that only take leaf locks or post a message are
// carried out under it too, in order; what may wait for a disk (truncation,
// reset, the log start) is carried out after it was released, by the caller of
// step. An append happens under the mutex, for it only reaches memory and must
// not be torn apart from the check that allowed it.
//
// # Level-triggered
//
// The reconciler compares what is here with the newest metadata image, and is
// woken when there is a newer one; the images between do not matter. It starts
// after the broker applied its own registration, so nothing is led, followed or
// deleted on old knowledge. A topic that disappears between two images of this
// process was deleted, and its data goes; data on disk at the start that no
// image mentions is set aside. A replica that a reassignment took away goes once the
// partition is well without it (reassign.go).
//
// # Memory
//
// Batches lie in one arena a node, from the wire to the tail of a log, and are
// shared by counted references. Nobody in the arena waits; who may hold how much is
// settled here, at two doors (record.Arena has the shares):
//
//	admission.go  producers wait while the arena is full but for the share that
//	              replication receives into
//	fetch.go      readers wait (shortage) while other readers hold all that they may
//
// Replication waits at neither. What a leader may send is bounded by credit, which
// comes back when the own log has written it; so two brokers that lead for each
// other never wait for each other's memory.
//
// A replica whose log failed for want of space or open files is closed and opened
// anew by the reconciler once there is some; where anybody counts on it the metadata
// hears of it as of a restart of that replica (retire.go). Every other failure of a log
// waits for a restart of the broker.
//
// # Goroutines
//
// All are owned by Broker, started by Start and awaited by Close:
//
//	reconciler.run   images -> replicas, roles, groups
//	proposer.run     ISR changes -> controller, one proposal at a time
//	Broker.tick      lag, timeouts, session, disk space, stuck flushes; every 200 ms
//	Broker.retain    old segments
//	cleaner.run      compaction, one log at a time
//	tellProgress     watermarks of what is led here -> coordinators of groups; it
//	                 waits for one goroutine a coordinator at each turn
//	Broker.Drain     waits during Shutdown for what was appended
//
// replica.Server, replica.Follower, coordinator.Coordinator and the log directory
// own theirs, and are closed in Close in that order, doors first: the node stops
// the gRPC servers before it calls Close.
//
// # Locks
//
// Taken in this order; none is held while a lock to its left is taken:
//
//	localReplica.mu -> log's own, replica's own (Wake, End, Follow, Ack, Stop)
//	                -> api.Pending's -> admission.mu
//	                -> readers.mu, shortage.mu, proposer.mu (leaves)
//
// admission.mu and shortage.mu are also taken by whoever gives the last reference
// to a buffer back, with any lock held.
//
// The flush worker calls progress with none of the log's locks held, and package
// replica calls localReplica with none of its own.
//
// Rejected: one goroutine a partition with a mailbox. It costs a hand-over per
// event on the way of every record, and 10,000 idle partitions would own 10,000
// stacks.
package broker
