package coordinator

import "testing"

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
