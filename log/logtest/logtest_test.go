package logtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/internal/vfs"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/logtest"
	"github.com/penstock/penstock/log/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func spec(notify func(commitlog.Progress)) commitlog.Spec {
	return commitlog.Spec{Topic: "orders", TopicID: [16]byte{1}, Config: commitlog.Config{Synced: true, SegmentBytes: 300}, Notify: notify}
}

func raw(t *testing.T) []byte {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	require.NoError(t, b.Append(&record.Record{Timestamp: 1, Value: []byte("value")}))
	out, err := b.Build(nil)
	require.NoError(t, err)
	return out
}

// filled opens a directory under a test of its own and flushes ten records.
func filled(t *testing.T, fsys vfs.FS) (*logtest.Dir, *commitlog.Log) {
	t.Helper()
	flushed := make(chan struct{}, 1)
	d := logtest.Open(t, commitlog.DirOptions{FS: fsys, DiskReserve: -1})
	l := d.Log(spec(func(p commitlog.Progress) {
		if p.Flushed == 10 {
			flushed <- struct{}{}
		}
	}))
	for range 10 {
		buf := record.NewBuf(raw(t))
		_, _, err := l.Append(1, []*record.Buf{buf}, 1)
		require.NoError(t, err)
		buf.Release()
	}
	<-flushed
	return d, l
}

func TestNothingIsWrong(t *testing.T) {
	d, _ := filled(t, vfs.NewMem())
	require.NoError(t, d.Check())
	require.NoError(t, d.Check(), "again, when it is closed")
}

// lying does not sync what it is told to.
type lying struct{}

func (lying) Flush(vfs.File) error { return nil }

func TestWhatIsWrongIsFound(t *testing.T) {
	t.Run("a flush that is none", func(t *testing.T) {
		d := logtest.Open(t, commitlog.DirOptions{Flusher: commitlog.FlusherOptions{Flusher: lying{}}, DiskReserve: -1})
		flushed := make(chan struct{}, 1)
		l := d.Log(spec(func(commitlog.Progress) { flushed <- struct{}{} }))
		buf := record.NewBuf(raw(t))
		_, _, err := l.Append(1, []*record.Buf{buf}, 1)
		require.NoError(t, err)
		buf.Release()
		<-flushed
		require.ErrorContains(t, d.Check(), "after a power cut")
	})
	t.Run("a reference that was kept", func(t *testing.T) {
		arena := record.NewArena(1 << 20)
		d := logtest.Open(t, commitlog.DirOptions{Arena: arena})
		kept := arena.Get(100)
		require.ErrorContains(t, d.Check(), "of the arena are referenced")
		kept.Release()
	})
	t.Run("a byte", func(t *testing.T) {
		mem := vfs.NewMem()
		d, _ := filled(t, mem)
		require.NoError(t, d.Check())
		f, err := mem.Open(logtest.Path + "/orders-0/00000000000000000000.log")
		require.NoError(t, err)
		_, err = f.WriteAt([]byte{0xFF}, 70)
		require.NoError(t, err)
		require.ErrorContains(t, logtest.Verify(mem, logtest.Path), "CRC")
		_, err = f.WriteAt(raw(t)[70:71], 70)
		require.NoError(t, err)
	})
}
