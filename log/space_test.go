package log

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

func TestDiskReserve(t *testing.T) {
	mem := vfs.NewMem()
	var clock atomic.Int64 // ns; flush workers read it too
	clock.Store(1000e9)
	opts := testOptions(mem)
	opts.Now = func() time.Time { return time.Unix(0, clock.Load()) }
	d := openTestDir(t, opts)
	defer func() { require.NoError(t, d.Close(-1)) }()
	require.NoError(t, d.CheckReserve())
	mem.SetSpace(3<<30, 100<<30)
	require.NoError(t, d.CheckReserve(), "the answer is still good")
	clock.Add(int64(time.Second))
	err := d.CheckReserve()
	full, ok := errors.AsType[*DiskFullError](err)
	require.True(t, ok)
	require.Equal(t, int64(5<<30), full.Reserve)
	require.Equal(t, int64(3<<30), full.Free)
	mem.SetSpace(6<<30, 100<<30)
	clock.Add(int64(spaceMinAge))
	require.NoError(t, d.CheckReserve(), "without a restart, and soon")
	clock.Add(int64(spaceMinAge))
	mem.SetSpace(5<<30+1<<20, 100<<30)
	require.NoError(t, d.CheckReserve(), "far from the reserve an answer is good for a second")
	clock.Add(int64(time.Second))
	require.NoError(t, d.CheckReserve())
	mem.SetSpace(5<<30-1, 100<<30)
	clock.Add(int64(spaceMinAge))
	require.ErrorIs(t, d.CheckReserve(), ErrDiskFull, "close to it, not so long")
}

// stuck is a flusher that waits.
type stuck struct{ release chan struct{} }

func (s stuck) Flush(f vfs.File) error {
	<-s.release
	return f.Datasync()
}

// What is appended and not written yet is not in the file system's answer.
func TestReserveCountsWhatIsNotWritten(t *testing.T) {
	mem := vfs.NewMem()
	mem.SetCapacity(1 << 20)
	opts := testOptions(mem)
	opts.DiskReserve = 900 << 10
	flusher := stuck{make(chan struct{})}
	release := sync.OnceFunc(func() { close(flusher.release) })
	opts.Flusher.Flusher = flusher
	d := openTestDir(t, opts)
	defer func() { require.NoError(t, d.Close(-1)) }()
	defer release()
	n := newListener()
	l, err := d.Open(testSpec(Config{Synced: true}, n))
	require.NoError(t, err)
	n.listen(l)
	free, _, err := mem.Space("/")
	require.NoError(t, err)
	room := int(free - opts.DiskReserve)
	b := batch(t, 1, strings.Repeat("x", 1000))
	appended := -len(b)
	for ; err == nil; appended += len(b) {
		_, _, err = tryAdd(l, 1, b)
	}
	require.ErrorIs(t, err, ErrDiskFull)
	require.LessOrEqual(t, appended, room)
	require.Greater(t, appended, room-3*len(b)-2*4096, "a page is begun, bytes count twice for a moment")
	release()
	require.NoError(t, n.waitFlushed(l.End()).Err)
	require.Equal(t, d.space.taken.Load(), d.space.settled.Load())
}

// A burst of many writers ends in refusals, not in a log that latched, and goes
// on when there is room again.
func TestABurstStopsAtTheReserve(t *testing.T) {
	const capacity, reserve = 12 << 20, 4 << 20
	mem := vfs.NewMem()
	mem.SetCapacity(capacity)
	opts := testOptions(mem)
	opts.DiskReserve = reserve
	opts.TailBytes = 1 << 20
	d := openTestDir(t, opts)
	defer func() { require.NoError(t, d.Close(-1), "no log has failed") }()
	var logs []*Log
	for i := range 4 {
		l, err := d.Open(Spec{Topic: "t", TopicID: testID, Partition: int32(i), Config: Config{Synced: true, SegmentBytes: 512 << 10}})
		require.NoError(t, err)
		logs = append(logs, l)
	}
	b := batch(t, 1, strings.Repeat("x", 60_000))
	burst := func() {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for {
					if _, _, err := tryAdd(logs[i%len(logs)], 1, b); err != nil {
						if !errors.Is(err, ErrDiskFull) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		wg.Wait()
	}
	for round := range 3 {
		for free := int64(0); free < capacity*3/4; { // the last answer may be milliseconds old
			var err error
			free, _, err = d.Space()
			require.NoError(t, err)
			time.Sleep(time.Millisecond)
		}
		burst()
		for _, l := range logs {
			for l.Err() == nil && l.Flushed() < l.End() {
				time.Sleep(time.Millisecond)
			}
			require.NoError(t, l.Err(), "round %d", round)
			_, end := readBatches(t, l)
			require.Equal(t, l.End(), end)
		}
		free, _, err := mem.Space("/")
		require.NoError(t, err)
		require.Greater(t, free, int64(reserve*9/10), "round %d: files beside the records are small", round)
		require.Less(t, free, int64(capacity*3/4), "round %d: the disk was filled, but for what counts twice for a moment", round)
		for _, l := range logs {
			require.NoError(t, l.AdvanceStart(l.End()), "deletes go on below the reserve")
		}
	}
	require.Equal(t, d.space.taken.Load(), d.space.settled.Load())
}

// readBatches walks a log and returns where it begins and ends.
func readBatches(t *testing.T, l *Log) (from, to record.Offset) {
	t.Helper()
	from = l.Start()
	for to = from; to < l.End(); {
		slices, err := l.Read(to, l.End(), 1<<20)
		require.NoError(t, err)
		require.NotEmpty(t, slices)
		for i := range slices {
			for b := slices[i].Bytes; len(b) > 0; {
				info, ok := record.Peek(b)
				require.True(t, ok)
				to, b = info.NextOffset(), b[info.Size:]
			}
			slices[i].Release()
		}
	}
	return from, to
}

// Clients, followers and internal topics stop one after the other.
func TestWhoMayUseTheReserve(t *testing.T) {
	const reserve = 1 << 20
	b := batch(t, 1, "x")
	size := int64(len(b))
	for _, tt := range []struct {
		free                       int64
		client, follower, internal bool
	}{
		{reserve + size, true, true, true},
		{reserve + size - 1, false, true, true},
		{reserve/2 + size, false, true, true},
		{reserve/2 + size - 1, false, false, true},
		{reserve/4 + size, false, false, true},
		{reserve/4 + size - 1, false, false, false},
	} {
		try := func(internal, follower bool) bool {
			mem := vfs.NewMem()
			mem.SetSpace(tt.free, 1<<30)
			opts := testOptions(mem)
			opts.DiskReserve = reserve
			d := openTestDir(t, opts)
			defer func() { require.NoError(t, d.Close(-1)) }()
			require.Equal(t, tt.free < reserve/4*3, d.CheckReplication() != nil, "a follower begins at %d", tt.free)
			l, err := d.Open(Spec{Topic: "t", TopicID: testID, Internal: internal, Config: Config{Synced: true}})
			require.NoError(t, err)
			if follower {
				buf := record.NewBuf(patched(b, 0, 1))
				defer buf.Release()
				err = l.AppendFollower(0, 1, 0, []*record.Buf{buf})
			} else {
				_, _, err = tryAdd(l, 1, b)
			}
			if err != nil {
				require.ErrorIs(t, err, ErrDiskFull)
				require.Zero(t, l.End())
			}
			return err == nil
		}
		require.Equal(t, tt.client, try(false, false), "client at %d", tt.free)
		require.Equal(t, tt.follower, try(false, true), "follower at %d", tt.free)
		require.Equal(t, tt.internal, try(true, false), "internal at %d", tt.free)
		require.Equal(t, tt.internal, try(true, true), "internal follower at %d", tt.free)
	}
}

// Batches that find no room are told of, also where a smaller one would still fit: a
// producer of large ones never comes down to the reserve itself.
func TestARefusedBatchIsAFullDisk(t *testing.T) {
	const reserve = 1 << 20
	mem := vfs.NewMem()
	large := batch(t, 1, strings.Repeat("x", 1000))
	mem.SetSpace(reserve+int64(len(large))-1, 1<<30)
	var clock atomic.Int64
	clock.Store(1000e9)
	opts := testOptions(mem)
	opts.DiskReserve, opts.Now = reserve, func() time.Time { return time.Unix(0, clock.Load()) }
	d := openTestDir(t, opts)
	defer func() { require.NoError(t, d.Close(-1)) }()
	l, err := d.Open(Spec{Topic: "t", TopicID: testID, Config: Config{Synced: true}})
	require.NoError(t, err)
	require.NoError(t, d.CheckReserve(), "nothing was refused yet")

	_, _, err = tryAdd(l, 1, large)
	require.ErrorIs(t, err, ErrDiskFull)
	err = d.CheckReserve()
	require.ErrorIs(t, err, ErrDiskFull)
	require.ErrorContains(t, err, fmt.Sprintf("no room for %d", len(large)))
	_, _, err = tryAdd(l, 1, batch(t, 1, "x"))
	require.NoError(t, err, "a small one goes in")
	require.ErrorIs(t, d.CheckReserve(), ErrDiskFull, "the large one would not")

	mem.SetSpace(reserve+2*int64(len(large)), 1<<30)
	clock.Add(int64(time.Second))
	require.NoError(t, d.CheckReserve())
	_, _, err = tryAdd(l, 1, large)
	require.NoError(t, err)
}

func patched(b []byte, off record.Offset, epoch record.Epoch) []byte {
	c := append([]byte(nil), b...)
	record.Patch(c, off, epoch)
	return c
}

// A producer whose batch is in the log already hears so, whatever the disk says.
func TestDuplicateOnAFullDisk(t *testing.T) {
	mem := vfs.NewMem()
	opts := testOptions(mem)
	var later atomic.Int64 // flush workers read the clock too
	opts.Now = func() time.Time { return time.Unix(1000+later.Load(), 0) }
	d := openTestDir(t, opts)
	defer func() { require.NoError(t, d.Close(-1)) }()
	l, err := d.Open(testSpec(Config{}, nil))
	require.NoError(t, err)
	add(t, l, 1, idempotent(t, 7, 0, 0, "a"))
	mem.SetSpace(0, 1<<30)
	later.Add(1)
	_, _, err = tryAdd(l, 1, idempotent(t, 7, 0, 0, "a"))
	require.ErrorIs(t, err, ErrDuplicate)
	_, _, err = tryAdd(l, 1, idempotent(t, 7, 0, 1, "b"))
	require.ErrorIs(t, err, ErrDiskFull)
	require.Equal(t, record.Offset(1), l.End())
}

// What is dropped before it is written counts no longer.
func TestDroppedBytesTakeNoSpace(t *testing.T) {
	for name, drop := range map[string]func(t *testing.T, d *Dir, l *Log, faults *vfs.Faults){
		"truncated": func(t *testing.T, _ *Dir, l *Log, _ *vfs.Faults) {
			t.Helper()
			require.NoError(t, l.TruncateTo(1))
		},
		"reset": func(t *testing.T, _ *Dir, l *Log, _ *vfs.Faults) {
			t.Helper()
			require.NoError(t, l.Reset(5))
		},
		"refused": func(t *testing.T, _ *Dir, l *Log, _ *vfs.Faults) {
			t.Helper()
			_, _, err := tryAdd(l, 0, batch(t, 1, "x"))
			require.ErrorIs(t, err, ErrStaleEpoch)
			require.ErrorIs(t, l.AppendFollower(9, 9, 0, nil), ErrNotContiguous)
		},
		"failed and closed": func(t *testing.T, _ *Dir, l *Log, faults *vfs.Faults) {
			t.Helper()
			faults.Inject(vfs.Fault{Op: vfs.OpWrite, Pattern: "*.log", Err: syscall.ENOSPC, Partial: 9})
			if _, _, err := tryAdd(l, 1, batch(t, 1, "lost")); err != nil {
				require.ErrorIs(t, err, ErrFailed) // the write of an earlier batch came upon it first
			}
			require.ErrorIs(t, l.Close(), ErrFailed)
			faults.Heal()
		},
	} {
		t.Run(name, func(t *testing.T) {
			faults := vfs.NewFaults(vfs.NewMem())
			d := openTestDir(t, testOptions(faults))
			l, err := d.Open(testSpec(Config{Synced: true}, nil))
			require.NoError(t, err)
			for range 20 {
				add(t, l, 1, batch(t, 1, "value"))
			}
			drop(t, d, l, faults)
			require.NoError(t, d.Close(-1))
			require.Equal(t, d.space.taken.Load(), d.space.settled.Load())
		})
	}
}
