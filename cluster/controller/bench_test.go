package controller_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/penstock/penstock/cluster/controller"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// BenchmarkDecide is what a controller of 100,000 partitions spends twenty times a
// second although nothing happens.
func BenchmarkDecide(b *testing.B) {
	w := newWorld(b, 3)
	for n := range 100 {
		c := &metav1.CreateTopic{Name: fmt.Sprintf("topic-%03d", n), TopicId: id(9, n)}
		for p := range int32(1000) {
			c.Partitions = append(c.Partitions, &metav1.PartitionAssignment{Replicas: []int32{p % 3, (p + 1) % 3, (p + 2) % 3}})
		}
		w.apply(&metav1.Command{Kind: &metav1.Command_CreateTopic{CreateTopic: c}})
	}
	now := w.now
	for node := range int32(3) {
		w.live.Heard(controller.Heartbeat{NodeID: node, BrokerEpoch: w.im.Broker(node).Epoch}, now)
	}
	now = now.Add(time.Second)
	b.ReportAllocs()
	for b.Loop() {
		if d := controller.Decide(w.im, w.live, now, w.opts); len(d.Commands) > 0 {
			b.Fatal(d.Commands)
		}
	}
}
