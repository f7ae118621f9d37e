package coordinator

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/penstock/penstock/broker/api"
)

// A pattern matches whole names, whatever is open at its end.
func TestPatternsMatchWholeNames(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		matches       bool
	}{
		{"abc", "abc", true},
		{"abc", "abcd", false},
		{"abc", "zabc", false},
		{"a|b", "b", true},
		{"a|b", "ab", false},
		{`\Qabc`, "abc", true},
		{`\Qabc`, "abcd", false},
		{`\Qa.c`, "abc", false},
		{`\Qa.c`, "a.c", true},
		{`x\Q.\Ey`, "x.y", true},
		{"(?i)abc", "ABC", true},
		{"(?i)a|b", "B", true},
		{"a.*$", "abc", true},
		{"^a", "a", true},
		{"^a", "ab", false},
		{"(?s:.)+", "abc", true},
	} {
		re, err := compilePattern(c.pattern)
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
			continue
		}
		if got := re.MatchString(c.name); got != c.matches {
			t.Errorf("%s matches %s: %v", c.pattern, c.name, got)
		}
	}
}

func catalogOf(number uint64, names ...string) *catalog {
	topics := map[string]int32{}
	for _, name := range names {
		topics[name] = int32(len(name))
	}
	return readCatalog(&fakeTopics{topics: topics}, number)
}

// When topics change a pattern is tried on those that came, and on nothing else.
func TestPatternsAreTriedOnNewTopics(t *testing.T) {
	const pattern = "a.*"
	var m *matched
	for i, c := range []struct {
		names, matches []string
		tried          int
	}{
		{[]string{"a", "ab", "b", "c"}, []string{"a", "ab"}, 4},
		{[]string{"a", "aa", "ab", "b", "c", "d"}, []string{"a", "aa", "ab"}, 2},
		{[]string{"ab", "c"}, []string{"ab"}, 0},
		{[]string{"a", "ab", "b"}, []string{"a", "ab"}, 2},
		{nil, nil, 0},
	} {
		var tried int
		m, tried = m.in(catalogOf(uint64(i), c.names...), pattern)
		if !slices.Equal(m.topics, c.matches) || tried != c.tried {
			t.Errorf("%d: matches %v, tried on %d", i, m.topics, tried)
		}
		for j, name := range m.topics {
			if m.partitions[j] != int32(len(name)) {
				t.Errorf("%d: %s has %d partitions", i, name, m.partitions[j])
			}
		}
	}
}

// A change that is not one of which topics there are leaves what patterns match alone; a
// pattern that nobody asks for any more is forgotten.
func TestPatternsAreKept(t *testing.T) {
	topics := &fakeTopics{topics: map[string]int32{"a": 1}}
	p := &patterns{topics: topics}
	before := p.match("a.*")
	p.match("b.*")
	p.topicsChanged()
	if p.match("a.*") != before {
		t.Error("matched anew although nothing changed")
	}
	for n := range int32(keptCatalogs + 1) {
		topics.set("a", n+2)
		p.topicsChanged()
		if m := p.match("a.*"); len(m.topics) != 1 || m.partitions[0] != n+2 {
			t.Fatalf("%d partitions: %+v", n+2, m)
		}
	}
	if len(p.known) != 1 {
		t.Errorf("%d patterns are known", len(p.known))
	}
}

// A pattern is tried on all topics before it comes to the actor, which groups share.
func TestPatternsArePrepared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		b.close()
		hold := make(chan struct{})
		b.log.set(func() { b.log.hold = hold })
		b.c = b.start() // It loads, and does nothing else.
		synctest.Wait()
		m := b.member(api.JoinGroup{TopicPattern: "a+"}).start()
		<-m.done
		_, err := b.c.ConsumerHeartbeat(t.Context(), &api.ConsumerHeartbeat{Group: "g", MemberID: "m", HasPattern: true, Pattern: "b+"})
		if api.CodeOf(m.err) != api.CodeCoordinatorLoading || api.CodeOf(err) != api.CodeCoordinatorLoading {
			t.Fatalf("%v, %v", m.err, err)
		}
		for _, pattern := range []string{"a+", "b+"} {
			if known := b.c.patterns.known[pattern]; known == nil || len(known.topics) != 1 {
				t.Errorf("%s is left to the actor", pattern)
			}
		}
		close(hold)
		b.close()
	})
}
