package chaos

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
)

// What a sync has promised is there when the disk comes back, also when it dies in
// the midst of it: the kernel's fdatasync does not keep that alone (vfs.OS).
func TestDatasyncWhileTheDiskDies(t *testing.T) {
	if _, err := exec.LookPath("mkfs.ext4"); err != nil || os.Getuid() != 0 {
		t.Skip("needs root and mkfs.ext4, for a disk of its own")
	}
	const rounds, files = 25, 12
	ctx := t.Context()
	d, err := NewDisk(ctx, t.TempDir(), "disk", 256<<20)
	if err != nil {
		t.Skip("no disk of its own: ", err)
	}
	defer func() { require.NoError(t, d.Unmount(ctx)) }()
	for round := range rounds {
		var synced [files]atomic.Int64
		var wg sync.WaitGroup
		name := func(i int) string { return filepath.Join(d.Path(), fmt.Sprintf("%d-%d", round, i)) }
		for i := range files {
			f, err := vfs.OS{}.Create(name(i))
			require.NoError(t, err)
			require.NoError(t, f.Datasync())
			wg.Go(func() {
				defer f.Close() // the disk is dead
				appendUntilItFails(f, make([]byte, 3000+100*i), &synced[i])
			})
		}
		require.NoError(t, vfs.OS{}.SyncFolder(d.Path()))
		time.Sleep(50*time.Millisecond + rand.N(30*time.Millisecond)) // no promise about time: another moment each round
		require.NoError(t, d.CutPower())
		wg.Wait()
		require.NoError(t, errors.Join(d.Unmount(ctx), d.Mount(ctx)))
		for i := range files {
			info, err := os.Stat(name(i))
			require.NoError(t, err)
			require.GreaterOrEqual(t, info.Size(), synced[i].Load(), "round %d, file %d: bytes that a sync covered are gone", round, i)
			require.NoError(t, os.Remove(name(i)))
		}
	}
}

// appendUntilItFails notes how much of the file a sync has covered.
func appendUntilItFails(f vfs.File, chunk []byte, synced *atomic.Int64) {
	for off := int64(0); ; {
		n, err := f.WriteAt(chunk, off)
		if err != nil {
			return
		}
		if off += int64(n); f.Datasync() != nil {
			return
		}
		synced.Store(off)
	}
}
