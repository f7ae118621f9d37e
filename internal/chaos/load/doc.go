// Package load is what runs against a cluster while it is broken: producers,
// readers, members of a group, and watchers, all of them clients of the public
// API, who write down what they asked and what they were told in one history.
//
//	producers   acks=all, idempotent and not, topic Strict
//	            acks=1, idempotent and not, topic Weak
//	readers     assigned to all partitions, from the start, without a gap
//	members     of one group over both topics; commit after each poll
//	trimmer     deletes records of Strict that everybody has read; all of a partition of Weak
//	watchers    the bounds of every log; what the group has committed
//
// Every so often a client is thrown away and replaced, in good order or not. Each
// record's value is unique, so the checker (internal/check) can tell from the
// history alone whether the cluster kept its promises. What it cannot see there
// (a damaged batch, an offset out of range that is in the log) is a Violation.
//
// Logs begin later all the time: Strict by deletions, which are in the history, Weak by
// retention, too.
//
// Outcomes are recorded as carefully as the client states them: a send whose error
// the client calls indefinite may have happened, any other failed for good, which
// the checker holds the client to.
package load
