package controller_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/cluster/controller"
	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

func TestPlaceRefuses(t *testing.T) {
	w := newWorld(t, 3)
	w.apply(&metav1.Command{Kind: &metav1.Command_FenceBroker{FenceBroker: &metav1.FenceBroker{NodeId: 2, BrokerEpoch: w.im.Broker(2).Epoch}}})
	for _, tc := range []struct {
		partitions, rf int
		want           metadata.Code
	}{
		{0, 1, metadata.CodeInvalidPartitions},
		{metadata.MaxPartitions + 1, 1, metadata.CodeInvalidPartitions},
		{1, 0, metadata.CodeInvalidReplicationFactor},
		{1, 3, metadata.CodeInvalidReplicationFactor}, // one of three is fenced
		{1, 10, metadata.CodeInvalidReplicationFactor},
		{1, 2, metadata.CodeNone},
	} {
		_, err := controller.Place(w.im, tc.partitions, tc.rf, 1)
		if (err == nil) != (tc.want == metadata.CodeNone) || (err != nil && !errors.Is(err, &metadata.Error{Code: tc.want})) {
			t.Errorf("%d partitions, %d replicas: %v, want %v", tc.partitions, tc.rf, err, tc.want)
		}
	}
}

// spread is the difference between the greatest and the least count.
func spread[K comparable](keys []K, count map[K]int) int {
	var counts []int
	for _, k := range keys {
		counts = append(counts, count[k])
	}
	return slices.Max(counts) - slices.Min(counts)
}

// TestPlaceBalances: with racks of equal size, replicas and leaders of a topic
// are within one between brokers, every partition is on as many racks as it can
// be, and the same arguments give the same answer.
func TestPlaceBalances(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, 0)
		racks, size := rapid.IntRange(0, 4).Draw(rt, "racks"), rapid.IntRange(1, 4).Draw(rt, "size")
		var nodes []int32
		rackOf := make(map[int32]string)
		for node := range int32(max(racks, 1) * size) {
			rackOf[node] = fmt.Sprintf("r%d", node)
			name := ""
			if racks > 0 {
				name = fmt.Sprintf("rack-%d", int(node)%racks)
				rackOf[node] = name
			}
			w.register(node, name, nil)
			nodes = append(nodes, node)
		}
		distinct := make(map[string]bool)
		for _, name := range rackOf {
			distinct[name] = true
		}
		seed := rapid.Uint64().Draw(rt, "seed")
		for topic := range rapid.IntRange(1, 3).Draw(rt, "topics") {
			partitions, rf := rapid.IntRange(1, 50).Draw(rt, "partitions"), rapid.IntRange(1, min(len(nodes), 9)).Draw(rt, "rf")
			placed, err := controller.Place(w.im, partitions, rf, seed)
			if err != nil {
				rt.Fatal(err)
			}
			again, _ := controller.Place(w.im, partitions, rf, seed)
			replicas, leaders := make(map[int32]int), make(map[int32]int)
			for i, a := range placed {
				if !slices.Equal(a.GetReplicas(), again[i].GetReplicas()) {
					rt.Fatal("the same arguments gave another placement")
				}
				used := make(map[string]bool)
				for _, node := range a.GetReplicas() {
					replicas[node]++
					used[rackOf[node]] = true
				}
				leaders[a.GetReplicas()[0]]++
				if len(used) != min(rf, len(distinct)) {
					rt.Fatalf("partition %d on %v uses %d racks of %d", i, a.GetReplicas(), len(used), len(distinct))
				}
			}
			if spread(nodes, replicas) > 1 || spread(nodes, leaders) > 1 {
				rt.Fatalf("replicas %v, leaders %v", replicas, leaders)
			}
			w.create(topic, nil, placed) // it applies, and loads the brokers for the next
		}
	})
}

// TestPlaceSpreadsSmallTopics: topics of one partition spread over the brokers
// too, and the followers of one leader over the others.
func TestPlaceSpreadsSmallTopics(t *testing.T) {
	w := newWorld(t, 5)
	leaders, all := make(map[int32]int), make(map[int32]int)
	for topic := range 50 {
		placed, err := controller.Place(w.im, 1, 3, uint64(topic))
		if err != nil {
			t.Fatal(err)
		}
		leaders[placed[0].GetReplicas()[0]]++
		for _, node := range placed[0].GetReplicas() {
			all[node]++
		}
		w.create(topic, nil, placed)
	}
	nodes := []int32{0, 1, 2, 3, 4}
	if spread(nodes, leaders) > 2 || spread(nodes, all) > 1 {
		t.Errorf("leaders %v, replicas %v", leaders, all)
	}
	placed, err := controller.Place(w.im, 60, 3, 1)
	if err != nil {
		t.Fatal(err)
	}
	next := make(map[int32]map[int32]bool)
	for _, a := range placed {
		leader := a.GetReplicas()[0]
		if next[leader] == nil {
			next[leader] = make(map[int32]bool)
		}
		next[leader][a.GetReplicas()[1]] = true
	}
	for leader, successors := range next {
		if len(successors) < 2 {
			t.Errorf("all partitions of %d would go to %v", leader, successors)
		}
	}
}

func BenchmarkPlace(b *testing.B) {
	w := newWorld(b, 12)
	for b.Loop() {
		if _, err := controller.Place(w.im, metadata.MaxPartitions, 3, 1); err != nil {
			b.Fatal(err)
		}
	}
}

// TestPlaceUnequalRacks: racks come before balance.
func TestPlaceUnequalRacks(t *testing.T) {
	w := newWorld(t, 0)
	for node, rack := range []string{"a", "a", "a", "a", "b"} {
		w.register(int32(node), rack, nil)
	}
	placed, err := controller.Place(w.im, 20, 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	leaders := make(map[int32]int)
	for i, a := range placed {
		if !slices.Contains(a.GetReplicas(), 4) {
			t.Errorf("partition %d on %v has no replica in rack b", i, a.GetReplicas())
		}
		leaders[a.GetReplicas()[0]]++
	}
	if spread([]int32{0, 1, 2, 3, 4}, leaders) > 1 {
		t.Errorf("leaders %v", leaders)
	}
}

func TestPlaceSpreadsSmallTopicsOverRacks(t *testing.T) {
	w := newWorld(t, 0)
	nodes := []int32{0, 1, 2, 3, 4, 5}
	for _, node := range nodes {
		w.register(node, fmt.Sprintf("rack-%d", node%2), nil)
	}
	all := make(map[int32]int)
	for topic := range 60 {
		placed, err := controller.Place(w.im, 1, 2, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, node := range placed[0].GetReplicas() {
			all[node]++
		}
		w.create(topic, nil, placed)
	}
	if spread(nodes, all) > 1 {
		t.Errorf("replicas %v", all)
	}
}
