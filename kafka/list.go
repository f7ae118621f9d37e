package kafka

import (
	"slices"
	"strings"
)

// distinct leaves the first of elements that have the same key, in their order. A
// request that names something a hundred thousand times is answered once: what an
// answer may be is bounded by what there is, not by what was asked.
func distinct[E any, K comparable](list []E, key func(*E) K) []E {
	seen := make(map[K]struct{}, len(list))
	return slices.DeleteFunc(list, func(e E) bool {
		k := key(&e)
		_, again := seen[k]
		seen[k] = struct{}{}
		return again
	})
}

func itself[E comparable](e *E) E { return *e }

// maxListText bounds the lists that editList edits.
const maxListText = 4096

// editList adds elements to a comma-separated list, or takes them out.
func editList(list, elements string, add bool) string {
	var out []string
	for e := range strings.SplitSeq(list, ",") {
		if e = strings.TrimSpace(e); e != "" {
			out = append(out, e)
		}
	}
	for e := range strings.SplitSeq(elements, ",") {
		e = strings.TrimSpace(e)
		i := slices.Index(out, e)
		switch {
		case add && i < 0 && e != "":
			out = append(out, e)
		case !add && i >= 0:
			out = slices.Delete(out, i, i+1)
		}
	}
	return strings.Join(out, ",")
}
