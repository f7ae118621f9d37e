// Package kafka is the front door for Kafka clients. It speaks Kafka's wire
// protocol and calls the broker through small interfaces, as package grpcapi does
// for gRPC clients; both doors open on the same topics, groups and offsets.
//
//	table.go    every API that is served, its versions, its handler
//	door.go     listeners, limits, and the watcher of connections
//	conn.go     one connection: frame, header, dispatch
//	source.go   what is read from a connection, bounded by its frame
//	intake.go   the memory of requests that have not arrived as a whole
//	shape.go    the form of every request, checked before it is decoded
//	answers.go  produce requests that await their acknowledgements
//	errors.go   the broker's errors as Kafka's codes
//
// and a file for each API, named as Kafka names it. Messages are those of package
// kmsg; Produce and Fetch, which carry records, are read and written here.
//
// # Order
//
// A connection is answered in the order in which it asks, and one request is worked
// on at a time: a fetch that waits for records holds up what comes behind it on
// the same connection, as in Kafka. Produce requests alone overlap. Each is appended
// before the next one is read, and waits for its acknowledgements afterwards.
//
// # Memory
//
// The records of a produce request go from the socket into a buffer of the arena
// that the log keeps, but for the few that were read together with the header. Its
// size is believed while not too many are (intake.go); else memory is taken as bytes
// come. A large request reaches the broker in parts. The answer to a fetch is written from where
// the records lie, in memory or, by sendfile, in the page cache, and there is one of them a connection: who does not take it gets
// no other, and is cut off when readers wait for the memory. Everything else that a
// request holds is bounded by its size, that by maxBody, and by maxItems; what a
// produce request names, whose size is larger, by both of these. A connection that
// waits for its next request holds no buffer.
//
// # Goroutines
//
//	conn.run       one a connection; Door.Close waits for it
//	answers.write  one a connection, while produce requests await acknowledgements; conn.run waits for it
//	Door.watch     cuts connections that are idle, too slow, or take nothing; Door.Close waits for it
//
// # Locks
//
// answers.mu and Door.mu; neither is held while the other is taken, nor while the
// broker is called or anything is read or written. Door.Close closes listeners and
// connections with Door.mu held: none is added meanwhile.
package kafka
