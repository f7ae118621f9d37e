package check_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/internal/check"
)

// Histories of a cluster that keeps its promises are clean, whatever else happens.
func TestHealthyClustersAreClean(t *testing.T) {
	var total struct {
		acked, commits                                 int64
		plain, weak, indefinite, failedCommits, losses int
	}
	rapid.Check(t, func(rt *rapid.T) {
		h := generate(rt)
		r := check.Check(h, check.Options{})
		if r.Anomalies > 0 {
			rt.Fatalf("%s", r.Text())
		}
		total.acked += r.Acked
		total.commits += r.Commits
		total.plain += r.Count(check.DuplicatePlain)
		total.weak += r.Count(check.LostWriteWeak)
		total.indefinite += int(r.Indefinite)
		for i := range h {
			switch {
			case h[i].F == check.FCommit && h[i].Type == check.Fail:
				total.failedCommits++
			case h[i].F == check.FLost:
				total.losses++
			}
		}
	})
	t.Logf("%+v", total)
	for name, n := range map[string]int{
		"acked": int(total.acked), "commits": int(total.commits), "duplicates of plain producers": total.plain, "losses of acks=1": total.weak,
		"indefinite sends": total.indefinite, "refused commits": total.failedCommits, "lost partitions": total.losses,
	} {
		assert.Positive(t, n, "the model shows too few %s", name)
	}
}
