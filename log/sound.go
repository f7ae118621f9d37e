package log

import (
	"time"
)

// soundFor is how long bytes that were found sound are believed: the kernel may
// have let go of their pages meanwhile, and the disk may give others.
const soundFor = 10 * time.Minute

// Reading out of the page cache is about as fast as checking CRCs, so a read that
// checks everything is half as fast as one that does not. What can go wrong on a
// disk shows when bytes come from there: a cold read checks every batch that it
// returns, unless the same bytes were checked by another since they came into the
// page cache, as far as the pageCache knows, and not longer than soundFor ago.
// Whoever gets the batches, a consumer or a follower, checks them in any case.

// soundRange is the part of a chunk whose batches had the right CRCs.
type soundRange struct {
	from, to int64
	since    time.Time
}

// sound says whether all of the bytes [from, to) of a file were found sound.
func (p *pageCache) sound(f *lazyFile, from, to int64) bool {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for from < to {
		key := chunkKey{f, from / cacheChunk}
		end := min(to, (key.index+1)*cacheChunk)
		c := p.chunks[key]
		if c == nil || from < c.sound.from || end > c.sound.to || now.Sub(c.sound.since) >= soundFor {
			return false
		}
		from = end
	}
	return true
}

// foundSound notes that the batches in the bytes [from, to) of a file had the
// right CRCs. What was noted before is kept as far as it is connected.
func (p *pageCache) foundSound(f *lazyFile, from, to int64) {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for from < to {
		key := chunkKey{f, from / cacheChunk}
		end := min(to, (key.index+1)*cacheChunk)
		if c := p.chunks[key]; c != nil {
			if s := &c.sound; from > s.to || end < s.from || now.Sub(s.since) >= soundFor {
				*s = soundRange{from, end, now}
			} else {
				s.from, s.to = min(s.from, from), max(s.to, end)
			}
		}
		from = end
	}
}

// unsound forgets what was noted of a file whose bytes from a position on are about
// to change.
func (p *pageCache) unsound(f *lazyFile, from int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, c := range p.chunks {
		if key.file == f {
			c.sound.to = min(c.sound.to, from)
		}
	}
}
