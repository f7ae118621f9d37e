package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/penstock/penstock/client"
)

// unhealthyRow is one partition of `topic list --unhealthy`.
type unhealthyRow struct {
	Topic     string  `json:"topic"`
	Partition int32   `json:"partition"`
	Leader    int32   `json:"leader"`
	Replicas  []int32 `json:"replicas"`
	ISR       []int32 `json:"isr"`
	OutOfSync []int32 `json:"out_of_sync"`
	ELR       []int32 `json:"elr"`
	LastISR   []int32 `json:"last_isr"`
}

// unhealthy finds what `cluster health` counts: partitions without a leader, and those of
// which a replica is not in sync. One that a reassignment adds does not count yet.
func unhealthy(topics []client.Topic) []unhealthyRow {
	rows := []unhealthyRow{}
	for i := range topics {
		for _, p := range topics[i].Partitions {
			out := slices.DeleteFunc(slices.Clone(list(p.Replicas)), func(id int32) bool {
				return slices.Contains(p.ISR, id) || slices.Contains(p.Adding, id)
			})
			if p.Leader >= 0 && len(out) == 0 {
				continue
			}
			rows = append(rows, unhealthyRow{
				Topic: topics[i].Name, Partition: p.Partition, Leader: p.Leader, Replicas: list(p.Replicas),
				ISR: list(p.ISR), OutOfSync: out, ELR: list(p.ELR), LastISR: list(p.LastISR),
			})
		}
	}
	return rows
}

// printUnhealthy says for each partition what is missing and, without a leader, whom it
// waits for: an election takes an in-sync or eligible replica, or the last in-sync ones.
func printUnhealthy(w io.Writer, rows []unhealthyRow) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "every partition has a leader, and all of its replicas in sync")
		return err
	}
	return table(w, func(row func(...any)) {
		row("TOPIC", "PARTITION", "LEADER", "REPLICAS", "IN SYNC", "OUT OF SYNC", "WAITS FOR")
		for i := range rows {
			r := &rows[i]
			row(r.Topic, r.Partition, nodeName(r.Leader), ids(r.Replicas), ids(r.ISR), ids(r.OutOfSync), r.waitsFor())
		}
	})
}

// waitsFor says whose return gives the partition a leader. Nobody's does when all that could
// hold every acknowledged record were given up.
func (r *unhealthyRow) waitsFor() string {
	if r.Leader >= 0 {
		return "-"
	}
	able := slices.Concat(r.ISR, r.ELR)
	if len(able) == 0 {
		able = r.LastISR
	}
	if len(able) == 0 {
		return "topic elect --unclean"
	}
	slices.Sort(able)
	return strings.ReplaceAll(ids(slices.Compact(able)), ",", " or ")
}
