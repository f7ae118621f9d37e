package failover

import (
	"context"
	"fmt"
	"time"

	"github.com/penstock/penstock/client"
)

// state is all of the cluster that changes when somebody is elected or fenced.
type state struct {
	controller   int32
	brokerEpochs map[int32]int64
	leaderEpochs map[string]int32
	isrEpochs    map[string]int32
	fenced       int
}

func (r *run) state(ctx context.Context, topic string) (*state, error) {
	c, err := r.cl.Admin().Cluster(ctx)
	if err != nil {
		return nil, err
	}
	topics, err := r.cl.Admin().ListTopics(ctx, true)
	if err != nil {
		return nil, err
	}
	s := &state{controller: c.Controller, brokerEpochs: map[int32]int64{}, leaderEpochs: map[string]int32{}, isrEpochs: map[string]int32{}}
	for _, b := range c.Brokers {
		s.brokerEpochs[b.NodeID] = b.BrokerEpoch
		if b.Fenced {
			s.fenced++
		}
	}
	for _, t := range topics {
		if t.Name != topic && !t.Internal {
			continue
		}
		for _, p := range t.Partitions {
			key := client.TopicPartition{Topic: t.Name, Partition: p.Partition}.String()
			s.leaderEpochs[key], s.isrEpochs[key] = p.LeaderEpoch, p.PartitionEpoch
		}
	}
	return s, nil
}

// changes counts what happened between two looks.
type changes struct{ controllers, leaders, isrs, fences int }

func (c *changes) add(was, is *state) {
	if was.controller != is.controller {
		c.controllers++
	}
	for k, e := range is.leaderEpochs {
		c.leaders += int(e - was.leaderEpochs[k])
	}
	for k, e := range is.isrEpochs {
		c.isrs += int(e - was.isrEpochs[k])
	}
	c.fences += is.fenced
	for id, e := range is.brokerEpochs {
		if e != was.brokerEpochs[id] {
			c.fences++
		}
	}
}

// steady loads the cluster as much as it takes and looks whether it stays as it is.
// Epochs count what happens between two looks; the controller alone could change
// and change back unseen, so it is asked often.
func (r *run) steady(ctx context.Context) error {
	topic, err := r.topic(ctx, "steady", false)
	if err != nil {
		return err
	}
	if err := r.lab.WaitHealthy(ctx, healthWait); err != nil {
		return err
	}
	was, err := r.state(ctx, topic)
	if err != nil {
		return err
	}
	wait := r.load(ctx, topic, 0, r.Steady)
	var seen changes
	for until := time.Now().Add(r.Steady); time.Now().Before(until); {
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
		is, err := r.state(ctx, topic)
		if err != nil {
			return err
		}
		seen.add(was, is)
		was = is
	}
	report, err := wait()
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%s at full load, %.0f records/s: ", r.Steady, report.RecordsPerSec)
	r.say("%schanges of controllers %d, leaders %d, in-sync sets %d, brokers %d", what, seen.controllers, seen.leaders, seen.isrs, seen.fences)
	r.result.add(Figure{Name: "steady", What: what + "elections", Unit: count, Values: []Value{float64(seen.controllers + seen.leaders)}})
	r.result.add(Figure{Name: "steady", What: what + "fences and changes of in-sync sets", Unit: count, Values: []Value{float64(seen.fences + seen.isrs)}})
	return r.cl.Admin().DeleteTopic(ctx, topic)
}
