package log

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// restedLog is a log of 400 batches, all of them indexed and in its files only.
func restedLog(t *testing.T, fsys vfs.FS) (*Dir, *Log, *listener) {
	t.Helper()
	d, l, n := openTestLog(t, fsys, Config{Synced: true, IndexInterval: 1})
	fill(t, l, n, 400)
	evictAll(d)
	require.Greater(t, l.active().index.bytes(), restBytes)
	return d, l, n
}

// An idle log has its index in its files only, and is read, searched, appended to,
// cut, closed and recovered like any other.
func TestRest(t *testing.T) {
	for name, then := range map[string]func(t *testing.T, mem *vfs.Mem, l *Log, n *listener){
		"reads": func(t *testing.T, _ *vfs.Mem, l *Log, _ *listener) {
			t.Helper()
			for off := record.Offset(399); off >= 0; off -= 7 {
				require.NotEmpty(t, readAt(t, l, off, off+1, 1))
				got, _, found, err := l.OffsetForTime(1000+int64(off), 400)
				require.NoError(t, err)
				require.True(t, found)
				require.Equal(t, off, got)
			}
			require.Nil(t, l.active().index)
		},
		"append": func(t *testing.T, _ *vfs.Mem, l *Log, n *listener) {
			t.Helper()
			fill(t, l, n, 10)
			require.Len(t, l.active().index.offsets, 410)
			require.NoError(t, l.Rest())
			require.NotNil(t, l.active().index, "it was not idle")
			require.NoError(t, l.Rest())
			require.Nil(t, l.active().index)
		},
		"bad files": func(t *testing.T, mem *vfs.Mem, l *Log, n *listener) {
			t.Helper()
			s := l.active()
			rawFile(t, mem, s.path+indexExt, func(b []byte) []byte {
				clear(b[indexEntrySize : 2*indexEntrySize])
				return b
			})
			fill(t, l, n, 1)
			require.Len(t, s.index.offsets, 401)
			require.NoError(t, l.Rest())
			require.NoError(t, l.Rest())
			require.Nil(t, s.index)
			_, err := loadIndex(mem, s.path, s.size)
			require.NoError(t, err)
		},
		"truncation": func(t *testing.T, _ *vfs.Mem, l *Log, n *listener) {
			t.Helper()
			require.NoError(t, l.TruncateTo(100))
			fill(t, l, n, 1)
			require.Len(t, l.active().index.offsets, 101)
		},
		"crash": func(t *testing.T, mem *vfs.Mem, _ *Log, _ *listener) {
			t.Helper()
			_, l, n := openTestLog(t, mem.CrashClone(nil), Config{Synced: true, IndexInterval: 1})
			require.Equal(t, DamageNone, l.Damage())
			require.Equal(t, record.Offset(400), l.End())
			readEverything(t, l)
			fill(t, l, n, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			d, l, n := restedLog(t, mem)
			want := readEverything(t, l)
			require.NoError(t, l.Rest())
			require.NotNil(t, l.active().index, "only the second call sees that nothing came")
			require.NoError(t, l.Rest())
			require.Nil(t, l.active().index)
			then(t, mem, l, n)
			end := l.End()
			require.NoError(t, d.Close(1))

			_, l, n = openTestLog(t, mem, Config{Synced: true, IndexInterval: 1})
			require.Equal(t, Recovery{LastEpoch: 1, End: end, Flushed: end}, l.Recovery())
			require.Nil(t, l.active().index, "it was closed in order")
			got := readEverything(t, l)
			shorter := min(len(want), len(got), 100*len(batch(t, 0, "value 0")))
			require.Equal(t, want[:shorter], got[:shorter])
			fill(t, l, n, 1)
		})
	}
}

// A disk without room leaves the index where it was, and the log well.
func TestRestWithoutRoom(t *testing.T) {
	for _, op := range []vfs.Op{vfs.OpCreate, vfs.OpWrite, vfs.OpSync} {
		for _, ext := range []string{indexExt, timeExt} {
			t.Run(fmt.Sprint(op, ext), func(t *testing.T) {
				faults := vfs.NewFaults(vfs.NewMem())
				d, l, n := restedLog(t, faults)
				require.NoError(t, l.Rest())
				faults.Inject(vfs.Fault{Op: op, Pattern: "*" + ext, Err: syscall.ENOSPC})
				require.ErrorIs(t, l.Rest(), syscall.ENOSPC)
				require.NotNil(t, l.active().index)
				_, err := readFile(faults, l.active().path+indexExt)
				require.Error(t, err, "half an index is believed by nobody")
				fill(t, l, n, 1)
				require.NoError(t, l.Err())
				faults.Heal()
				require.NoError(t, d.Close(1))
			})
		}
	}
}
