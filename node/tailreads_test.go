package node

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock/penstock/internal/vfs"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// Followers that keep up share the memory of their leaders: of what is produced nothing
// is read from a file, on any node, though it is many times what memory holds. Producers
// wait for all replicas here, so none is ever behind by more than what is under way.
func TestReplicationReadsNoFiles(t *testing.T) {
	const (
		nodes, partitions = 3, 3
		batches           = 400 // a partition
		memory            = 32 << 20
	)
	w := newWorld(t, 0)
	faults := vfs.NewFaults(vfs.OS{}) // of all nodes
	w.configure = func(c *Config) {
		c.fs = faults
		c.TailMemory = memory
		c.SessionTimeout = time.Minute // who leads stays, however slow the machine is
	}
	w.start(nodes)
	w.createTopic(&pb.CreateTopicRequest{Name: "t", Partitions: partitions, ReplicationFactor: nodes})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	leaders := make([]*grpc.ClientConn, partitions)
	for p := range leaders {
		w.mustProduce("t", int32(p), "the leader leads")
		var err error
		if leaders[p], _, err = w.leader("t", p); err != nil {
			t.Fatal(err)
		}
	}
	raw := batch(t, string(make([]byte, batchSize-200)))
	const written = partitions * batches * batchSize
	if written < 2*memory {
		t.Fatalf("%d bytes a node may all be in memory", written)
	}

	before := faults.Count(vfs.OpRead)
	errs := make(chan error, partitions)
	for p, conn := range leaders {
		go func() { errs <- w.feed(ctx, conn, int32(p), raw, batches) }()
	}
	for range leaders {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if got := faults.Count(vfs.OpRead) - before; got != 0 {
		t.Errorf("files were read %d times while %d MiB were produced", got, written>>20)
	}

	// A consumer from the start needs what memory no longer holds, which shows that reads are counted.
	if err := w.drain(ctx, leaders[0], 0, batches); err != nil {
		t.Fatal(err)
	}
	if faults.Count(vfs.OpRead) == before {
		t.Error("nothing was read from a file, so nothing is counted")
	}
}
