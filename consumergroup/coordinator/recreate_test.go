package coordinator

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// recreate deletes topic a and creates it again. seen: the coordinator hears of either,
// else only of the outcome.
func (b *bed) recreate(seen bool) {
	b.topics.set("a", 0)
	if seen {
		b.c.TopicsChanged()
		synctest.Wait()
	}
	b.topics.mu.Lock()
	b.topics.topics["a"] = 4
	b.topics.life++
	b.topics.mu.Unlock()
}

// keep makes a member acknowledge nothing: its application is busy with what it has.
func (m *member) keep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keeps = true
}

// giveUp answers what the member was told last, and goes on answering.
func (m *member) giveUp() {
	m.mu.Lock()
	m.keeps = false
	m.mu.Unlock()
	u := m.last()
	m.send(api.SessionMessage{Heartbeat: api.GroupHeartbeat{MemberEpoch: u.MemberEpoch, HasOwned: true, Owned: u.Assignment}})
	synctest.Wait()
}

// A topic is deleted and created again while a member reads it: no offset of the
// former one is taken for one of the new, and the member is given it anew.
func TestTopicRecreatedUnderAMember(t *testing.T) {
	for _, seen := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t)
			synctest.Wait()
			m := b.member(api.JoinGroup{}).start()
			synctest.Wait()
			mustCommit(t, b.c, commitOf(m, 0, 1000))
			before := m.last()
			m.keep()
			late := func(epoch int32, want api.Code) {
				t.Helper()
				commit := commitOf(m, 0, 1001)
				commit.MemberEpoch = epoch
				if err := outcomeOf(b.c.CommitOffsets(t.Context(), commit)); api.CodeOf(err) != want {
					t.Errorf("seen %v: a commit of the former topic, in epoch %d: %v", seen, epoch, err)
				}
				if got := fetchA(t, b.c, "g", 0); got != record.UnknownOffset {
					t.Errorf("seen %v: the new topic has the offset %d of the former one", seen, got)
				}
			}
			b.recreate(seen)
			late(before.MemberEpoch, api.CodeUnknownTopic)
			b.c.TopicsChanged()
			synctest.Wait()
			late(before.MemberEpoch, api.CodeUnknownTopic)
			if got := m.last().Assignment; len(got) != 0 {
				t.Fatalf("seen %v: it was not told to give up %v", seen, got)
			}
			m.giveUp()
			if got := m.last(); len(got.Assignment) != 4 || got.MemberEpoch <= before.MemberEpoch {
				t.Fatalf("seen %v: %v in epoch %d", seen, got.Assignment, got.MemberEpoch)
			}
			late(before.MemberEpoch, api.CodeStaleMemberEpoch)
			mustCommit(t, b.c, commitOf(m, 0, 3))
			if got := fetchA(t, b.c, "g", 0); got != 3 {
				t.Fatalf("seen %v: %d", seen, got)
			}
			m.cut()
			b.close()
		})
	}
}

// The coordinator moves before the member has given up what it had of the former topic.
func TestTopicRecreatedAndCoordinatorMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m := b.member(api.JoinGroup{}).start()
		synctest.Wait()
		m.keep()
		b.recreate(false)
		b.c.TopicsChanged()
		synctest.Wait()
		before := m.last()
		m.cut()
		b.close()

		b.c = b.start()
		synctest.Wait()
		commit := commitOf(m, 0, 1001)
		if err := outcomeOf(b.c.CommitOffsets(t.Context(), commit)); err == nil {
			t.Errorf("a commit of the former topic in epoch %d passed", before.MemberEpoch)
		}
		if got := fetchA(t, b.c, "g", 0); got != record.UnknownOffset {
			t.Errorf("the new topic has the offset %d of the former one", got)
		}
		b.close()
	})
}

// The coordinator moves after a member was given the new topic: where it is to be is written
// by the id of the topic, and keeps it there although it is what it was by name.
func TestTopicRecreatedStaysAssignedWhenTheCoordinatorMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m := b.member(api.JoinGroup{}).start()
		synctest.Wait()
		b.recreate(false)
		b.c.TopicsChanged()
		synctest.Wait()
		if got := m.last().Assignment; len(got) != 4 {
			t.Fatalf("the member has %v of the new topic", got)
		}
		m.cut()
		b.close()

		b.c = b.start()
		synctest.Wait()
		back := m.resume(b.c)
		synctest.Wait()
		if got := back.last().Assignment; len(got) != 4 {
			t.Errorf("under the new coordinator the member has %v", got)
		}
		back.cut()
		b.close()
	})
}

// A commit is on its way to the log while its topic is deleted and created again.
func TestTopicRecreatedUnderACommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		mustCommit(t, b.c, adminCommit("g", 0, 1))
		hold := make(chan struct{})
		b.log.set(func() { b.log.hold = hold })
		done := make(chan error, 1)
		go func() { done <- outcomeOf(b.c.CommitOffsets(t.Context(), adminCommit("g", 0, 1000))) }()
		synctest.Wait()
		b.recreate(false)
		b.c.TopicsChanged()
		synctest.Wait()
		b.log.set(func() { b.log.hold = nil })
		close(hold)
		synctest.Wait()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := fetchA(t, b.c, "g", 0); got != record.UnknownOffset {
			t.Errorf("the new topic has the offset %d of the former one", got)
		}
		// Nor does it come back, and nothing of it is left in the log.
		time.Sleep(time.Second)
		b.close()
		l, err := load(t.Context(), b.log)
		if err != nil || l.groups["g"] != nil {
			t.Errorf("the log has %+v, %v", l.groups["g"], err)
		}
	})
}

// A member that lists topics by their ids (KIP-848) has what it has of one that was
// deleted, until it lists it no more: before that it is not given the new one, under whose
// name and epoch it would commit how far it came in the former.
func TestTopicRecreatedUnderAMemberThatAsks(t *testing.T) {
	for name, change := range map[string]func(*bed){
		"recreated":                    func(b *bed) { b.recreate(true) },
		"recreated, and nobody saw it": func(b *bed) { b.recreate(false) },
		"deleted":                      func(b *bed) { b.topics.set("a", 0) },
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t)
			synctest.Wait()
			p := &poller{b: b, id: "p"}
			for _, full := range []bool{true, false} {
				if err := p.beat(t, full); err != nil {
					t.Fatal(err)
				}
			}
			had, epoch := slices.Clone(p.owned), p.epoch
			if len(had) != 4 || had[0].TopicID.IsZero() {
				t.Fatal(had)
			}
			change(b)
			b.c.TopicsChanged()
			synctest.Wait()
			for i := range had {
				had[i].Topic = "" // no topic of now has the id
			}
			for range 3 {
				r, err := b.c.ConsumerHeartbeat(t.Context(), &api.ConsumerHeartbeat{
					Group: "g", MemberID: "p", MemberEpoch: epoch, RebalanceTimeout: -1, HasOwned: true, Owned: had,
				})
				if err != nil || r.MemberEpoch != epoch || !r.HasAssignment || len(r.Assignment) > 0 {
					t.Fatalf("%s: %+v %v: it has the former topic still", name, r, err)
				}
			}
			commit := &api.CommitOffsets{Group: "g", MemberID: "p", MemberEpoch: epoch, Offsets: []api.OffsetCommit{{
				TopicPartition: api.TopicPartition{Topic: "a"}, Offset: 1001, LeaderEpoch: record.UnknownEpoch,
			}}}
			wantCode(t, outcomeOf(b.c.CommitOffsets(t.Context(), commit)), api.CodeUnknownTopic)
			p.owned = nil
			if err := p.beat(t, true); err != nil {
				t.Fatal(err)
			}
			switch {
			case name == "deleted" && len(p.owned) == 0:
			case len(p.owned) != 4 || p.owned[0].TopicID == had[0].TopicID || p.epoch <= epoch:
				t.Fatalf("%s: %v in epoch %d", name, p.owned, p.epoch)
			}
			b.close()
		})
	}
}
