// Package chaos runs real Penstock processes and breaks them: the black-box
// half of the proof, and what the demo is made of.
//
// A Cluster is a set of `penstock server` processes, each with its own
// configuration file, data directory and ports, in one folder:
//
//	DIR/node1.yaml  DIR/node1/  DIR/node1.log
//	DIR/node2.yaml  ...
//
// A Lab is a Cluster whose nodes have a network namespace and a disk each, so that
// the network can be cut and narrowed in any way, and a disk can lose its power, fill up,
// hang or die; it needs root. Its processes can be left few files to open and little memory. Package load loads it, package storm breaks it.
//
// Processes are started, killed (SIGKILL), paused (SIGSTOP) and stopped
// (SIGTERM) by node number, counted from 1. Everything a Cluster started ends
// with Close. Whether the cluster is well is asked of the binary itself
// (`penstock cluster health --wait`), so the harness needs no knowledge of the
// protocol.
package chaos
