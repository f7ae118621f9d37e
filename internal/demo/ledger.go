package main

import (
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/penstock/penstock/client"
)

// ledger keeps, for each key, the values in their order, as hashes. Two ledgers
// are equal when no record is missing, doubled, changed or out of order.
type ledger struct {
	mu    sync.Mutex // guards what follows
	keys  map[string][]uint64
	count int
	err   error     // the first failure
	last  time.Time // of the latest acknowledgement
	pause time.Duration
}

func newLedger() *ledger { return &ledger{keys: map[string][]uint64{}} }

//nolint:gochecknoglobals // ledgers must agree on one seed to be comparable
var seed = maphash.MakeSeed()

func (l *ledger) add(key, value []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keys[string(key)] = append(l.keys[string(key)], maphash.Bytes(seed, value))
	l.count++
}

// settle is a promise of a producer. Acknowledgements of one key come in the
// order in which its records were produced.
func (l *ledger) settle(r *client.Record, err error) {
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.err = errors.Join(l.err, err)
		return
	}
	l.add(r.Key, r.Value)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if !l.last.IsZero() {
		l.pause = max(l.pause, now.Sub(l.last))
	}
	l.last = now
}

func (l *ledger) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *ledger) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// resetPause begins a new measurement of the longest time without an acknowledgement.
func (l *ledger) resetPause() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pause, l.last = 0, time.Time{}
}

func (l *ledger) longestPause() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pause
}

// compare says how got differs from l.
func (l *ledger) compare(got *ledger) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	got.mu.Lock()
	defer got.mu.Unlock()
	for key, want := range l.keys {
		have := got.keys[key]
		if len(have) != len(want) {
			return fmt.Errorf("key %q has %d records, want %d", key, len(have), len(want))
		}
		for i := range want {
			if have[i] != want[i] {
				return fmt.Errorf("key %q: record %d of %d differs or is out of order", key, i+1, len(want))
			}
		}
	}
	if len(got.keys) != len(l.keys) {
		return fmt.Errorf("%d keys, want %d", len(got.keys), len(l.keys))
	}
	return nil
}
