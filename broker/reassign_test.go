package broker

import (
	"testing"

	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/log/record"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// elsewhere has the topic of newLocal on brokers 2 and 3, moved there from 1, with
// an in-sync set and a minimum. Nobody in sync: nobody leads.
func elsewhere(t *testing.T, minISR string, isr ...int32) *metadata.Image {
	t.Helper()
	id := make([]byte, 16)
	id[0] = 1
	im := metadata.Empty()
	apply := func(c *metav1.Command) {
		t.Helper()
		c.Version = metadata.CommandLevel(c)
		next, result, err := metadata.Apply(im, im.Index()+1, c)
		if err != nil || result.Refused != nil {
			t.Fatalf("%v: %v %v", c, err, result.Refused)
		}
		im = next
	}
	change := func(leader int32, isr ...int32) {
		t.Helper()
		p := im.Topic("t").Partitions[0]
		c := &metav1.IsrChange{TopicId: id, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
		for _, node := range isr {
			c.Isr = append(c.Isr, &metav1.IsrMember{NodeId: node, BrokerEpoch: im.Broker(node).Epoch})
		}
		apply(&metav1.Command{Kind: &metav1.Command_ChangeIsr{ChangeIsr: &metav1.ChangeIsr{
			NodeId: leader, BrokerEpoch: im.Broker(leader).Epoch, Changes: []*metav1.IsrChange{c},
		}}})
	}
	apply(&metav1.Command{Kind: &metav1.Command_SetClusterId{SetClusterId: &metav1.SetClusterId{ClusterId: "c"}}})
	for node := int32(1); node <= 3; node++ {
		c := registered(node)[0]
		c.GetRegisterBroker().FeatureLevel = metadata.Version
		apply(c)
	}
	apply(&metav1.Command{Kind: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
		Name: "t", TopicId: id, Partitions: []*metav1.PartitionAssignment{{Replicas: []int32{1, 2}}},
		Configs: map[string]string{metadata.ConfigMinInSyncReplicas: minISR},
	}}})
	apply(&metav1.Command{Kind: &metav1.Command_ReassignPartitions{ReassignPartitions: &metav1.ReassignPartitions{
		Partitions: []*metav1.PartitionReassignment{{TopicId: id, Replicas: []int32{2, 3}}},
	}}})
	change(1, 1, 2, 3)
	apply(&metav1.Command{Kind: &metav1.Command_FinishReassignments{FinishReassignments: &metav1.FinishReassignments{
		Partitions: []*metav1.FinishedReassignment{{TopicId: id, PartitionEpoch: im.Topic("t").Partitions[0].PartitionEpoch, Leader: 2}},
	}}})
	switch len(isr) {
	case 0:
		for node := int32(2); node <= 3; node++ {
			apply(&metav1.Command{Kind: &metav1.Command_FenceBroker{FenceBroker: &metav1.FenceBroker{NodeId: node, BrokerEpoch: im.Broker(node).Epoch}}})
		}
	default:
		change(2, isr...)
	}
	return im
}

// What the image has moved away is deleted only while the partition is well
// elsewhere, and only if that image can have moved it: absence alone deletes
// nothing at a start.
func TestFateOfAReplica(t *testing.T) {
	empty := func() *metadata.Image { return image(t) }
	for _, tt := range []struct {
		name    string
		image   *metadata.Image
		before  *metadata.Image // nil: the broker has just started
		written record.Epoch    // of the last batch; -1: none
		want    Fate
	}{
		{"placed here", ledByTwo(t, 2, 1), empty(), 0, FateStay},
		{"moved away", elsewhere(t, "2", 2, 3), empty(), 0, FateMoved},
		{"moved away while the broker was down", elsewhere(t, "2", 2, 3), nil, 1, FateMoved},
		{"moved away, nothing written", elsewhere(t, "2", 2, 3), nil, -1, FateMoved},
		{"too few in sync elsewhere", elsewhere(t, "2", 2), empty(), 0, FateStay},
		{"enough in sync elsewhere", elsewhere(t, "1", 2), empty(), 0, FateMoved},
		{"nobody leads elsewhere", elsewhere(t, "1"), empty(), 0, FateStay},
		{"a log of a later history", elsewhere(t, "2", 2, 3), nil, 2, FateSetAside},
		{"the topic was deleted", empty(), ledByTwo(t, 2, 1), 0, FateDelete},
		{"an image without the topic, at the start", empty(), nil, 0, FateSetAside},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLocal(t, testSettings(t))
			if got := FateOf(tt.image, l.key, l.b.cfg.NodeID, tt.written, tt.before == nil); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}
