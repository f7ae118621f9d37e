package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/penstock/penstock/bench/peers/load"
)

// turn is what a contender did with a row in a round.
type turn struct {
	Row        string       `json:"row"`
	What       string       `json:"what"`
	Workload   string       `json:"workload"`
	Durability durability   `json:"durability"`
	Contender  string       `json:"contender"`
	Round      int          `json:"round"`
	Outcome    load.Outcome `json:"outcome"`
}

// failure is a turn that failed.
type failure struct {
	Row        string     `json:"row"`
	Durability durability `json:"durability"`
	Contender  string     `json:"contender"`
	Round      int        `json:"round"`
	Error      string     `json:"error"`
}

// result is a comparison.
type result struct {
	Machine  string            `json:"machine"`
	FS       string            `json:"fs"`
	GitRev   string            `json:"git_rev"`
	Date     string            `json:"date"`
	Quote    bool              `json:"quote"` // by the rule for quoted figures
	Rounds   int               `json:"rounds"`
	Duration string            `json:"duration"`
	Warmup   string            `json:"warmup"`
	Warm     string            `json:"warm"`
	Touched  int               `json:"touched_gib"`
	Turns    []*turn           `json:"turns"`
	Failures []failure         `json:"failures,omitempty"`
	Settings map[string]string `json:"settings"`
	Absent   map[string]string `json:"absent"` // peers that were not compared, and why
}

func (r *result) add(t *turn) { r.Turns = append(r.Turns, t) }

func (r *result) fail(ct *contender, d durability, row string, round int, err error) {
	r.Failures = append(r.Failures, failure{Row: row, Durability: d, Contender: ct.name, Round: round, Error: strings.Join(strings.Fields(err.Error()), " ")})
}

// measure is something of a turn that is compared.
type measure struct {
	unit  string
	lower bool // is better
	of    func(*load.Outcome) float64
}

func measures(workload string) []measure {
	switch workload {
	case load.Latency, load.Single:
		return []measure{
			{"p50, ms", true, func(o *load.Outcome) float64 { return o.P50 }},
			{"p99, ms", true, func(o *load.Outcome) float64 { return o.P99 }},
		}
	default:
		return []measure{{"records/s", false, func(o *load.Outcome) float64 { return float64(o.Records) / o.Seconds }}}
	}
}

// turnsOf are those of a contender at a row, by their round.
func (r *result) turnsOf(row string, d durability, contender string) map[int]*turn {
	found := map[int]*turn{}
	for _, t := range r.Turns {
		if t.Row == row && t.Durability == d && t.Contender == contender {
			found[t.Round] = t
		}
	}
	return found
}

func values(turns map[int]*turn, of func(*load.Outcome) float64) (all []float64) {
	for _, round := range slices.Sorted(maps.Keys(turns)) {
		all = append(all, of(&turns[round].Outcome))
	}
	return all
}

// residents are the most MiB that a node had resident, of each round in which that was
// seen.
func residents(turns map[int]*turn) (all []float64) {
	for _, round := range slices.Sorted(maps.Keys(turns)) {
		if rss := turns[round].Outcome.RSS; len(rss) > 0 {
			all = append(all, float64(slices.Max(rss))/(1<<20))
		}
	}
	return all
}

// ratios says, for each round in which both had a turn, how many times as good ours
// was as theirs.
func ratios(ours, theirs map[int]*turn, m *measure) (all []float64) {
	for _, round := range slices.Sorted(maps.Keys(ours)) {
		other, both := theirs[round]
		if !both {
			continue
		}
		a, b := m.of(&ours[round].Outcome), m.of(&other.Outcome)
		if m.lower {
			a, b = b, a
		}
		if b > 0 {
			all = append(all, a/b)
		}
	}
	return all
}

// summary is the median with the least and the greatest.
func summary(v []float64) string {
	if len(v) == 0 {
		return ""
	}
	v = slices.Sorted(slices.Values(v))
	m := v[len(v)/2]
	if len(v)%2 == 0 {
		m = (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	if len(v) == 1 {
		return number(m)
	}
	return fmt.Sprintf("%s [%s-%s]", number(m), number(v[0]), number(v[len(v)-1]))
}

// number has three digits that count.
func number(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.2f M", v/1e6)
	case v >= 10_000:
		return fmt.Sprintf("%.0f k", v/1e3)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// The processor time and memory of a turn.
func serversPerMillion(o *load.Outcome) float64 { return o.ServerCPU / float64(o.Records) * 1e6 }
func clientPerMillion(o *load.Outcome) float64  { return o.ClientCPU / float64(o.Records) * 1e6 }
func othersShare(o *load.Outcome) float64       { return 100 * o.OthersCPU / o.Seconds }

func (r *result) writeMarkdown(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "%s; data on %s; revision %s; %s; %d rounds, each turn %s after %s, %s", r.Machine, r.FS, r.GitRev, r.Date, r.Rounds, r.Duration, r.Warmup, r.rule())
	if _, there := r.Settings["kafka"]; there {
		fmt.Fprintf(b, "; Kafka was warmed for %s", r.Warm)
	}
	fmt.Fprint(b, ".\n\n")
	fmt.Fprint(b, "| what | acks | who | | median [min-max] | n | servers' CPU, s/M | client's CPU, s/M | MiB a node | Penstock's client is so many times as good | franz-go at Penstock is |\n|---|---|---|---|---|---|---|---|---|---|---|\n")
	r.eachLine(func(first *turn, contender string, m *measure) {
		theirs := r.turnsOf(first.Row, first.Durability, contender)
		against := func(name string) string {
			if name == contender {
				return ""
			}
			return summary(ratios(r.turnsOf(first.Row, first.Durability, name), theirs, m))
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %d | %s | %s | %s | %s | %s |\n", first.What, first.Durability, contender, m.unit,
			summary(values(theirs, m.of)), len(theirs), summary(values(theirs, serversPerMillion)), summary(values(theirs, clientPerMillion)),
			summary(residents(theirs)), against(penstockGRPC), against(penstockKafka))
	})
	r.writeNotes(b)
	return b.Flush()
}

func (r *result) rule() string {
	if r.Quote {
		return "by the rule for quoted figures"
	}
	return "fewer or shorter than the rule for quoted figures asks for"
}

// eachLine visits the lines of the table in their order.
func (r *result) eachLine(visit func(first *turn, contender string, m *measure)) {
	type key struct {
		row       string
		d         durability
		contender string
	}
	seen := map[key]bool{}
	for _, wanted := range rows() {
		for _, d := range []durability{synced, replicated} {
			for _, t := range r.Turns {
				k := key{t.Row, t.Durability, t.Contender}
				if t.Row != wanted.name || t.Durability != d || seen[k] {
					continue
				}
				seen[k] = true
				of := measures(t.Workload)
				for i := range of {
					visit(t, t.Contender, &of[i])
				}
			}
		}
	}
}

func (r *result) writeNotes(b io.Writer) {
	var others []float64
	for _, t := range r.Turns {
		others = append(others, othersShare(&t.Outcome))
	}
	fmt.Fprintf(b, "\nA ratio is of the two turns of one round, the median and spread over the rounds; above 1 Penstock is ahead. Before each turn %d GiB of memory were touched and given back. "+
		"Servers without a turn took this much of a processor: %s %%.\n", r.Touched, summary(others))
	for _, t := range r.Turns {
		if t.Outcome.Exhausted {
			fmt.Fprintf(b, "%s, %s, %s, round %d ended after %.0f s, when what -gib allows was written.\n", t.Row, t.Durability, t.Contender, t.Round+1, t.Outcome.Seconds)
		}
	}
	fmt.Fprint(b, "\nSettings:\n\n")
	for _, name := range slices.Sorted(maps.Keys(r.Settings)) {
		fmt.Fprintf(b, "* %s: %s.\n", name, r.Settings[name])
	}
	if len(r.Absent) > 0 {
		fmt.Fprint(b, "\nNot compared:\n\n")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Absent)) {
		fmt.Fprintf(b, "* %s: %s.\n", name, r.Absent[name])
	}
	if len(r.Failures) > 0 {
		fmt.Fprint(b, "\nTurns that failed:\n\n")
	}
	for _, f := range r.Failures {
		fmt.Fprintf(b, "* %s, %s, %s, round %d: %s.\n", f.Row, f.Durability, f.Contender, f.Round+1, f.Error)
	}
}
