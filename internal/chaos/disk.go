package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is an ext4 file system in a file, mounted for one node alone, so that it can
// lose its power, fill up, hang and die without the machine noticing.
type Disk struct {
	image, mount string
	frozen       bool
}

// mountMark is in the path of every mount point, so that the next run finds what a
// run that was killed left behind.
const mountMark = "penstock-chaos-"

// What the kernel is asked, see ioctl_fs and the ext4 sources.
const (
	ext4Shutdown   = 0x8004587d // _IOR('X', 125, __u32)
	shutdownNoSync = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH: the journal is not flushed
	fiFreeze       = 0xc0045877
	fiThaw         = 0xc0045878
)

// NewDisk makes a disk of so many bytes in dir, and mounts it.
func NewDisk(ctx context.Context, dir, name string, size int64) (*Disk, error) {
	d := &Disk{image: filepath.Join(dir, name+".img"), mount: filepath.Join(dir, name)}
	f, err := os.Create(d.image)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(size), f.Close(), os.MkdirAll(d.mount, 0o755)); err != nil { //nolint:gosec // a mount point
		return nil, err
	}
	// Without lazy initialization the disk is as quiet as one in use for long.
	if err := run(ctx, "mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", d.image); err != nil {
		return nil, err
	}
	return d, d.Mount(ctx)
}

// Path is where it is mounted.
func (d *Disk) Path() string { return d.mount }

// Mount mounts it; the kernel replays its journal.
func (d *Disk) Mount(ctx context.Context) error {
	return run(ctx, "mount", "-o", "loop", d.image, d.mount)
}

// Unmount takes it away. Whoever used it must be gone; one that has just been killed
// may take a moment.
func (d *Disk) Unmount(ctx context.Context) error {
	for deadline := time.Now().Add(unmountWait); ; {
		err := run(ctx, "umount", d.mount)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

const unmountWait = 10 * time.Second

// CutPower ends all writing at this instant: what was not synced is gone when the
// disk is mounted again, and until then every call fails. The caller kills the
// process, unmounts and mounts.
func (d *Disk) CutPower() error {
	flags := uint32(shutdownNoSync)
	return d.ioctl("shut down", func(fd int) error { return unix.IoctlSetPointerInt(fd, ext4Shutdown, int(flags)) })
}

// Freeze makes every write and sync hang until Thaw.
func (d *Disk) Freeze() error {
	d.frozen = true
	return d.ioctl("freeze", func(fd int) error { return unix.IoctlSetInt(fd, fiFreeze, 0) })
}

// Thaw ends Freeze.
func (d *Disk) Thaw() error {
	if !d.frozen {
		return nil
	}
	d.frozen = false
	return d.ioctl("thaw", func(fd int) error { return unix.IoctlSetInt(fd, fiThaw, 0) })
}

func (d *Disk) ioctl(what string, f func(fd int) error) error { return onFolder(d.mount, what, f) }

func onFolder(path, what string, f func(fd int) error) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // only a handle
	if err := f(int(dir.Fd())); err != nil {
		return fmt.Errorf("chaos: %s %s: %w", what, path, err)
	}
	return nil
}

func (d *Disk) ballast() string { return filepath.Join(d.mount, "ballast") }

// Fill leaves so many bytes for the node to write.
func (d *Disk) Fill(leave int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(d.mount, &st); err != nil {
		return err
	}
	size := int64(st.Bavail)*st.Bsize - leave
	if size <= 0 {
		return nil
	}
	f, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	if err != nil {
		err = fmt.Errorf("chaos: allocate %d bytes in %s: %w", size, d.mount, err)
	}
	return errors.Join(err, f.Close())
}

// Drain ends Fill.
func (d *Disk) Drain() error {
	if err := os.Remove(d.ballast()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// removeDisks unmounts every disk of this run or of an earlier one. The loop devices
// go with the mounts, the files with the folder that they are in.
func removeDisks() error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.Contains(fields[1], "/"+mountMark) {
			continue
		}
		// One that is frozen could not be unmounted; one that is not answers EINVAL.
		_ = onFolder(fields[1], "thaw", func(fd int) error { return unix.IoctlSetInt(fd, fiThaw, 0) })
		d := &Disk{mount: fields[1]}
		errs = append(errs, d.Unmount(context.Background()))
	}
	return errors.Join(errs...)
}
