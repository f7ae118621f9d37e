package metadata

// Pending counts the partitions of a topic with which a controller may have
// something to do. It is kept with the topic, so that a controller that looks
// twenty times a second need not walk through a hundred thousand partitions that
// are well.
type Pending struct {
	Leaderless int
	Displaced  int // led by another replica than the preferred one
	Moving     int // being reassigned
}

// Pending returns the counts.
func (t *Topic) Pending() Pending { return t.pending }

func pendingOf(partitions []*Partition) Pending {
	var n Pending
	for _, p := range partitions {
		switch {
		case p.Leader == NoNode:
			n.Leaderless++
		case len(p.Replicas) > 0 && p.Leader != p.Preferred():
			n.Displaced++
		}
		if p.Moving() {
			n.Moving++
		}
	}
	return n
}
