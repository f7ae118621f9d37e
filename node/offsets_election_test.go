package node

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// While a controller is elected, offsets are waited for at both doors, not refused: for
// the users of Kafka nothing happened, for there a coordinator needs no controller.
func TestOffsetsAreToldThroughAnElection(t *testing.T) {
	cut := new(cutOff)
	w := newWorld(t, 0)
	w.configure = func(c *Config) {
		cut.plug(c)
		c.SessionTimeout, c.RaftElection = 20*time.Second, 900*time.Millisecond
	}
	w.start(3)
	w.createTopic(&pb.CreateTopicRequest{Name: "t", Partitions: 1, ReplicationFactor: 3})
	w.coordinator("g") // creates __consumer_offsets
	boss := func() int32 {
		for id := int32(1); id <= 3; id++ {
			if w.node(id).cluster.IsController() {
				return id
			}
		}
		return 0
	}
	var controller, node int32
	var group string
	w.until("a group that the controller does not coordinate", 30*time.Second, func() error {
		controller = boss()
		for i := range 60 {
			name := fmt.Sprint("g", i)
			found, err := pb.NewGroupServiceClient(w.any()).FindCoordinator(within(t, 5*time.Second), &pb.FindCoordinatorRequest{Group: name})
			if err == nil && found.GetNodeId() != controller && controller != 0 {
				group, node = name, found.GetNodeId()
				return nil
			}
		}
		return errors.New("none yet")
	})
	w.commit(group, 5)
	conn, kafka := w.conn(w.node(node).Addresses().GRPC[0].Address), w.kafkaBroker(node, 12)
	require.NoError(t, kafka.offsets(0, group)[0])

	cut.node.Store(controller) // as if it stood still
	defer cut.heal()
	began := time.Now()
	answers := make(chan error, 2)
	ctx := within(t, 30*time.Second)
	go func() {
		out, err := pb.NewGroupServiceClient(conn).FetchOffsets(ctx, &pb.FetchOffsetsRequest{Group: group})
		if err == nil && (len(out.GetResults()) != 1 || out.GetResults()[0].GetOffset() != 5) {
			err = fmt.Errorf("gRPC: %v", out)
		}
		answers <- err
	}()
	answers <- kafka.offsets(0, group)[0]
	for range 2 {
		err := <-answers
		took := time.Since(began)
		t.Logf("answered after %s: %v", took, err)
		if err != nil && took > 3*time.Second {
			t.Skip("the election took longer than anybody waits")
		}
		require.NoError(t, err)
	}
}
