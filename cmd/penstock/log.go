package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	commitlog "github.com/penstock/penstock/log"
)

func newLog(s *shared) *cobra.Command {
	return s.prints(group("log", "Look at the files of a data directory",
		"Look at the files of a data directory, of one partition's folder in it, or at one\n"+
			"file. Nothing is written and no lock is taken: a running node may own the files,\n"+
			"and what it writes meanwhile may look unfinished.",
		newLogDump(s), newLogVerify(s)))
}

func newLogDump(s *shared) *cobra.Command {
	o := dumpOptions{}
	var partition int32
	cmd := &cobra.Command{
		Use: "dump PATH", Short: "Print segments, batches, indexes, epochs, producers and the checkpoint", Args: exactArgs("PATH"),
		Long: "Print what is in the files, right or wrong. -o json prints one object a line; its\n" +
			"field \"type\" says what it is. Bytes that are not UTF-8 are printed as base64.\n" +
			"Times are UTC; in JSON they are milliseconds, as in the files.",
		Example: "  penstock log dump /var/lib/penstock/orders-0\n" +
			"  penstock log dump /var/lib/penstock/orders-0 --records --from 1200 --to 1300\n" +
			"  penstock log dump /var/lib/penstock -o json --partition 3",
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.from < 0 || o.to < -1 || o.to >= 0 && o.to < o.from {
				return usagef("--from is %d and --to is %d, want offsets from 0 that do not fall", o.from, o.to)
			}
			in, err := inspect(args[0], partition, nil)
			if err != nil {
				return err
			}
			w := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
			o.asJSON = s.output == "json"
			d := &dump{in: in, w: w, opts: o, left: o.count}
			return errors.Join(d.run(cmd.Context()), w.Flush())
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.records, "records", false, "print the records of the batches too")
	f.Int64Var(&o.from, "from", 0, "first offset")
	f.Int64Var(&o.to, "to", -1, "offset to stop before; -1: the end")
	f.Int64VarP(&o.count, "count", "n", 0, "stop after so many batches, or records with --records; 0: do not stop")
	f.Int32Var(&partition, "partition", -1, "the partitions of this number alone; -1: all")
	return cmd
}

func newLogVerify(s *shared) *cobra.Command {
	var partition int32
	cmd := &cobra.Command{
		Use: "verify PATH", Short: "Check every byte that can be checked", Args: exactArgs("PATH"),
		Long: "Check the CRC and the records of every batch, that batches follow each other, and\n" +
			"that indexes, epochs, producer snapshots and the checkpoint agree with them. What\n" +
			"lies above the flushed offset may be torn by a crash: that is no damage. Files that\n" +
			"no log has written are listed.\n\n" +
			"Exit status: 0 all is well, 1 something is damaged, 2 the command line was wrong.",
		Example: "  penstock log verify /var/lib/penstock\n" +
			"  penstock log verify /var/lib/penstock/orders-0 -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			bar := newProgressBar(os.Stderr)
			in, err := inspect(args[0], partition, bar.set)
			if err != nil {
				return err
			}
			v := &findingPrinter{w: cmd.OutOrStdout(), bar: bar, asJSON: s.output == "json"}
			sum, err := in.Verify(cmd.Context(), v.print)
			bar.clear()
			if err = errors.Join(err, v.err); err != nil {
				return err
			}
			if err := v.end(sum); err != nil {
				return err
			}
			if sum.Damages > 0 {
				return fmt.Errorf("%s is damaged: %d findings", args[0], sum.Damages)
			}
			return nil
		},
	}
	cmd.Flags().Int32Var(&partition, "partition", -1, "the partitions of this number alone; -1: all")
	return cmd
}

// inspect opens a path and warns when a living process writes there.
func inspect(path string, partition int32, progress func(done, total int64)) (*commitlog.Inspector, error) {
	if partition < -1 {
		return nil, usagef("--partition is %d, want a number from 0", partition)
	}
	in, err := commitlog.Inspect(commitlog.InspectOptions{Path: path, Partition: partition, Progress: progress})
	if errors.Is(err, commitlog.ErrNotOurs) || errors.Is(err, fs.ErrNotExist) {
		return nil, &usageError{err: err}
	}
	if err != nil {
		return nil, err
	}
	switch pid, held, err := in.HeldBy(); {
	case err != nil:
		fmt.Fprintf(os.Stderr, "penstock: whether a living process has the data directory open is not known: %v\n", err)
	case held && pid > 0:
		fmt.Fprintf(os.Stderr, "penstock: process %d has the data directory open: what it writes meanwhile may look unfinished\n", pid)
	case held:
		fmt.Fprintln(os.Stderr, "penstock: a living process has the data directory open: what it writes meanwhile may look unfinished")
	}
	return in, nil
}

// progressBar shows on a terminal how far a long work is.
type progressBar struct {
	w     io.Writer // nil: no terminal
	began time.Time
	last  time.Time
	shown bool
}

func newProgressBar(f *os.File) *progressBar {
	b := &progressBar{began: time.Now()}
	if term.IsTerminal(int(f.Fd())) {
		b.w = f
	}
	return b
}

func (b *progressBar) set(done, total int64) {
	if b.w == nil || total <= 0 {
		return
	}
	now := time.Now()
	if now.Sub(b.began) < time.Second || now.Sub(b.last) < 200*time.Millisecond {
		return
	}
	b.draw(now, done, total)
	fmt.Fprintf(b.w, ", %d of %d MiB", done>>20, total>>20)
}

// count is set for what is counted in units.
func (b *progressBar) count(done, total int64, unit string) {
	if b.w == nil || total <= 0 {
		return
	}
	now := time.Now()
	if now.Sub(b.last) < 200*time.Millisecond {
		return
	}
	b.draw(now, done, total)
	fmt.Fprintf(b.w, ", %d of %d %s", done, total, unit)
}

func (b *progressBar) draw(now time.Time, done, total int64) {
	b.last, b.shown = now, true
	const width = 30
	full := int(min(done, total) * width / total)
	var bar [width]byte
	for i := range bar {
		bar[i] = '.'
		if i < full {
			bar[i] = '#'
		}
	}
	fmt.Fprintf(b.w, "\r\x1b[K[%s] %3d %%", bar[:], min(done, total)*100/total)
}

// clear makes room for a line.
func (b *progressBar) clear() {
	if b.shown {
		fmt.Fprint(b.w, "\r\x1b[K")
		b.shown = false
	}
}
