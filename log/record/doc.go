// Package record reads, writes and checks record batches: the one format that
// Penstock keeps from the producer to the disk to the consumer. It does no I/O
// and starts nothing.
//
// # The format
//
// A batch is Kafka's RecordBatch, magic 2 (KIP-98). Integers are big endian.
//
//	0       8    12      16     17    21    23     27        35       43    51     53    57      61
//	+-------+-----+-------+------+-----+-----+------+---------+--------+-----+------+-----+-------+-----------+
//	| base  |batch|leader |magic | CRC-|attr-|last  | base    | max    |prod.|prod. |base |record | records,  |
//	| offset|leng.|epoch  | = 2  | 32C |ibut.|delta | timest. | timest.| id  |epoch |seq. |count  | compressed|
//	| 8     | 4   | 4     | 1    | 4   | 2   | 4    | 8       | 8      | 8   | 2    | 4   | 4     | ...       |
//	+-------+-----+-------+------+-----+-----+------+---------+--------+-----+------+-----+-------+-----------+
//	        |     |<--------------- counted by batch length ---------------------------------------->|
//	                                   |<-------- covered by the CRC ----------------------------->|
//
// The CRC leaves base offset and leader epoch out, so a leader assigns both by
// patching 12 bytes in place ([Patch]). Attributes, from the lowest bit:
//
//	bits 0-2  codec: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd
//	bit  3    timestamps are the broker's (LogAppendTime) instead of the producer's
//	bit  4    transactional
//	bit  5    control batch: written by brokers, not shown to applications (BuildPlaceholder)
//	bit  6    the base timestamp is the delete horizon (KIP-534): when compaction
//	          may drop the batch's tombstones. Deltas count from it, so that no
//	          reader need know.
//
// The record section holds `record count` records one after the other, the
// whole of it compressed with the codec. Numbers marked v are zigzag varints of
// at most 5 bytes, vl of at most 10:
//
//	v length of the rest | attributes (1 byte, unused) | vl timestamp delta |
//	v offset delta | v key length (-1: no key) | key | v value length (-1: none) | value |
//	v header count | per header: v key length, key, v value length (-1: none), value
//
// # Codecs
//
// gzip is RFC 1952, lz4 the frame format, zstd RFC 8878 with a window of at
// most the decompressed cap (8 MiB when that is smaller). Snappy is written as one raw block, as librdkafka and franz-go
// write it, and read either raw or in the framing of snappy-java (xerial),
// which the Java client writes; every client reads both. Decoding streams into
// a buffer that grows with what was really produced and stops at a cap. A size
// that the compressed bytes cannot hold is refused before it is allocated.
//
// # Who owns a Buf
//
// A batch in memory is a [Buf]: contiguous bytes with a reference count, from
// an [Arena]. The rules:
//
//   - Whoever calls Arena.Get, Retain or SliceOf, or is handed a Buf with the
//     promise "you own a reference", calls Release once. The last Release gives
//     the memory back, and using Bytes after one's own Release is a bug.
//   - Only the holder of the sole reference writes: the receiver that fills it,
//     then the leader's append that patches offset and epoch (or stamps the
//     append time). After that a Buf is immutable and shared without locks.
//   - A release too many, or a Retain after the last release, panics: it is
//     always a bug of the caller and would otherwise corrupt a stranger's batch.
//
// The Go collector alone would also do, but at a million records a second the
// garbage of received batches dominated a prototype's CPU; a pool of equal-sized
// chunks was rejected because a batch would no longer be contiguous, which CRC,
// write and decompression all want.
//
// # Checking
//
// [Validate] is the door: nothing that a client sent is appended without it.
// [VerifyCRC] and [Peek] are for bytes that went through the door already.
package record
