package coordinator

import (
	"regexp"
	"regexp/syntax"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup"
)

// Bounds of a topic pattern. The cost is about the number of instructions of the
// compiled expression: RE2 matches in time proportional to it and to the name.
const (
	maxPatternBytes  = 4096
	maxPatternCost   = 2000
	maxPatternsKnown = 1000 // in a shard's cache
)

// compilePattern compiles an RE2 expression that must match a whole topic name.
func compilePattern(pattern string) (*regexp.Regexp, *api.Error) {
	if len(pattern) > maxPatternBytes {
		return nil, api.Errorf(api.CodeInvalidPattern, "the topic pattern has %d bytes, at most %d are allowed", len(pattern), maxPatternBytes)
	}
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalidPattern, "the topic pattern does not compile as RE2: %w", err)
	}
	if cost := patternCost(parsed); cost > maxPatternCost {
		return nil, api.Errorf(api.CodeInvalidPattern, "the topic pattern costs %d steps, at most %d are allowed: repeat less", cost, maxPatternCost)
	}
	re, err := regexp.Compile("^(?:" + pattern + ")$")
	if err != nil {
		return nil, api.Errorf(api.CodeInvalidPattern, "the topic pattern does not compile as RE2: %w", err)
	}
	return re, nil
}

// patternCost is what the expression compiles to, repetitions written out. The
// parser bounds nested repetitions at 1,000, so that it cannot overflow.
func patternCost(re *syntax.Regexp) int {
	cost := 1
	for _, sub := range re.Sub {
		cost += patternCost(sub)
	}
	switch re.Op {
	case syntax.OpLiteral:
		cost += len(re.Rune)
	case syntax.OpCharClass:
		cost += len(re.Rune) / 2
	case syntax.OpRepeat:
		cost *= max(re.Min, re.Max, 1)
	default:
	}
	return cost
}

// matched is what a pattern matched in the topics of now.
type matched struct {
	topics     []string
	partitions []int32
}

// match returns the topics that a pattern matches. Patterns were checked when
// they came; one of a log that another version wrote, and that this one does not
// accept, matches nothing.
func (s *shard) match(pattern string) *matched {
	if m, ok := s.matches[pattern]; ok {
		return m
	}
	m := &matched{}
	if re, err := compilePattern(pattern); err == nil {
		for topic, n := range s.cfg.Topics.All() {
			if re.MatchString(topic) {
				m.topics = append(m.topics, topic)
				m.partitions = append(m.partitions, n)
			}
		}
	}
	if len(s.matches) >= maxPatternsKnown {
		clear(s.matches)
	}
	s.matches[pattern] = m
	return m
}

// metadata resolves what the group, and a member that joins it, subscribe to.
func (s *shard) metadata(g *group, joining *consumergroup.Member) *consumergroup.Metadata {
	topics, patterns := g.machine.Subscriptions()
	if joining != nil {
		topics = append(topics, joining.Topics...)
		if joining.Pattern != "" {
			patterns = append(patterns, joining.Pattern)
		}
	}
	md := &consumergroup.Metadata{Partitions: map[string]int32{}, Matches: map[string][]string{}}
	for _, topic := range topics {
		if _, n := s.cfg.Topics.Topic(topic); n > 0 {
			md.Partitions[topic] = n
		}
	}
	for _, pattern := range patterns {
		m := s.match(pattern)
		for i, topic := range m.topics {
			md.Partitions[topic] = m.partitions[i]
		}
		if len(m.topics) > 0 {
			md.Matches[pattern] = m.topics
		}
	}
	if joining != nil && joining.Rack != "" || g.machine.HasRacks() {
		md.Racks = map[string][][]string{}
		for topic := range md.Partitions {
			if racks := s.cfg.Topics.Racks(topic); racks != nil {
				md.Racks[topic] = racks
			}
		}
	}
	return md
}
