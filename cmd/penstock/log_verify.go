package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	commitlog "github.com/penstock/penstock/log"
)

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
