// Command disk measures which way to the disk costs a log the least: the spike
// behind docs/decisions on the page cache.
//
// A few writers, each with its own file, append groups of 256 KiB to 1 MiB and
// make each durable with fdatasync before the next. Ways:
//
//	buffered      pages stay in the page cache until the kernel wants them back
//	drop-N        a group's pages leave the page cache (FADV_DONTNEED) once N MiB,
//	              over all files, were flushed after it
//	roll-N        all pages of a segment of N MiB leave when it is full
//	direct        O_DIRECT. Batches have any length and lie anywhere in memory, so a
//	              group is gathered into an aligned buffer; the last block is padded
//	              with zeros and written again with the next group
//	direct-trunc  the same, and ftruncate takes the padding off after each group
//	direct-ideal  O_DIRECT as if groups were whole blocks in aligned memory: what
//	              no log has, the bound of the others
//
// Memory before a cell:
//
//	cold   free for 10 s: under a hypervisor that takes free pages back, touching
//	       them again costs more than the write
//	warm   touched, and handed to the kernel just ahead of the writers
//	full   the page cache is full of clean pages of another file
//
// The figure to compare is CPU-seconds a GB: of the process (getrusage), and of the
// whole machine, which counts the kernel's reclaim as well and is right only
// when nothing else runs.
//
//	go run ./bench/spikes/disk -dir /var/tmp -duration 10s
//	go run ./bench/spikes/disk -dir /var/tmp -duration 60s -memory cold,full -ways buffered,drop-1024,direct
//	go run ./bench/spikes/disk -dir /var/tmp -duration 10s -memory warm -ways drop-1024,drop-64,direct -least 1 -most 1
//	go run ./bench/spikes/disk -dir /var/tmp -duration 10s -memory warm -ways drop-1024,drop-64,direct -lag 512
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

type options struct {
	dir      string
	duration time.Duration
	files    int
	warm     int64 // MiB
	keep     int64 // MiB
	least    int   // KiB
	most     int   // KiB
	lag      int64 // MiB
	ballast  int64
	ways     string
	memory   string
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", os.TempDir(), "where to make the files; a real disk, not tmpfs")
	flag.DurationVar(&o.duration, "duration", 10*time.Second, "how long a cell writes")
	flag.IntVar(&o.files, "files", 6, "files, each with one writer")
	flag.Int64Var(&o.warm, "warm", 8<<10, "MiB of memory that is touched before a warm cell")
	flag.Int64Var(&o.keep, "keep", 12<<10, "MiB of segments that are kept; the oldest beyond are removed")
	flag.IntVar(&o.least, "least", 256, "KiB of the smallest group")
	flag.IntVar(&o.most, "most", 1024, "KiB of the largest group, at most 1024")
	flag.Int64Var(&o.lag, "lag", 0, "MiB, over all files, by which a reader of each file lags; 0: no readers")
	flag.StringVar(&o.ways, "ways", "buffered,drop-0,drop-64,drop-256,drop-1024,roll-64,roll-256,roll-1024,direct,direct-trunc,direct-ideal", "which ways")
	flag.StringVar(&o.memory, "memory", "cold,warm,full", "which states of memory")
	flag.Int64Var(&o.ballast, ballastFlag, 0, "internal: MiB that this process touches and gives back when told")
	flag.Parse()
	run := table
	if o.ballast > 0 {
		run = holdBallast
	}
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "disk:", err)
		os.Exit(1)
	}
}

// table runs all cells and prints a row of Markdown after each.
func table(o options) (err error) {
	if o.least < 1 || o.most < o.least || o.most > groupMost>>10 {
		return fmt.Errorf("groups of %d to %d KiB: want 1 to %d", o.least, o.most, groupMost>>10)
	}
	var ways []way
	for name := range strings.SplitSeq(o.ways, ",") {
		w, err := parseWay(name)
		if err != nil {
			return err
		}
		ways = append(ways, w)
	}
	states := strings.Split(o.memory, ",")
	for _, s := range states {
		if !slices.Contains([]string{"cold", "warm", "full"}, s) {
			return fmt.Errorf("memory %q; known are cold, warm, full", s)
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(o.dir, &st); err != nil {
		return err
	}
	if st.Type == unix.TMPFS_MAGIC {
		return fmt.Errorf("%s is a tmpfs: it has no disk", o.dir)
	}
	if o.dir, err = os.MkdirTemp(o.dir, "disk-spike-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()

	fmt.Printf("%d files, groups of %d KiB to %d KiB, %s a cell, memory touched for warm: %d MiB, readers lag by %d MiB (0: none), %s\n\n",
		o.files, o.least, o.most, o.duration, o.warm, o.lag, time.Now().UTC().Format(time.RFC3339))
	fmt.Println("| memory | way | MB/s | CPU s/GB | machine s/GB | write and sync p50 ms | p99 ms | drop p50 us | p99 us | page cache grew, GiB |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|")
	for _, state := range states {
		for _, w := range ways {
			r, err := cell(o, state, w)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", state, w.name, err)
			}
			fmt.Printf("| %s | %s | %.0f | %.2f | %.2f | %.2f | %.2f | %d | %d | %.1f |\n", state, w.name,
				r.bytes/1e6/r.took.Seconds(), r.cpu.Seconds()/(r.bytes/1e9), r.machine.Seconds()/(r.bytes/1e9),
				float64(r.syncs.ValueAtQuantile(50))/1e3, float64(r.syncs.ValueAtQuantile(99))/1e3,
				r.drops.ValueAtQuantile(50), r.drops.ValueAtQuantile(99), float64(r.cached)/(1<<30))
		}
	}
	return nil
}

// cell brings memory into a state, writes one way, and cleans up.
func cell(o options, state string, w way) (r result, err error) {
	dir := filepath.Join(o.dir, w.name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	written := func(int64) error { return nil }
	switch state {
	case "cold":
		time.Sleep(10 * time.Second)
	case "warm":
		b, err := startBallast(o.warm)
		if err != nil {
			return r, err
		}
		defer func() { err = errors.Join(err, b.stop()) }()
		written = b.release
	case "full":
		if err := fillCache(filepath.Join(o.dir, "filler")); err != nil {
			return r, err
		}
	}
	return measure(o, dir, w, written)
}
