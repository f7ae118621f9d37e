package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	commitlog "github.com/penstock/penstock/log"
)

// jsonFinding is a line of `log verify -o json`; position and offset are absent
// where there is none.
type jsonFinding struct {
	Type     string `json:"type"`
	Severity string `json:"severity"`
	Kind     string `json:"kind"`
	Path     string `json:"path"`
	Position *int64 `json:"position,omitempty"`
	Offset   *int64 `json:"offset,omitempty"`
	Problem  string `json:"problem"`
	Want     string `json:"want,omitempty"`
}

// jsonVerification is the last line.
type jsonVerification struct {
	Type       string `json:"type"`
	Partitions int64  `json:"partitions"`
	Segments   int64  `json:"segments"`
	Batches    int64  `json:"batches"`
	Records    int64  `json:"records"`
	Bytes      int64  `json:"bytes"`
	Damages    int64  `json:"damages"`
	Strange    int64  `json:"strange"`
	Notes      int64  `json:"notes"`
}

// findingPrinter prints what verify finds; err is the first failed write.
type findingPrinter struct {
	w      io.Writer
	bar    *progressBar
	asJSON bool
	err    error
}

func (p *findingPrinter) print(f commitlog.Finding) {
	if p.err != nil {
		return
	}
	p.bar.clear()
	if p.asJSON {
		out := jsonFinding{Type: "finding", Severity: string(f.Severity), Kind: string(f.Kind), Path: f.Path, Problem: f.Problem, Want: f.Want}
		if f.Position >= 0 {
			out.Position = &f.Position
		}
		if offset := int64(f.Offset); offset >= 0 {
			out.Offset = &offset
		}
		p.err = writeJSON(p.w, out)
		return
	}
	_, p.err = fmt.Fprintf(p.w, "%-7s  %s\n", f.Severity, f)
}

// end prints what was looked at.
func (p *findingPrinter) end(sum commitlog.Verification) error {
	if p.asJSON {
		return writeJSON(p.w, jsonVerification{
			Type: "summary", Partitions: sum.Partitions, Segments: sum.Segments, Batches: sum.Batches, Records: sum.Records, Bytes: sum.Bytes,
			Damages: sum.Damages, Strange: sum.Strangers, Notes: sum.Notes,
		})
	}
	_, err := fmt.Fprintf(p.w, "%s in %s and %s, %s, %d bytes: %s, %s, %s\n",
		count(sum.Batches, "batch", "batches"), count(sum.Segments, "segment", "segments"), count(sum.Partitions, "partition", "partitions"),
		count(sum.Records, "record", "records"), sum.Bytes,
		count(sum.Damages, "damage", "damages"), count(sum.Strangers, "strange file", "strange files"), count(sum.Notes, "note", "notes"))
	return err
}

func count(n int64, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.FormatInt(n, 10) + " " + more
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
