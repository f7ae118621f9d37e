package coordinator

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

var errTooFew = api.Errorf(api.CodeNotEnoughReplicas, "one of two replicas is in sync")

// refuses lets the log refuse, for certain, the appends for which yes says so.
func (b *bed) refuses(yes func() bool) {
	b.log.set(func() {
		b.log.outcome = func() (bool, error) {
			if yes() {
				return false, errTooFew
			}
			return true, nil
		}
	})
}

func always() bool { return true }

// takes lets the log take everything again.
func (b *bed) takes() { b.log.set(func() { b.log.outcome = nil }) }

// once refuses the next append.
func once() func() bool {
	n := 0
	return func() bool { n++; return n == 1 }
}

func (b *bed) appends() (n int) {
	b.log.set(func() { n = b.log.appends })
	return n
}

func (b *bed) wantLoads(want int) {
	b.t.Helper()
	n := 0
	b.log.set(func() { n = b.log.loads })
	if n != want {
		b.t.Fatalf("the groups were loaded %d times, want %d", n, want)
	}
}

// onActor runs f between two requests.
func (b *bed) onActor(f func(s *shard)) {
	b.t.Helper()
	s, err := b.c.shardOf("g")
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := call(b.t.Context(), s, func(reply func(struct{}, error)) {
		f(s)
		reply(struct{}{}, nil)
	}); err != nil {
		b.t.Fatal(err)
	}
}

// wantAsLogged requires that every group is what the log has of it.
func (b *bed) wantAsLogged() {
	b.t.Helper()
	synctest.Wait()
	b.onActor(func(s *shard) {
		logged, err := load(b.t.Context(), b.log)
		if err != nil {
			b.t.Fatal(err)
		}
		for id, g := range s.groups {
			lg := logged.groups[id]
			if lg == nil {
				lg = &loadedGroup{}
			}
			if got, want := fmt.Sprint(g.written), fmt.Sprint(lg.written); got != want && len(g.written)+len(lg.written) > 0 {
				b.t.Errorf("group %s: written %.300q, the log has %.300q", id, got, want)
			}
			if got, want := fmt.Sprint(g.offsets), fmt.Sprint(lg.offsets); got != want && len(g.offsets)+len(lg.offsets) > 0 {
				b.t.Errorf("group %s: offsets %.300s, the log has %.300s", id, got, want)
			}
			if g.refusal == nil && g.classic == nil && g.machine.Len() != len(lg.members) {
				b.t.Errorf("group %s: %d members, the log has %d", id, g.machine.Len(), len(lg.members))
			}
		}
		for id := range logged.groups {
			if s.groups[id] == nil {
				b.t.Errorf("group %s is in the log alone", id)
			}
		}
	})
	b.log.set(func() { b.log.loads-- }) // this was a look
}

// A join that the log refuses for certain is the business of its group: another one's
// heartbeats and commits, also those behind the join, and its readers, go on, and nothing is
// loaded again.
func TestARefusalIsOfOneGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		other := b.member(api.JoinGroup{Group: "other"}).start()
		synctest.Wait()
		mustCommit(t, b.c, commitOf(other, 0, 1))
		for round := range 20 {
			end := make(chan struct{})
			b.log.set(func() { b.log.hold = end })
			b.refuses(once())
			m := b.member(api.JoinGroup{}).start()
			synctest.Wait() // its record is under way
			other.commit(uint64(round), 0, record.Offset(10+round))
			other.send(api.SessionMessage{Heartbeat: api.GroupHeartbeat{MemberEpoch: other.epoch()}})
			read := make(chan error, 1)
			go func() {
				_, err := b.c.FetchOffsets(t.Context(), &api.FetchOffsets{Group: "other"})
				read <- err
			}()
			synctest.Wait()
			b.log.set(func() { b.log.hold = nil })
			close(end)
			<-m.done
			wantCode(t, m.err, api.CodeCoordinatorNotAvailable)
			if !strings.Contains(m.err.Error(), "one of two replicas") {
				t.Fatalf("%v does not say why", m.err)
			}
			if err := <-read; err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := fetchA(t, b.c, "other", 0); got != record.Offset(10+round) {
				t.Fatalf("offset %d in round %d", got, round)
			}
		}
		if got := other.answered(); strings.Contains(got, "not") || strings.Count(got, ",") != 19 {
			t.Fatalf("answers %q", got)
		}
		b.wantLoads(1)
		b.wantAsLogged()
		if d, err := b.c.DescribeGroup(t.Context(), "other"); err != nil || d.State != "stable" || len(d.Members) != 1 {
			t.Fatalf("%+v %v", d, err)
		}
		other.cut()
		b.close()
	})
}

// What waits for its turn in a batch that is refused, and has nothing in it, gets its turn.
func TestReadersBesideARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		n, end := 0, make(chan struct{})
		b.log.set(func() { b.log.hold = end })
		b.refuses(func() bool { n++; return n == 2 })
		errs := make(chan error, 3)
		go func() { errs <- outcomeOf(b.c.CommitOffsets(t.Context(), adminCommit("other", 0, 4))) }()
		synctest.Wait() // under way
		m := b.member(api.JoinGroup{}).start()
		synctest.Wait() // waits for it
		go func() {
			_, err := b.c.FetchOffsets(t.Context(), &api.FetchOffsets{Group: "other"})
			errs <- err
		}()
		go func() { _, err := b.c.ListGroups(t.Context()); errs <- err }()
		synctest.Wait()
		b.log.set(func() { b.log.hold = nil })
		close(end)
		for range 3 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		<-m.done
		wantCode(t, m.err, api.CodeCoordinatorNotAvailable)
		b.wantLoads(1)
		b.wantAsLogged()
		b.close()
	})
}

// A group with members whose newcomer is refused stands as it did: the members come back to
// what they had, and the newcomer is let in when the log takes records again.
func TestAGroupGoesBackToWhatTheLogHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m := b.member(api.JoinGroup{ClientID: "first"}).start()
		synctest.Wait()
		mustCommit(t, b.c, commitOf(m, 2, 7))
		before, err := b.c.DescribeGroup(t.Context(), "g")
		if err != nil {
			t.Fatal(err)
		}
		b.refuses(always)
		newcomer := b.member(api.JoinGroup{}).start()
		<-newcomer.done
		<-m.done
		for _, gone := range []*member{newcomer, m} {
			wantCode(t, gone.err, api.CodeCoordinatorNotAvailable)
		}
		b.wantAsLogged()
		after, err := b.c.DescribeGroup(t.Context(), "g")
		if err != nil || fmt.Sprint(after.Members, after.Epoch, after.State, after.Offsets) != fmt.Sprint(before.Members, before.Epoch, before.State, before.Offsets) {
			t.Fatalf("%+v %v, before %+v", after, err, before)
		}
		// Meanwhile nothing is decided: who asks hears why, at once, and the log is not asked.
		appends := b.appends()
		again := m.resume(b.c)
		<-again.done
		for what, err := range map[string]error{
			"session":            again.err,
			"delete":             b.c.DeleteGroup(t.Context(), "g"),
			"classic join":       (&classicMember{b: b}).join(t.Context()),
			"classic heartbeat":  b.c.HeartbeatClassic(t.Context(), &api.ClassicHeartbeat{Group: "g", MemberID: "m", Generation: 1}),
			"consumer heartbeat": pollOnce(t, b, "m"),
		} {
			if code := api.CodeOf(err); what != "delete" && code != api.CodeCoordinatorNotAvailable || what == "delete" && code != api.CodeGroupNotEmpty {
				t.Errorf("%s: %v", what, err)
			}
		}
		if n := b.appends() - appends; n != 0 {
			t.Fatalf("%d appends of a group that is to wait", n)
		}
		if got := fetchA(t, b.c, "g", 2); got != 7 {
			t.Fatalf("offset %d", got)
		}
		b.takes()
		mustCommit(t, b.c, commitOf(m, 2, 8)) // by its epoch: it is a member still
		time.Sleep(reloadLatest)
		m = m.resume(b.c)
		synctest.Wait()
		if u := m.last(); u.MemberID != before.Members[0].MemberID || u.MemberEpoch != before.Epoch || len(u.Assignment) != 4 {
			t.Fatalf("%+v, before %+v", u, before)
		}
		newcomer = b.member(api.JoinGroup{}).start()
		synctest.Wait()
		if n1, n2 := len(m.last().Assignment), len(newcomer.last().Assignment); n1 != 2 || n2 != 2 {
			t.Fatalf("%v and %v", m.last(), newcomer.last())
		}
		b.wantLoads(1)
		b.wantAsLogged()
		m.cut()
		newcomer.cut()
		b.close()
	})
}

func pollOnce(t *testing.T, b *bed, id string) error {
	t.Helper()
	_, err := b.c.ConsumerHeartbeat(t.Context(), &api.ConsumerHeartbeat{Group: "g", MemberID: id, HasTopics: true, Topics: []string{"a"}, HasOwned: true})
	return err
}

// What a group has to decide by itself, and the log refuses, it tries again, and not all
// the time.
func TestAGroupThatIsRefusedTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m := b.member(api.JoinGroup{}).start()
		synctest.Wait()
		b.refuses(always)
		b.topics.set("a", 8)
		b.c.TopicsChanged()
		<-m.done
		wantCode(t, m.err, api.CodeCoordinatorNotAvailable)
		appends := b.appends()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := b.appends() - appends; n < 100 || n > 2*int(time.Hour/reloadLatest) {
			t.Fatalf("%d tries in an hour", n)
		}
		b.takes()
		time.Sleep(reloadLatest)
		m = m.resume(b.c)
		synctest.Wait()
		if n := len(m.last().Assignment); n != 8 {
			t.Fatalf("%d partitions of 8, after more than its session", n)
		}
		b.wantLoads(1)
		b.wantAsLogged()
		m.cut()
		b.close()
	})
}

// A member that polls hears why its join was refused, and one that was there is asked to send
// everything, as by a coordinator that is new to it.
func TestARefusalOfMembersThatPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		if err := pollOnce(t, b, "there"); err != nil {
			t.Fatal(err)
		}
		b.refuses(once())
		wantCode(t, pollOnce(t, b, "newcomer"), api.CodeCoordinatorNotAvailable)
		beat := func() error {
			_, err := b.c.ConsumerHeartbeat(t.Context(), &api.ConsumerHeartbeat{Group: "g", MemberID: "there", MemberEpoch: 1})
			return err
		}
		wantCode(t, beat(), api.CodeCoordinatorNotAvailable)
		time.Sleep(reloadLatest)
		wantCode(t, beat(), api.CodeNotCoordinator)
		_, err := b.c.ConsumerHeartbeat(t.Context(), &api.ConsumerHeartbeat{
			Group: "g", MemberID: "there", MemberEpoch: 1, HasTopics: true, Topics: []string{"a"}, HasOwned: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		b.wantLoads(1)
		b.wantAsLogged()
		b.close()
	})
}

// Of the classic protocol, what the leader assigned is refused, and joined anew.
func TestARefusalOfAClassicGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		other := b.member(api.JoinGroup{Group: "other"}).start()
		synctest.Wait()
		m1, m2 := &classicMember{b: b}, &classicMember{b: b}
		together(t, m1.join, m2.join)
		b.refuses(once())
		end := make(chan struct{})
		b.log.set(func() { b.log.hold = end })
		errs := make(chan error, 2)
		for _, m := range []*classicMember{m1, m2} {
			go func() { errs <- m.sync(t.Context()) }()
		}
		synctest.Wait()
		b.log.set(func() { b.log.hold = nil })
		close(end)
		for range 2 {
			wantCode(t, <-errs, api.CodeCoordinatorNotAvailable)
		}
		time.Sleep(time.Second)
		m1.id, m2.id = "", "" // the log knows of neither
		together(t, m1.join, m2.join)
		together(t, m1.sync, m2.sync)
		together(t, m1.beat, m2.beat)
		b.wantLoads(1)
		b.wantAsLogged()
		other.cut()
		b.close()
	})
}

// Of a group whose deletion takes several batches, that much is left that the log has.
func TestADeletionThatIsRefused(t *testing.T) {
	for failing := range 3 {
		t.Run(fmt.Sprint("append ", failing), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t)
				b.topics.set("wide", 3000)
				synctest.Wait()
				const n = 3000
				long := strings.Repeat("g", 200)
				req := adminCommit(long, 0, 1)
				req.Offsets = nil
				for p := range int32(n) {
					req.Offsets = append(req.Offsets, api.OffsetCommit{TopicPartition: api.TopicPartition{Topic: "wide", Partition: p}, Offset: 5})
				}
				mustCommit(t, b.c, req)
				appends := 0
				b.refuses(func() bool { appends++; return appends == failing+1 })
				err := b.c.DeleteGroup(t.Context(), long)
				wantCode(t, err, api.CodeCoordinatorNotAvailable)
				if appends != failing+1 {
					t.Fatalf("%d appends: what comes behind the one that is refused must not get into the log", appends)
				}
				b.wantAsLogged()
				b.wantLoads(1)
				b.takes()
				time.Sleep(reloadLatest)
				if err := b.c.DeleteGroup(t.Context(), long); err != nil {
					t.Fatal(err)
				}
				b.wantAsLogged()
				_, err = b.c.DescribeGroup(t.Context(), long)
				wantCode(t, err, api.CodeUnknownGroup)
				b.close()
			})
		})
	}
}

// A group that was deleted, and is made again while that is on its way, is the old one when
// the deletion is refused.
func TestADeletionThatIsRefusedUnderANewGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		mustCommit(t, b.c, adminCommit("g", 0, 7))
		end := make(chan struct{})
		b.log.set(func() { b.log.hold = end })
		b.refuses(once())
		deleted, committed := make(chan error, 1), make(chan error, 1)
		go func() { deleted <- b.c.DeleteGroup(t.Context(), "g") }()
		synctest.Wait()
		m := b.member(api.JoinGroup{}).start()
		synctest.Wait()
		go func() { committed <- outcomeOf(b.c.CommitOffsets(t.Context(), adminCommit("another", 1, 3))) }()
		synctest.Wait()
		b.log.set(func() { b.log.hold = nil })
		close(end)
		wantCode(t, <-deleted, api.CodeCoordinatorNotAvailable)
		<-m.done
		wantCode(t, m.err, api.CodeCoordinatorNotAvailable)
		if err := <-committed; err != nil {
			t.Fatalf("another group's commit: %v", err)
		}
		if got := fetchA(t, b.c, "g", 0); got != 7 {
			t.Fatalf("offset %d", got)
		}
		b.wantAsLogged()
		b.wantLoads(1)
		b.close()
	})
}

// A group whose last member leaves while others' records are under way has an assignment due,
// of nothing. When it is deleted before that, no record may come behind the tombstones: the
// next group of that name would find it.
func TestADeletedGroupAssignsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m := b.member(api.JoinGroup{}).start()
		synctest.Wait()
		end := make(chan struct{})
		b.log.set(func() { b.log.hold = end })
		other := b.member(api.JoinGroup{Group: "other"}).start()
		synctest.Wait() // its record is under way
		m.send(api.SessionMessage{Leave: true})
		synctest.Wait()
		errs := make(chan error, 2)
		go func() { errs <- b.c.DeleteGroup(t.Context(), "g") }()
		synctest.Wait()
		go func() { errs <- outcomeOf(b.c.CommitOffsets(t.Context(), adminCommit("g", 0, 7))) }()
		synctest.Wait()
		b.log.set(func() { b.log.hold = nil })
		close(end)
		for range 2 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		b.wantAsLogged()
		other.cut()
		b.close()
	})
}

// Whatever is refused, what the coordinator has of its groups is what the log has.
func TestRefusalsAtRandom(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { refusalsAtRandom(t, seed) })
		})
	}
}

func refusalsAtRandom(t *testing.T, seed uint64) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 5)) //nolint:gosec // a seed is wanted
	b := newBed(t)
	synctest.Wait()
	refusing := rand.New(rand.NewPCG(seed, 6)) //nolint:gosec // likewise
	b.refuses(func() bool { return refusing.IntN(4) == 0 })
	ctx, cancel := context.WithCancel(t.Context())
	var members []*member
	calls := make(chan struct{}, 1000)
	under := 0
	ask := func(f func()) {
		under++
		go func() { f(); calls <- struct{}{} }()
	}
	for range 150 {
		group := string(rune('g' + random.IntN(3)))
		n, p := record.Offset(random.IntN(1000)), random.Int32N(4)
		switch random.IntN(8) {
		case 0:
			members = append(members, b.member(api.JoinGroup{Group: group}).start())
		case 1:
			if len(members) > 0 {
				members[random.IntN(len(members))].send(api.SessionMessage{Leave: true})
			}
		case 2:
			ask(func() { _ = b.c.DeleteGroup(ctx, group) })
		case 3:
			ask(func() { _, _ = b.c.DeleteOffsets(ctx, group, []api.TopicPartition{{Topic: "a", Partition: p}}) })
		case 4:
			ask(func() { _, _ = b.c.CommitOffsets(ctx, adminCommit(group, p, n)) })
		case 5:
			if len(members) > 0 {
				members[random.IntN(len(members))].commit(uint64(n), p, n)
			}
		case 6:
			m := &classicMember{b: b}
			ask(func() {
				if m.join(ctx) == nil {
					_ = m.sync(ctx)
				}
			})
		case 7:
			b.topics.set("a", 4+random.Int32N(4))
			b.c.TopicsChanged()
		}
		if random.IntN(3) == 0 {
			b.wantAsLogged()
		}
		if random.IntN(5) == 0 {
			time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
		}
	}
	b.takes()
	time.Sleep(time.Minute)
	b.wantAsLogged()
	b.wantLoads(1)
	cancel()
	for _, m := range members {
		m.cut()
	}
	for range under {
		<-calls
	}
	b.close()
}

// A member that only loses its stream while the log takes no records comes back at once:
// there is nothing to write. The others of its group keep theirs, and nobody moves. One
// that comes back as something else has to wait, and hears why.
func TestAStreamIsReplacedWhileTheLogRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m1, m2 := b.member(api.JoinGroup{}).start(), b.member(api.JoinGroup{}).start()
		synctest.Wait()
		before1, before2 := m1.last(), m2.last()
		b.refuses(always)
		appends := b.appends()
		for range 3 {
			m1.cut()
			time.Sleep(time.Second)
			m1 = m1.resume(b.c)
			synctest.Wait()
			if u := m1.last(); m1.ended() || u.MemberEpoch != before1.MemberEpoch || !slices.Equal(u.Assignment, before1.Assignment) {
				t.Fatalf("ended %v, %+v, before %+v", m1.ended(), u, before1)
			}
		}
		time.Sleep(time.Hour) // by heartbeats on the new stream it stays
		synctest.Wait()
		if n := b.appends() - appends; n != 0 || m1.ended() || m2.ended() {
			t.Fatalf("%d appends; ended: %v and %v", n, m1.ended(), m2.ended())
		}
		if u := m2.last(); u.MemberEpoch != before2.MemberEpoch || !slices.Equal(u.Assignment, before2.Assignment) {
			t.Fatalf("%+v, before %+v", u, before2)
		}

		m1.cut()
		m1.join.Topics = []string{"a", "b"}
		other := m1.resume(b.c)
		<-other.done
		wantCode(t, other.err, api.CodeCoordinatorNotAvailable)
		<-m2.done
		wantCode(t, m2.err, api.CodeCoordinatorNotAvailable)
		b.takes()
		time.Sleep(reloadLatest)
		m1, m2 = other.resume(b.c), m2.resume(b.c)
		synctest.Wait()
		if m1.ended() || m2.ended() || len(m2.last().Assignment) != len(before2.Assignment) {
			t.Fatalf("ended %v and %v: %v", m1.ended(), m2.ended(), m2.last())
		}
		b.wantLoads(1)
		b.wantAsLogged()
		m1.cut()
		m2.cut()
		b.close()
	})
}

// ended reports whether the session is over.
func (m *member) ended() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}
