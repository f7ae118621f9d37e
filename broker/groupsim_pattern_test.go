package broker

import "regexp"

// simPatterns are what members subscribe to beside names. The topic q comes
// later than the others; a pattern may also match what the member names.
var simPatterns = []string{"[pq]", "p|r", "q", "[ap]"}

// byPattern: a topic is one that the client wants because its pattern matches it.
func (c *simClient) byPattern(topic string) bool {
	return c.classic == nil && c.pattern != "" && regexp.MustCompile("^(?:"+c.pattern+")$").MatchString(topic)
}

// countMatch counts what happens to a topic that a member's pattern matches.
func (w *simWorld) countMatch(topic string, count *int) {
	for _, c := range w.clients {
		if !c.dead && c.byPattern(topic) {
			*count++
			return
		}
	}
}
