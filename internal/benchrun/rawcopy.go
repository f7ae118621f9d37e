package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/internal/chaos"
)

// The bare disk's part in a catch-up: it reads what leaders have and takes it once
// more, at the same time.
const (
	copyPiece = 1 << 20
	copyAhead = 4             // pieces between a reader and its writer
	copyEvery = 8 * copyPiece // a sync
)

// rawCopy copies one replica of a topic, all partitions at the same time, as a
// follower gets them, and returns MB/s.
func (l *lab) rawCopy(c *chaos.Cluster, topic string) (rate float64, err error) {
	dir, err := os.MkdirTemp(l.dir, "copy-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var written [partitions]int64
	var errs [partitions]error
	var wg sync.WaitGroup
	began := time.Now()
	for i := range partitions {
		wg.Go(func() {
			var files []string
			if files, errs[i] = filepath.Glob(filepath.Join(c.DataDir(1), fmt.Sprintf("%s-%d", topic, i), "*.log")); errs[i] == nil {
				written[i], errs[i] = copyFiles(filepath.Join(dir, strconv.Itoa(i)), files)
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	sum := int64(0)
	for _, n := range written {
		sum += n
	}
	return float64(sum) / 1e6 / took.Seconds(), errors.Join(errs[:]...)
}

// copyFiles writes what some files hold into one.
func copyFiles(name string, files []string) (written int64, err error) {
	out, err := os.Create(name) //nolint:gosec // in the folder made for it
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	free, full := make(chan []byte, copyAhead), make(chan []byte, copyAhead)
	for range copyAhead {
		free <- make([]byte, copyPiece)
	}
	read, quit := make(chan error, 1), make(chan struct{})
	go func() { // ends with the files, or with the writer
		defer close(full)
		read <- readAll(files, free, full, quit)
	}()
	written, err = writeAll(out, free, full)
	close(quit)
	return written, errors.Join(err, <-read)
}

func readAll(files []string, free <-chan []byte, full chan<- []byte, quit <-chan struct{}) error {
	for _, name := range files {
		f, err := os.Open(name) //nolint:gosec // a segment of this cluster
		if err != nil {
			return err
		}
		for at := int64(0); err == nil; {
			var b []byte
			select {
			case b = <-free:
			case <-quit:
				return f.Close()
			}
			var n int
			if n, err = f.Read(b[:copyPiece]); n > 0 {
				full <- b[:n]
				at += int64(n)
				err = errors.Join(err, letGo(f, at-int64(n), at))
			}
		}
		if closed := f.Close(); errors.Is(err, io.EOF) {
			err = closed
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func writeAll(out *os.File, free chan<- []byte, full <-chan []byte) (written int64, err error) {
	synced := int64(0)
	for b := range full {
		if _, err := out.Write(b); err != nil {
			return written, err
		}
		written += int64(len(b))
		free <- b
		if written-synced >= copyEvery {
			if err := unix.Fdatasync(int(out.Fd())); err != nil {
				return written, err
			}
			if err := letGo(out, synced, written); err != nil {
				return written, err
			}
			synced = written
		}
	}
	return written, unix.Fdatasync(int(out.Fd()))
}

// letGo takes pages out of the page cache, as the servers do: to fill new memory
// costs more than the copy.
func letGo(f *os.File, from, to int64) error {
	return unix.Fadvise(int(f.Fd()), from, to-from, unix.FADV_DONTNEED)
}
