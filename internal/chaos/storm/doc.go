// Package storm breaks a cluster of real processes while clients use it, and says
// what came of it.
//
// A Schedule is a list of steps, drawn from a seed. Each step is one fault or a pair
// of them, held for a while and then taken back; the cluster must be whole again,
// every partition led, every replica in sync, before the next, but for some steps
// that are eager. Which node is hit is drawn as a role (the controller, a leader, a
// follower), for only the running cluster knows who that is; the schedule that a
// run leaves behind names the nodes, so it can be played again as it was.
//
//	start, load, warm-up | step | step | ... | heal all, stop writers | final phase | check
//
// The faults are those of a machine, a disk and a network; see the Kinds. None of
// them, nor any pair that is drawn, is beyond what acks=all with
// durability=synced promises to survive, so there is nothing to excuse: an anomaly
// is a bug, and so is a cluster that does not come back.
package storm
