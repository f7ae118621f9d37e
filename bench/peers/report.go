package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// report is the file of -json-file. It is written beside its place, into a file that is
// there from the start, and moved there in the end: a folder that cannot be made or
// written to is found before the hours of measuring, and a run that is killed leaves
// the result of the one before. Nil: no file is wanted.
type report struct {
	path string
	next *os.File
}

func newReport(path string) (*report, error) {
	if path == "" {
		return nil, nil
	}
	refused := func(why string) error {
		return &flagError{"json-file", path, "a file in a folder that can be written to: " + why}
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, refused("it is no ordinary file")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // an ordinary folder
		return nil, refused(err.Error())
	}
	next, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return nil, refused(err.Error())
	}
	return &report{path: path, next: next}, nil
}

// write puts the result in its place.
func (r *report) write(found *result) error {
	if r == nil {
		return nil
	}
	b, err := json.MarshalIndent(found, "", " ")
	if err == nil {
		_, err = r.next.Write(append(b, '\n'))
	}
	if err == nil {
		err = r.next.Chmod(0o644)
	}
	if err = errors.Join(err, r.next.Close()); err == nil {
		err = os.Rename(r.next.Name(), r.path)
	}
	return errors.Join(err, r.discard())
}

// discard leaves nothing that was not written to its end.
func (r *report) discard() error {
	if r == nil {
		return nil
	}
	_ = r.next.Close() // by write already, perhaps
	err := os.Remove(r.next.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
