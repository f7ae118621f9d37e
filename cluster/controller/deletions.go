package controller

import (
	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// Confirmations tell the metadata which brokers keep nothing of deleted topics any more.
// reconciled returns the index of the image by which a broker last brought its replicas in
// line in its present session; 0: it has told none.
func Confirmations(im *metadata.Image, reconciled func(*metadata.Broker) uint64) []*metav1.Command {
	oldest := make(map[int32]uint64) // node -> index of the oldest deletion that waits for it
	for d := range im.Deletions() {
		for _, node := range d.Nodes {
			if at, ok := oldest[node]; !ok || d.Index < at {
				oldest[node] = d.Index
			}
		}
	}
	var out []*metav1.Command
	for b := range im.Brokers() {
		at, waits := oldest[b.NodeID]
		done := reconciled(b)
		if !waits || done < at {
			continue
		}
		out = append(out, &metav1.Command{Kind: &metav1.Command_ConfirmDeletions{
			ConfirmDeletions: &metav1.ConfirmDeletions{NodeId: b.NodeID, BrokerEpoch: b.Epoch, Index: done},
		}})
	}
	return out
}
