// Package cluster makes one process a member of the metadata quorum: it wires
// hashicorp/raft to the pure image of package metadata, keeps the brokers'
// sessions, and is the controller while this node leads Raft. Records never go
// through it.
//
// # What is where
//
//	config.go               Config
//	errors.go               errors, and how they cross gRPC
//	node.go                 Node: start, stop, failure, image
//	identity.go             who this directory is: node id, storage id, cluster id
//	hello.go                the frames that open a connection to the Raft listener
//	stream_layer.go         that listener
//	transport.go            Raft's messages over it, without three traps of the library
//	handshake.go            who is let in
//	bootstrap.go            founding the quorum, joining it
//	moved.go                a voter that comes back under another address
//	quorum.go               who votes, as Raft knows it
//	store.go, checksum.go   the Raft log that fails once, and checks what it reads
//	raft_logger.go          what Raft has to say, in our log
//	fsm.go                  the shell over metadata.Apply
//	leader.go               where the controller is
//	peers.go                connections to other brokers
//	propose.go              asking for a change, registering
//	heartbeat.go            the broker's side of its session
//	readbarrier.go          knowing all that was committed before one asked
//	confirm.go              whom the voters follow, by their answers to heartbeats
//	term.go                 a term as controller: barrier, decisions
//	term_propose.go         answering proposals: placing topics, Join
//	term_place.go           decommission, rebalance, preferred leaders
//	term_operate.go         operators' orders: replace, remove, unclean election, partitions
//	term_quorum.go          changing who votes
//	term_heartbeat.go       the controller's side of sessions; dialling suspects
//
// # The way of a change
//
//	broker: Propose -> (gRPC) -> controller: HandlePropose -> term.propose
//	  -> raft.Apply -> log on a majority -> fsm.Apply -> metadata.Apply
//	  -> image on every node -> Changed wakes the reconcilers
//
// A proposal carries a command id that stays the same over all tries, so a try
// whose outcome is unknown is simply repeated: by another controller, after a
// snapshot, it is applied once and answered alike.
//
// # Identity
//
// node.id is configuration; the storage id is drawn into the directory and is
// the Raft server id. A node that lost its directory has the same node id and
// another storage id: to Raft it is a stranger, and every hello, Raft's and
// gRPC's, refuses it by name (IdentityConflictError) until somebody says that it
// is meant. A quorum is founded once, by the voter with the lowest node id, and
// only when all voters answer that they are new. The first command sets the
// cluster id; every hello compares it.
//
// # Liveness
//
// A broker sends a heartbeat each 250 ms and whenever the image it applied
// changes, each echoing the newest answer it got. The controller counts a broker
// as heard at the time it sent the answer that is echoed, so a cut in either
// direction is silence. Silence for the session timeout fences. A lost stream
// makes a suspect, which is dialled until it is back or fenced; only a refusal
// that lasts (nobody listens: the process is gone) fences earlier, after 100 ms.
// The broker for its part counts from when it sent the heartbeat before the
// newest one that was answered, which is before the time the controller counts
// from: it stops to lead before another may.
//
// Until then it may have been relieved of a partition and not know it: acks do not depend
// on that, for they need the followers. What would be wrong if it were so (that an offset
// is not in the log) it says after ReadBarrier, which shows what the metadata was at some
// time after it was asked.
//
// # Goroutines
//
//	task                    started by      ends with
//	leaderWatch.run         Start           Close
//	Node.watchStore         Start           Close, or the store's failure
//	Node.watchOutdated      Start           Close, or a command of a newer build
//	Node.recordClusterID    Start           the id on disk, or Close
//	Node.formOrFail         Start           a leader is heard, or Close
//	Node.controllerLoop     Start           Close; waits for its term
//	term: prepare, decide   beginTerm       the end of the term
//	term.probeLoop          the term        the end of the term
//	term.spreadLoop         the term        the end of the term
//	term.quorumLoop         the term        the end of the term
//	session.run             Register        Close; waits for its receiver
//	readBarrier.run         ReadBarrier     nobody waits any more, or Close
//	streamLayer.acceptLoop  Start           streamLayer.Close
//	streamLayer.welcome     acceptLoop      its hello, or streamLayer.Close
//	Node.await              its caller      the answer of Raft; one that Raft forgets is left behind
//	Heartbeat's receiver    the handler     the handler's return
//
// Close ends them in this order: Raft leadership is handed over, tasks are told
// to stop, Raft is told to stop, the stream layer closes all connections, tasks
// are waited for, then peers, Raft and the store are closed. Raft's own wait is
// bounded: a goroutine of it that hangs in a write to a dead disk never ends.
//
// Locks: fsm.mu, leaderWatch.mu, controllerFinder.mu, session.mu, readBarrier.mu, confirmations.mu,
// Peers.mu, streamLayer.mu and term.mu are leaves: nothing is called under one that takes
// another, and nothing is waited for.
package cluster
