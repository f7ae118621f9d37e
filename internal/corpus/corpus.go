// Package corpus reads real input for the demo and the end-to-end tests: the
// Debian package index, one record a paragraph, keyed by package name. Where
// there is no apt it reads the repository's own files instead, one record a
// line, keyed by path.
package corpus

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Record is one keyed value.
type Record struct {
	Key   string
	Value []byte
}

// Corpus is an ordered list of records and where they came from.
type Corpus struct {
	Source  string
	Records []Record
}

// Bytes is the size of all values.
func (c *Corpus) Bytes() (n int64) {
	for _, r := range c.Records {
		n += int64(len(r.Value))
	}
	return n
}

// ErrEmpty means that a source held no record at all.
var ErrEmpty = errors.New("corpus: no records")

// Load reads the package index, or the files under root where there is none.
func Load(ctx context.Context, root string) (*Corpus, error) {
	c, err := packages(ctx)
	if err == nil && len(c.Records) > 0 {
		return c, nil
	}
	return files(root)
}

func packages(ctx context.Context) (*Corpus, error) {
	cmd := exec.CommandContext(ctx, "apt-cache", "dumpavail")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("corpus: apt-cache: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("corpus: apt-cache: %w", err)
	}
	recs, perr := Paragraphs(out)
	if err := errors.Join(perr, cmd.Wait()); err != nil {
		return nil, fmt.Errorf("corpus: apt-cache dumpavail: %w", err)
	}
	return &Corpus{Source: "apt-cache dumpavail", Records: recs}, nil
}

// Paragraphs splits a Debian control file: the value is the paragraph without
// the blank line behind it, the key the value of its Package field.
func Paragraphs(r io.Reader) ([]Record, error) {
	var recs []Record
	var cur bytes.Buffer
	key := ""
	flush := func() {
		if cur.Len() > 0 {
			recs = append(recs, Record{Key: key, Value: bytes.Clone(cur.Bytes())})
		}
		cur.Reset()
		key = ""
	}
	br := bufio.NewReaderSize(r, 1<<20)
	for {
		line, err := br.ReadBytes('\n')
		if len(bytes.TrimRight(line, "\r\n")) == 0 && (len(line) > 0 || err != nil) {
			flush()
		} else if len(line) > 0 {
			if name, ok := bytes.CutPrefix(line, []byte("Package:")); ok {
				key = string(bytes.TrimSpace(name))
			}
			cur.Write(line)
		}
		if errors.Is(err, io.EOF) {
			flush()
			return recs, nil
		}
		if err != nil {
			return recs, err
		}
	}
}

func files(root string) (*Corpus, error) {
	c := &Corpus{Source: "the repository's own files"}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != root && (strings.HasPrefix(name, ".") || name == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		return c.addLines(root, path)
	})
	if err != nil {
		return nil, fmt.Errorf("corpus: %w", err)
	}
	if len(c.Records) == 0 {
		return nil, fmt.Errorf("%w under %s", ErrEmpty, root)
	}
	return c, nil
}

func (c *Corpus) addLines(root, path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(root, path)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(b) {
		c.Records = append(c.Records, Record{Key: rel, Value: bytes.TrimSuffix(line, []byte("\n"))})
	}
	return nil
}
