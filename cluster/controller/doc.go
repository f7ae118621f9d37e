// Package controller decides what the controller proposes: who is fenced, who
// leads, where replicas go. It is pure: the image, what was heard of the
// brokers ([Liveness]) and the time come in, commands come out. Proposing them,
// and giving them ids, is the business of package cluster.
//
// [Decide] is level-triggered. It looks at the whole state each time and asks
// for what is missing, so a command that was lost or refused is simply decided
// again; the epochs in each command make a late duplicate harmless. Call it at
// every change of the image, at every change of the liveness, and every few
// tens of milliseconds.
//
// # Liveness
//
//	silence for SessionTimeout                         fence
//	connection reset, re-dial refused for RefusedAfter  fence (the process is dead)
//	heartbeats of a fenced broker                      unfence
//
// Losing a connection alone means nothing. A controller that begins knows
// nothing of the past: all deadlines count from its own begin or from the
// registration that it saw, whichever is later.
//
// # Elections
//
// Most leaders are elected within the Apply of a registration, a fence or an
// unfence (package metadata). What is left needs a clock or may lose records: a
// partition without a leader whose in-sync members are absent waits ElectionWait
// for them before it makes do with others; and when the members of LastISR are
// all back, the one with the longest log is taken, which [Decision.PossibleLoss]
// counts.
//
// # Balance
//
// A partition returns to its preferred leader once that broker has been alive
// and in sync for BalanceDelay, which is longer than a lagging replica may stay
// in the in-sync set, so an election never goes to one that has yet to catch up.
// Nothing is moved while there is something to fence or elect. A move ends with the
// preferred leader leading, from where only a failure or a shutdown moves it
// away, and that begins BalanceDelay anew: leaderships cannot swing.
//
// # Moves
//
// A reassignment is state of its partition in the image (package metadata). Once
// all replicas that it is to have are in sync, Decide finishes it, and hands the
// leadership over when the leader goes. A broker that is being decommissioned is
// emptied by such reassignments, MaxReassigning at a time, each by [Evacuate] on the
// image as it is by then; so nothing of a plan has to be kept, and a new controller,
// a new topic or a broker that dies changes the rest of it. [Rebalance] is a plan
// made once, for an operator.
package controller
