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

// soundRange is a part of a chunk whose batches have the right CRCs: a read checked
// them (sound), or they are what this process wrote and synced (written), after the
// door or the follower had checked them.
type soundRange struct {
	from, to int64
	since    time.Time
}

// covers says whether it holds the bytes [from, to), and is young enough.
func (s *soundRange) covers(from, to int64, now time.Time) bool {
	return from >= s.from && to <= s.to && now.Sub(s.since) < soundFor
}

// add takes in [from, to); what was there before is kept as far as it is connected.
func (s *soundRange) add(from, to int64, now time.Time) {
	if from > s.to || to < s.from || now.Sub(s.since) >= soundFor {
		*s = soundRange{from, to, now}
		return
	}
	s.from, s.to = min(s.from, from), max(s.to, to)
}

// sound says whether all of the bytes [from, to) of a file were found sound.
func (p *pageCache) sound(f *lazyFile, from, to int64) bool {
	return p.every(f, from, to, func(c *cachedChunk, from, to int64, now time.Time) bool {
		return c.sound.covers(from, to, now)
	})
}

// sendable says whether the bytes [from, to) of a file may leave without anybody
// looking at them: they have been in the page cache since they were found sound, or
// since they were written from memory that was. A read into memory checks what was
// written once more, for that costs it next to nothing.
func (p *pageCache) sendable(f *lazyFile, from, to int64) bool {
	return p.every(f, from, to, func(c *cachedChunk, from, to int64, now time.Time) bool {
		return c.sound.covers(from, to, now) || c.written.covers(from, to, now)
	})
}

func (p *pageCache) every(f *lazyFile, from, to int64, ok func(c *cachedChunk, from, to int64, now time.Time) bool) bool {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for from < to {
		key := chunkKey{f, from / cacheChunk}
		end := min(to, (key.index+1)*cacheChunk)
		if c := p.chunks[key]; c == nil || !ok(c, from, end, now) {
			return false
		}
		from = end
	}
	return true
}

// foundSound notes that the batches in the bytes [from, to) of a file had the
// right CRCs.
func (p *pageCache) foundSound(f *lazyFile, from, to int64) {
	p.each(f, from, to, func(c *cachedChunk, from, to int64, now time.Time) { c.sound.add(from, to, now) })
}

// wrote notes that the bytes [from, to) of a file were written and synced.
func (p *pageCache) wrote(f *lazyFile, from, to int64) {
	p.each(f, from, to, func(c *cachedChunk, from, to int64, now time.Time) { c.written.add(from, to, now) })
}

func (p *pageCache) each(f *lazyFile, from, to int64, do func(c *cachedChunk, from, to int64, now time.Time)) {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for from < to {
		key := chunkKey{f, from / cacheChunk}
		end := min(to, (key.index+1)*cacheChunk)
		if c := p.chunks[key]; c != nil {
			do(c, from, end, now)
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
			c.written.to = min(c.written.to, from)
		}
	}
}
