// Package bench measures a running cluster: throughput of producing, of consuming
// and of both at once, and latency to the acknowledgement and to a consumer.
//
// # What a figure means
//
// Throughput counts from the first send to the last acknowledgement of the
// measured part, after a warm-up on the same connections. Before a figure is
// given the end offsets are read back: what was acknowledged must be there, or
// the run fails.
//
// Latency is open loop where a run has a rate (OpenLoop always, Produce and EndToEnd
// with Rate): records are due at fixed times, and a record's latency runs from the
// moment it was due, not from the moment the generator got round to sending it. A
// closed loop would stop sending while the broker stalls, and so leave the worst out
// (coordinated omission).
//
// OneAtATime is a closed loop, because what it measures is one: how long a caller waits
// who sends nothing before the last record is acknowledged. A stall of a second is one
// slow record there, so its percentiles say what such a caller sees, and nothing of
// how a steady stream of records would fare. Nor do the latencies of Produce and
// EndToEnd without a rate, which run from the call of Produce at whatever speed the
// brokers let it go on.
//
// Payloads come from a pool of at least 10,000 distinct ones of random letters
// that zstd cannot shrink below 80 %, so that neither compression nor a cache
// flatters the result.
//
// # What is reported
//
// Every report names acks, durability, replicas, partitions, record size,
// compression, payload pool, processes and file system, because a figure
// without them says nothing. Processor time is read from /proc of the client
// and of the broker processes that the caller names.
package bench
