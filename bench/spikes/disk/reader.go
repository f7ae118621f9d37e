package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// reader is a consumer that lags behind the writer of a file. The writer runs it,
// so that both go at the same rate.
type reader struct {
	dir     string
	segment int64
	b       []byte

	file   *os.File
	number int
	at     int64
}

// follow reads up to what lies so many bytes behind the end of a segment.
func (r *reader) follow(number int, size, lag int64) error {
	for int64(number-r.number)*r.segment+size-r.at > lag {
		if r.file == nil {
			f, err := os.Open(filepath.Join(r.dir, strconv.Itoa(r.number)))
			if err != nil {
				return err
			}
			r.file, r.at = f, 0
		}
		n, err := r.file.ReadAt(r.b, r.at)
		r.at += int64(n)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n > 0 {
			continue
		}
		if r.number == number {
			return nil
		}
		if err := r.file.Close(); err != nil {
			return err
		}
		r.file, r.at = nil, 0
		r.number++
	}
	return nil
}
