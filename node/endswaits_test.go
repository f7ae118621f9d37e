package node

import (
	"context"
	"testing"
	"time"

	"github.com/penstock/penstock/client"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// A consumer at the end of its partitions waits for a minute and does not let the broker
// go; a seek is served at once all the same, time and again.
func TestASeekEndsTheWait(t *testing.T) {
	w := startWorld(t, 1, 0)
	w.createTopic(&pb.CreateTopicRequest{Name: "t", Partitions: 2})
	w.mustProduce("t", 0, "again")
	cl, err := client.New(w.d.Brokers())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cl.Close() })
	k, err := cl.NewConsumer(client.WithTopics("t"), client.WithFetchMaxWait(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for i := range 100 {
		if i > 0 {
			if err := k.Seek(client.TopicPartition{Topic: "t"}, client.At(0)); err != nil {
				t.Fatal(err)
			}
		}
		p, err := k.Poll(ctx)
		if err != nil {
			t.Fatalf("seek %d: %v", i, err)
		}
		for r := range p.All() {
			if string(r.Value) != "again" {
				t.Errorf("seek %d: %q", i, r.Value)
			}
		}
	}
}
