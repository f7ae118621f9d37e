package record

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/penstock/penstock/internal/check"
)

// ErrCut is what the last step of Read yields for a file whose last line has no
// end: its writer was killed. Everything before it is good.
var ErrCut = errors.New("record: the last line is cut off")

// Read yields the ops of a history. The op is valid until the next step.
func Read(r io.Reader) iter.Seq2[*check.Op, error] {
	return func(yield func(*check.Op, error) bool) {
		br := bufio.NewReaderSize(r, 1<<20)
		for index := int64(1); ; index++ {
			line, err := br.ReadBytes('\n')
			switch {
			case errors.Is(err, io.EOF) && len(line) == 0:
				return
			case errors.Is(err, io.EOF):
				yield(nil, ErrCut)
				return
			case err != nil:
				yield(nil, err)
				return
			}
			op := check.Op{}
			if err := json.Unmarshal(line, &op); err != nil {
				yield(nil, fmt.Errorf("record: line %d is no op: %w", index, err))
				return
			}
			op.Index = index
			if !yield(&op, nil) {
				return
			}
		}
	}
}

// Check checks the history in a file. One that was cut off is checked as far as it
// goes, as unfinished.
func Check(path string, o check.Options) (*check.Report, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	c := check.New(o)
	for op, err := range Read(f) {
		switch {
		case errors.Is(err, ErrCut):
			c.Unfinished()
		case err != nil:
			return nil, err
		default:
			c.Add(op)
		}
	}
	return c.Report(), nil
}
