// Package node assembles one node of a cluster: configuration, listeners, the
// data directory, the metadata quorum, the broker and its front doors, and the
// admin HTTP listener. It holds no logic of its own about records or metadata.
//
// # Start
//
// What can fail for a reason that a person must mend comes first, and changes
// nothing: configuration, then every listener (a port in use names the key and
// the address), then the directories (a lock names the process that holds it),
// then identity. Only then does anything run:
//
//	listeners -> data directory -> cluster (raft, identity) -> broker (recovery,
//	registration) -> front doors -> ready
//
// The peer listener serves before the cluster starts, for the first start needs
// the other voters to answer each other's hello.
//
// # Stop
//
// The reverse: hand leaderships over, close the doors, close the logs and write
// the clean marker last. A node that is told to stop while it starts stops
// where it is.
//
// # Dev
//
// Dev runs a whole cluster in one process. Its nodes know nothing of that: they
// talk over TCP, each with its own directory and ports.
package node
