package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

type consumeFlags struct {
	group, from, form string
	count             int64
	exitAtEnd         bool
	partition         int32
}

func newConsume(s *shared) *cobra.Command {
	var flags consumeFlags
	cmd := &cobra.Command{
		Use: "consume TOPIC", Short: "Print records", Args: exactArgs("TOPIC"),
		Long: "Print the records of a topic as they come. With -g the partitions are shared with\n" +
			"the other members of the group, reading begins where the group left off, and\n" +
			"what was printed is committed.\n\n" +
			"-o json prints one object a line: topic, partition, offset, timestamp, key, value,\n" +
			"headers; bytes that are not UTF-8 come as key_base64 and value_base64. -o value\n" +
			"prints the values alone. Anything else is a template over .Topic .Partition\n" +
			".Offset .Timestamp .Key .Value .Headers.",
		Example: "  penstock consume orders --from earliest --exit-at-end\n" +
			"  penstock consume orders -g billing -o json\n" +
			"  penstock consume orders --from @2026-01-02T15:04:05Z -n 10 -o '{{.Offset}} {{.Key}}'",
		RunE: func(cmd *cobra.Command, args []string) error {
			return consumeRecords(cmd.Context(), s, cmd.OutOrStdout(), args[0], flags)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&flags.group, "group", "g", "", "consumer group")
	f.StringVar(&flags.from, "from", "", "earliest, latest, @TIME or an offset (default latest; in a group: where it left off, else earliest)")
	f.Int64VarP(&flags.count, "count", "n", 0, "stop after so many records; 0: do not stop")
	f.BoolVar(&flags.exitAtEnd, "exit-at-end", false, "stop at what is the end of every partition now")
	f.StringVarP(&flags.form, "output", "o", "value", "json, value or a template")
	f.Int32Var(&flags.partition, "partition", -1, "read this partition alone; -1: all")
	return s.connects(cmd)
}

func (f *consumeFlags) options(topic string) ([]client.ConsumerOpt, error) {
	var opts []client.ConsumerOpt
	if f.partition >= 0 {
		opts = append(opts, client.WithPartitions(client.TopicPartition{Topic: topic, Partition: f.partition}))
	} else {
		opts = append(opts, client.WithTopics(topic))
	}
	from := f.from
	if f.group != "" {
		opts = append(opts, client.WithGroup(f.group), client.WithManualCommit())
	} else if from == "" {
		from = "latest"
	}
	if from == "" {
		from = "earliest"
	}
	where, err := parseOffset("from", from)
	if err != nil {
		return nil, err
	}
	opts = append(opts, client.WithStart(where))
	if from == "latest" {
		opts = append(opts, client.WithReset(client.ResetLatest))
	}
	return opts, nil
}

func consumeRecords(ctx context.Context, s *shared, out io.Writer, topic string, flags consumeFlags) (err error) {
	w := bufio.NewWriterSize(out, 64<<10)
	printer, err := newRecordPrinter(flags.form, w)
	if err != nil {
		return err
	}
	opts, err := flags.options(topic)
	if err != nil {
		return err
	}
	c, err := s.connect()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	// Asked before reading begins, so that a topic that does not exist is an error
	// and not a wait.
	parts, err := c.Admin().Partitions(ctx, topic)
	if err != nil {
		return err
	}
	if flags.partition >= 0 {
		parts = []client.TopicPartition{{Topic: topic, Partition: flags.partition}}
	}
	var ends map[client.TopicPartition]int64
	if flags.exitAtEnd {
		if ends, err = unread(ctx, c.Admin(), parts, flags); err != nil || len(ends) == 0 {
			return err
		}
	}
	if flags.group != "" && !flags.exitAtEnd {
		// So is a group that nobody can coordinate.
		if _, err := c.Admin().CommittedOffsets(ctx, flags.group, parts...); err != nil {
			return err
		}
	}
	k, err := c.NewConsumer(opts...)
	if err != nil {
		return err
	}
	err = (&consuming{k: k, printer: printer, w: w, left: flags.count, ends: ends, group: flags.group != "", printed: map[client.TopicPartition]*client.Record{}}).run(ctx)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return errors.Join(err, k.Close(closing))
}

// unread returns the ends of the partitions that hold anything to read: from
// where the group left off, if there is one, else from where the flags say.
func unread(ctx context.Context, a *client.Admin, parts []client.TopicPartition, flags consumeFlags) (map[client.TopicPartition]int64, error) {
	last, err := offsets(ctx, a, client.Latest(), parts)
	if err != nil {
		return nil, err
	}
	starts, err := startsOf(ctx, a, parts, flags, last)
	if err != nil {
		return nil, err
	}
	if flags.group != "" {
		committed, err := a.CommittedOffsets(ctx, flags.group, parts...)
		if err != nil {
			return nil, err
		}
		for _, o := range committed {
			if o.Err == nil && o.Offset >= 0 {
				starts[o.TopicPartition] = o.Offset
			}
		}
	}
	for tp, end := range last {
		if starts[tp] >= end {
			delete(last, tp)
		}
	}
	return last, nil
}

func startsOf(ctx context.Context, a *client.Admin, parts []client.TopicPartition, flags consumeFlags, last map[client.TopicPartition]int64) (map[client.TopicPartition]int64, error) {
	first, err := offsets(ctx, a, client.Earliest(), parts)
	if err != nil {
		return nil, err
	}
	switch {
	case flags.from == "latest" || flags.from == "" && flags.group == "":
		return maps.Clone(last), nil
	case strings.HasPrefix(flags.from, "@"):
		where, err := parseOffset("from", flags.from)
		if err != nil {
			return nil, err
		}
		found, err := offsets(ctx, a, where, parts)
		if err != nil {
			return nil, err
		}
		for tp, o := range found {
			if o < 0 {
				found[tp] = last[tp]
			}
		}
		return found, nil
	default:
		if n, err := strconv.ParseInt(flags.from, 10, 64); err == nil {
			for tp, o := range first {
				// Outside the log the reset policy applies, which is the beginning.
				if n >= o && n <= last[tp] {
					first[tp] = n
				}
			}
		}
		return first, nil
	}
}

// offsets looks one offset up in each partition.
func offsets(ctx context.Context, a *client.Admin, where client.Offset, parts []client.TopicPartition) (map[client.TopicPartition]int64, error) {
	found, err := a.ListOffsets(ctx, where, parts...)
	if err != nil {
		return nil, err
	}
	out := make(map[client.TopicPartition]int64, len(found))
	for _, f := range found {
		if f.Err != nil {
			return nil, f.Err
		}
		out[f.TopicPartition] = f.Offset
	}
	return out, nil
}

// consuming prints until one of its ends is reached.
type consuming struct {
	k       *client.Consumer
	printer recordPrinter
	w       *bufio.Writer
	left    int64                           // records still wanted; 0 at the start: no bound
	ends    map[client.TopicPartition]int64 // partitions whose end was not reached; nil: no end
	group   bool
	printed map[client.TopicPartition]*client.Record // the last one, without its bytes, not committed yet
}

func (c *consuming) run(ctx context.Context) error {
	for {
		polled, err := c.k.Poll(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return c.w.Flush() // interrupted: what came until now is printed and committed
			}
			return errors.Join(c.w.Flush(), err)
		}
		done, err := c.printAll(polled)
		err = errors.Join(err, c.w.Flush())
		if err == nil && c.group {
			// Before Release: until then a partition that is to be given up is still
			// this member's.
			err = c.commit(ctx)
		}
		polled.Release()
		if err != nil {
			return err
		}
		if done {
			return nil
		}
	}
}

func (c *consuming) note(tp client.TopicPartition, r *client.Record) {
	last := c.printed[tp]
	if last == nil {
		last = &client.Record{Topic: tp.Topic, Partition: tp.Partition}
		c.printed[tp] = last
	}
	last.Offset, last.LeaderEpoch = r.Offset, r.LeaderEpoch
}

// commit stores what was printed, which is less than what was polled when -n or
// --exit-at-end stopped in between.
func (c *consuming) commit(ctx context.Context) error {
	if len(c.printed) == 0 {
		return nil
	}
	// An interrupt does not stop it: what was printed is committed.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	err := c.k.CommitRecords(ctx, slices.Collect(maps.Values(c.printed))...)
	switch client.CodeOf(err) {
	case client.CodeNone:
	case client.CodeStaleMemberEpoch, client.CodeFencedMemberEpoch, client.CodeUnknownMember:
		// The member was silent for too long: others print these records again.
		fmt.Fprintf(os.Stderr, "not committed, others will read it again: %v\n", err)
	default:
		return err
	}
	clear(c.printed)
	return nil
}

// commitTimeout bounds a commit: a coordinator that fails over has to be back.
const commitTimeout = 30 * time.Second

func (c *consuming) printAll(polled *client.Polled) (done bool, err error) {
	for r := range polled.All() {
		tp := client.TopicPartition{Topic: r.Topic, Partition: r.Partition}
		end, bounded := c.ends[tp]
		if c.ends == nil || bounded && r.Offset < end {
			if err := c.printer.print(r); err != nil {
				return true, err
			}
			if c.group {
				c.note(tp, r)
			}
			if c.left > 0 {
				if c.left--; c.left == 0 {
					return true, nil
				}
			}
		}
		if bounded && r.Offset >= end-1 {
			delete(c.ends, tp)
		}
	}
	if err := polled.Err(); err != nil {
		return true, err
	}
	// Of the last batches compaction may have left no record.
	maps.DeleteFunc(c.ends, func(tp client.TopicPartition, end int64) bool {
		at, ok := c.k.Position(tp)
		return ok && at >= end
	})
	return c.ends != nil && len(c.ends) == 0, nil
}
