package coordinator

import (
	"maps"
	"regexp"
	"regexp/syntax"
	"slices"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup"
)

// Bounds of a topic pattern. The cost is about the number of instructions of the
// compiled expression: RE2 matches in time proportional to it and to the name.
const (
	maxPatternBytes = 4096
	maxPatternCost  = 1000
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
	// Written anew: a quotation (\Q) may be left open, and must not swallow what is added.
	re, err := regexp.Compile("^(?:" + parsed.String() + ")$")
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

// savePatterns writes what the patterns of a group match, when that is news: of
// the topics, or because members came or went.
func (s *shard) savePatterns(now time.Time, g *group, news *consumergroup.Metadata) {
	if len(g.patterns) == 0 && (news == nil || len(news.Matches) == 0) {
		return
	}
	_, subscribed := g.machine.Subscriptions()
	for _, pattern := range subscribed {
		topics := s.patterns.match(pattern).topics
		if before, written := g.patterns[pattern]; written && slices.Equal(before, topics) {
			continue
		}
		s.persist(g, patternKey(g.id, pattern), patternValue(topics, s.cfg.Topics.Version(), now))
		if g.patterns == nil {
			g.patterns = map[string][]string{}
		}
		g.patterns[pattern] = topics
	}
	s.dropPatterns(g, subscribed)
}

// dropPatterns writes tombstones for patterns beside those that are left.
func (s *shard) dropPatterns(g *group, left []string) {
	for _, pattern := range slices.Sorted(maps.Keys(g.patterns)) {
		if !slices.Contains(left, pattern) {
			s.persist(g, patternKey(g.id, pattern), nil)
			delete(g.patterns, pattern)
		}
	}
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
	md := &consumergroup.Metadata{Partitions: map[string]int32{}, IDs: map[string]consumergroup.TopicID{}, Matches: map[string][]string{}}
	for _, topic := range topics {
		if id, n := s.cfg.Topics.Topic(topic); n > 0 {
			md.Partitions[topic], md.IDs[topic] = n, consumergroup.TopicID(id)
		}
	}
	for _, pattern := range patterns {
		m := s.patterns.match(pattern)
		for i, topic := range m.topics {
			md.Partitions[topic] = m.partitions[i]
			if id := s.topicID(topic); !id.IsZero() {
				md.IDs[topic] = consumergroup.TopicID(id)
			}
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
