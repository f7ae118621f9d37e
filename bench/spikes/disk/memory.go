package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const ballastFlag = "ballast"

// ballast is a process that has touched memory and gives it back in the order in
// which the writers need it: free memory that nobody wants for some seconds would
// be cold again.
type ballast struct {
	cmd *exec.Cmd
	in  io.WriteCloser
}

func startBallast(mib int64) (*ballast, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-"+ballastFlag, strconv.FormatInt(mib, 10)) //nolint:noctx // ends with its input
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b := &ballast{cmd, in}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return nil, errors.Join(err, b.stop())
	}
	return b, b.release(512 << 20) // so much is always ahead of the writers
}

// release gives bytes back to the kernel.
func (b *ballast) release(n int64) error {
	_, err := fmt.Fprintln(b.in, n)
	return err
}

func (b *ballast) stop() error { return errors.Join(b.in.Close(), b.cmd.Wait()) }

// holdBallast is the child process.
func holdBallast(o options) error {
	m, err := unix.Mmap(-1, 0, int(o.ballast<<20), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	for i := 0; i < len(m); i += os.Getpagesize() {
		m[i] = 1
	}
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		n = min((n+1<<21-1)>>21<<21, len(m))
		if n == 0 {
			continue
		}
		if err := unix.Madvise(m[:n], unix.MADV_DONTNEED); err != nil {
			return err
		}
		m = m[n:]
	}
	return lines.Err()
}

// fillCache reads a file as large as memory, which it makes as far as it is
// missing, until no memory is free.
func fillCache(name string) (err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Sync(), f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	b := make([]byte, 4<<20)
	for at := int64(0); ; at += int64(len(b)) {
		free, err := meminfo("MemFree")
		if err != nil || free < 512<<20 {
			return err
		}
		if at < st.Size() {
			_, err = f.ReadAt(b, at)
		} else {
			_, err = f.WriteAt(b, at)
		}
		if err != nil {
			return err
		}
	}
}

// meminfo is a line of /proc/meminfo in bytes.
func meminfo(key string) (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		if name == key {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/meminfo has no %s", key)
}

func cpuTime() (time.Duration, error) {
	var u unix.Rusage
	err := unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
}

// machineTime is what all processors together were busy since boot.
func machineTime() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	var ticks int64
	for i, field := range strings.Fields(line)[1:] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		if i != 3 && i != 4 && i < 8 { // neither idle nor waiting; guests are counted in user
			ticks += n
		}
	}
	return time.Duration(ticks) * (time.Second / 100), nil // USER_HZ
}
