package chaos

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
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
		// The disk dies after so many syncs, in the midst of the others.
		cut := countdown{left: 20 + rand.Int64N(60), over: make(chan struct{})}
		name := func(i int) string { return filepath.Join(d.Path(), fmt.Sprintf("%d-%d", round, i)) }
		for i := range files {
			f, err := vfs.OS{}.Create(name(i))
			require.NoError(t, err)
			require.NoError(t, f.Datasync())
			wg.Go(func() {
				defer f.Close() // the disk is dead
				appendUntilItFails(f, make([]byte, 3000+100*i), &synced[i], &cut)
			})
		}
		require.NoError(t, vfs.OS{}.SyncFolder(d.Path()))
		<-cut.over
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
func appendUntilItFails(f vfs.File, chunk []byte, synced *atomic.Int64, cut *countdown) {
	for off := int64(0); ; {
		n, err := f.WriteAt(chunk, off)
		if err != nil {
			return
		}
		if off += int64(n); f.Datasync() != nil {
			return
		}
		synced.Store(off)
		cut.step()
	}
}

// countdown closes over at the step that many ask for together.
type countdown struct {
	mu   sync.Mutex
	left int64 // guarded by mu
	over chan struct{}
}

func (c *countdown) step() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left--; c.left == 0 {
		close(c.over)
	}
}

// A node whose disk hangs is in a call that no signal ends, so that it is killed only
// when its disk is let go.
func TestKillOnAFrozenDisk(t *testing.T) {
	if _, err := exec.LookPath("mkfs.ext4"); err != nil || os.Getuid() != 0 {
		t.Skip("needs root and mkfs.ext4, for a disk of its own")
	}
	ctx := t.Context()
	d, err := NewDisk(ctx, t.TempDir(), "disk", 64<<20)
	if err != nil {
		t.Skip("no disk of its own: ", err)
	}
	defer func() { require.NoError(t, errors.Join(d.Thaw(), d.Unmount(ctx))) }()
	healthy, err := NewDisk(ctx, t.TempDir(), "healthy", 64<<20)
	require.NoError(t, err)
	defer func() { require.NoError(t, healthy.Unmount(ctx)) }()
	l := &Lab{Disks: []*Disk{healthy, d}}
	file, err := os.Create(filepath.Join(d.Path(), "file"))
	require.NoError(t, err)
	require.NoError(t, d.Freeze())
	writer := exec.CommandContext(ctx, "dd", "if=/dev/zero", "bs=4096")
	writer.Stdout = file
	require.NoError(t, writer.Start())
	require.NoError(t, file.Close())
	// A process that is loaded from a slow disk is in state D too: it must be the write
	// to its standard output.
	writes := regexp.MustCompile(`^\d+ 0x1 `)
	require.Eventually(t, func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", writer.Process.Pid))
		call, callErr := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", writer.Process.Pid))
		return err == nil && callErr == nil && strings.Contains(string(stat), "(dd) D ") && writes.Match(call)
	}, 10*time.Second, 5*time.Millisecond, "the writer does not hang")
	require.NoError(t, l.thawing(func() error {
		var ended *exec.ExitError
		if err := errors.Join(writer.Process.Kill(), writer.Wait()); !errors.As(err, &ended) {
			return fmt.Errorf("the process was not killed: %w", err)
		}
		return nil
	}))
	require.False(t, d.frozen, "the process ended while its disk hung: the test is not of what it says")
}
