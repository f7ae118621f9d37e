// Command flush measures how many dirty files are best made durable: the spike
// behind docs/decisions/0001-flush.md.
//
// Three processes share one disk, as three nodes on one machine do. Each file has
// one appender that writes a record, waits until it is durable, and writes the
// next: a closed loop, so the latency is what a producer would see and the rate
// is what the strategy sustains. Strategies:
//
//	fdatasync   each file is synced by itself, by at most 16 workers a process
//	syncfs      one flusher gathers what is dirty, writes it, calls syncfs(2) once
//	writeback   one flusher writes all, starts writeback on all
//	            (sync_file_range), then syncs all with 16 workers
//	journal     one flusher writes what is dirty into a journal with one call and
//	            syncs that; the files are synced when the journal reaches 64 MiB
//	filled      the same, with a journal file that was filled with zeros before
//
// Only when -strategy names them, as they take 512 MiB of the disk for each file:
//
//	reserved    as fdatasync, in files that have their blocks (fallocate)
//	recycled    as fdatasync, over what files had before: none of them grows
//	cold        the same, and the page cache has nothing of them at first
//
// Run it on a file system on a real disk and on an otherwise quiet machine:
//
//	go run ./bench/spikes/flush -dir /var/tmp -total 4m
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

const processes = 3

type options struct {
	dir      string
	total    time.Duration
	size     int
	pause    time.Duration
	files    string
	strategy string
	worker   int // >= 0: this process is a worker
	count    int
	duration time.Duration
}

// result is what a worker process prints.
type result struct {
	Histogram *hdrhistogram.Snapshot
	Syncs     int64 // system calls that made something durable
	CPU       time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", os.TempDir(), "where to make the files; a real disk, not tmpfs")
	flag.DurationVar(&o.total, "total", 4*time.Minute, "time for the whole table")
	flag.IntVar(&o.size, "size", 1024, "bytes of an append")
	flag.DurationVar(&o.pause, "pause", 0, "how long an appender waits before its next append")
	flag.StringVar(&o.files, "files", "1,6,16,256,1000,10000", "numbers of files, over all processes")
	flag.StringVar(&o.strategy, "strategy", "", "only this one")
	flag.IntVar(&o.worker, "worker", -1, "internal: number of the worker process")
	flag.IntVar(&o.count, "count", 0, "internal: files of this worker")
	flag.DurationVar(&o.duration, "duration", 0, "internal: how long the worker runs")
	flag.Parse()
	run := table
	if o.worker >= 0 {
		run = work
	}
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "flush:", err)
		os.Exit(1)
	}
}

// table runs all strategies with all numbers of files and prints the figures.
func table(o options) error {
	counts, err := parseCounts(o.files)
	if err != nil {
		return err
	}
	names := strategyNames()
	if o.strategy != "" {
		known := slices.Concat(names, wholeStrategies())
		if !slices.Contains(known, o.strategy) {
			return fmt.Errorf("strategy %q; known are %s", o.strategy, strings.Join(known, ", "))
		}
		names = []string{o.strategy}
	}
	if most := slices.Max(counts); slices.Contains(wholeStrategies(), o.strategy) && most > wholeFiles {
		return fmt.Errorf("%d files of %d MiB for strategy %s: at most %d", most, recycledBytes>>20, o.strategy, wholeFiles)
	}
	fsName, err := fileSystem(o.dir)
	if err != nil {
		return err
	}
	// A third of the time goes into making and removing files.
	o.duration = o.total * 2 / 3 / time.Duration(len(counts)*len(names))
	fmt.Printf("%s on %s, %d processes, appends of %d bytes, %s apart, %s a cell, %s\n\n",
		o.dir, fsName, processes, o.size, o.pause, o.duration.Round(time.Millisecond), time.Now().Format(time.RFC3339))
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight|tabwriter.Debug)
	fmt.Fprintln(w, "files\tstrategy\tp50 ms\tp99 ms\tmax ms\tappends/s\tsyncs/s\tCPU us/append\t")
	for _, count := range counts {
		for _, name := range names {
			o.strategy, o.count = name, count
			if err := cell(o, w); err != nil {
				return fmt.Errorf("%s, %d files: %w", name, count, err)
			}
		}
	}
	return w.Flush()
}

func parseCounts(s string) ([]int, error) {
	var out []int
	for field := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("number of files %q", field)
		}
		out = append(out, n)
	}
	return out, nil
}

// fileSystem names the type, and refuses the one that has no disk.
func fileSystem(dir string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", err
	}
	switch st.Type {
	case unix.TMPFS_MAGIC:
		return "", fmt.Errorf("%s is a tmpfs: it has no disk to wait for", dir)
	case unix.EXT4_SUPER_MAGIC:
		return "ext4", nil
	case unix.XFS_SUPER_MAGIC:
		return "xfs", nil
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs", nil
	}
	return fmt.Sprintf("file system %#x", st.Type), nil
}

// cell runs one strategy with one number of files in all processes.
func cell(o options, w io.Writer) (err error) {
	dir, err := os.MkdirTemp(o.dir, "flush-spike-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var workers []*process
	for i := range processes {
		share := o.count / processes
		if i < o.count%processes {
			share++
		}
		if share == 0 {
			continue
		}
		p, err := start(o, dir, i, share)
		if err != nil {
			return err
		}
		workers = append(workers, p)
	}
	for _, p := range workers { // all together, once all have made their files
		if _, err := p.out.ReadString('\n'); err != nil {
			return fmt.Errorf("worker: %w", err)
		}
	}
	for _, p := range workers {
		if _, err := io.WriteString(p.in, "go\n"); err != nil {
			return err
		}
	}
	sum := hdrhistogram.New(1, int64(time.Minute/time.Microsecond), 3)
	var syncs int64
	var cpu time.Duration
	for _, p := range workers {
		var r result
		if err := json.NewDecoder(p.out).Decode(&r); err != nil {
			return fmt.Errorf("worker: %w", err)
		}
		if err := p.cmd.Wait(); err != nil {
			return err
		}
		sum.Merge(hdrhistogram.Import(r.Histogram))
		syncs += r.Syncs
		cpu += r.CPU
	}
	n := sum.TotalCount()
	ms := func(us int64) float64 { return float64(us) / 1000 }
	_, err = fmt.Fprintf(w, "%d\t%s\t%.2f\t%.2f\t%.1f\t%.0f\t%.0f\t%.1f\t\n", o.count, o.strategy,
		ms(sum.ValueAtQuantile(50)), ms(sum.ValueAtQuantile(99)), ms(sum.Max()),
		float64(n)/o.duration.Seconds(), float64(syncs)/o.duration.Seconds(), float64(cpu.Microseconds())/float64(max(n, 1)))
	return err
}

type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(o options, dir string, i, share int) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-worker", strconv.Itoa(i), "-dir", filepath.Join(dir, strconv.Itoa(i)), //nolint:noctx // ends by itself
		"-count", strconv.Itoa(share), "-strategy", o.strategy, "-duration", o.duration.String(), "-size", strconv.Itoa(o.size), "-pause", o.pause.String())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &process{cmd, in, bufio.NewReader(out)}, cmd.Start()
}

// work is a worker process: it makes its files, says so, waits for the word, and
// prints its result.
func work(o options) error {
	files, err := makeFiles(o.dir, o.count)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := prepare(f, o.strategy); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	r, err := measure(o, files)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// makeFiles creates the files and makes them durable at once.
func makeFiles(dir string, count int) ([]*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range count {
		f, err := os.Create(filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, unix.Syncfs(int(files[0].Fd()))
}

func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
