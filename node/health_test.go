package node

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// A broker that was cut off knows that all is well: it has not heard that it is fenced. An
// operator who asks it is told that no controller confirms it, and, once it is back, what
// the others know.
func TestHealthOfACutOffNodeIsNotConfirmed(t *testing.T) {
	const lost = 3
	cut := new(cutOff)
	w := newWorld(t, 0)
	w.configure = func(c *Config) {
		cut.plug(c)
		if c.NodeID == lost {
			c.SessionTimeout, c.RaftElection = time.Minute, 10*time.Second // it hears of nothing by itself
		}
	}
	w.start(3)
	at := pb.NewAdminServiceClient(w.conn(w.node(lost).Addresses().GRPC[0].Address))
	ask := func(confirm bool) (fenced int, resp *pb.DescribeClusterResponse) {
		t.Helper()
		resp, err := at.DescribeCluster(within(t, 30*time.Second), &pb.DescribeClusterRequest{Confirm: confirm})
		require.NoError(t, err)
		for _, b := range resp.GetBrokers() {
			if b.GetFenced() {
				fenced++
			}
		}
		return fenced, resp
	}
	w.until("a confirmed answer", 30*time.Second, func() error {
		if _, resp := ask(true); resp.GetUnconfirmed() {
			return errors.New("not confirmed")
		}
		return nil
	})

	cut.node.Store(lost)
	w.until("the lost node is fenced", 30*time.Second, func() error {
		if b := w.node(1).cluster.Image().Broker(lost); b == nil || !b.Fenced {
			return errors.New("it is not")
		}
		return nil
	})
	fenced, resp := ask(false)
	require.Zero(t, fenced, "it should not have heard of it")
	require.False(t, resp.GetUnconfirmed(), "nobody asked")
	_, resp = ask(true)
	require.True(t, resp.GetUnconfirmed())

	before := w.node(1).cluster.Image().Index()
	cut.heal()
	w.until("a confirmed answer of the node that is back", 30*time.Second, func() error {
		_, resp := ask(true)
		if resp.GetUnconfirmed() {
			return errors.New("not confirmed")
		}
		require.GreaterOrEqual(t, resp.GetImageIndex(), before)
		return nil
	})
}
