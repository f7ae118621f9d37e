package record

import (
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Encoders and decoders are expensive to make (a zstd encoder holds megabytes)
// and hold nothing between uses, so they are kept for reuse. A builder for each
// partition then costs its buffer only.
//
//nolint:gochecknoglobals // caches without visible state; every value is reset before use.
var (
	gzipWriters [gzip.BestCompression + 1]sync.Pool // by level; *gzip.Writer
	lz4Writers  sync.Pool                           // *lz4.Writer
	zstdWriters [zstd.SpeedBestCompression + 1]sync.Pool
	sections    sync.Pool // *[]byte, for encoders that write to an io.Writer
)

// appender is an io.Writer that appends.
type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}

// compress appends the compressed src to dst.
func compress(dst, src []byte, codec Codec, level int) ([]byte, error) {
	switch codec {
	case CodecNone:
		return append(dst, src...), nil
	case CodecGzip:
		return compressGzip(dst, src, level)
	case CodecSnappy:
		dst = slices.Grow(dst, s2.MaxEncodedLen(len(src)))
		n := len(s2.EncodeSnappy(dst[len(dst):cap(dst)], src))
		return dst[:len(dst)+n], nil
	case CodecLZ4:
		return compressLZ4(dst, src, level)
	case CodecZstd:
		return compressZstd(dst, src, level)
	default:
		return dst, invalid(ErrUnsupportedCodec, "number %d; there are 0 to 4", int(codec))
	}
}

func compressGzip(dst, src []byte, level int) ([]byte, error) {
	if level <= 0 {
		level = 6
	}
	level = min(level, gzip.BestCompression)
	out := &appender{b: dst}
	w, _ := gzipWriters[level].Get().(*gzip.Writer)
	if w == nil {
		var err error
		if w, err = gzip.NewWriterLevel(out, level); err != nil {
			return dst, err
		}
	} else {
		w.Reset(out)
	}
	defer gzipWriters[level].Put(w)
	if _, err := w.Write(src); err != nil {
		return dst, err
	}
	if err := w.Close(); err != nil {
		return dst, err
	}
	return out.b, nil
}

func compressLZ4(dst, src []byte, level int) ([]byte, error) {
	levels := [...]lz4.CompressionLevel{
		lz4.Fast, lz4.Level1, lz4.Level2, lz4.Level3, lz4.Level4,
		lz4.Level5, lz4.Level6, lz4.Level7, lz4.Level8, lz4.Level9,
	}
	out := &appender{b: dst}
	w, _ := lz4Writers.Get().(*lz4.Writer)
	if w == nil {
		w = lz4.NewWriter(out)
	} else {
		w.Reset(out)
	}
	defer lz4Writers.Put(w)
	// 64 KiB blocks, independent: what every client's decoder handles, and small
	// buffers on the reading side.
	err := w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.ConcurrencyOption(1), lz4.ChecksumOption(false),
		lz4.CompressionLevelOption(levels[min(max(level, 0), len(levels)-1)]))
	if err != nil {
		return dst, err
	}
	if _, err := w.Write(src); err != nil {
		return dst, err
	}
	if err := w.Close(); err != nil {
		return dst, err
	}
	return out.b, nil
}

func compressZstd(dst, src []byte, level int) ([]byte, error) {
	speed := zstd.SpeedDefault
	if level > 0 {
		speed = zstd.EncoderLevelFromZstd(level)
	}
	w, _ := zstdWriters[speed].Get().(*zstd.Encoder)
	if w == nil {
		var err error
		w, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(speed), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
		if err != nil {
			return dst, err
		}
	}
	defer zstdWriters[speed].Put(w)
	return w.EncodeAll(src, dst), nil
}

// readAll appends what r yields to dst, which grows with what was read, and
// stops above limit bytes.
func readAll(dst []byte, r io.Reader, limit int) ([]byte, error) {
	start := len(dst)
	for {
		if len(dst) == cap(dst) {
			dst = slices.Grow(dst, 4096)
		}
		n, err := r.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		if len(dst)-start > limit {
			return dst, tooLargeDecompressed(limit)
		}
		if err == io.EOF {
			return dst, nil
		}
		if err != nil {
			return dst, err
		}
	}
}

func tooLargeDecompressed(limit int) error {
	return invalid(ErrTooLarge, "the records take more than %d bytes once decompressed", limit)
}

// scratch lends a buffer from the pool.
func scratch() *[]byte {
	if b, ok := sections.Get().(*[]byte); ok {
		*b = (*b)[:0]
		return b
	}
	return new([]byte)
}

// giveBack returns it, unless a single large batch made it so large that it
// would stay a burden.
func giveBack(b *[]byte) {
	if cap(*b) <= 4<<20 {
		sections.Put(b)
	}
}
