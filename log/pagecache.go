package log

import (
	"errors"
	"io/fs"
	"log/slog"
	"sync"
	"time"
)

// cacheChunk is the piece of a segment's file in which the page cache is
// accounted and dropped. The kernel keeps pages in folios of up to 2 MiB, each
// aligned to its size, and drops none that hangs over the range it is told: a
// range that begins at a chunk's beginning cuts none in two there.
const cacheChunk = 2 << 20

// pageCache bounds how much of all segments of a directory stays in the
// kernel's page cache. What was synced, or read from disk, is noted; once more
// than limit is, what was noted first is dropped. So the kernel writes to the
// same warm pages again and again, where it would otherwise take ever more memory
// for clean pages; docs/decisions/0006-page-cache.md has what that costs.
//
// It is bookkeeping about advice: pages that it never heard of stay until the
// kernel wants them, and a dropped page comes back from disk when it is read.
type pageCache struct {
	files  *openFiles
	limit  int64
	logger *slog.Logger
	now    func() time.Time

	mu     sync.Mutex // guards everything below; a leaf lock
	chunks map[chunkKey]*cachedChunk
	order  chunkList // the first noted first
	bytes  int64     // of all chunks in order
	// passing are chunks that nobody but a reader who goes on has use for; they do
	// not count for limit.
	passing      chunkList
	passingBytes int64
	dropping     bool // the goroutine lives
	done         sync.WaitGroup
}

type chunkKey struct {
	file  *lazyFile
	index int64 // position / cacheChunk
}

// cachedChunk is what is noted of one chunk: the bytes [from, to) of the file.
type cachedChunk struct {
	chunkKey
	from, to int64
	passing  bool // it is in that list
	sound    soundRange
	written  soundRange
	next     *cachedChunk
}

// chunkList is first in, first out.
type chunkList struct{ first, last *cachedChunk }

func (l *chunkList) push(c *cachedChunk) {
	if l.last != nil {
		l.last.next = c
	} else {
		l.first = c
	}
	l.last = c
}

func (l *chunkList) pop() *cachedChunk {
	c := l.first
	if l.first = c.next; l.first == nil {
		l.last = nil
	}
	return c
}

func newPageCache(files *openFiles, limit int64, logger *slog.Logger, now func() time.Time) *pageCache {
	if limit <= 0 {
		limit = DefaultPageCacheBytes
	}
	return &pageCache{files: files, limit: limit, logger: logger, now: now, chunks: map[chunkKey]*cachedChunk{}}
}

// synced notes what a sync of a segment has just made clean: everything that was
// written to it since the last one. The caller holds Log.io of its log.
func (p *pageCache) synced(s *segment) {
	p.note(s.file, s.noted, s.size)
	if s.ours >= 0 {
		p.wrote(s.file, max(s.noted, s.ours), s.size)
	}
	s.noted = s.size
}

// passingMax is how much stays of what is read once: some readers' present chunks.
const passingMax = 16 * cacheChunk

// note says that the bytes [from, to) of a file are in the page cache and durable.
// It never waits for the disk.
func (p *pageCache) note(f *lazyFile, from, to int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.add(f, from, to, false)
}

// noteOnce is note of bytes that were read for one who does not come back. What was
// noted before stays where it is.
func (p *pageCache) noteOnce(f *lazyFile, from, to int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.add(f, from, to, true)
}

// add notes bytes. The caller holds mu.
func (p *pageCache) add(f *lazyFile, from, to int64, passing bool) {
	for from < to {
		key := chunkKey{f, from / cacheChunk}
		end := min(to, (key.index+1)*cacheChunk)
		c := p.chunks[key]
		if c == nil {
			c = &cachedChunk{chunkKey: key, from: from, to: from, passing: passing}
			p.chunks[key] = c
			if passing {
				p.passing.push(c)
			} else {
				p.order.push(c)
			}
		}
		sum := p.sum(c)
		*sum -= c.to - c.from
		c.from, c.to = min(c.from, from), max(c.to, end)
		*sum += c.to - c.from
		from = end
	}
	if p.over() && !p.dropping {
		p.dropping = true
		p.done.Go(p.drop)
	}
}

// sum is the count of bytes that a chunk belongs to. The caller holds mu.
func (p *pageCache) sum(c *cachedChunk) *int64 {
	if c.passing {
		return &p.passingBytes
	}
	return &p.bytes
}

func (p *pageCache) over() bool {
	return p.bytes > p.limit || p.passingBytes > min(passingMax, p.limit)
}

// drop runs until what is noted is within the limits. It is the pageCache's own
// goroutine, for the kernel may take milliseconds over it.
func (p *pageCache) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.over() {
		list := &p.order
		if p.bytes <= p.limit {
			list = &p.passing
		}
		c := list.pop()
		delete(p.chunks, c.chunkKey)
		*p.sum(c) -= c.to - c.from
		p.mu.Unlock()
		p.advise(c)
		p.mu.Lock()
	}
	p.dropping = false
}

// advise takes a chunk out of the page cache, from its beginning on: an earlier
// drop of the same chunk left the folio that hung over its end.
func (p *pageCache) advise(c *cachedChunk) {
	file, err := p.files.acquire(c.file)
	if err == nil {
		begin := c.index * cacheChunk
		err = file.DropCache(begin, c.to-begin)
		p.files.release(c.file)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // retention was here before
		p.logger.Debug("page cache not dropped", "file", c.file.name, "position", c.from, "error", err)
	}
}

// holds says whether the bytes [from, to) of a file should be in the page cache.
func (p *pageCache) holds(f *lazyFile, from, to int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for from < to {
		key := chunkKey{f, from / cacheChunk}
		end := min(to, (key.index+1)*cacheChunk)
		if c := p.chunks[key]; c == nil || from < c.from || end > c.to {
			return false
		}
		from = end
	}
	return true
}

// held returns how many bytes are noted.
func (p *pageCache) held() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes + p.passingBytes
}
