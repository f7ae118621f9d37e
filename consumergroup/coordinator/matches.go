package coordinator

import (
	"regexp"
	"slices"
	"sync"
)

// maxPatternsKnown bounds the patterns whose matches are kept; keptCatalogs is after how
// many changes of the topics one that nobody asked for meanwhile goes.
const (
	maxPatternsKnown = 10_000
	keptCatalogs     = 8
)

// catalog is which topics there are, at some time. It does not change.
type catalog struct {
	number     uint64   // of a newer one it is higher
	names      []string // ascending
	partitions []int32  // beside them
}

func readCatalog(topics Topics, number uint64) *catalog {
	c := &catalog{number: number}
	for name, n := range topics.All() {
		c.names = append(c.names, name)
		c.partitions = append(c.partitions, n)
	}
	return c
}

func (c *catalog) equal(other *catalog) bool {
	return slices.Equal(c.partitions, other.partitions) && slices.Equal(c.names, other.names)
}

// matched is what a pattern matches in a catalog.
type matched struct {
	of         *catalog
	topics     []string
	partitions []int32
}

// patterns remembers what the patterns of all groups match. A pattern is tried on a name
// once, however many groups and members have it, and however often topics change
// otherwise: on all there are by whoever brings it, before it comes to the actor of a
// shard, which is left with the topics that came since. Its methods may be called
// concurrently.
type patterns struct {
	topics Topics

	mu      sync.Mutex // guards the rest
	catalog *catalog   // nil: nobody has asked
	known   map[string]*matched
}

// topicsChanged looks whether there are other topics than before. Most changes are of
// leaders and in-sync sets.
func (p *patterns) topicsChanged() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.catalog == nil {
		return
	}
	now := readCatalog(p.topics, p.catalog.number+1)
	if now.equal(p.catalog) {
		return
	}
	p.catalog = now
	for pattern, m := range p.known {
		if m.of.number+keptCatalogs < now.number {
			delete(p.known, pattern)
		}
	}
}

// match returns the topics that a pattern matches. Patterns were checked when
// they came; one of a log that another version wrote, and that this one does not
// accept, matches nothing.
func (p *patterns) match(pattern string) *matched {
	p.mu.Lock()
	if p.catalog == nil {
		p.catalog = readCatalog(p.topics, 1)
	}
	before, now := p.known[pattern], p.catalog
	p.mu.Unlock()
	if before != nil && before.of == now {
		return before
	}
	m, _ := before.in(now, pattern)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil || len(p.known) >= maxPatternsKnown {
		p.known = map[string]*matched{}
	}
	if other := p.known[pattern]; other == nil || other.of.number < now.number {
		p.known[pattern] = m
	}
	return m
}

// in returns what the pattern of m matches in another catalog, and on how many names it
// had to be tried: those that m, which may be nil, does not know of.
func (m *matched) in(c *catalog, pattern string) (result *matched, tried int) {
	result = &matched{of: c}
	var names, hits []string
	if m != nil {
		names, hits = m.of.names, m.topics
	}
	var re *regexp.Regexp
	for i, name := range c.names {
		var known, hit bool
		names, known = skipTo(names, name)
		hits, hit = skipTo(hits, name)
		if !known {
			tried++
			if re == nil {
				var err error
				if re, err = compileKnown(pattern); err != nil {
					return result, tried
				}
			}
			hit = re.MatchString(name)
		}
		if hit {
			result.topics = append(result.topics, name)
			result.partitions = append(result.partitions, c.partitions[i])
		}
	}
	return result, tried
}

// skipTo drops what is below name from an ascending list, and reports whether name is in it.
func skipTo(list []string, name string) (rest []string, has bool) {
	for len(list) > 0 && list[0] < name {
		list = list[1:]
	}
	return list, len(list) > 0 && list[0] == name
}

// compileKnown compiles a pattern that may have come with the log.
func compileKnown(pattern string) (*regexp.Regexp, error) {
	re, err := compilePattern(pattern)
	if err != nil {
		return nil, err
	}
	return re, nil
}

// prepare tries a new pattern on all topics, on its caller's goroutine.
func (p *patterns) prepare(pattern string) error {
	if pattern == "" {
		return nil
	}
	if _, err := compileKnown(pattern); err != nil {
		return err
	}
	p.match(pattern)
	return nil
}

// prepareLoaded does it for all that a log has.
func (p *patterns) prepareLoaded(l *loaded) {
	for _, g := range l.groups {
		for _, m := range g.members {
			if m.Pattern != "" {
				p.match(m.Pattern)
			}
		}
	}
}
