package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock/penstock/bench"
)

// setting says under which circumstances the points of a curve came about, out of the
// reports of their own runs: what varies is a range, from the least to the greatest.
func setting(reports []*bench.Report) string {
	var produced, consumed []*bench.Report
	for _, r := range reports {
		if r.Workload == consumeWorkload {
			consumed = append(consumed, r)
		} else {
			produced = append(produced, r)
		}
	}
	var parts []string
	if len(produced) > 0 {
		parts = append(parts, "produced: "+producing(produced))
	}
	if len(consumed) > 0 {
		parts = append(parts, "read: "+consuming(consumed))
	}
	if len(reports) > 0 {
		parts = append(parts, count(reports, "node", func(r *bench.Report) int { return r.Processes })+"; the Go client in one further process")
	}
	return strings.Join(parts, "; ")
}

func producing(reports []*bench.Report) string {
	compression := strings.Join(words(reports, func(r *bench.Report) string { return r.Compression }), ", ")
	if compression == "none" {
		compression = "no"
	}
	return strings.Join([]string{
		span(reports, func(r *bench.Report) int { return r.RecordSize }) + " B",
		strings.Join(words(reports, func(r *bench.Report) string { return r.Payload }), ", "),
		"acks=" + strings.Join(words(reports, func(r *bench.Report) string { return r.Acks }), ", "),
		strings.Join(words(reports, func(r *bench.Report) string { return r.Durability }), ", "),
		count(reports, "replica", func(r *bench.Report) int { return r.Replicas }),
		count(reports, "partition", func(r *bench.Report) int { return r.Partitions }),
		count(reports, "producer", func(r *bench.Report) int { return r.Producers }),
		"batches of at most " + span(reports, func(r *bench.Report) int { return r.BatchBytes }) + " B, or of one record, " +
			span(reports, func(r *bench.Report) int { return int(r.MeanBatchBytes) }) + " B in the mean",
		compression + " compression",
	}, ", ")
}

func consuming(reports []*bench.Report) string {
	s := count(reports, "consumer", func(r *bench.Report) int { return r.Producers + r.Readers })
	if slices.ContainsFunc(reports, func(r *bench.Report) bool { return r.Readers > 0 }) {
		s += ", each of which reads everything"
	}
	newest := span(reports, func(r *bench.Report) int { return int(r.Newest) })
	if newest == "0" {
		return s + " from the start, again and again"
	}
	return s + ", the newest " + newest + " B of values again and again"
}

// words are the different values in the order in which they came up.
func words(reports []*bench.Report, of func(*bench.Report) string) (all []string) {
	for _, r := range reports {
		if w := of(r); !slices.Contains(all, w) {
			all = append(all, w)
		}
	}
	return all
}

// span is the least and the greatest value.
func span(reports []*bench.Report, of func(*bench.Report) int) string {
	values := make([]int, 0, len(reports))
	for _, r := range reports {
		values = append(values, of(r))
	}
	least, most := slices.Min(values), slices.Max(values)
	if least == most {
		return thousands(most)
	}
	return thousands(least) + " to " + thousands(most)
}

// count is a span of things.
func count(reports []*bench.Report, thing string, of func(*bench.Report) int) string {
	s := span(reports, of)
	if s == "1" {
		return s + " " + thing
	}
	return s + " " + thing + "s"
}

func thousands(n int) string {
	s := strconv.Itoa(n)
	if n >= 1000 {
		return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
	}
	return s
}
