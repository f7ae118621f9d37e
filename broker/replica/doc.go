// Package replica moves batches from leaders to followers. It decides nothing:
// what is true of a partition is known to broker/partition, which package broker
// asks on behalf of this package through [LeaderPartition] and
// [FollowerPartition].
//
// # Streams
//
// For each leader that a broker follows it opens two bidirectional streams, and
// dials in both cases, so that the one with a reason to be connected is the one that
// connects. A stream is a TCP connection with the messages of ClusterService.Replicate
// in frames (package wire), or, to a leader of an earlier release, that call:
//
//	follower                                  leader
//	Follower -> link(leader)
//	              in-sync stream   ---------> Server.Replicate
//	              catch-up stream  ---------> Server.Replicate
//
//	-> open, handshakes, acks, byte credit, stops     (ReplicateRequest)
//	<- handshake replies, pushes with batches         (ReplicateResponse)
//
// Partitions in the committed ISR begin on the in-sync stream, all others on the
// catch-up stream, whose credit is small, and which keeps to a rate while somebody
// writes (giveway.go): each node for all that it sends and for all that it receives
// to catch up. So a replica that is far behind takes little from those that produce
// requests wait for, and a cluster that nobody uses gives it all it has. A
// partition changes over by a new handshake on the other stream as soon as it
// has everything below the high watermark.
//
// The leader pushes as soon as the partition wakes the session. One message
// gathers what all woken sessions of a stream have, each in its turn and up to a
// share, so that many partitions cost few system calls and none waits for a
// busy one. Batches go by reference from the leader's log to the wire. A watermark
// that moved waits some milliseconds for a batch to travel with (lone.go). Acks
// are cumulative: those that gather while a message is being sent leave in the
// next one, the latest a partition.
//
// # Credit
//
// The follower grants a window of bytes when a stream opens; batches take from
// it when they are sent, and it grows back once the follower's log has written
// them to its file, which waits for nobody else: two brokers that lead for each
// other cannot fill each other's memory and wait. The windows of all leaders share
// FollowerConfig.Receive. A leader without credit keeps its sessions queued. One
// message may overdraw the credit, so that a batch of any size passes.
//
// # Beginnings
//
// A follower that is told to begin above offset 0 never sees the batches below.
// What they told of their producers comes with the reply, and is durable before the
// next handshake. The leader reads it from its disk on a goroutine aside from acks
// and pushes, one partition after the other (begin.go).
//
// # Failure
//
// A stream that breaks ends the sessions on it; it is opened again at once, then
// after pauses from 10 ms to 500 ms. A partition whose handshake is refused tries
// again after the same pauses while the others go on. A partition whose store
// fails is withdrawn, alone. A follower sends something at least every
// KeepAlive; Server.Heard tells how long it has been silent.
//
// Rejected: followers that fetch, as Kafka's. A fetch that waits at the leader is
// as quick, but acks then travel as the next fetch's offset, and the offsets of
// all partitions must be kept in step with a request that is under way.
//
// # Goroutines and locks
//
//	owner       goroutine                  ends when
//	Server      handler of each stream     the stream ends or Server.Close; sends
//	Server      receiver of each stream    the handler has returned; Close waits
//	Server      reader of producer states  none is wanted, or the stream ends; Close waits
//	Follower    one a stream: dials, sends no partition uses it, or Follower.Close, which waits
//	the former  receiver                   the stream ends; its owner waits
//	the former  handshaker                 likewise; unmatched replies, which wait for the disk
//
// Each leader's stream has a mutex and each follower's link has one; no code
// holds two, or calls out while it holds one. All methods of Session and
// Subscription take one of them briefly.
package replica
