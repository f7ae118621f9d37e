package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

func newGroup(s *shared) *cobra.Command {
	return s.prints(s.connects(group("group", "List, describe, reset and delete consumer groups", "",
		newGroupList(s), newGroupDescribe(s), newGroupReset(s), newGroupDelete(s))))
}

type groupRow struct {
	Group   string `json:"group"`
	State   string `json:"state"`
	Members int    `json:"members"`
}

func newGroupList(s *shared) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the groups", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.withAdmin(func(a *client.Admin) error {
				groups, err := a.ListGroups(cmd.Context())
				rows := make([]groupRow, 0, len(groups))
				for _, g := range groups {
					rows = append(rows, groupRow(g))
				}
				// What some brokers answered is shown even if another did not.
				return errors.Join(err, s.show(cmd.OutOrStdout(), rows, func(w io.Writer) error {
					return table(w, func(row func(...any)) {
						row("GROUP", "STATE", "MEMBERS")
						for _, g := range rows {
							row(g.Group, g.State, g.Members)
						}
					})
				}))
			})
		},
	}
}

// groupJSON is the output of `group describe -o json`.
type groupJSON struct {
	Group       string       `json:"group"`
	State       string       `json:"state"`
	Epoch       int32        `json:"epoch"`
	Assignor    string       `json:"assignor"`
	Coordinator int32        `json:"coordinator"`
	Members     []memberJSON `json:"members"`
	Offsets     []lagJSON    `json:"offsets"`
}

type memberJSON struct {
	MemberID   string   `json:"member_id"`
	InstanceID string   `json:"instance_id,omitempty"`
	ClientID   string   `json:"client_id"`
	Host       string   `json:"host"`
	Epoch      int32    `json:"epoch"`
	Assigned   []string `json:"assigned"`
	Topics     []string `json:"topics"`
}

// lagJSON is a committed offset beside the partition's end: -1 where unknown.
type lagJSON struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Committed int64  `json:"committed"`
	End       int64  `json:"end"`
	Lag       int64  `json:"lag"`
	Member    string `json:"member,omitempty"`
}

func newGroupDescribe(s *shared) *cobra.Command {
	return &cobra.Command{
		Use: "describe GROUP", Short: "Show a group's members, offsets and lag", Args: exactArgs("GROUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.withAdmin(func(a *client.Admin) error {
				out, err := describeGroup(cmd.Context(), a, args[0])
				if err != nil {
					return err
				}
				return s.show(cmd.OutOrStdout(), out, func(w io.Writer) error { return printGroup(w, out) })
			})
		},
	}
}

func describeGroup(ctx context.Context, a *client.Admin, name string) (*groupJSON, error) {
	g, err := a.DescribeGroup(ctx, name)
	if err != nil {
		return nil, err
	}
	out := &groupJSON{Group: g.Group, State: g.State, Epoch: g.Epoch, Assignor: g.Assignor, Coordinator: g.Coordinator}
	owner := map[client.TopicPartition]string{}
	for _, m := range g.Members {
		row := memberJSON{MemberID: m.MemberID, InstanceID: m.InstanceID, ClientID: m.ClientID, Host: m.Host, Epoch: m.MemberEpoch, Topics: m.Topics}
		for _, tp := range m.Assigned {
			row.Assigned = append(row.Assigned, tp.String())
			owner[tp] = m.MemberID
		}
		out.Members = append(out.Members, row)
	}
	parts := make([]client.TopicPartition, 0, len(g.Offsets))
	for _, o := range g.Offsets {
		parts = append(parts, o.TopicPartition)
	}
	ends, err := a.ListOffsets(ctx, client.Latest(), parts...)
	if err != nil {
		return nil, err
	}
	for i, o := range g.Offsets {
		row := lagJSON{Topic: o.Topic, Partition: o.Partition, Committed: o.Offset, End: -1, Lag: -1, Member: owner[o.TopicPartition]}
		if ends[i].Err == nil {
			row.End = ends[i].Offset
			row.Lag = max(row.End-row.Committed, 0)
		}
		out.Offsets = append(out.Offsets, row)
	}
	return out, nil
}

func printGroup(w io.Writer, g *groupJSON) error {
	fmt.Fprintf(w, "%s: %s, epoch %d, assignor %s, coordinator %s\n\n", g.Group, g.State, g.Epoch, g.Assignor, nodeName(g.Coordinator))
	if len(g.Members) > 0 {
		err := table(w, func(row func(...any)) {
			row("MEMBER", "CLIENT", "HOST", "EPOCH", "ASSIGNED")
			for _, m := range g.Members {
				row(m.MemberID, m.ClientID, m.Host, m.Epoch, strings.Join(m.Assigned, " "))
			}
		})
		if err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	return table(w, func(row func(...any)) {
		row("TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER")
		for _, o := range g.Offsets {
			row(o.Topic, o.Partition, known(o.Committed), known(o.End), known(o.Lag), o.Member)
		}
	})
}

func known(n int64) string {
	if n < 0 {
		return "-"
	}
	return strconv.FormatInt(n, 10)
}

// parseOffset reads earliest, latest, @TIME or an offset.
func parseOffset(flag, s string) (client.Offset, error) {
	switch {
	case s == "earliest":
		return client.Earliest(), nil
	case s == "latest":
		return client.Latest(), nil
	case strings.HasPrefix(s, "@"):
		t, err := parseTime(s[1:])
		if err != nil {
			return client.Offset{}, usagef("--%s is %q: after @ want RFC 3339, such as @2026-01-02T15:04:05Z, or milliseconds since 1970", flag, s)
		}
		return client.AtTime(t), nil
	default:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 {
			return client.Offset{}, usagef("--%s is %q, want earliest, latest, @TIME or an offset", flag, s)
		}
		return client.At(n), nil
	}
}

func parseTime(s string) (time.Time, error) {
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.UnixMilli(ms), nil
	}
	return time.Parse(time.RFC3339Nano, s)
}

func newGroupReset(s *shared) *cobra.Command {
	var topic, to string
	cmd := &cobra.Command{
		Use: "reset GROUP", Short: "Move the offsets of a group that has no members", Args: exactArgs("GROUP"),
		Example: "  penstock group reset billing --topic orders --to earliest\n" +
			"  penstock group reset billing --topic orders --to @2026-01-02T15:04:05Z",
		RunE: func(cmd *cobra.Command, args []string) error {
			if topic == "" {
				return usagef("--topic is missing")
			}
			where, err := parseOffset("to", to)
			if err != nil {
				return err
			}
			return s.withAdmin(func(a *client.Admin) error {
				parts, err := a.Partitions(cmd.Context(), topic)
				if err != nil {
					return err
				}
				moved, err := a.ResetOffsets(cmd.Context(), args[0], where, parts...)
				if err != nil {
					return err
				}
				rows := make([]lagJSON, 0, len(moved))
				var errs []error
				for _, o := range moved {
					errs = append(errs, o.Err)
					rows = append(rows, lagJSON{Topic: o.Topic, Partition: o.Partition, Committed: o.Offset, End: -1, Lag: -1})
				}
				err = s.show(cmd.OutOrStdout(), rows, func(w io.Writer) error {
					return table(w, func(row func(...any)) {
						row("TOPIC", "PARTITION", "COMMITTED")
						for _, o := range rows {
							row(o.Topic, o.Partition, known(o.Committed))
						}
					})
				})
				return errors.Join(append(errs, err)...)
			})
		},
	}
	cmd.Flags().StringVar(&topic, "topic", "", "topic whose offsets move")
	cmd.Flags().StringVar(&to, "to", "", "earliest, latest, @TIME or an offset")
	return cmd
}

func newGroupDelete(s *shared) *cobra.Command {
	return &cobra.Command{
		Use: "delete GROUP", Short: "Delete a group that has no members, and its offsets", Args: exactArgs("GROUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.withAdmin(func(a *client.Admin) error {
				if err := a.DeleteGroup(cmd.Context(), args[0]); err != nil {
					return err
				}
				return s.show(cmd.OutOrStdout(), map[string]any{"deleted": args[0]}, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "deleted %s\n", args[0])
					return err
				})
			})
		},
	}
}
