// Package grpcapi is the gRPC front door: it maps the messages of penstock.v1
// to the requests of package api and back, and knows nothing of partitions.
//
// ProduceService, FetchService, GroupService and AdminService stand on the
// public listeners, ClusterService on the peer listener alone; both have the
// standard health service, the public ones reflection as well. Every service
// declares the few methods it calls, so that tests pass in fakes.
//
// # Errors
//
// What concerns one partition is in that partition's result. What concerns the
// whole call is a google.rpc.Status whose details hold one penstock.v1.Error
// with the same fields. A leader hint names the address of the listener on which
// the question came in (see Listener).
//
// # Streams
//
// A produce stream has two goroutines: the handler receives a request, hands it
// to the broker, which appends it before it returns, and queues the pending
// answer; a sender waits for the oldest pending answer and sends it. So requests
// are appended in the order they arrive, many are in flight, answers come in
// order, and no request costs a goroutine. The queue's length bounds what one
// stream may have outstanding: beyond it the stream is not read, and HTTP/2 flow
// control holds the client back. A fetch stream has two goroutines as well: the
// handler receives and queues, the other one answers a request at a time, in order,
// for a long poll is a wait. The handler reads a few requests ahead, and no more, only
// to see one that ends the waits before it (FetchRequest.ends_waits); whatever else is
// in a pipeline costs nothing while it waits in the transport.
//
// # Clients that take nothing
//
// What a client does not read stays in the transport, and with it the broker's
// memory for readers, which is bounded and shared: one answer that was sent and a
// second one that waits to be sent are the most that a fetch stream holds. PublicDoor
// follows the answers of every call (wire.Delivery). When fetches wait for memory,
// Watch, a goroutine of the node, cuts the connections of those who have taken
// nothing for a while.
//
// # Structured records
//
// Clients that cannot encode batches send records as messages. The door encodes
// them with the same builder as the Go client and decodes batches for fetches
// that ask for it; from there on nothing differs.
package grpcapi
