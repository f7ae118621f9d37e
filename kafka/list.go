package kafka

import (
	"slices"
	"strings"
)

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
