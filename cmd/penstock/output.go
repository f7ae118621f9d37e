package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/penstock/penstock/client"
)

// show prints v as JSON, or what asText writes.
func (s *shared) show(w io.Writer, v any, asText func(io.Writer) error) error {
	if s.output == "json" {
		return writeJSON(w, v)
	}
	return asText(w)
}

// writeJSON writes one object a line.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// table writes aligned columns.
func table(w io.Writer, rows func(row func(cells ...any))) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	rows(func(cells ...any) {
		for i, c := range cells {
			if i > 0 {
				fmt.Fprint(tw, "\t")
			}
			fmt.Fprint(tw, c)
		}
		fmt.Fprintln(tw)
	})
	return tw.Flush()
}

// list is s for JSON, where an empty one is [] and not null.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// ids shows a list of node ids: 1,2,3.
func ids(list []int32) string {
	if len(list) == 0 {
		return "-"
	}
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(list), " ", ","), "[]")
}

// nodeName shows a node id, or that there is none.
func nodeName(id int32) string {
	if id < 0 {
		return "none"
	}
	return fmt.Sprint(id)
}

// replicas shows what a reassignment adds and removes: 1,2,3 +4 -1.
func replicas(p client.PartitionState) string {
	var there []int32
	for _, id := range p.Replicas {
		if !slices.Contains(p.Adding, id) {
			there = append(there, id)
		}
	}
	var out strings.Builder
	out.WriteString(ids(there))
	for _, id := range p.Adding {
		fmt.Fprintf(&out, " +%d", id)
	}
	for _, id := range p.Removing {
		fmt.Fprintf(&out, " -%d", id)
	}
	return out.String()
}

// known shows a number that may not be known.
func known(n int64) string {
	if n < 0 {
		return "-"
	}
	return strconv.FormatInt(n, 10)
}

// count shows how many there are of something.
func count(n int64, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.FormatInt(n, 10) + " " + more
}
