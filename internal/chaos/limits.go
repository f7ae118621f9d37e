package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits of a process while it runs: how many files it may have open, how much memory.

// FileLimit is a limit on the open files of a process, until it is lifted.
type FileLimit struct {
	pid int
	was unix.Rlimit
	// Now is the limit that was set.
	Now uint64
}

// LimitFiles lets a process open so many files and connections more than it has.
func LimitFiles(pid, leave int) (*FileLimit, error) {
	open, err := descriptors(pid)
	if err != nil {
		return nil, err
	}
	l := &FileLimit{pid: pid, Now: limitFor(open, leave)}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &l.was); err != nil {
		return nil, fmt.Errorf("chaos: limit of open files of process %d: %w", pid, err)
	}
	// The hard limit stays, so that it can be lifted.
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: l.Now, Max: l.was.Max}, nil); err != nil {
		return nil, fmt.Errorf("chaos: limit the open files of process %d to %d: %w", pid, l.Now, err)
	}
	return l, nil
}

// Lift takes the limit back. A process that has ended has none.
func (l *FileLimit) Lift() error {
	err := unix.Prlimit(l.pid, unix.RLIMIT_NOFILE, &l.was, nil)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// descriptors lists the numbers of what a process has open, ascending.
func descriptors(pid int) (open []int, err error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			return nil, err
		}
		open = append(open, n)
	}
	slices.Sort(open)
	return open, nil
}

// limitFor is the limit below which so many numbers are free: a new file takes the lowest
// one, and the kernel refuses numbers at the limit or above, however few are in use.
func limitFor(open []int, leave int) uint64 {
	limit := 0
	for _, n := range open {
		if free := n - limit; free > leave {
			break
		} else if free > 0 {
			leave -= free
		}
		limit = n + 1
	}
	return uint64(limit + leave)
}

// memoryRoot is where the kernel's memory groups are (version 1 of its interface).
const memoryRoot = "/sys/fs/cgroup/memory"

// memoryGroup is the folder of a node's memory group. All it ever touches is counted there.
func memoryGroup(id int) string { return filepath.Join(memoryRoot, netPrefix+strconv.Itoa(id)) }

// CanLimitMemory reports whether this machine has memory groups.
func CanLimitMemory() bool {
	const trial = memoryRoot + "/" + netPrefix + "-trial"
	if os.Mkdir(trial, 0o755) != nil { //nolint:gosec // the kernel decides who may read it
		return false
	}
	_, err := os.Stat(filepath.Join(trial, "memory.limit_in_bytes"))
	return errors.Join(err, os.Remove(trial)) == nil
}

// removeGroups removes the memory groups of this run or of an earlier one.
func removeGroups() error {
	groups, err := filepath.Glob(filepath.Join(memoryRoot, netPrefix+"*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, g := range groups {
		errs = append(errs, os.Remove(g))
	}
	return errors.Join(errs...)
}

// MemoryLimit is a limit on the memory of a node, until it is lifted.
type MemoryLimit struct {
	group string
	// Now is the limit that was set.
	Now int64
	hit counts
}

// counts are how often a limit was hit, and how often somebody was killed for it.
type counts struct{ Reached, Killed int64 }

// LimitMemory lets a node have so much more memory than it uses by itself. What the
// kernel keeps of its files counts too, and goes first; when that is not enough the kernel
// kills the process.
func (l *Lab) LimitMemory(id int, leave int64) (*MemoryLimit, error) {
	return limitMemory(memoryGroup(id), leave)
}

func limitMemory(group string, leave int64) (*MemoryLimit, error) {
	m := &MemoryLimit{group: group}
	own, err := m.field("memory.stat", "rss")
	if err != nil {
		return nil, err
	}
	if m.hit, err = m.counts(); err != nil {
		return nil, err
	}
	// What cannot be reclaimed at once, since it is being written, makes it EBUSY.
	const most, step = 16 << 30, 1 << 20
	for m.Now = own + leave; ; m.Now += step {
		if err := m.set(m.Now); !errors.Is(err, unix.EBUSY) || m.Now > most {
			return m, err
		}
	}
}

func (m *MemoryLimit) set(bytes int64) error {
	return os.WriteFile(filepath.Join(m.group, "memory.limit_in_bytes"), []byte(strconv.FormatInt(bytes, 10)), 0o600)
}

// Lift takes the limit back, and says how often it was hit.
func (m *MemoryLimit) Lift() (reached, killed int64, err error) {
	now, err := m.counts()
	return now.Reached - m.hit.Reached, now.Killed - m.hit.Killed, errors.Join(err, m.set(-1))
}

// Reached reports whether the limit was hit.
func (m *MemoryLimit) Reached() bool {
	now, err := m.counts()
	return err == nil && now.Reached > m.hit.Reached
}

func (m *MemoryLimit) counts() (c counts, err error) {
	b, err := os.ReadFile(filepath.Join(m.group, "memory.failcnt"))
	if err != nil {
		return c, err
	}
	if c.Reached, err = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err != nil {
		return c, err
	}
	c.Killed, err = m.field("memory.oom_control", "oom_kill")
	return c, err
}

// field is a number in a file of lines with a name and a number.
func (m *MemoryLimit) field(file, name string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(m.group, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == name {
			return strconv.ParseInt(v, 10, 64)
		}
	}
	return 0, fmt.Errorf("chaos: %s says nothing of %s", file, name)
}
