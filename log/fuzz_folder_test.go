package log

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// livedIn is a directory with all kinds of files in it: two segments and more, in
// the second a place to resume at, a snapshot, epochs, journal entries, a torn tail.
// With stop it was closed in order.
func livedIn(t *testing.T, stop bool) (mem *vfs.Mem, batches []byte) {
	t.Helper()
	mem = vfs.NewMem()
	opts := testOptions(mem)
	opts.resumeBytes, opts.Flusher.JournalAt, opts.Flusher.JournalBytes = 400, 1, 1<<16
	d := openTestDir(t, opts)
	n := newListener()
	l, err := d.Open(testSpec(Config{Synced: true, SegmentBytes: 1200, IndexInterval: 100}, n))
	require.NoError(t, err)
	n.listen(l)
	for i := range 24 {
		add(t, l, record.Epoch(1+i/9), idempotent(t, int64(i%3), 0, int32(i/3), "a value of some length"))
		require.NoError(t, n.waitFlushed(l.End()).Err)
	}
	batches = readEverything(t, l)
	if stop {
		require.NoError(t, d.Close(9))
		return mem, batches
	}
	require.NoError(t, d.checkpoint.write())
	killed := mem.KillClone()
	require.NoError(t, d.Close(-1))
	return killed, batches
}

// filesOf lists all files of a directory.
func filesOf(t *testing.T, mem *vfs.Mem, folder string) (out []string) {
	t.Helper()
	entries, err := mem.List(folder)
	require.NoError(t, err)
	for _, e := range entries {
		if e.Folder {
			out = append(out, filesOf(t, mem, folder+"/"+e.Name)...)
		} else if e.Name != lockName {
			out = append(out, folder+"/"+e.Name)
		}
	}
	return out
}

// Whatever one file of a directory holds, or two: it opens, or says with a typed
// error why not; it serves nothing that was not appended; it takes records where it
// says that it is well, and has them after a restart; and the inspector comes to an end.
func FuzzFolder(f *testing.F) {
	for i := range uint8(14) {
		f.Add(i, uint16(3), []byte{0xFF}, uint8(0), i%2 == 0)
		f.Add(i, uint16(0), []byte{}, uint8(1), i%3 == 0)
		f.Add(i, uint16(20), []byte{0, 0, 0, 0, 0x7F, 0xFF, 0xFF, 0xFF}, uint8(2), i%2 == 1)
		f.Add(i, uint16(9), make([]byte, 50), uint8(3), true)
	}
	f.Fuzz(func(t *testing.T, which uint8, at uint16, noise []byte, how uint8, stop bool) {
		mem, batches := livedIn(t, stop)
		files := filesOf(t, mem, testPath)
		name := files[int(which)%len(files)]
		rawFile(t, mem, name, func(b []byte) []byte {
			i := int(at) % (len(b) + 1)
			switch how % 4 {
			case 0: // flipped
				for j := range noise {
					if i+j < len(b) {
						b[i+j] ^= noise[j]
					}
				}
				return b
			case 1: // cut short, and noise
				return append(bytes.Clone(b[:i]), noise...)
			case 2: // overwritten
				return append(append(bytes.Clone(b[:i]), noise...), b[min(i+len(noise), len(b)):]...)
			default: // put in between
				return append(append(bytes.Clone(b[:i]), noise...), b[i:]...)
			}
		})
		if in, err := Inspect(InspectOptions{FS: mem.KillClone(), Path: testPath, Partition: -1}); err == nil {
			_, err = in.Verify(context.Background(), nil)
			require.NoError(t, err)
		}
		opts := testOptions(mem)
		d, err := OpenDir(opts)
		require.NoError(t, err, "one bad file does not keep a node from starting")
		defer func() { _ = d.Close(-1) }()
		n := newListener()
		l, err := d.Open(testSpec(Config{Synced: true, SegmentBytes: 1200}, n))
		if err != nil {
			require.ErrorIs(t, err, ErrTopicID)
			require.Contains(t, name, metadataName)
			return
		}
		n.listen(l)
		if !servesOnly(t, l, batches) {
			return
		}
		if l.Damage() != DamageNone {
			_, _, err := tryAdd(l, 1<<20, batch(t, 0, "x"))
			require.ErrorIs(t, err, ErrDamaged)
			return
		}
		epoch := max(1<<20, l.LastEpoch()) // the epoch file has no CRC
		for range 3 {
			add(t, l, epoch, batch(t, 0, "the log goes on"))
		}
		require.NoError(t, n.waitFlushed(l.End()).Err)
		want, end := readEverything(t, l), l.End()
		after := mem.CrashClone(nil)
		d2, l2, _ := openTestLog(t, after, Config{Synced: true, SegmentBytes: 1200})
		require.Equal(t, DamageNone, l2.Damage(), "%v", l2.Recovery().Cause)
		require.Equal(t, end, l2.End())
		require.Equal(t, want, readEverything(t, l2))
		require.NoError(t, d2.Close(-1))
	})
}

// servesOnly reads a log: all that comes must have been appended. false: it came
// upon damage.
func servesOnly(t *testing.T, l *Log, batches []byte) bool {
	t.Helper()
	const posMagic = 16
	for off := l.Start(); off < l.End(); {
		got, err := l.Read(off, l.End(), 300)
		if errors.Is(err, ErrCorrupt) {
			return false
		}
		require.NoError(t, err)
		require.NotEmpty(t, got)
		for i := range got {
			for b := got[i].Bytes; len(b) > 0; {
				info, ok := record.Peek(b)
				require.True(t, ok)
				require.Equal(t, off, info.BaseOffset)
				// The CRC covers neither the base offset nor the epoch.
				require.True(t, bytes.Contains(batches, b[posMagic:info.Size]), "offset %d", off)
				off, b = info.NextOffset(), b[info.Size:]
			}
			got[i].Release()
		}
	}
	return true
}
