package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

//nolint:gochecknoglobals // caches without visible state; every value is reset before use.
var (
	gzipReaders sync.Pool // *gzipReader
	lz4Readers  sync.Pool // *lz4Reader
	zstdReaders sync.Pool // *zstdReader
)

type gzipReader struct {
	in bytes.Reader
	z  gzip.Reader
}

type lz4Reader struct {
	in bytes.Reader
	z  *lz4.Reader
}

// decompress appends the decompressed src to dst and returns the longer slice,
// with an error as well, so that its memory can be reused. The error is an
// *InvalidError. At most limit bytes are produced.
func decompress(dst, src []byte, codec Codec, limit int) ([]byte, error) {
	var err error
	switch codec {
	case CodecNone:
		return append(dst, src...), nil
	case CodecGzip:
		dst, err = decompressGzip(dst, src, limit)
	case CodecSnappy:
		dst, err = decompressSnappy(dst, src, limit)
	case CodecLZ4:
		dst, err = decompressLZ4(dst, src, limit)
	case CodecZstd:
		dst, err = decompressZstd(dst, src, limit)
	default:
		return dst, invalid(ErrUnsupportedCodec, "number %d; there are 0 to 4", int(codec))
	}
	if err == nil {
		return dst, nil
	}
	if _, ok := errors.AsType[*InvalidError](err); ok {
		return dst, err
	}
	return dst, corrupt("%v records do not decompress: %v", codec, err)
}

func decompressGzip(dst, src []byte, limit int) ([]byte, error) {
	r, _ := gzipReaders.Get().(*gzipReader)
	if r == nil {
		r = new(gzipReader)
	}
	defer gzipReaders.Put(r)
	defer r.in.Reset(nil)
	r.in.Reset(src)
	if err := r.z.Reset(&r.in); err != nil {
		return dst, err
	}
	return readAll(dst, &r.z, limit)
}

func decompressLZ4(dst, src []byte, limit int) ([]byte, error) {
	r, _ := lz4Readers.Get().(*lz4Reader)
	if r == nil {
		r = &lz4Reader{}
		r.z = lz4.NewReader(&r.in)
	}
	defer lz4Readers.Put(r)
	defer r.in.Reset(nil)
	r.in.Reset(src)
	r.z.Reset(&r.in)
	return readAll(dst, r.z, limit)
}

// zstdExpansion bounds what zstd can make of its input: a block header and one
// byte (4 bytes) stand for at most 128 KiB (RFC 8878, 3.1.1.2).
const zstdExpansion = 128 << 10 / 4

// zstdMinWindow is the window that every decoder should accept (RFC 8878,
// 3.1.1.1.2); frames with a larger one are accepted up to the cap.
const zstdMinWindow = 8 << 20

// zstdReader is a decoder with the cap it was made for: most readers of a process
// have the same one.
type zstdReader struct {
	d   *zstd.Decoder
	max int
}

func newZstdReader(limit int) (*zstdReader, error) {
	most := max(limit, zstdMinWindow)
	r, _ := zstdReaders.Get().(*zstdReader)
	if r != nil && r.max == most {
		return r, nil
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(uint64(most)))
	return &zstdReader{d: d, max: most}, err
}

// decompressZstd decodes into dst itself, where the window costs nothing. Room is
// made for the size that the frame says, if its bytes can hold that, and grows
// block by block otherwise.
func decompressZstd(dst, src []byte, limit int) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(src); err != nil {
		return dst, err
	}
	room := min(4*len(src), limit)
	if h.HasFCS {
		if h.FrameContentSize > uint64(limit) {
			return dst, tooLargeDecompressed(limit)
		}
		room = int(h.FrameContentSize)
		if room > zstdExpansion*len(src) {
			return dst, corrupt("a zstd frame of %d bytes says that it holds %d", len(src), room)
		}
	}
	r, err := newZstdReader(limit)
	if err != nil {
		return dst, err
	}
	defer zstdReaders.Put(r)
	start := len(dst)
	dst = slices.Grow(dst, room)
	out, err := r.d.DecodeAll(src, dst)
	switch {
	case errors.Is(err, zstd.ErrDecoderSizeExceeded), err == nil && len(out)-start > limit:
		return dst, tooLargeDecompressed(limit)
	case err != nil:
		return dst, err
	}
	return out, nil
}

// Snappy-java's framing: this magic, two version numbers, then blocks of a
// 4-byte length and a raw block each.
const (
	xerialMagic  = "\x82SNAPPY\x00"
	xerialHeader = len(xerialMagic) + 8
	// snappyExpansion bounds what snappy can make of its input: a copy of 2 bytes
	// or more stands for at most 64.
	snappyExpansion = 32
)

func decompressSnappy(dst, src []byte, limit int) ([]byte, error) {
	if len(src) < xerialHeader || string(src[:len(xerialMagic)]) != xerialMagic {
		return decompressSnappyBlock(dst, src, limit)
	}
	start := len(dst)
	for src = src[xerialHeader:]; len(src) > 0; {
		if len(src) < 4 {
			return dst, corrupt("snappy framing ends in the middle of a block length")
		}
		n := binary.BigEndian.Uint32(src)
		src = src[4:]
		if uint64(n) > uint64(len(src)) {
			return dst, corrupt("snappy block of %d bytes, %d are left", n, len(src))
		}
		var err error
		if dst, err = decompressSnappyBlock(dst, src[:n], limit-(len(dst)-start)); err != nil {
			return dst, err
		}
		src = src[n:]
	}
	return dst, nil
}

func decompressSnappyBlock(dst, src []byte, limit int) ([]byte, error) {
	n, err := s2.DecodedLen(src)
	if err != nil {
		return dst, err
	}
	if n > limit {
		return dst, tooLargeDecompressed(limit)
	}
	if n > snappyExpansion*len(src) {
		return dst, corrupt("a snappy block of %d bytes says that it holds %d", len(src), n)
	}
	dst = slices.Grow(dst, n)
	out, err := s2.Decode(dst[len(dst):len(dst)+n:len(dst)+n], src)
	if err != nil {
		return dst, err
	}
	return dst[:len(dst)+len(out)], nil
}
