package kafkaclients

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// rolling is a group whose members are replaced under load.
type rolling struct {
	*suite
	t       *testing.T
	client  *client
	topic   string
	living  []*process
	members []*process // all that ever were
}

const (
	rollingPartitions = 6
	rollingGrowth     = 40 // records a tick
)

// Members of a classic group are replaced by such of the new protocol and of gRPC,
// and those by classic ones again, one by one, while records come in: every record is
// read, each member has its share, and what is read twice is what a member had read and
// not yet committed when its partition went to another.
func TestRolling(t *testing.T) {
	s := newSuite(t)
	list := clients(t)
	for i := range list {
		c := &list[i]
		if !slices.Contains([]string{"franz-go", "confluent-kafka", "kafka-clients (Java)"}, c.name) {
			continue // they have no new protocol to roll to, or are librdkafka too
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			(&rolling{suite: s, t: t, client: c, topic: s.newTopic(t, rollingPartitions)}).run()
		})
	}
}

func (r *rolling) run() {
	stop := r.load()
	r.replace(0, "classic", "classic")
	r.kind("classic")
	r.replace(1, "consumer") // the group is hosted
	r.kind("consumer")
	r.replace(1, "grpc") // no classic member is left
	r.replace(1, "classic")
	r.replace(1, "classic") // the last of the others goes: back
	r.kind("classic")
	written := stop()
	r.until("records are missing", func() bool { return len(r.times()) == written })
	for _, p := range r.living {
		p.leave()
		p.wait(r.t)
	}
	again := 0
	for _, n := range r.times() {
		again += n - 1
	}
	r.t.Logf("%s: %d records, %d of them read again, %d members", r.client.name, written, again, len(r.members))
	// Members commit every 100 ms, and when they go or give something up.
	require.LessOrEqual(r.t, again, len(r.members)*rollingGrowth, "more is read twice than members had not committed")
}

// load writes records until it is told to stop, and returns how many.
func (r *rolling) load() (stop func() int) {
	ctx, cancel := context.WithCancel(r.t.Context())
	type outcome struct {
		n   int
		err error
	}
	total := make(chan outcome, 1)
	go func() {
		var o outcome
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for ; ctx.Err() == nil && o.err == nil; <-tick.C {
			o.err = r.write(r.t.Context(), r.topic, o.n, rollingGrowth, time.Now())
			o.n += rollingGrowth
		}
		total <- o
	}()
	return func() int {
		r.t.Helper()
		cancel()
		o := <-total
		require.NoError(r.t, o.err, "%s: the load", r.client.name)
		return o.n
	}
}

// replace starts members, lets as many of the oldest go, and waits until all that
// live have read what was written since.
func (r *rolling) replace(leave int, kinds ...string) {
	r.t.Helper()
	for _, kind := range kinds {
		r.living = append(r.living, r.member(kind))
	}
	r.members = append(r.members, r.living[len(r.living)-len(kinds):]...)
	r.share()
	for _, p := range r.living[:leave] {
		p.leave()
		p.wait(r.t)
	}
	r.living = r.living[leave:]
	r.share()
}

func (r *rolling) member(kind string) *process {
	r.t.Helper()
	if kind == "grpc" {
		return launch(r.t, []string{
			r.binary, "consume", r.topic, "-g", r.topic, "-b", r.address(0, 0), "-o", "record {{.Partition}} {{.Offset}} - {{.Value}} n=0",
		})
	}
	return r.client.start(r.t, "group", r.args(r.topic, 1_000_000, "group="+r.topic, "commit=auto", "protocol="+kind)...)
}

// share waits until every member has read something new.
func (r *rolling) share() {
	r.t.Helper()
	before := make([]int, len(r.living))
	for i, p := range r.living {
		before[i] = len(p.output())
	}
	r.until("a member reads nothing", func() bool {
		for i, p := range r.living {
			if len(p.output()) <= before[i]+rollingGrowth/4 {
				return false
			}
		}
		return true
	})
}

func (r *rolling) until(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().Before(deadline) {
			continue
		}
		var said []string
		for _, p := range r.living {
			said = append(said, p.cmd.String(), p.errs.String())
		}
		r.t.Fatalf("%s: %s: %d records; %s", r.client.name, what, len(r.times()), strings.Join(said, "\n"))
	}
}

// times says how often each record was read.
func (r *rolling) times() map[string]int {
	times := make(map[string]int)
	for _, p := range r.members {
		for _, row := range rows(r.t, p.output()) {
			times[row.value]++
		}
	}
	return times
}

// kind checks which protocol the group is of.
func (r *rolling) kind(want string) {
	r.t.Helper()
	listed, err := r.admin.ListGroups(r.t.Context())
	require.NoError(r.t, err)
	require.Equal(r.t, want, listed[r.topic].GroupType, "of group %s", r.topic)
}
