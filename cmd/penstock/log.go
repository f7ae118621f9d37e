package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	commitlog "github.com/penstock/penstock/log"
)

func newLog(s *shared) *cobra.Command {
	return s.prints(group("log", "Look at the files of a data directory",
		"Look at the files of a data directory, of one partition's folder in it, or at one\n"+
			"file. Nothing is written and no lock is taken: a running node may own the files,\n"+
			"and what it writes meanwhile may look unfinished.",
		newLogDump(s), newLogVerify(s)))
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
