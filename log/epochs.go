package log

import (
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/penstock/penstock/log/record"
)

// epochStart says at which offset a leader epoch begins in this log.
type epochStart struct {
	epoch record.Epoch
	start record.Offset
}

// epochs is the history of leader epochs, ascending in both fields. An epoch
// is there once a batch of it is in the log; the file may be ahead of the log
// after a crash and is cut at open.
type epochs []epochStart

func (e epochs) last() record.Epoch {
	if len(e) == 0 {
		return record.UnknownEpoch
	}
	return e[len(e)-1].epoch
}

// note adds an epoch whose first batch begins at start; it reports whether the
// epoch is new. An epoch that began there before has lost its batches to a new log
// start.
func (e *epochs) note(epoch record.Epoch, start record.Offset) bool {
	if epoch <= e.last() {
		return false
	}
	if n := len(*e); n > 0 && (*e)[n-1].start >= start {
		*e = e.truncate(start)
	}
	*e = append(*e, epochStart{epoch, start})
	return true
}

// end returns the largest epoch at or below the given one, and where it ends.
func (e epochs) end(epoch record.Epoch, logEnd record.Offset) (record.Epoch, record.Offset) {
	i := sort.Search(len(e), func(i int) bool { return e[i].epoch > epoch })
	end := logEnd
	if i < len(e) {
		end = e[i].start
	}
	if i == 0 {
		return record.UnknownEpoch, end
	}
	return e[i-1].epoch, end
}

// truncate drops the epochs that begin at or after off. The result has its own
// memory: readers may hold the old one.
func (e epochs) truncate(off record.Offset) epochs {
	i := sort.Search(len(e), func(i int) bool { return e[i].start >= off })
	return append(epochs(nil), e[:i]...)
}

// advance drops the epochs that end at or before a new log start, and lets the
// first one left begin there.
func (e epochs) advance(start record.Offset) epochs {
	i := sort.Search(len(e), func(i int) bool { return e[i].start > start })
	out := append(epochs(nil), e[max(i-1, 0):]...)
	if len(out) > 0 {
		out[0].start = start
	}
	return out
}

// encode is Kafka's leader-epoch-checkpoint: version, count, one "epoch start" a line.
func (e epochs) encode() []byte {
	b := []byte("0\n")
	b = strconv.AppendInt(b, int64(len(e)), 10)
	b = append(b, '\n')
	for _, s := range e {
		b = strconv.AppendInt(b, int64(s.epoch), 10)
		b = append(b, ' ')
		b = strconv.AppendInt(b, int64(s.start), 10)
		b = append(b, '\n')
	}
	return b
}

func decodeEpochs(b []byte) (epochs, error) {
	lines := strings.Split(string(b), "\n")
	if len(lines) < 3 || lines[0] != "0" || lines[len(lines)-1] != "" {
		return nil, errors.New("not a leader epoch checkpoint of version 0")
	}
	if count, err := strconv.Atoi(lines[1]); err != nil || count != len(lines)-3 {
		return nil, fmt.Errorf("count %q, but %d entries", clip(lines[1]), len(lines)-3)
	}
	var out epochs
	for _, line := range lines[2 : len(lines)-1] {
		first, second, _ := strings.Cut(line, " ")
		epoch, err1 := strconv.ParseInt(first, 10, 32)
		start, err2 := strconv.ParseInt(second, 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("entry %q: %w", clip(line), err)
		}
		s := epochStart{record.Epoch(epoch), record.Offset(start)}
		if s.epoch <= out.last() || s.start < 0 || len(out) > 0 && s.start <= out[len(out)-1].start {
			return nil, fmt.Errorf("entry %q does not ascend", clip(line))
		}
		out = append(out, s)
	}
	return out, nil
}
