package log

import (
	"sync"
	"time"

	"github.com/penstock/penstock/internal/vfs"
)

const (
	// flushesAMiB is how many flushes a reader of the disk waits for each MiB.
	flushesAMiB = 4
	// paceMemory is how long after a flush readers still mind the next one.
	paceMemory = 100 * time.Millisecond
	// paceMost bounds what one flush counts, so that a disk that hung for a moment
	// does not stop readers for longer.
	paceMost = 25 * time.Millisecond
)

// readPace keeps those who read the disk from crowding out those who wait for a
// flush: a consumer that replays a log reads as fast as the disk gives, and every
// flush then takes its turn behind megabytes of reads. While there are flushes,
// readers of what is not in the page cache get a MiB in the time that
// some flushes take. The slower reads make the flushes, the fewer there are; on a
// fast disk, and when nobody writes, nobody waits.
type readPace struct {
	Flusher
	now func() time.Time

	mu      sync.Mutex // guards everything below; a leaf lock
	times   FlushTimes
	mean    time.Duration
	flushed time.Time // when the last flush ended
	next    time.Time // when the disk is free for the next reader
}

// Flush implements Flusher, and takes the time.
func (p *readPace) Flush(f vfs.File) error {
	begin := p.now()
	err := p.Flusher.Flush(f)
	end := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	took := end.Sub(begin)
	p.times.add(took)
	p.mean += (min(took, paceMost) - p.mean) / 16
	p.flushed = end
	return err
}

func (p *readPace) flushTimes() FlushTimes {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.times
}

// wait is called before n bytes are read from the disk. All readers share one pace.
func (p *readPace) wait(n int) {
	p.mu.Lock()
	now := p.now()
	if now.Sub(p.flushed) > paceMemory {
		p.mu.Unlock()
		return
	}
	at := p.next
	if at.Before(now) {
		at = now
	}
	p.next = at.Add(time.Duration(int64(p.mean) * flushesAMiB * int64(n) >> 20))
	p.mu.Unlock()
	time.Sleep(at.Sub(now))
}
