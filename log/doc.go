// Package log keeps one partition's records on disk. Importers call it
// commitlog, because the name shadows the standard library's.
//
// A Dir is a node's data directory; a Log is one partition in it. docs/FORMAT.md
// draws every file byte by byte.
//
//	data.dir/
//	  lock                            held by the living process, names its pid
//	  flushed-checkpoint.0, .1        two alternating slots: flushed offset, high
//	                                  watermark and start of every log
//	  flush-journal.0, .1             small appends to many logs, see below
//	  clean-stop                      exists between a clean stop and the next start
//	  orders-0/                       topic orders, partition 0
//	    partition.metadata            topic id
//	    leader-epoch-checkpoint       first offset of each leader epoch
//	    00000000000000000000.log      batches as they came over the wire
//	    00000000000000000000.index    sparse: offset -> position
//	    00000000000000000000.timeindex  sparse: timestamp -> offset
//	    00000000000000073000.snapshot producer state at an offset
//	    *.cleaned, *.swap             a compacted segment, unfinished and about to
//	                                  take the place of others
//	    *.torn                        what recovery cut off the end of a segment
//
// # What is where
//
//	dir.go, config.go, errors.go        the data directory; what it and its logs are told, and say
//	log.go                              Log: its state, its end
//	append.go, producers.go             taking batches; telling repeated ones
//	tail.go, ring.go                    the newest batches, in memory
//	pool.go, commit.go                  a log's turn to write and sync
//	groupcommit.go, journal.go          one sync for many logs
//	segment.go, index.go, files.go      one segment; its indexes; names and small files
//	openfiles.go, pagecache.go          what is open; what the kernel keeps
//	checkpoint.go, snapshot.go, epochs.go    what a start goes by
//	recovery.go, resume.go, scan.go, rebuild.go, torn.go, journal_replay.go    that start
//	vouch.go                            what the batches say of files without a checksum
//	read.go, cold.go, filerange.go      reading: from memory, from files, for the kernel to send
//	sound.go, pace.go, flushtimes.go    which bytes were checked; reads that give way to flushes; how long those take
//	time.go, newest.go                  looking up by time
//	retention.go, remover.go, space.go, rest.go    the oldest goes; slowly on the disk; full disks; idle logs
//	truncate.go, handover.go            cutting, and beginning anew
//	remove.go                           a partition's folder goes, or is put aside
//	setaside.go, scrub.go               keeping what is left of a damaged log; looking for damage
//	giveup.go                           placeholders for what cannot be read
//	compact.go, compact_*.go            compaction
//	inspect.go, inspect_*.go            reading the files of a directory that another process owns
//
// # The way of a batch
//
// Append takes the log's lock for microseconds: it gives the batch its offset by
// patching 12 bytes, checks the producer's sequence, puts the buffer into the
// in-memory tail and asks the directory's flush pool for a turn. No system call
// happens under that lock. A pool worker (16 at most, started on demand) then
// takes everything that has gathered in this log, writes it with one pwritev,
// syncs it with one fdatasync if the topic is synced, moves Written and Flushed
// and calls Notify with no lock held. While it syncs, the next group gathers, so
// the cost of a sync per record falls as load grows. No file waits for another:
// a barrier over all dirty files cost a prototype 15 %.
//
// When four logs or more wait at the same moment, a sync for each is what the
// disk cannot keep up with. One worker then takes them all and makes what is small
// durable with one write and one sync of the flush journal, while it writes the
// segments, which are synced later. Opening the directory replays the journal into
// the segments before anything looks at them. docs/decisions/0001-flush.md compares
// this with syncfs and early writeback.
//
// # Memory
//
// The buffers of the last batches are the tail, which reads share. It holds what is
// not written, and of what is written as much as the arena has room for: the oldest
// groups of all logs give way to writes, to cold reads and to producers that wait
// (Dir.Reclaim). A reader may keep what it got; the arena counts that as pinned, and
// reads that ask to be bounded (ReadOptions) stay within its shares. In the steady
// state an append and a read of the tail allocate nothing.
//
// # Offsets, all exclusive
//
//	start <= high watermark <= end
//	start <= flushed <= written <= end
//
// # Compaction
//
// Cleaner.Compact goes through one log in its caller's goroutine: it gathers the
// latest offset of each key that is dirty, rewrites sealed segments below the high
// watermark without what these replace, and puts the new files in the place of the
// old ones (compact_pass.go, compact_swap.go; docs/decisions/0007-compaction.md).
// Offsets stay; where whole batches go they leave gaps, which are legal below the
// log's cleaned offset and damage above it. Three batches stay though nothing in
// them does, as headers: the last one of a segment, so that where segments and
// logs end can be read from their files; the first one of a leader epoch, so that
// replicas agree where epochs begin; the last one of a producer. The tail in memory
// is not touched: readers there see what was written.
//
// # Locks
//
// Log.io is held by whoever changes the log's files: a flush worker, truncation,
// retention, a compaction while it swaps files. Log.mu guards the state in memory and is never held over I/O.
// Order: Dir.mu, Log.io, Log.mu, then the leaf locks of the pool, the tail, the
// open files and the journal. A group commit holds the io of many logs, each of
// which it got by TryLock.
// Readers take Log.mu for a look-up only: what is in the tail they get as
// references, what is not they read with pread outside of any lock, and check
// afterwards that no truncation came between.
//
// # Files
//
// A log needs no open file while nobody writes or reads it. The Dir keeps the
// segment files that were used last open, at most DirOptions.OpenFiles and more
// only while more are in use, and closes the coldest when it opens another. Who
// uses a file has it counted, so it is never closed under a flush worker or a
// reader, and who opens one waits for nobody else's disk. A file with bytes that no sync
// has covered stays open: the error of a failed writeback may go away with the
// last descriptor. When those are half of what may be open, an append that
// need not sync yet does. "Too many open files" first closes idle files; if that does not
// help, a read answers an *OpenFilesError and may be tried again, and a log that
// cannot be written to for it latches like after any failed write.
//
// What was synced or read stays in the kernel's page cache up to
// DirOptions.PageCacheBytes over all logs; what was noted longest ago is dropped
// first. It is advice: nothing but the speed of a read depends on it. Readers of what
// is not there give way to flushes: readPace.
//
// A read that goes on where another ended needs no index, and has the kernel read
// the file ahead. Batches from the disk have their CRC checked; those that another read
// has checked since they came into the page cache are believed for some minutes,
// for checking costs as much as reading (sound.go). Of such bytes, and of what this process
// wrote since, a client on TCP gets a range of the file, which the kernel sends from its
// page cache (filerange.go). An index is a hint: if it leads to no batch, the
// segment is read from its front.
//
// # Idle logs
//
// A node may have 10,000 logs of which few are busy. An idle one holds some two
// kilobytes and no open file: opening reads the ends of the index files only, the
// arrays for write calls are lent, tails give way, and Rest puts the index of what was
// written into its files.
//
// # Goroutines
//
// The Dir owns them all and Close waits for them: the flush workers, which end
// when there is nothing to flush, the journal's syncers, one that lets go of the
// page cache, which lives while there is too much in it, and the housekeeper,
// which writes the checkpoint. Notify is called from a flush worker, never twice at once for one
// log, and must not call Close or Remove.
//
// # Disk space
//
// Appends stop before the disk is full: those of clients at the reserve, those of
// followers at a half of it, those of internal topics at a quarter (space.go). A
// disk that others fill all the same fails the write of some log, as below.
//
// # Failure
//
// A failed write or flush is terminal for that log: the kernel may have dropped
// the dirty pages and would report success next time. It is latched (ErrFailed);
// other logs go on. Recovery never trusts pages above the checkpoint to be on
// disk: it writes them again and syncs them before they count as flushed.
// Damage below the checkpoint is reported and never repaired here, for the end of
// the valid prefix is not the end of the log: RELIABILITY's "corruption is not the
// end of the log".
package log
