package broker

import (
	"testing"
	"time"

	"github.com/penstock/penstock/broker/api"
)

// session is a Membership that only knows until when it is valid.
type session struct {
	Membership
	until time.Time
}

func (s session) SessionValid(now time.Time) bool { return now.Before(s.until) }

// A session that is over ends reading at once, not with the next tick.
func TestNoReadsBetweenTheEndOfTheSessionAndTheTick(t *testing.T) {
	l := newLocal(t, testSettings(t))
	now := time.Now()
	l.b.cfg.Membership = session{until: now.Add(time.Second)}
	l.b.cfg.Now = func() time.Time { return now }
	l.finish(l.assign(led(1, 1), nil))
	fp := &api.FetchPartition{LeaderEpoch: 1}
	if err := l.b.mayRead(l, fp); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Second)
	if err := l.b.mayRead(l, fp); api.CodeOf(asError(err)) != api.CodeNotLeader {
		t.Errorf("after its session: %v", err)
	}
}
