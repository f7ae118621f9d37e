package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/penstock/penstock/client"
)

const (
	// quietFor is how long nothing may be acknowledged before a word is said of it: a
	// failover takes less.
	quietFor = 5 * time.Second
	// sayAgain is when it is said again.
	sayAgain = 30 * time.Second
)

// produceReport counts what became of the records, and says why it takes long. It is a
// hook of the client, which hears of every failed try.
type produceReport struct {
	progress io.Writer
	began    time.Time

	mu     sync.Mutex // guards what follows
	sent   int64
	acked  int64
	failed int64
	first  error     // why the first one failed
	news   time.Time // when something was last acknowledged, or sent while nothing waited
	told   time.Time // when complain last had something to say
	reason string    // why the last try failed
}

func newProduceReport(progress io.Writer, now time.Time) *produceReport {
	return &produceReport{progress: progress, began: now, news: now}
}

// took notes a record that is about to be sent.
func (r *produceReport) took() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sent++; r.sent == r.acked+r.failed+1 {
		r.news = time.Now()
	}
}

func (r *produceReport) settle(_ *client.Record, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.acked++
		r.news, r.reason = time.Now(), ""
		return
	}
	r.failed++
	if r.first == nil {
		r.first = err
	}
}

// OnRetry hears of a batch that is to be sent again.
func (r *produceReport) OnRetry(_ client.TopicPartition, _ int, err error) { r.why(err) }

// OnConnection hears of a stream that opened or broke.
func (r *produceReport) OnConnection(_ string, err error) { r.why(err) }

func (r *produceReport) why(err error) {
	if err == nil || errors.Is(err, client.ErrClosed) || errors.Is(err, context.Canceled) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch client.CodeOf(err) {
	case client.CodeUnknownProducerID, client.CodeOutOfOrderSequence:
		if r.reason != "" {
			return // what comes of a batch before it that was refused, for the reason that counts
		}
	default:
	}
	r.reason = bare(err)
}

// bare is an error's text without the word that the command's own begins with.
func bare(err error) string { return strings.TrimPrefix(err.Error(), "penstock: ") }

// complain says what the records wait for, when that has gone on for a while; else it
// says nothing.
func (r *produceReport) complain(now time.Time) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	waiting := r.sent - r.acked - r.failed
	if waiting == 0 || now.Sub(r.news) < quietFor || now.Sub(r.told) < sayAgain && r.told.After(r.news) {
		return ""
	}
	r.told = now
	reason := r.reason
	if reason == "" {
		reason = "see penstock cluster health"
	}
	return fmt.Sprintf("nothing was acknowledged for %s, %s: %s", now.Sub(r.news).Round(time.Second), count(waiting, "record waits", "records wait"), reason)
}

// watch prints complaints until the function that it returns is called.
func (r *produceReport) watch() (stop func()) {
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case now := <-tick.C:
				if text := r.complain(now); text != "" {
					fmt.Fprintf(r.progress, "penstock: %s\n", text)
				}
			}
		}
	})
	return func() {
		close(done)
		watching.Wait()
	}
}

func (r *produceReport) gaveUp() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.first != nil
}

// end is the outcome, given what ended the sending and what the producer was closed
// with. However it ended, it says how much is in the log: whoever repeats the command
// would have that twice.
func (r *produceReport) end(sending, closing error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	done := fmt.Sprintf("%s acknowledged", count(r.acked, "record", "records"))
	switch {
	case errors.Is(sending, context.Canceled), errors.Is(closing, context.Canceled):
		text := fmt.Sprintf("interrupted: %s, %d not", done, r.sent-r.acked)
		if r.reason != "" {
			text += "; the last try of one: " + r.reason
		}
		return errors.New(text)
	case r.first != nil:
		return fmt.Errorf("%s, %d failed, the first: %s", done, r.failed, bare(r.first))
	case sending != nil || closing != nil:
		return fmt.Errorf("%w; %s before that", errors.Join(sending, closing), done)
	}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		fmt.Fprintf(r.progress, "%s in %s\n", done, time.Since(r.began).Round(time.Millisecond))
	}
	return nil
}
