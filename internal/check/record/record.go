// Package record writes histories of live clients to a file, op by op, so that a
// run that was killed can be checked as far as it got.
//
// A history file holds one JSON object a line, a check.Op. The number of a line,
// from 1, is the index of its op. A line is given to the operating system before
// Append returns: what a client told the recorder survives the client's death,
// and the file of a killed run is a history that was cut off, which is a history.
//
//	rec, err := record.Create("history.jsonl")
//	p := rec.Process()
//	p.Append(check.Op{Type: check.Invoke, F: check.FSend, Sends: sends})  // before the call
//	... produce ...
//	p.Append(check.Op{Type: check.OK, F: check.FSend, Sends: sends})      // after its answer
//
// Rejected: a buffer and a goroutine that flushes it. It saves a microsecond an op,
// and loses the last words of a run, which are the ones about its end.
package record

import (
	"encoding/json"
	"io"
	"os"
	"sync"
	"time"

	"github.com/penstock/penstock/internal/check"
)

// Recorder appends ops to a history. Its methods may be called by any goroutine.
type Recorder struct {
	began time.Time
	file  io.Closer // nil: not ours

	mu        sync.Mutex // guards what follows
	w         io.Writer
	processes int32
	ops       int64
	err       error // the first failure; nothing is written after it
}

// Create begins a history in a new file; one that exists is replaced.
func Create(path string) (*Recorder, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	r := New(f)
	r.file = f
	return r, nil
}

// New begins a history that goes to w, one Write a line.
func New(w io.Writer) *Recorder { return &Recorder{began: time.Now(), w: w} }

// Process returns a new process, the history of one client.
func (r *Recorder) Process() *Process {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.processes++
	return &Process{r: r, id: r.processes}
}

// Ops is how many ops were appended.
func (r *Recorder) Ops() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ops
}

// Close ends the history and returns the first failure of the recorder. A history
// is complete only if it returns nil.
func (r *Recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file != nil {
		if err := r.file.Close(); r.err == nil {
			r.err = err
		}
		r.file = nil
	}
	err := r.err
	if err == nil {
		r.err = os.ErrClosed
	}
	return err
}

// Process appends the ops of one process. Its methods may be called by any goroutine.
type Process struct {
	r  *Recorder
	id int32
}

// ID is the number of the process.
func (p *Process) ID() int32 { return p.id }

// Append adds an op, whose Process and Time it sets. A failure is returned by the
// recorder's Close: what a client does about it is the run's to say, once.
func (p *Process) Append(op check.Op) {
	op.Process, op.Time = p.id, time.Since(p.r.began)
	line, err := json.Marshal(&op)
	line = append(line, '\n')
	r := p.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil && err == nil {
		_, err = r.w.Write(line)
	}
	if err != nil && r.err == nil {
		r.err = err
	}
	if r.err == nil {
		r.ops++
	}
}
