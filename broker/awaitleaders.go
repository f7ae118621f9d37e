package broker

import (
	"context"
	"slices"
	"time"

	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/log/record"
)

const (
	// leaderDoubt is how long the end of a leader's stream is a reason to doubt that
	// the metadata names the right one: by then it is elected anew, or reached again.
	leaderDoubt = 3 * time.Second
	// leaderLook is how often a doubt is looked at while somebody waits for its end.
	leaderLook = 50 * time.Millisecond
)

// goneLeader is a follower's doubt in the leader of an epoch, whose stream ended.
type goneLeader struct {
	epoch record.Epoch
	at    time.Time
}

// doubtLeader begins a doubt. A handshake that is answered ends it, and so does
// another leader epoch.
func (l *localReplica) doubtLeader() {
	now := l.b.cfg.Now()
	l.gone.Store(&goneLeader{l.epoch(), now})
	l.b.doubted.Store(now.UnixNano())
}

// AwaitLeaders waits, three seconds at most, until the metadata names no leader of the
// topics (none: of all) whose stream to this broker has ended a moment ago, and none to be elected in its place. Until the
// controller knows that such a leader is dead the metadata still names it; a client that
// is told so finds nobody there, and some ask again only after seconds (franz-go: five).
func (b *Broker) AwaitLeaders(ctx context.Context, topics []string) {
	var timer *time.Timer
	// A leader whose streams begin and end again and again is in doubt for longer.
	for began := b.cfg.Now(); ; {
		im, now := b.cfg.Images.Image(), b.cfg.Now()
		if now.Sub(began) >= leaderDoubt || !b.doubtful(im, topics, now) {
			return
		}
		if timer == nil {
			timer = time.NewTimer(leaderLook)
			defer timer.Stop()
		} else {
			timer.Reset(leaderLook)
		}
		select {
		case <-b.cfg.Images.Changed(im.Index()):
		case <-timer.C:
		case <-b.stopping:
			return
		case <-ctx.Done():
			return
		}
	}
}

// doubtful says whether an image names a leader that is in doubt.
func (b *Broker) doubtful(im *metadata.Image, topics []string, now time.Time) bool {
	if now.Sub(time.Unix(0, b.doubted.Load())) >= leaderDoubt {
		return false // and nobody looks at tens of thousands of replicas
	}
	for _, l := range b.table.all() {
		g := l.gone.Load()
		if g == nil || now.Sub(g.at) >= leaderDoubt || len(topics) > 0 && !slices.Contains(topics, l.topic) {
			continue
		}
		t := im.TopicByID(metadata.ID(l.key.Topic))
		if t == nil || int(l.partition) >= len(t.Partitions) {
			continue
		}
		if p := t.Partitions[l.partition]; record.Epoch(p.LeaderEpoch) == g.epoch || p.Leader == metadata.NoNode {
			return true
		}
	}
	return false
}
