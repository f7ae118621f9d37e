package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/spf13/cobra"

	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
)

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

type dumpOptions struct {
	records  bool
	from, to int64 // to -1: the end
	count    int64 // 0: all
	asJSON   bool
}

// dump is one run of `log dump`.
type dump struct {
	in   *commitlog.Inspector
	w    io.Writer
	opts dumpOptions
	left int64 // of opts.count
}

// dumpLine is one thing that is printed: an object in JSON, a line of columns for people.
type dumpLine interface{ columns() string }

func (d *dump) put(l dumpLine) error {
	if d.opts.asJSON {
		return writeJSON(d.w, l)
	}
	_, err := fmt.Fprintln(d.w, l.columns())
	return err
}

// head prints what stands over columns, for people.
func (d *dump) head(format string, args ...any) error {
	if d.opts.asJSON {
		return nil
	}
	_, err := fmt.Fprintf(d.w, format+"\n", args...)
	return err
}

func (d *dump) run(ctx context.Context) error {
	files, err := d.in.Files()
	if err != nil {
		return err
	}
	for i, f := range files {
		if d.full() {
			return nil
		}
		next := int64(-1) // base of the next segment
		for _, later := range files[i+1:] {
			if later.Kind == commitlog.KindPartition {
				break
			}
			if f.Kind == commitlog.KindSegment && later.Kind == commitlog.KindSegment {
				next = int64(later.Offset)
				break
			}
		}
		if err := d.file(ctx, f, next); err != nil {
			return err
		}
	}
	return nil
}

func (d *dump) full() bool { return d.opts.count > 0 && d.left <= 0 }

// wants says whether the range [first, last] holds an offset that was asked for.
func (d *dump) wants(first, last record.Offset) bool {
	return int64(last) >= d.opts.from && (d.opts.to < 0 || int64(first) < d.opts.to)
}

func (d *dump) file(ctx context.Context, f commitlog.InspectedFile, next int64) error {
	head := dumpFile{Type: "file", Kind: string(f.Kind), Path: f.Path, Topic: f.Topic}
	if f.Size >= 0 {
		head.Size = &f.Size
	}
	if f.Partition >= 0 {
		head.Partition = &f.Partition
	}
	if base := int64(f.Offset); base >= 0 {
		head.Offset = &base
	}
	if f.Kind == commitlog.KindSegment && (d.opts.to >= 0 && int64(f.Offset) >= d.opts.to || next >= 0 && next <= d.opts.from) {
		return nil
	}
	if err := d.put(head); err != nil {
		return err
	}
	err := d.content(ctx, f)
	if _, io := errors.AsType[*fs.PathError](err); err == nil || io || ctx.Err() != nil {
		return err
	}
	return d.put(dumpProblem{Type: "problem", Path: f.Path, Problem: err.Error()})
}

func (d *dump) content(ctx context.Context, f commitlog.InspectedFile) error {
	switch f.Kind {
	case commitlog.KindSegment:
		return d.segment(ctx, f)
	case commitlog.KindIndex, commitlog.KindTimeIndex:
		return d.index(f)
	case commitlog.KindEpochs:
		return d.epochs(f)
	case commitlog.KindSnapshot:
		return d.producers(f)
	case commitlog.KindCheckpoint:
		return d.checkpoint(f)
	case commitlog.KindJournal:
		return d.journal(f)
	case commitlog.KindMetadata:
		id, err := d.in.TopicID(f.Path)
		if err != nil {
			return err
		}
		return d.put(dumpTopicID{Type: "topic_id", Path: f.Path, TopicID: hexID(id)})
	case commitlog.KindMarker:
		epoch, err := d.in.Marker(f.Path)
		if err != nil {
			return err
		}
		return d.put(dumpMarker{Type: "clean_stop", BrokerEpoch: epoch})
	default:
		return nil
	}
}

func (d *dump) segment(ctx context.Context, f commitlog.InspectedFile) error {
	if err := d.head("%s", batchHead); err != nil {
		return err
	}
	for b, err := range d.in.Batches(ctx, f.Path, record.Offset(d.opts.from)) {
		if err != nil {
			return err
		}
		if b.Rest > 0 {
			line := dumpProblem{Type: "problem", Path: f.Path, Position: &b.Position, Problem: b.Problem}
			if !b.Zero {
				line.Rest = b.Rest
			}
			return d.put(line)
		}
		if d.full() || d.opts.to >= 0 && int64(b.BaseOffset) >= d.opts.to {
			return nil
		}
		if !d.wants(b.BaseOffset, b.LastOffset()) {
			continue
		}
		if err := d.put(newDumpBatch(f, b)); err != nil {
			return err
		}
		if !d.opts.records {
			d.left--
			continue
		}
		if err := d.records(f, b); err != nil {
			return err
		}
	}
	return nil
}

func (d *dump) records(f commitlog.InspectedFile, b *commitlog.InspectedBatch) error {
	for r, err := range b.Records() {
		if err != nil {
			return d.put(dumpProblem{Type: "problem", Path: f.Path, Position: &b.Position, Problem: err.Error()})
		}
		if d.full() {
			return nil
		}
		if !d.wants(r.Offset, r.Offset) {
			continue
		}
		if err := d.put(newDumpRecord(f, &r)); err != nil {
			return err
		}
		d.left--
	}
	return nil
}

func (d *dump) index(f commitlog.InspectedFile) error {
	head := "    offset                position"
	if f.Kind == commitlog.KindTimeIndex {
		head = "    offset                timestamp"
	}
	if err := d.head("%s", head); err != nil {
		return err
	}
	for e, err := range d.in.Index(f) {
		if err != nil {
			return err
		}
		if !d.wants(e.Offset, e.Offset) {
			continue
		}
		line := dumpIndexEntry{Type: "index_entry", Path: f.Path, Offset: int64(e.Offset)}
		if f.Kind == commitlog.KindTimeIndex {
			line.Type, line.Timestamp = "time_index_entry", &e.Timestamp
		} else {
			line.Position = &e.Position
		}
		if err := d.put(line); err != nil {
			return err
		}
	}
	return nil
}

func (d *dump) epochs(f commitlog.InspectedFile) error {
	all, err := d.in.Epochs(f.Path)
	if err != nil {
		return err
	}
	if err := d.head("    epoch       first offset"); err != nil {
		return err
	}
	for _, e := range all {
		if err := d.put(dumpEpoch{Type: "leader_epoch", Path: f.Path, Epoch: int32(e.Epoch), Start: int64(e.Start)}); err != nil {
			return err
		}
	}
	return nil
}

func (d *dump) producers(f commitlog.InspectedFile) error {
	all, _, err := d.in.Producers(f.Path)
	if err != nil {
		return err
	}
	if err := d.head("%s", producerHead); err != nil {
		return err
	}
	for _, p := range all {
		line := dumpProducer{Type: "producer", Path: f.Path, ID: p.ID, Epoch: p.Epoch, LastUsed: p.LastUsed}
		for _, b := range p.Batches {
			line.Batches = append(line.Batches, dumpSequence{b.First, b.Last, int64(b.Base), int64(b.Next)})
		}
		if err := d.put(line); err != nil {
			return err
		}
	}
	return nil
}

func (d *dump) checkpoint(f commitlog.InspectedFile) error {
	if f.Size == 0 {
		return nil
	}
	sequence, all, err := d.in.Checkpoint(f.Path)
	if err != nil {
		return err
	}
	if err := d.put(dumpCheckpoint{Type: "checkpoint", Path: f.Path, Sequence: sequence, Entries: len(all)}); err != nil {
		return err
	}
	if err := d.head("%s", promiseHead); err != nil {
		return err
	}
	for _, e := range all {
		line := dumpPromise{
			Type: "promise", Path: f.Path, TopicID: hexID(e.TopicID), Partition: e.Partition,
			Flushed: int64(e.Flushed), HighWatermark: int64(e.HighWatermark), Start: int64(e.Start), Cleaned: int64(e.Cleaned), Dirty: int64(e.Dirty),
		}
		if e.Damage != commitlog.DamageNone {
			line.Damage = e.Damage.String()
		}
		if err := d.put(line); err != nil {
			return err
		}
	}
	return nil
}

func (d *dump) journal(f commitlog.InspectedFile) error {
	if err := d.head("%s", journalHead); err != nil {
		return err
	}
	return d.in.Journal(f.Path, func(e commitlog.InspectedJournalEntry) error {
		line := dumpJournal{Type: "journal_entry", Path: f.Path, TopicID: hexID(e.TopicID), Partition: e.Partition, Void: e.Void}
		if !e.Void {
			line.Folder, line.Base, line.Position, line.Size, line.At = e.Folder, int64(e.Base), e.Position, e.Size, e.At
		}
		return d.put(line)
	})
}
