// Package coordinator runs the consumer groups whose __consumer_offsets
// partitions this broker leads: it loads them, persists what they decide, keeps
// their members' sessions, and stores and serves committed offsets.
//
// A group belongs to the partition that its name hashes to (PartitionFor), and
// to the leader of that partition. Package consumergroup decides; this package
// is its shell.
//
// # Shards
//
// A shard serves one partition in one leader epoch. One goroutine, its actor,
// owns all its groups, offsets, sessions and timers, so there are no locks and
// every decision has one order. It takes requests from a bounded queue, gives
// each event to the state machine, and carries out the effects:
//
//	requests --> actor --> pending batches --> Log.Append (a few under way)
//	              ^                                 |
//	              +---------- outcome --------------+
//	                            |
//	                            v
//	              replies and updates that waited, in order
//
// While appends are under way the records of whatever else arrives gather in the
// next batch, so the cost of a commit falls as load grows. An append follows a small
// one at once, so that a commit need not wait for all of the way of the one before,
// and up to maxAppends are under way when they are worth it. Records about groups
// and members are alone under way, because later ones rest on them: a log must not
// hold what follows without them.
//
// An output (a reply, an update to a member) that is produced while records are on
// their way waits until those are committed: nothing a client sees can be undone.
// Offsets enter the map that FetchOffsets reads when their record is committed.
//
// An append that failed may or may not be in the log. The shard then forgets
// everything, ends its sessions with CodeCoordinatorLoading, and loads again
// from the log. When the failure was definite, nothing is in doubt: commits are handed it,
// and a group that had decided something in that batch, no other, goes back to what the log
// has of it (refused.go). Its sessions end with CodeCoordinatorNotAvailable and the reason,
// and it decides nothing for a while; its offsets are read and committed meanwhile.
//
// # Commits
//
// A commit comes as a call (CommitOffsets) or on its member's session, where many
// may be under way, are checked and stored in the order in which they were sent, and
// are answered by number. One of a stream that is no longer the member's is refused,
// so that what an old stream still holds cannot overtake what the new one brings.
// Memory is bounded: by the queue of a shard, whose senders wait; by MaxCommitBytes
// for what waits for its records, of all shards; and by 1,024 commits a session.
// Beyond the last two, CodeOverloaded says to try again.
//
// While loading, every request is answered CodeCoordinatorLoading, never "no
// offset". When the load fails, because the log did, it is tried again, and until
// then every request is answered CodeCoordinatorNotAvailable with the reason. Events that were decided on but not persisted are lost, and were
// never seen.
//
// Of a log in which batches were given up as damaged, nobody is told for a while that nothing is
// committed (losses.go).
//
// # Protocols
//
// A group is of the consumer protocol (KIP-848: a Session stream, or
// ConsumerHeartbeat request by request) or of the classic one (JoinClassic,
// SyncClassic, HeartbeatClassic, LeaveClassic). Who joins an empty group decides
// which; its epoch or generation goes on. Commits carry the member epoch or the
// generation in the same field.
//
// A group with members changes it too (Config.Migration): a member of the consumer
// protocol that joins a classic group of consumers has the coordinator host it, and
// when the last such member goes the classic ones get it back. Which protocol a
// group has in the log when records of both are there: classic, if that record
// has members. So the way there ends with the classic record's tombstone, and the
// way back begins with the classic record.
//
// A JoinClassic or SyncClassic waits for others: it returns when the rebalance
// does, with the outcome, and is forgotten when its context ends.
//
// # Records
//
// All keys begin with a 16-bit type. Written are, in Kafka's own schemas,
// OffsetCommit (key 1, value version 4), GroupMetadata (key 2, value version 3:
// a classic group as its leader assigned it), ConsumerGroupMetadata (key 3: the
// group epoch and a hash of the topics), ConsumerGroupMemberMetadata (key 5, with
// the session timeout in a tagged field of ours), the target assignment (keys 6 and
// 7), where each member stands (key 8) and what each pattern matches (key 16).
// Other types are left alone.
//
//	key    int16 type | string group | string topic, int32 partition   (1)
//	                                 | nothing                         (2, 3, 6)
//	                                 | string member                   (5, 7, 8)
//	                                 | string pattern                  (16)
//
// # Goroutines
//
//	shard.run       one a loaded partition; started by Load, ended by Unload, a
//	                newer Load or Close; Close waits for it. A shard that is
//	                replaced ends before the newer one begins.
//	load            one a shard while it loads; run waits for it
//	Appending.Wait  one for each append under way; run waits for it
//
// Session, and every other method, works on its caller's goroutine. Updates
// wait for a member in a slot that holds the newest (each carries the whole
// assignment), so a slow member blocks nobody.
package coordinator
