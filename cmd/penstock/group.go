package main

import (
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
