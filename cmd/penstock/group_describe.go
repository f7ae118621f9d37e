package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/penstock/penstock/client"
)

// groupJSON is the output of `group describe -o json`.
type groupJSON struct {
	Group       string `json:"group"`
	Type        string `json:"type"`
	State       string `json:"state"`
	Epoch       int32  `json:"epoch"`
	Assignor    string `json:"assignor"`
	Coordinator int32  `json:"coordinator"`
	lagSum

	Topics  []topicLagJSON `json:"topics"`
	Members []memberJSON   `json:"members"`
	Offsets []lagJSON      `json:"offsets"`
}

// lagSum is how far behind the group is in several partitions: the records of all, and
// the time of the one that is farthest behind, as far as they are known. -1: no time is.
type lagSum struct {
	Lag     int64   `json:"lag"`
	Seconds float64 `json:"lag_seconds"`
}

func noLag() lagSum { return lagSum{Seconds: -1} }

func (s *lagSum) add(l *client.PartitionLag) {
	s.Lag, s.Seconds = s.Lag+max(l.Lag, 0), max(s.Seconds, seconds(l.Time))
}

type topicLagJSON struct {
	Topic string `json:"topic"`
	lagSum
}

type memberJSON struct {
	MemberID   string `json:"member_id"`
	InstanceID string `json:"instance_id,omitempty"`
	ClientID   string `json:"client_id"`
	Host       string `json:"host"`
	Rack       string `json:"rack,omitempty"`
	Epoch      int32  `json:"epoch"`
	lagSum

	Assigned []string `json:"assigned"`
	Topics   []string `json:"topics"`
	Pattern  string   `json:"pattern,omitempty"`
}

// lagJSON is how far behind the group is in a partition: -1 where unknown.
type lagJSON struct {
	Topic     string  `json:"topic"`
	Partition int32   `json:"partition"`
	Committed int64   `json:"committed"`
	End       int64   `json:"end"`
	Lag       int64   `json:"lag"`
	Seconds   float64 `json:"lag_seconds"`
	AtLeast   bool    `json:"lag_seconds_at_least,omitempty"`
	Age       float64 `json:"age_seconds"`
	Member    string  `json:"member,omitempty"`
}

func newGroupDescribe(s *shared) *cobra.Command {
	var watch bool
	interval := time.Second
	cmd := &cobra.Command{
		Use: "describe GROUP", Short: "Show a group's members, offsets and lag", Args: exactArgs("GROUP"),
		Long: "Shows a group's members, its committed offsets, and its lag in records and in time, as its coordinator knows\n" +
			"them: leaders tell it every second, and AGE is how long ago. BEHIND is for how long the next record to be read\n" +
			"has been readable; with a + for at least as long. What a member owns and has not committed is behind from the log start.\n" +
			"LAG of a member or a topic is the sum of its partitions, BEHIND the longest.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if interval < 100*time.Millisecond {
				return usagef("--interval is %s, want 100ms or more", interval)
			}
			return s.withAdmin(func(a *client.Admin) error {
				show := func() error {
					out, err := describeGroup(cmd.Context(), a, args[0])
					if err != nil {
						return err
					}
					return s.show(cmd.OutOrStdout(), out, func(w io.Writer) error { return printGroup(w, out) })
				}
				if !watch {
					return show()
				}
				return s.watch(cmd.Context(), cmd.OutOrStdout(), interval, show)
			})
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again and again, until interrupted")
	cmd.Flags().DurationVar(&interval, "interval", interval, "with --watch, how often")
	return cmd
}

// watch calls show at an interval until ctx ends. On a terminal each takes the
// place of the one before. An error is shown, and does not end it: the
// coordinator may be on the move.
func (s *shared) watch(ctx context.Context, w io.Writer, interval time.Duration, show func() error) error {
	f, isFile := w.(*os.File)
	screen := isFile && s.output != "json" && term.IsTerminal(int(f.Fd()))
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if screen {
			fmt.Fprint(w, "\x1b[H\x1b[2J")
		}
		switch err := show(); {
		case ctx.Err() != nil:
			return nil
		case client.CodeOf(err) == client.CodeUnknownGroup:
			return err
		case err != nil:
			fmt.Fprintf(os.Stderr, "%v\n", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func describeGroup(ctx context.Context, a *client.Admin, name string) (*groupJSON, error) {
	g, err := a.DescribeGroup(ctx, name)
	if err != nil {
		return nil, err
	}
	out := &groupJSON{
		Group: g.Group, Type: g.Type, State: g.State, Epoch: g.Epoch, Assignor: g.Assignor, Coordinator: g.Coordinator,
		lagSum: noLag(), Topics: []topicLagJSON{}, Members: []memberJSON{}, Offsets: []lagJSON{},
	}
	lags, err := freshLags(ctx, a, g.Lags)
	if err != nil {
		return nil, err
	}
	members := map[string]*lagSum{}
	for i := range lags {
		l := &lags[i]
		out.Offsets = append(out.Offsets, lagJSON{
			Topic: l.Topic, Partition: l.Partition, Committed: l.Committed, End: l.HighWatermark, Lag: l.Lag,
			Seconds: seconds(l.Time), AtLeast: l.AtLeast, Age: seconds(l.Age), Member: l.MemberID,
		})
		if n := len(out.Topics); n == 0 || out.Topics[n-1].Topic != l.Topic { // they come by topic
			out.Topics = append(out.Topics, topicLagJSON{l.Topic, noLag()})
		}
		if members[l.MemberID] == nil {
			members[l.MemberID] = new(noLag())
		}
		for _, sum := range []*lagSum{&out.lagSum, &out.Topics[len(out.Topics)-1].lagSum, members[l.MemberID]} {
			sum.add(l)
		}
	}
	for _, m := range g.Members {
		row := memberJSON{
			MemberID: m.MemberID, InstanceID: m.InstanceID, ClientID: m.ClientID, Host: m.Host, Rack: m.Rack, Epoch: m.MemberEpoch,
			lagSum: noLag(), Assigned: []string{}, Topics: list(m.Topics), Pattern: m.Pattern,
		}
		if sum := members[m.MemberID]; sum != nil {
			row.lagSum = *sum
		}
		for _, tp := range m.Assigned {
			row.Assigned = append(row.Assigned, tp.String())
		}
		out.Members = append(out.Members, row)
	}
	return out, nil
}

// freshLags asks the leaders themselves for what a coordinator that is new has
// not heard yet.
func freshLags(ctx context.Context, a *client.Admin, lags []client.PartitionLag) ([]client.PartitionLag, error) {
	var unknown []client.TopicPartition
	for _, l := range lags {
		if l.Age < 0 {
			unknown = append(unknown, l.TopicPartition)
		}
	}
	if len(unknown) == 0 {
		return lags, nil
	}
	starts, err := whereIs(ctx, a, client.Earliest(), unknown)
	if err != nil {
		return nil, err
	}
	ends, err := whereIs(ctx, a, client.Latest(), unknown)
	if err != nil {
		return nil, err
	}
	for i := range lags {
		l := &lags[i]
		start, begins := starts[l.TopicPartition]
		end, ends := ends[l.TopicPartition]
		if !begins || !ends {
			continue
		}
		l.LogStart, l.HighWatermark, l.Age = start, end, 0
		if l.Committed >= 0 || l.MemberID != "" {
			l.Lag = max(end-max(l.Committed, start), 0)
		}
	}
	return lags, nil
}

// whereIs looks an offset up; partitions that nobody leads at the moment are left out.
func whereIs(ctx context.Context, a *client.Admin, where client.Offset, parts []client.TopicPartition) (map[client.TopicPartition]int64, error) {
	found, err := a.ListOffsets(ctx, where, parts...)
	if err != nil {
		return nil, err
	}
	out := map[client.TopicPartition]int64{}
	for _, f := range found {
		if f.Err == nil {
			out[f.TopicPartition] = f.Offset
		}
	}
	return out, nil
}

// seconds is -1 for what is not known.
func seconds(d time.Duration) float64 {
	if d < 0 {
		return -1
	}
	return d.Seconds()
}

func printGroup(w io.Writer, g *groupJSON) error {
	fmt.Fprintf(w, "%s: %s, epoch %d, assignor %s, coordinator %s, lag %d, behind %s\n\n",
		g.Group, g.State, g.Epoch, g.Assignor, nodeName(g.Coordinator), g.Lag, duration(g.Seconds))
	if len(g.Members) > 0 {
		err := table(w, func(row func(...any)) {
			row("MEMBER", "CLIENT", "HOST", "EPOCH", "LAG", "BEHIND", "ASSIGNED")
			for _, m := range g.Members {
				row(m.MemberID, m.ClientID, m.Host, m.Epoch, m.Lag, duration(m.Seconds), strings.Join(m.Assigned, " "))
			}
		})
		if err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	if len(g.Topics) > 1 {
		err := table(w, func(row func(...any)) {
			row("TOPIC", "LAG", "BEHIND")
			for _, t := range g.Topics {
				row(t.Topic, t.Lag, duration(t.Seconds))
			}
		})
		if err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	return table(w, func(row func(...any)) {
		row("TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "BEHIND", "AGE", "MEMBER")
		for _, o := range g.Offsets {
			row(o.Topic, o.Partition, known(o.Committed), known(o.End), known(o.Lag), behind(o), duration(o.Age), o.Member)
		}
	})
}

func behind(o lagJSON) string {
	if o.Lag > 0 && o.AtLeast {
		return duration(o.Seconds) + "+"
	}
	return duration(o.Seconds)
}

func duration(s float64) string {
	if s < 0 {
		return "-"
	}
	return (time.Duration(s*10) * 100 * time.Millisecond).String()
}
