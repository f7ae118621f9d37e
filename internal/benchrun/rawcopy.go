package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/internal/chaos"
)

// The bare disk's part in a catch-up: it reads what leaders have and takes it once
// more, at the same time.
const (
	copyPiece  = 1 << 20
	copyAhead  = 16            // pieces between the reader and the writer
	copyEvery  = 8 * copyPiece // a sync
	rawCopyMax = 10 << 30
)

// rawCopy copies one replica of a topic and returns MB/s.
func (l *lab) rawCopy(c *chaos.Cluster, topic string) (rate float64, err error) {
	files, err := segments(c, 1, topic)
	if err != nil {
		return 0, err
	}
	out, err := os.Create(filepath.Join(l.dir, "copy"))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, out.Close(), os.Remove(out.Name())) }()
	free, full := make(chan []byte, copyAhead), make(chan []byte, copyAhead)
	for range copyAhead {
		free <- make([]byte, copyPiece)
	}
	read, quit := make(chan error, 1), make(chan struct{})
	began := time.Now()
	go func() { // ends with the files, or with the writer
		defer close(full)
		read <- readAll(files, free, full, quit)
	}()
	written, err := writeAll(out, free, full)
	close(quit)
	took := time.Since(began)
	return float64(written) / 1e6 / took.Seconds(), errors.Join(err, <-read)
}

func readAll(files []string, free <-chan []byte, full chan<- []byte, quit <-chan struct{}) error {
	total := int64(0)
	for _, name := range files {
		f, err := os.Open(name) //nolint:gosec // a segment of this cluster
		if err != nil {
			return err
		}
		for err == nil && total < rawCopyMax {
			var b []byte
			select {
			case b = <-free:
			case <-quit:
				return f.Close()
			}
			var n int
			if n, err = f.Read(b[:copyPiece]); n > 0 {
				total += int64(n)
				full <- b[:n]
			}
		}
		if closed := f.Close(); err == nil || errors.Is(err, io.EOF) {
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
			synced = written
		}
	}
	return written, unix.Fdatasync(int(out.Fd()))
}
