package log

import (
	"errors"
	"fmt"
	"io"

	"github.com/penstock/penstock/log/record"
)

const (
	scanWindow = 64 << 10
	// scanSparse is the window among batches that are larger than it pays to read.
	scanSparse = 256
)

// tornError says why the bytes at a position are not the next batch.
type tornError struct {
	position int64
	reason   string
}

func (e *tornError) Error() string { return fmt.Sprintf("byte %d: %s", e.position, e.reason) }

// scanner walks the batches of a file and checks that each continues the one
// before: contiguous offsets (gaps end at or below cleaned), epochs that do not
// fall, a whole batch, and from crcFrom on its CRC. Bytes before crcFrom were
// durable and have been checked when they were written; reading just their headers
// keeps the walk short.
type scanner struct {
	file    io.ReaderAt
	size    int64 // of the file
	at      int64 // next batch
	next    record.Offset
	epoch   record.Epoch // of the last batch; UnknownEpoch: any
	crcFrom record.Offset
	cleaned record.Offset

	// ahead is how much is read at once; 0: scanWindow.
	ahead    int
	window   []byte
	windowAt int64
	last     int // size of the last batch
	// whole is the last batch, if it was read for its CRC; valid until the next step.
	whole []byte
}

// step returns the next batch's header. io.EOF: the file ends here;
// *tornError: what follows is no batch; else an I/O error.
func (s *scanner) step() (record.BatchInfo, error) {
	if s.at >= s.size {
		return record.BatchInfo{}, io.EOF
	}
	s.whole = nil
	b, err := s.bytes(record.HeaderSize)
	if err != nil {
		return record.BatchInfo{}, err
	}
	info, ok := record.Peek(b)
	if !ok {
		return info, s.torn("no batch header")
	}
	if reason := continues(&info, s.next, s.epoch, s.cleaned); reason != "" {
		return info, s.torn(reason)
	}
	if int64(info.Size) > s.size-s.at {
		return info, s.torn(fmt.Sprintf("batch of %d bytes, %d left", info.Size, s.size-s.at))
	}
	if info.BaseOffset >= s.crcFrom {
		if b, err = s.bytes(info.Size); err != nil {
			return info, err
		}
		if reason := unsound(b); reason != "" {
			return info, s.torn(reason)
		}
		s.whole = b
	}
	s.at += int64(info.Size)
	s.next, s.epoch, s.last = info.NextOffset(), info.Epoch, info.Size
	return info, nil
}

func (s *scanner) torn(reason string) error { return &tornError{s.at, reason} }

// continues says why a batch is not the next one; empty: it is. A gap in front of
// it is what compaction left, and legal, if it ends at or below cleaned.
func continues(info *record.BatchInfo, next record.Offset, epoch record.Epoch, cleaned record.Offset) string {
	switch {
	case misplaced(info.BaseOffset, next, cleaned):
		return fmt.Sprintf("base offset is %d, want %d (the log is compacted below %d)", info.BaseOffset, next, cleaned)
	case info.Epoch < epoch || info.Epoch < 0:
		return fmt.Sprintf("leader epoch is %d after %d", info.Epoch, epoch)
	case info.LastDelta < 0:
		return fmt.Sprintf("last offset delta is %d", info.LastDelta)
	}
	return ""
}

// misplaced says that a batch does not belong behind offset next.
func misplaced(base, next, cleaned record.Offset) bool {
	return base < next || base > next && base > cleaned
}

// unsound says why the content of a whole batch is wrong; empty: it is right. The
// CRC does not cover the magic byte.
func unsound(b []byte) string {
	const posMagic, magic = 16, 2
	if b[posMagic] != magic {
		return fmt.Sprintf("magic byte is %d, want %d", b[posMagic], magic)
	}
	if !record.VerifyCRC(b) {
		return "wrong CRC"
	}
	return ""
}

// bytes returns n bytes from the present position, fewer at the end of the file.
func (s *scanner) bytes(n int) ([]byte, error) {
	n = int(min(int64(n), s.size-s.at))
	if off := s.at - s.windowAt; off >= 0 && off+int64(n) <= int64(len(s.window)) {
		return s.window[off : off+int64(n)], nil
	}
	want := max(s.ahead, scanWindow)
	if s.last > want/4 && n <= record.HeaderSize {
		want = scanSparse
	}
	want = int(min(int64(max(want, n)), s.size-s.at))
	if cap(s.window) < want {
		s.window = make([]byte, want)
	}
	s.window, s.windowAt = s.window[:want], s.at
	if err := readFull(s.file, s.window, s.at); err != nil {
		s.window = s.window[:0]
		return nil, err
	}
	return s.window[:n], nil
}

// readFull reads all of b; a file that ends earlier is an error.
func readFull(f io.ReaderAt, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("file ends at byte %d: %w", off+int64(n), io.ErrUnexpectedEOF)
	}
	return err
}
