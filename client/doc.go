// Package client is the Go client of Penstock: producer, consumer and admin over
// the gRPC API.
//
//	c, err := client.New([]string{"127.0.0.1:7070"})
//	...
//	defer c.Close()
//	p, err := c.NewProducer()
//	err = p.ProduceSync(ctx, &client.Record{Topic: "orders", Key: []byte("a"), Value: []byte("1")})
//
// A [Client] holds connections and metadata; producers and consumers share them.
// It starts from any broker that answers, learns the others, and follows leaders:
// by the hint in a broker's refusal, or by asking whoever answers first.
//
// # Producing
//
//	Produce -> open batch -> queue ----> sink --- one stream ---> leader
//	           (partition)  (partition)  (broker)  many batches of many
//	                                               partitions under way
//
// [Producer.Produce] encodes the record into its partition's open batch. A batch
// leaves when it is full; half full, where the window of its partition has room; sooner,
// when nothing of the producer is under way or its linger has passed. So batches are
// small and latency is low when there is little to do, and both grow with the load. (It is Nagle's rule. Asking it of each
// partition by itself sends a record alone to each that happens to be idle.) A record
// without a key joins the open batch of the partition that the producer keeps to, until
// that batch has left. A sink takes one batch from each
// partition that its broker leads and sends them as one request; it does not wait
// for answers, which come in order. Batches are compressed and sealed on the sink's
// goroutine, and go to the socket without another copy.
//
// Nothing is lost, doubled or swapped by retries. Each batch carries a producer id
// and, per partition, the sequence of its first record (KIP-98); a broker answers
// a batch that it already has with its original offset, and refuses one that
// would leave a gap. After a failure a partition waits for all its answers, then
// sends everything unsettled again, in order. Brokers remember five batches a
// producer, hence the window of five. When the delivery timeout ends first, the
// record fails with a *[DeliveryError] that tells whether it may be in the log.
// The alternative, a new producer id for every retry that looks stuck, is how
// clients have doubled records; here an id is given up only once the broker's
// refusal proves that what is sent again was not appended.
//
// # Consuming
//
//	leader --- stream ---> queue of chunks ---> Poll / Records
//	         (source)      (bounded)            decoded while iterated
//
// [Consumer.Records] is the loop for applications: records are copies, kept as long
// as one likes. [Consumer.Poll] is for millions of records a second: whole answers
// are handed over and decoded in place, with one Record reused and nothing allocated for
// it; only headers take memory, for 64 of them at once.
//
// A consumer counts two positions a partition: after what was taken, and after
// what the application moved past, by asking for more. Auto commit stores the
// second, so a crash repeats records and never skips any; [Consumer.Commit] stores
// the first. A partition that goes to another member is given up only after the
// application moved past what it had taken of it, OnRevoked has run, and the
// offsets are committed. A member that its group refuses for good loses all it had
// (OnLost), and every Poll from then on says why.
//
// An offset is out of range only when the newest leader says so: a broker that was
// replaced and has not heard of it says so too. The consumer asks a majority of the
// brokers who leads before it resets, and looks the new position up before that. With
// each fetch it names the leader epoch of what it has read last, which is committed with
// the offset, too, so that the leader can tell when that was truncated (KIP-320): see
// [ResetPolicy] and [LogTruncatedError].
//
// # Errors
//
// Brokers' answers are *[Error] with a [Code]; [IsRetriable] and [IsIndefinite] ask
// any error of this package the two questions that matter: may it work later, and
// may it have worked already. Faults of options come all at once, as a
// *[ConfigError]; a *[BootstrapError] names every broker that did not answer and why.
//
// # What is where
//
//	client.go, options.go, metadata.go, errors.go, hooks.go    connections, and what all parts share
//	producer.go, producer_options.go, partitioner.go    Produce; which partition
//	partition.go, batch.go, identity.go, sink.go    the batches of a partition, their ids, their way to a broker
//	split.go                              a batch larger than the topic takes
//	consumer.go, consumer_options.go, polled.go, record.go    Poll and Records
//	subscription.go, resolver.go, source.go    one partition; where it begins; fetching it
//	doubt.go                              an offset that may be gone
//	member.go, commit.go, sessioncommit.go, coordinator.go    groups
//	admin.go, admin_*.go, list_offsets.go, delete_records.go, reassign.go, damaged.go    administration
//	waitlist.go                           waiting for one of many
//
// # Goroutines
//
// A client owns one that refreshes metadata; a producer one for deadlines, one for
// producer ids, and two a broker; a consumer one each for offsets, deadlines and
// commits, two a broker, and two for its group. Close of each waits for all of its own.
//
// Locks: partition.mu, then sink.mu; Producer.mu before partition.mu; source.sending
// before Consumer.mu. No lock is held while hooks, promises or callbacks run.
package client
