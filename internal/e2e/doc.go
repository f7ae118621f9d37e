// Package e2e holds black-box tests over real server processes: the package
// index through a cluster, killed, paused and stopped brokers under load, a
// fourth broker, the command line, and the API by reflection alone.
//
// Each test lays its own cluster out (internal/chaos) in a temporary folder and
// knows of it only what a user does: the binary, the Go client, the files. What
// was acknowledged is kept in a ledger and compared with what is read back:
//
//	per key: 0, 1, 2, ... with nothing missing, twice or swapped
//	per offset: the value that was acknowledged with it
//	per partition: the same bytes on the disks of all replicas after a clean stop
//
// PENSTOCK_BINARY names the binary under test; without it one is built first.
package e2e
