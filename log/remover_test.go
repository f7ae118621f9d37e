package log

import (
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
)

// deletedBytes are what folders that are being deleted still hold; -1: there is none.
func deletedBytes(t *testing.T, mem *vfs.Mem) int {
	t.Helper()
	entries, err := mem.List(testPath)
	require.NoError(t, err)
	i := slices.IndexFunc(entries, func(e vfs.Entry) bool { return strings.HasSuffix(e.Name, deletedExt) })
	if i < 0 {
		return -1
	}
	sum := 0
	for name, content := range contents(t, mem, testPath+"/"+entries[i].Name) {
		if strings.HasSuffix(name, logExt) {
			sum += len(content)
		}
	}
	return sum
}

// A large log gives its space back a piece at a time, behind the back of whoever
// removed it; a small one at once. A partition of the same name can be made meanwhile.
func TestRemoveIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		opts := testOptions(mem)
		opts.removePiece = 400
		d := openTestDir(t, opts)
		n := newListener()
		l, err := d.Open(testSpec(Config{Synced: true}, n))
		require.NoError(t, err)
		n.listen(l)
		fill(t, l, n, 20)
		began := time.Now()
		require.NoError(t, d.Remove(l))
		require.Equal(t, began, time.Now(), "it waited")
		synctest.Wait()
		before := deletedBytes(t, mem)
		require.Greater(t, before, 800)
		require.Zero(t, before%400, "cut within a block")

		time.Sleep(removePause)
		synctest.Wait()
		require.Equal(t, before-400, deletedBytes(t, mem))

		n = newListener()
		l, err = d.Open(testSpec(Config{Synced: true}, n))
		require.NoError(t, err)
		n.listen(l)
		require.Zero(t, l.End())
		fill(t, l, n, 1)
		time.Sleep(time.Minute)
		require.Equal(t, -1, deletedBytes(t, mem))
		require.NoError(t, d.Remove(l))
		require.Equal(t, -1, deletedBytes(t, mem), "what is small goes at once")
		require.NoError(t, d.Close(-1))
	})
}

// A stop does not wait for the space; the next start frees the rest.
func TestRemoveGoesOnAfterAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		opts := testOptions(mem)
		opts.removePiece = 400
		d := openTestDir(t, opts)
		n := newListener()
		l, err := d.Open(testSpec(Config{Synced: true}, n))
		require.NoError(t, err)
		n.listen(l)
		fill(t, l, n, 20)
		require.NoError(t, d.Remove(l))
		synctest.Wait()
		began := time.Now()
		require.NoError(t, d.Close(-1))
		require.Less(t, time.Since(began), removePause)
		left := deletedBytes(t, mem)
		require.Positive(t, left)

		d = openTestDir(t, opts)
		synctest.Wait()
		require.Less(t, deletedBytes(t, mem), left)
		time.Sleep(time.Minute)
		require.Equal(t, -1, deletedBytes(t, mem))
		require.NoError(t, d.Close(-1))
	})
}

// Retention takes large segments out of the log at once and frees them later; a
// power cut or a stop in between changes nothing for the log.
func TestRetentionIsSlowOnTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		opts := testOptions(mem)
		opts.removePiece = 400
		cfg := Config{Synced: true, SegmentBytes: 1000, RetentionBytes: 1000}
		d := openTestDir(t, opts)
		n := newListener()
		l, err := d.Open(testSpec(cfg, n))
		require.NoError(t, err)
		n.listen(l)
		fill(t, l, n, 60)
		l.SetHighWatermark(l.End())
		began := time.Now()
		removed, err := l.Retain(began)
		require.NoError(t, err)
		require.Greater(t, removed, 2)
		require.Equal(t, began, time.Now(), "it waited")
		start, end := l.Start(), l.End()
		cut := mem.CrashClone(nil)
		require.Equal(t, removed, putAwaySegments(t, mem))
		synctest.Wait()
		time.Sleep(removePause / 2)
		require.Equal(t, removed, putAwaySegments(t, mem), "a file went at once")
		require.NoError(t, d.Close(-1))
		require.Positive(t, putAwaySegments(t, mem))

		for _, fsys := range []*vfs.Mem{mem, cut} {
			opts.FS = fsys
			d = openTestDir(t, opts)
			l, err = d.Open(testSpec(cfg, nil))
			require.NoError(t, err)
			require.Equal(t, DamageNone, l.Damage())
			require.Equal(t, start, l.Start())
			require.Equal(t, end, l.End())
			require.NotEmpty(t, readEverything(t, l))
			time.Sleep(time.Minute)
			synctest.Wait()
			require.Zero(t, putAwaySegments(t, fsys))
			require.NoError(t, d.Close(-1))
		}
	})
}

func putAwaySegments(t *testing.T, mem *vfs.Mem) (n int) {
	t.Helper()
	entries, err := mem.List(testPath + "/orders-0")
	require.NoError(t, err)
	for _, e := range entries {
		if kind, _ := logKind(e); kind == KindDeleted {
			n++
		}
	}
	return n
}

// A topic of many partitions goes with one sync of the directory and one checkpoint,
// and leaves nothing behind.
func TestRemoveManyAtOnce(t *testing.T) {
	mem := vfs.NewMem()
	d := openTestDir(t, testOptions(mem))
	const many = 200
	logs := make([]*Log, many)
	for i := range logs {
		spec := testSpec(Config{Synced: true}, nil)
		spec.Partition = int32(i)
		l, err := d.Open(spec)
		require.NoError(t, err)
		logs[i] = l
	}
	var mu sync.Mutex
	syncs := map[string]int{}
	mem.Watch(func(e vfs.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Done && (e.Op == vfs.OpSync || e.Op == vfs.OpFolder) {
			syncs[path.Base(e.Name)]++
		}
	})
	for _, err := range d.RemoveAll(logs) {
		require.NoError(t, err)
	}
	mem.Watch(nil)
	mu.Lock()
	require.LessOrEqual(t, syncs[path.Base(testPath)], 3, "%v", syncs)
	require.LessOrEqual(t, syncs["flushed-checkpoint.0"]+syncs["flushed-checkpoint.1"], 3, "%v", syncs)
	mu.Unlock()
	cut := mem.CrashClone(nil)
	require.NoError(t, d.Close(-1))
	opts := testOptions(cut)
	d = openTestDir(t, opts)
	found, err := d.Scan()
	require.NoError(t, err)
	require.Empty(t, found)
	require.Empty(t, d.states)
	require.NoError(t, d.Close(-1))
	require.Equal(t, -1, deletedBytes(t, cut))
}
