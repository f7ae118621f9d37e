// Package check judges the history of a cluster by what its clients saw: what they
// sent and were told, what they read, who was given which partition, what was
// committed. It is shared by the deterministic simulation and the runs against
// real processes, and it is pure: no clock, no I/O, no goroutine. The method is
// that of Jepsen's workload for Kafka.
//
// # What can be seen from outside
//
// No client sees the log. But each value is sent to a partition at most once, so a
// record that was read names its writer, and every offset that anybody was told is
// a sight of the log. Put together, they give the log:
//
//	index  process  op
//	  1       1     invoke  send a, b, c
//	  2       1     ok      send a -> 0, c -> 2
//	  3       1     info    send b                    log   0  1  2  3
//	  4       2     invoke  send d                          a  b  c  d
//	  5       2     info    send d                          |  |     |
//	  6       3     invoke  poll                            read     read
//	  7       3     ok      poll (0 a) (1 b) (3 d)
//
// The sends of b and d had no clear result, but they were read, so they took place.
// c was acknowledged at offset 2, a reader has been at 3, and nobody has read c:
// lost-write. The reader that went from 1 to 3 has also jumped over a record:
// int-poll-skip. Had c come after everything that was read, it would be unseen. Had
// another poll shown x at 1, the offset would be inconsistent, and x, if nobody
// sent it, an unwritten-read.
//
// The log of a partition is made of what all polls saw, failed ones too, because
// no poll may show what is not in the log; and of the offsets of sends that were
// acknowledged with acks=all. An indefinite send, or one with acks=1, is in the log
// only if a reader saw it there: its offset may have become another record's.
//
// Each anomaly is defined by its exact test beside its name; see Anomalies.
//
// # Time
//
// A completion is recorded after the answer, an invocation before the call. If one
// stands before the other in the history, it happened before; if not, nothing is
// known, and nothing is concluded. Quantities that only rise (the watermark, the
// log start) need one look-up each: what was the greatest value shown before this
// op was invoked? A committed offset may be set back, so it is judged as a
// register:
//
//	commit 2  |--|                         overwritten before the look-up began
//	commit 5         |---|                 the newest that was done before it
//	commit 8                 |------|      overlaps it
//	commit 9            |------...         never had an answer
//	look-up                      |----|    may find 5, 8 or 9
//
// # Who holds a partition
//
// A member that was cut off from its coordinator cannot know that its partition is
// another's, so two members that believe to hold one are no fault in themselves.
// It is one if both were given it in one epoch; if the first shows later that the
// coordinator still counted it in, by giving the partition back when asked
// (FRevoked, not FLost); and if a commit of the first is accepted that began when
// the second had the partition.
//
// # The final phase
//
// A record that nobody read may only be late. So a run ends with a final phase:
// all faults healed, new clients (FCrash) assign themselves every partition from
// the beginning (FAssign with Final) and read until they are past the highest
// offset that anybody was told. Then what is unseen is gone, or the log is stuck;
// and what was visible once and is not now has vanished.
//
// # What is deleted
//
// A record below the greatest log start that was shown may have been deleted before
// anybody read it, and a reader may jump to a start that was shown by then: histories
// of topics with retention need bounds in their polls. That would let a cluster
// lose records and raise the log start over the hole, so a history that has its
// deletions (FTrim) holds the log start to them:
//
//	trim below 4   |--|                 acknowledged for 4
//	trim below 9         |------...     never had an answer: it may be 4 or 9 from here on, not 6 or 11
//	look-up                     |--|
//	new reader                       |----|   may not get offset 3
//
// A broker that was replaced as leader and does not know it may still serve what it holds for
// as long as Options.Stale. With Options.ReadFirst nothing is exempt: everybody
// had read what was deleted. Retention is not in a history, and neither its topics
// (Options.Retained) are held to this.
//
// A run without a final phase is
// Options.Unfinished, and even then each partition needs some reader that began at
// its start: nobody else could have read what is called lost.
//
// # Not here
//
// Cycles (G0, G1c) and precommitted reads say something about transactions, which
// Penstock does not have; they come with them. Without transactions each send
// stands alone: Jepsen counts an indefinite op as committed when any of its writes
// was read, here each write speaks for itself.
//
// Rejected: taking sends without a clear result into the order of a producer's
// sends, as Jepsen does. What a client gave up may still be on the wire and arrive
// behind what it sent next. Rejected: a model of the log that explores all orders
// (porcupine). Offsets say the order; what remains is counting, in one pass, and a
// million records take seconds. Rejected: values in the log's order as dense
// indexes. Offsets sort the same way, and a hole is only a question to ask at a
// jump: was anything there?
package check
