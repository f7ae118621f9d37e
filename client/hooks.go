package client

import "time"

// Hook is told what the client does. A hook implements one or more of the Hook
// interfaces below; anything else given to WithHooks is a fault of the options.
// Hooks are called from the client's own goroutines, some at the same time, and
// must not wait.
type Hook any

// HookBatch is told about every batch of records that was settled.
type HookBatch interface {
	// OnBatch is called once a batch: after its acknowledgement, or its final failure.
	OnBatch(BatchInfo)
}

// HookRetry is told about every batch that will be sent again.
type HookRetry interface {
	OnRetry(tp TopicPartition, attempt int, err error)
}

// HookFetch is told about every answer of a fetch that holds records.
type HookFetch interface {
	OnFetch(broker string, bytes int, waited time.Duration)
}

// HookConnection is told about streams that opened and broke.
type HookConnection interface {
	// OnConnection has a nil error when a stream opened, else why it broke.
	OnConnection(broker string, err error)
}

// BatchInfo describes a batch that was settled.
type BatchInfo struct {
	TopicPartition
	BaseOffset int64 // -1: unknown
	Records    int
	Bytes      int // on the wire; the size before compression when it was never sent
	// Began is when the first record was given to Produce, Sent when the batch was
	// last sent (zero: never), Done when it was settled.
	Began, Sent, Done time.Time
	Attempts          int
	Err               error // nil: acknowledged
}

type hooks struct {
	batch      []HookBatch
	retry      []HookRetry
	fetch      []HookFetch
	connection []HookConnection
}

// add sorts h into the lists of the interfaces it implements; false: none.
func (hs *hooks) add(h Hook) bool {
	known := false
	if b, ok := h.(HookBatch); ok {
		hs.batch, known = append(hs.batch, b), true
	}
	if r, ok := h.(HookRetry); ok {
		hs.retry, known = append(hs.retry, r), true
	}
	if f, ok := h.(HookFetch); ok {
		hs.fetch, known = append(hs.fetch, f), true
	}
	if c, ok := h.(HookConnection); ok {
		hs.connection, known = append(hs.connection, c), true
	}
	return known
}

func (hs *hooks) onConnection(broker string, err error) {
	for _, h := range hs.connection {
		h.OnConnection(broker, err)
	}
}

func (hs *hooks) onRetry(tp TopicPartition, attempt int, err error) {
	for _, h := range hs.retry {
		h.OnRetry(tp, attempt, err)
	}
}
