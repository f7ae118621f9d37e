// Package partition is the state machine of one replica of one partition: who
// leads, which followers are in sync, how far the log is committed, who waits
// for what. It is pure: no goroutine, lock, clock, I/O or allocation in the hot
// steps. The shell (package broker) feeds it events and carries out the effects
// it returns:
//
//	out.Reset()
//	replica.Step(now, event, &out)
//	for _, e := range out.List { ... }
//
// A Replica is not safe for concurrent use: the shell guards each one with a
// mutex of its own, and carries out effects that may block (truncation, calls to
// the controller) after releasing it.
//
// # Offsets
//
// Every bound is exclusive. On one replica
//
//	log start <= HW <= LEO,  flushed <= LEO,  HW <= flushed if the topic is synced
//
// (a new leader's HW may start anywhere in [log start, LEO]). The counted offset
// of a replica is its flushed offset if the topic's durability is synced, else
// its LEO. The high watermark (HW) of a leader is
//
//	HW = max(HW, min(counted(r) : r in ISR + proposed + {leader}))
//
// over the committed ISR (as the metadata log shows it) and every replica in an
// expansion proposal whose outcome is not known; it stands still while the
// committed ISR is smaller than min(min.insync.replicas, replication factor).
// Counting a proposed replica before its proposal is committed is what makes an
// unknown outcome harmless: whichever set turns out to be the committed one, all
// its members hold everything below HW (KIP-497; Kafka calls it the maximal
// ISR). A shrink counts only once it is committed, for the same reason.
//
// Rejected: HW by majority (Raft). It needs 2f+1 copies to survive f failures,
// where an in-sync set needs f+1, and it cannot honour min.insync.replicas.
//
// # Sessions
//
// A follower opens a session with a handshake that names the leader epoch, its
// broker epoch, a session id greater than any it used before, in earlier
// processes too, the epoch of its last batch and its LEO. The leader answers the largest
// epoch of its own log that is not above the follower's, and where that ends
// (KIP-101, KIP-279). The logs match when the epochs are equal and the follower
// does not reach beyond that end; otherwise the follower truncates by what both
// know of the epochs, never by watermark, syncs, and opens the next session:
//
//	leader   [epoch 1: 0..10) [epoch 3: 10..20)
//	follower [epoch 1: 0..8) [epoch 2: 8..15)     handshake (2, 15)
//	    answer (1, 10): follower's epoch 1 ends at 8; truncate to min(10, 8) = 8
//	follower [epoch 1: 0..8)                      handshake (1, 8)
//	    answer (1, 10): 8 <= 10, matched; pushes begin at 8
//
// Every push and ack carries (leader epoch, session); what is not exactly the
// current pair is dropped. A leader forgets all that it knows of a follower's
// log when the epoch or the session changes; what a handshake states does not
// count, only acks do.
//
// Where the leader's log begins beyond what the follower can compare, the follower begins
// anew: it empties its log, which then begins with the first batch that the leader keeps. Who is
// counted on, being in sync, eligible or proposed, never does so below its end: for as
// long as it had not caught up it would be a wrong leader. It is proposed out of the
// sets first, as one that does not become eligible, and begins when the image shows that.
//
// A leader that hears of a newer leader epoch stops acknowledging at once, but
// never adopts the epoch from the wire: only an Assignment does that.
//
// # What is where
//
//	event.go, effect.go, types.go    the language: what goes in, what comes out
//	replica.go, view.go              Replica and Step; what the shell may look at
//	assign.go                        changes of role
//	leader.go, follower.go           sessions, pushes and acks, from either side
//	watermark.go, isr.go, lag.go     the decisions: what is committed, who is in sync, who fell behind
//	waiters.go                       produce requests that wait
//	trim.go                          deleting the oldest records
package partition
