package coordinator

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// slow is a member that beats every ten minutes.
func (b *bed) slow(join api.JoinGroup) *member {
	join.SessionTimeout = (30 * time.Minute).Milliseconds()
	m := b.member(join)
	m.every = 10 * time.Minute
	return m
}

func groupNames(t *testing.T, c *Coordinator) (names []string) {
	t.Helper()
	list, err := c.ListGroups(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range list {
		names = append(names, g.Group)
	}
	return names
}

func TestOffsetsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		const day = 24 * time.Hour
		mustCommit(t, b.c, adminCommit("outside", 0, 1))
		m := b.slow(api.JoinGroup{Group: "lively"}).start()
		synctest.Wait()
		mustCommit(t, b.c, commitOf(m, 0, 10))
		gone := b.slow(api.JoinGroup{Group: "gone"}).start()
		synctest.Wait()
		mustCommit(t, b.c, commitOf(gone, 0, 20))
		time.Sleep(5 * day)
		mustCommit(t, b.c, adminCommit("outside", 1, 2))
		gone.send(api.SessionMessage{Leave: true})
		<-gone.done
		time.Sleep(3 * day)
		if p0, p1 := fetchA(t, b.c, "outside", 0), fetchA(t, b.c, "outside", 1); p0 != record.UnknownOffset || p1 != 2 {
			t.Fatalf("after 8 and 3 days: %d and %d", p0, p1)
		}
		if fetchA(t, b.c, "lively", 0) != 10 {
			t.Fatal("the offset of a group with members expired")
		}
		if fetchA(t, b.c, "gone", 0) != 20 {
			t.Fatal("expired 3 days after the last member went")
		}
		m.cut()
		b.close() // and a new coordinator knows since when the group has no members
		b.c = b.start()
		m = m.resume(b.c)
		time.Sleep(5 * day)
		if got := fetchA(t, b.c, "gone", 0); got != record.UnknownOffset {
			t.Fatalf("8 days after the last member: %d", got)
		}
		if got := groupNames(t, b.c); len(got) != 1 || got[0] != "lively" {
			t.Fatalf("groups of which nothing is left: %q", got)
		}
		m.cut()
		b.close()
		b.c = b.start() // the tombstones are in the log
		synctest.Wait()
		if got := groupNames(t, b.c); len(got) != 1 || got[0] != "lively" {
			t.Fatalf("%q came back", got)
		}
		b.close()
	})
}

// What nobody subscribes to any more expires in a group with members, too.
func TestOffsetsOfForsakenTopicsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		offsetB := adminCommit("g", 0, 3)
		offsetB.Offsets[0].Topic = "b"
		mustCommit(t, b.c, offsetB)
		mustCommit(t, b.c, adminCommit("g", 0, 1))
		m := b.slow(api.JoinGroup{TopicPattern: "a.*"}).start()
		time.Sleep(8 * 24 * time.Hour)
		all, err := b.c.FetchOffsets(t.Context(), &api.FetchOffsets{Group: "g"})
		if err != nil || len(all) != 1 || all[0].Topic != "a" {
			t.Fatalf("%v %v", all, err)
		}
		m.cut()
		b.close()
	})
}

// In a classic group, too, once it is known what its members subscribe to: of consumers,
// between rebalances (KIP-211).
func TestOffsetsThatAClassicGroupForsookExpire(t *testing.T) {
	for _, tt := range []struct {
		name, protocolType string
		metadata           []byte
		stable             bool
		left               []string
	}{
		{"stable", "consumer", subscriptionOf(nil, "a"), true, []string{"a"}},
		{"stable and not to be read", "consumer", []byte{0}, true, []string{"a", "b"}},
		{"between two generations", "consumer", subscriptionOf(nil, "a"), false, []string{"a", "b"}},
		{"of another type", "connect", subscriptionOf(nil, "a"), true, []string{"a", "b"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t)
				synctest.Wait()
				offsetB := adminCommit("g", 0, 3)
				offsetB.Offsets[0].Topic = "b"
				mustCommit(t, b.c, offsetB)
				mustCommit(t, b.c, adminCommit("g", 0, 1))
				const long = 20 * time.Minute
				join := &api.ClassicJoin{
					Group: "g", ClientID: "c", ProtocolType: tt.protocolType, SessionTimeout: long.Milliseconds(), RebalanceTimeout: (20 * 24 * time.Hour).Milliseconds(),
					Protocols: []api.ClassicProtocol{{Name: "p", Metadata: tt.metadata}},
				}
				joined, err := b.c.JoinClassic(t.Context(), join)
				if err != nil {
					t.Fatal(err)
				}
				if tt.stable {
					sync := &api.ClassicSync{Group: "g", MemberID: joined.MemberID, Generation: 1, ProtocolType: tt.protocolType, Protocol: "p"}
					if _, err := b.c.SyncClassic(t.Context(), sync); err != nil {
						t.Fatal(err)
					}
				}
				beat := &api.ClassicHeartbeat{Group: "g", MemberID: joined.MemberID, Generation: 1}
				for began := time.Now(); time.Since(began) < 8*24*time.Hour; time.Sleep(long / 2) {
					if err := b.c.HeartbeatClassic(t.Context(), beat); err != nil {
						t.Fatal(err)
					}
				}
				all, err := b.c.FetchOffsets(t.Context(), &api.FetchOffsets{Group: "g"})
				if err != nil {
					t.Fatal(err)
				}
				var left []string
				for i := range all {
					left = append(left, all[i].Topic)
				}
				if !slices.Equal(left, tt.left) {
					t.Fatalf("left are those of %q", left)
				}
				b.close()
			})
		})
	}
}

// The offsets of a topic go with it, and are not taken for those of a later
// topic of the same name, also when the coordinator was not there to see it.
func TestOffsetsGoWithTheirTopic(t *testing.T) {
	for _, awake := range []bool{true, false} {
		for _, again := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t)
				synctest.Wait()
				mustCommit(t, b.c, adminCommit("g", 0, 1))
				if !awake {
					b.close()
				}
				b.topics.set("a", 0)
				if again {
					b.topics.set("a", 4)
					b.topics.mu.Lock()
					b.topics.life++
					b.topics.mu.Unlock()
				}
				if awake {
					b.c.TopicsChanged()
				} else {
					b.c = b.start()
				}
				synctest.Wait()
				if got := fetchA(t, b.c, "g", 0); got != record.UnknownOffset {
					t.Fatalf("awake %v, again %v: %d", awake, again, got)
				}
				b.close()
			})
		}
	}
}
