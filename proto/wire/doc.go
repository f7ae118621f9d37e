// Package wire carries batches over gRPC without copying them: the codec, the
// messages that hold batches, and the services and calls that use them; and between
// brokers over plain TCP.
//
// # Why not plain protobuf
//
// The generated code copies every `bytes` field: into one large message when
// sending, and twice when receiving (transport frames to a contiguous message,
// message to field). docs/decisions/0002-grpc-codec.md has the figures. [Codec]
// instead treats the three messages that carry batches by hand. All have small
// fields numbered 1 to 14 and `repeated bytes batches = 15`:
//
//	sent   | small fields | 0x7a, length | batch 0 | 0x7a, length | batch 1 | ...
//	       '-- generated encoder, one buffer --'   ^               ^
//	                                               '-- by reference, never copied --'
//
// That is ordinary protobuf, the encoding the generated code would produce too,
// so any client in any language talks to it. Batches of at most 1 KiB are copied
// next to the small fields, for a reference costs more than such a copy.
//
// On receipt each batch is copied once, from the 16 KiB transport frames into a
// contiguous [record.Buf] of the arena; every other field, in whatever order and
// however interleaved, goes to the generated decoder. A length prefix is believed
// only as far as bytes arrived. All other messages go to gRPC's own protobuf codec.
//
// # Who releases what
//
//   - Sending ([grpc.ClientStream] Send, [CallProduce]): the codec takes references
//     of its own. The caller keeps its references and may release them as soon as
//     Send has returned, with or without an error: nothing is ever taken away.
//   - Receiving (Recv, [CallFetch], a handler's request): the receiver owns one
//     reference to each batch and calls Release on the message, or hands the
//     references on. When Recv or the call fails there is nothing to release.
//   - A *Fetched that a unary Fetch handler returns is the one message that changes
//     hands when sent: package wire releases it once it is encoded, because the
//     handler gets no other chance.
//   - The transport releases its references when the bytes are written or the
//     stream is cancelled. When a connection breaks, grpc-go (1.85) forgets what
//     was queued without freeing it; a cleanup that runs when the collector finds
//     the forgotten message gives those references back.
//
// Until then what is sent counts in the arena: the referenced batches, for readers
// as pinned, and the bytes that were copied beside them. [Delivery] tells whether
// the peer takes what it was sent.
//
// # Framed streams
//
// Between brokers replication goes without gRPC, on a TCP connection of its own for
// each stream, which saves HTTP/2's frames of 16 KiB, one copy of each batch and two
// changes of goroutine a message (docs/decisions/0012-framed-replication.md):
//
//	"PSK1"                            once, from the follower
//	length (4 bytes, big-endian) | message of so many bytes, as above
//	...
//	1<<31 | length | google.rpc.Status     at most once, from the leader: why it ends
//
// [PeerListener] takes both on one port: a gRPC connection begins with "PRI ". The
// hello between brokers tells whether a leader takes framed streams; one of an older
// release is spoken to by gRPC. A batch goes from the socket into its [record.Buf],
// and is sent from there, by one vectored write; Send returns when the kernel has it
// all, so that nothing is held meanwhile that the sender does not hold itself.
//
// # Reflection
//
// The services are registered under their real names with their real descriptors,
// so reflection, and with it grpcurl, sees the published protobuf API.
package wire
