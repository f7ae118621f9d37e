package record

import (
	"errors"
	"fmt"
)

// Kinds of refusal, for errors.Is. Each matches one error code of the API.
var (
	// ErrCorrupt means that the bytes are not those that were written: the CRC, the
	// magic or the length field is wrong, or a batch that was once accepted does not
	// read. Sending the batch again may help.
	ErrCorrupt = errors.New("record: corrupt batch")
	// ErrMalformed means that a batch came as its writer made it, and is not one: its
	// counts, deltas, sequence or record framing are wrong, it does not decompress, or
	// it is not one batch but several. Sending it again never helps.
	ErrMalformed = errors.New("record: malformed batch")
	// ErrTooLarge means that a batch or a record is above a limit, before or
	// after decompression.
	ErrTooLarge = errors.New("record: too large")
	// ErrUnsupportedCodec means that the codec number or name is not one of the five.
	ErrUnsupportedCodec = errors.New("record: unsupported codec")
	// ErrInvalidTimestamp means that a timestamp is below -1, that the header's
	// maximum is below a record's timestamp, or that a client claims append time.
	ErrInvalidTimestamp = errors.New("record: invalid timestamp")
	// ErrNotAllowed means that a client sent a control or transactional batch,
	// or a delete horizon.
	ErrNotAllowed = errors.New("record: not allowed from a client")
	// ErrNoKey means that a record has no key though its topic is compacted.
	ErrNoKey = errors.New("record: no key")
	// ErrBatchFull means that the record fits a batch, but not what is left of
	// this one: build it, reset, append again.
	ErrBatchFull = errors.New("record: batch full")
)

// InvalidError says why a batch was refused.
type InvalidError struct {
	Kind   error  // one of the sentinels of this package
	Reason string // what is wrong, the value, and what would be right
}

func (e *InvalidError) Error() string { return e.Kind.Error() + ": " + e.Reason }

// Unwrap returns the kind, for errors.Is.
func (e *InvalidError) Unwrap() error { return e.Kind }

func corrupt(format string, args ...any) error {
	return &InvalidError{Kind: ErrCorrupt, Reason: fmt.Sprintf(format, args...)}
}

func malformed(format string, args ...any) error {
	return &InvalidError{Kind: ErrMalformed, Reason: fmt.Sprintf(format, args...)}
}

func invalid(kind error, format string, args ...any) error {
	return &InvalidError{Kind: kind, Reason: fmt.Sprintf(format, args...)}
}
