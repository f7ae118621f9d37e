package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"

	"github.com/penstock/penstock/log/record"
)

const (
	inspectWindow = 256 << 10
	// inspectWhole is the largest batch that is taken into memory, to look at its
	// records; of a larger one the CRC alone is checked, piece by piece.
	inspectWhole = 64 << 20
	// posChecked is where the bytes that a batch's CRC covers begin.
	posChecked = 21
)

// InspectedBatch is a batch of a segment file, or a place that is none.
type InspectedBatch struct {
	record.BatchInfo
	// Position is its first byte in the file.
	Position int64
	// CRCOK says whether its content is what its header says.
	CRCOK bool
	// Problem is what is wrong with it; empty: nothing.
	Problem string
	// Rest is how many bytes lie from Position to the end of the file when
	// nothing can be read there; 0: the next batch follows.
	Rest int64
	// Zero: all of Rest is zero.
	Zero bool

	bytes []byte // valid until the next batch; nil: larger than inspectWhole
}

// Records decodes the records of the batch. They are valid until the next batch
// is read. Their memory is bounded by record.DefaultMaxDecompressed.
func (b *InspectedBatch) Records() iter.Seq2[record.Record, error] {
	if b.bytes == nil {
		return func(yield func(record.Record, error) bool) {
			yield(record.Record{}, fmt.Errorf("the batch has %d bytes; at most %d are looked into", b.Size, inspectWhole))
		}
	}
	return record.Records(b.bytes, record.Limits{Internal: true})
}

// Batches reads a segment file from its beginning. It ends at the first place
// that is no batch, which it yields too, and goes on behind one whose content is
// wrong. Batches that end at or below from are passed over by their headers. The
// error, a last one, is of reading the file.
func (in *Inspector) Batches(ctx context.Context, path string, from record.Offset) iter.Seq2[*InspectedBatch, error] {
	return func(yield func(*InspectedBatch, error) bool) {
		w, err := in.walk(path, from)
		if err != nil {
			yield(nil, err)
			return
		}
		for {
			b, err := w.next(ctx)
			if b == nil && err == nil {
				break
			}
			if !yield(b, err) || err != nil || b.Rest > 0 {
				break
			}
		}
		if err := w.file.Close(); err != nil {
			yield(nil, err)
		}
	}
}

// batchWalker reads a segment file front to back.
type batchWalker struct {
	in   *Inspector
	file inspectedFile
	size int64
	at   int64
	from record.Offset // batches that end here or below are not read

	window   []byte
	windowAt int64
	b        InspectedBatch
}

func (in *Inspector) walk(path string, from record.Offset) (*batchWalker, error) {
	f, err := in.openSegment(path)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &batchWalker{in: in, file: f, size: size, from: from}, nil
}

// next returns nil at the end of the file.
func (w *batchWalker) next(ctx context.Context) (*InspectedBatch, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if w.at >= w.size {
		return nil, nil // the end
	}
	w.b = InspectedBatch{Position: w.at}
	b, err := w.bytes(w.at, int(min(record.HeaderSize, w.size-w.at)))
	if err != nil {
		return nil, err
	}
	info, ok := record.Peek(b)
	w.b.BatchInfo = info
	switch left := w.size - w.at; {
	case len(b) < record.HeaderSize:
		return w.broken(ctx, fmt.Sprintf("%d bytes, too few for a batch header", len(b)))
	case !ok:
		return w.broken(ctx, "no batch header")
	case info.LastDelta < 0:
		return w.broken(ctx, fmt.Sprintf("last offset delta is %d", info.LastDelta))
	case info.BaseOffset < 0 || info.NextOffset() <= info.BaseOffset:
		return w.broken(ctx, fmt.Sprintf("base offset is %d", info.BaseOffset))
	case int64(info.Size) > left:
		return w.broken(ctx, fmt.Sprintf("batch of %d bytes, %d left", info.Size, left))
	}
	if info.NextOffset() > w.from {
		if err := w.content(); err != nil {
			return nil, err
		}
	}
	w.at += int64(info.Size)
	w.in.advance(int64(info.Size))
	return &w.b, nil
}

// broken ends the walk: what follows is no batch.
func (w *batchWalker) broken(ctx context.Context, problem string) (*InspectedBatch, error) {
	zero := true
	for at := w.at; zero && at < w.size; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		b, err := w.bytes(at, int(min(inspectWindow, w.size-at)))
		if err != nil {
			return nil, err
		}
		zero = bytes.Count(b, []byte{0}) == len(b)
		at += int64(len(b))
		if w.in.opts.Progress != nil {
			w.in.opts.Progress(w.in.done+at-w.at, w.in.total)
		}
	}
	w.b.Problem, w.b.Rest, w.b.Zero = problem, w.size-w.at, zero
	if zero {
		w.b.Problem = fmt.Sprintf("the last %d bytes are zero", w.b.Rest)
	}
	w.in.advance(w.b.Rest)
	w.at = w.size
	return &w.b, nil
}

// content checks the batch's bytes.
func (w *batchWalker) content() error {
	info := &w.b.BatchInfo
	if info.Size > inspectWhole {
		return w.sum()
	}
	b, err := w.bytes(w.at, info.Size)
	if err != nil {
		return err
	}
	w.b.bytes = b
	w.b.CRCOK = record.VerifyCRC(b)
	if _, err := record.Validate(b, record.Limits{Internal: true}); err != nil {
		invalid, _ := errors.AsType[*record.InvalidError](err)
		w.b.Problem = invalid.Reason
	}
	return nil
}

// sum checks the CRC of a batch that is too large for memory.
func (w *batchWalker) sum() error {
	table := crc32.MakeTable(crc32.Castagnoli)
	var sum uint32
	end := w.at + int64(w.b.Size)
	for at := w.at + posChecked; at < end; {
		b, err := w.bytes(at, int(min(inspectWindow, end-at)))
		if err != nil {
			return err
		}
		sum = crc32.Update(sum, table, b)
		at += int64(len(b))
	}
	if w.b.CRCOK = sum == w.b.CRC; !w.b.CRCOK {
		w.b.Problem = fmt.Sprintf("CRC-32C is %08x, the header says %08x", sum, w.b.CRC)
	}
	return nil
}

// bytes returns n bytes of the file, which has them.
func (w *batchWalker) bytes(at int64, n int) ([]byte, error) {
	if off := at - w.windowAt; off >= 0 && off+int64(n) <= int64(len(w.window)) {
		return w.window[off : off+int64(n)], nil
	}
	want := int(min(int64(max(n, inspectWindow)), w.size-at))
	if cap(w.window) < want {
		w.window = make([]byte, want)
	}
	w.window, w.windowAt = w.window[:want], at
	if err := readFull(w.file, w.window, at); err != nil {
		w.window = w.window[:0]
		return nil, err
	}
	return w.window[:n], nil
}

// advance counts bytes that were looked at.
func (in *Inspector) advance(n int64) {
	in.done += n
	if in.opts.Progress != nil {
		in.opts.Progress(in.done, in.total)
	}
}
