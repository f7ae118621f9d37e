package check_test

import (
	"testing"
	"time"

	"github.com/penstock/penstock/internal/check"
)

// What is deleted is gone, and nothing else is.
func TestEachAnomalyOfDeletions(t *testing.T) {
	eachAnomaly(t, []anomalyCase{
		{
			"the log start of an epoch goes back",
			kinds{check.LogStartRegress},
			check.Options{},
			func(b *builder) { b.offsets(2, 3, 9, 1); b.offsets(2, 2, 9, 1) },
			func(b *builder) { b.offsets(2, 3, 9, 1); b.offsets(2, 3, 9, 2) },
		},
		{
			"the log start goes below what was deleted, with another leader",
			kinds{check.LogStartRegress},
			check.Options{},
			func(b *builder) { b.trim(1, 3, 3); b.offsets(2, 3, 9, 1); b.offsets(2, 2, 9, 2) },
			func(b *builder) { b.trim(1, 3, 3); b.offsets(2, 3, 9, 1); b.offsets(2, 3, 9, 2) },
		},
		{
			"another leader brings back what was deleted just now",
			kinds{check.LogStartRegress},
			check.Options{Stale: time.Hour},
			func(b *builder) { b.offsets(2, 0, 9, 1); b.trim(1, 3, 3); b.offsets(2, 2, 9, 2) },
			func(b *builder) { b.offsets(2, 0, 9, 1); b.trim(1, 3, 3); b.offsets(2, 3, 9, 2) },
		},
		{
			"the log start goes below what was deleted",
			kinds{check.LogStartRegress},
			check.Options{},
			func(b *builder) { b.trim(1, 3, 3); b.offsets(2, 2, 9, unknown) },
			func(b *builder) { b.trim(1, 3, 3); b.offsets(2, 3, 9, unknown) },
		},
		{
			"a deletion is acknowledged for less than was asked",
			kinds{check.LogStartRegress},
			check.Options{},
			func(b *builder) { b.trim(1, 3, 2) },
			func(b *builder) { b.trim(1, 5, 5); b.trim(1, 3, 5) },
		},
		{
			"the log starts beyond what was to be deleted",
			kinds{check.LogStartOverrun},
			check.Options{},
			func(b *builder) { b.trim(1, 3, 3); b.offsets(2, 4, 9, unknown) },
			func(b *builder) {
				b.trim(1, 3, 3)
				b.add(check.Op{Process: 1, Type: check.Invoke, F: check.FTrim, Keys: at(5)})
				b.add(check.Op{Process: 1, Type: check.Info, F: check.FTrim})
				b.offsets(2, 4, 9, unknown)
			},
		},
		{
			"a record is lost, and the log start raised over the hole",
			kinds{check.LostWrite, check.LogStartOverrun},
			check.Options{ReadFirst: true},
			func(b *builder) {
				b.send(1, 0, 7, 1, 8, 2, 9)
				b.assign(2, 0)
				b.poll(2, 0, 7)
				b.trim(4, 1, 1)
				b.offsets(3, 2, 3, unknown)
				b.assign(2, 2)
				b.poll(2, 2, 9)
			},
			func(b *builder) {
				b.send(1, 0, 7, 1, 8, 2, 9)
				b.assign(2, 0)
				b.poll(2, 0, 7, 1, 8)
				b.trim(4, 2, 2)
				b.offsets(3, 2, 3, unknown)
				b.assign(2, 2)
				b.poll(2, 2, 9)
			},
		},
		{
			"a record above what was deleted is not there",
			kinds{check.LostWrite, check.PollSkip},
			check.Options{},
			func(b *builder) {
				b.send(1, 0, 7, 1, 8, 2, 9)
				b.trim(4, 1, 1)
				b.offsets(3, 1, 3, unknown)
				b.final(2)
				b.poll(2, 2, 9)
			},
			func(b *builder) {
				b.send(1, 0, 7, 1, 8, 2, 9)
				b.trim(4, 1, 1)
				b.offsets(3, 1, 3, unknown)
				b.final(2)
				b.poll(2, 1, 8, 2, 9)
			},
		},
		{
			"a reader jumps over what is deleted only later",
			kinds{check.IntPollSkip},
			check.Options{},
			func(b *builder) {
				b.send(1, 0, 7, 1, 8, 2, 9)
				b.poll(3, 0, 7, 1, 8, 2, 9)
				b.poll(2, 0, 7, 2, 9)
				b.trim(4, 2, 2)
				b.offsets(3, 2, 3, unknown)
			},
			func(b *builder) {
				b.send(1, 0, 7, 1, 8, 2, 9)
				b.poll(3, 0, 7, 1, 8, 2, 9)
				b.trim(4, 2, 2)
				b.poll(2, 0, 7, 2, 9) // fetched in two answers, before and after
			},
		},
		{
			"what was deleted is read again",
			kinds{check.ReadBelowStart},
			check.Options{},
			func(b *builder) {
				b.send(1, 0, 7, 1, 8)
				b.poll(2, 0, 7, 1, 8)
				b.trim(4, 1, 1)
				b.assign(3, 0)
				b.poll(3, 0, 7, 1, 8)
			},
			func(b *builder) {
				b.send(1, 0, 7, 1, 8)
				b.poll(2, 0, 7, 1, 8)
				b.assign(3, 0)
				b.trim(4, 1, 1)
				b.poll(3, 0, 7, 1, 8) // fetched before
			},
		},
		{
			"what was deleted is read again, in the final phase",
			kinds{check.ReadBelowStart},
			check.Options{Stale: time.Hour},
			func(b *builder) {
				b.send(1, 0, 7, 1, 8)
				b.poll(2, 0, 7, 1, 8)
				b.trim(4, 1, 1)
				b.final(3)
				b.poll(3, 0, 7, 1, 8)
			},
			func(b *builder) {
				b.send(1, 0, 7, 1, 8)
				b.poll(2, 0, 7, 1, 8)
				b.trim(4, 1, 1)
				b.assign(5, 0)
				b.poll(5, 0, 7, 1, 8) // of a broker that does not know that it was replaced
				b.final(3)
				b.poll(3, 1, 8)
			},
		},
	})
}
