package bench

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// clockTicks is USER_HZ, which Linux fixes at 100 for what /proc shows.
const clockTicks = 100

// ProcessTime is the user and system time of a process and of its ended threads.
func ProcessTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("bench: processor time of process %d: %w", pid, err)
	}
	// The name, in parentheses, may hold spaces and parentheses itself.
	i := bytes.LastIndexByte(b, ')')
	fields := bytes.Fields(b[i+1:])
	if i < 0 || len(fields) < 13 {
		return 0, fmt.Errorf("bench: processor time of process %d: unexpected form of /proc/%d/stat", pid, pid)
	}
	var ticks int64
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("bench: processor time of process %d: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / clockTicks), nil
}

func processTimes(pids []int) (sum time.Duration, err error) {
	for _, pid := range pids {
		t, err := ProcessTime(pid)
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}

// Resident is the resident memory of a process in bytes.
func Resident(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, fmt.Errorf("bench: memory of process %d: %w", pid, err)
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		return 0, fmt.Errorf("bench: memory of process %d: unexpected form of /proc/%d/statm: %w", pid, pid, err)
	}
	return resident * int64(os.Getpagesize()), nil
}

// diskReads sums DiskReads of the brokers named.
func (o *Options) diskReads() (sum int64, err error) {
	for _, pid := range o.BrokerPids {
		n, err := DiskReads(pid)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// DiskReads is how many bytes a process has had fetched from disks: what it found
// in the page cache does not count.
func DiskReads(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0, fmt.Errorf("bench: disk reads of process %d: %w", pid, err)
	}
	for line := range bytes.Lines(b) {
		if value, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("read_bytes: ")); ok {
			return strconv.ParseInt(string(value), 10, 64)
		}
	}
	return 0, fmt.Errorf("bench: disk reads of process %d: /proc/%d/io has no read_bytes", pid, pid)
}

// TouchMemory touches memory and gives it back. Under a hypervisor, memory that was
// free for some seconds may be slower to touch than a disk. It goes around the Go
// heap, which would keep it, and would find it warm the next time.
func TouchMemory(size int) error {
	if size == 0 {
		return nil
	}
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("bench: touch %d bytes of memory: %w", size, err)
	}
	for i := 0; i < len(b); i += os.Getpagesize() {
		b[i] = 1
	}
	if err := unix.Munmap(b); err != nil {
		return fmt.Errorf("bench: give memory back: %w", err)
	}
	return nil
}

// DataFolder makes a new folder, named after prefix, for data that is synced: in parent,
// or without one among the temporary files, or in bin where those are on tmpfs. A
// parent on tmpfs, which syncs nothing, is refused with ErrOptions.
func DataFolder(parent, prefix string) (string, error) {
	if parent == "" {
		if parent = os.TempDir(); FileSystem(parent) == "tmpfs" {
			parent = "bin"
		}
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	if FileSystem(parent) == "tmpfs" {
		return "", fmt.Errorf("%w: %s is on tmpfs, which syncs nothing: name another folder for the data", ErrOptions, parent)
	}
	dir, err := os.MkdirTemp(parent, prefix)
	if err != nil {
		return "", err
	}
	return filepath.Abs(dir)
}

// FileSystem is the type of the file system that a folder is on, as people call it,
// by the magic numbers of statfs(2).
func FileSystem(dir string) string {
	if dir == "" {
		return "unknown"
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return "unknown"
	}
	switch uint32(st.Type) {
	case 0xEF53:
		return "ext4"
	case 0x58465342:
		return "xfs"
	case 0x9123683E:
		return "btrfs"
	case 0x01021994:
		return "tmpfs"
	case 0x794C7630:
		return "overlayfs"
	case 0x2FC12FC1:
		return "zfs"
	default:
		return fmt.Sprintf("0x%x", uint32(st.Type))
	}
}

// FreeBytes is how much an ordinary user may still write to the disk of a folder.
func FreeBytes(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("bench: free bytes on the disk of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// diskBytes is what the files below dir occupy.
func diskBytes(dir string) (sum int64) {
	if dir == "" {
		return 0
	}
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		// A file that retention removed meanwhile counts nothing.
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				if st, ok := info.Sys().(*syscall.Stat_t); ok {
					sum += st.Blocks * 512
				}
			}
		}
		return nil
	})
	return sum
}
