package coordinator

import (
	"time"

	"github.com/penstock/penstock/log/record"
)

// maxBatchBytes is the size from which records go to a next batch: well below
// the max.message.bytes of __consumer_offsets.
const maxBatchBytes = 256 << 10

// output is something that clients see. It runs on the actor once the records
// before it are committed, with nil, or with the error that they met.
type output func(err error)

// batch gathers records for one append, and the outputs that wait for it.
type batch struct {
	builder *record.Builder
	outputs []output
	groups  bool  // holds group or member records: the state machines ran ahead of the log
	err     error // a record could not be encoded; the batch must not be appended
}

func newBatch() *batch { return &batch{builder: record.NewBuilder(record.BuilderOptions{})} }

// add appends a record; a nil value is a tombstone.
func (b *batch) add(now time.Time, key, value []byte) {
	if err := b.builder.Append(&record.Record{Timestamp: now.UnixMilli(), Key: key, Value: value}); err != nil {
		b.err = err
	}
}

func (b *batch) full() bool { return b.builder.EstimatedSize() >= maxBatchBytes }

func (b *batch) empty() bool { return b.err == nil && b.builder.Count() == 0 }

func (b *batch) build() ([]byte, error) {
	if b.err != nil {
		return nil, b.err
	}
	return b.builder.Build(nil)
}

func (b *batch) finish(err error) {
	for _, out := range b.outputs {
		out(err)
	}
}
