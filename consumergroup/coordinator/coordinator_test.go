package coordinator

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

func wantCode(t *testing.T, err error, code api.Code) {
	t.Helper()
	if api.CodeOf(err) != code {
		t.Fatalf("error %v, want code %q", err, code)
	}
}

func mustCommit(t *testing.T, c *Coordinator, req *api.CommitOffsets) {
	t.Helper()
	results, err := c.CommitOffsets(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}

func fetchA(t *testing.T, c *Coordinator, group string, partition int32) record.Offset {
	t.Helper()
	results, err := c.FetchOffsets(t.Context(), &api.FetchOffsets{Group: group, Partitions: []api.TopicPartition{{Topic: "a", Partition: partition}}})
	if err != nil {
		t.Fatal(err)
	}
	return results[0].Offset
}

func TestPartitionForIsKafkas(t *testing.T) {
	for _, c := range []struct {
		group string
		hash  int32
	}{
		{"a", 97},
		{"Aa", 2112},
		{"hello", 99162322},
		{"polygenelubricants", 0}, // Integer.MIN_VALUE
		{"\U0001F600", 0xD83D*31 + 0xDE00},
		{"é", 233},
	} {
		if got := PartitionFor(c.group, 1<<31-1); got != c.hash%(1<<31-1) {
			t.Errorf("%q: %d, want %d", c.group, got, c.hash)
		}
	}
}

func TestCommitsSurviveTheCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		if got := fetchA(t, b.c, "g", 0); got != record.UnknownOffset {
			t.Fatalf("offset %d before any commit", got)
		}
		mustCommit(t, b.c, adminCommit("g", 0, 5))
		mustCommit(t, b.c, adminCommit("g", 1, 6))
		mustCommit(t, b.c, adminCommit("g", 0, 7))
		b.close()
		b.c = b.start()
		synctest.Wait()
		if p0, p1 := fetchA(t, b.c, "g", 0), fetchA(t, b.c, "g", 1); p0 != 7 || p1 != 6 {
			t.Fatalf("offsets %d and %d", p0, p1)
		}
		all, err := b.c.FetchOffsets(t.Context(), &api.FetchOffsets{Group: "g"})
		if err != nil || len(all) != 2 || all[0].Partition != 0 || all[0].LeaderEpoch != record.UnknownEpoch {
			t.Fatalf("%v %v", all, err)
		}
		b.close()
	})
}

func TestWhileLoading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		hold := make(chan struct{})
		b.log.set(func() { b.log.hold = hold })
		b.c.Load(0, 2, b.log)
		_, err := b.c.FetchOffsets(t.Context(), &api.FetchOffsets{Group: "g"})
		wantCode(t, err, api.CodeCoordinatorLoading)
		_, err = b.c.CommitOffsets(t.Context(), adminCommit("g", 0, 1))
		wantCode(t, err, api.CodeCoordinatorLoading)
		_, err = b.c.ListGroups(t.Context())
		wantCode(t, err, api.CodeCoordinatorLoading)
		m := b.member(api.JoinGroup{}).start()
		<-m.done
		wantCode(t, m.err, api.CodeCoordinatorLoading)
		close(hold)
		synctest.Wait()
		if got := fetchA(t, b.c, "g", 0); got != record.UnknownOffset {
			t.Fatalf("offset %d", got)
		}
		b.c.Unload(0)
		_, err = b.c.FetchOffsets(t.Context(), &api.FetchOffsets{Group: "g"})
		wantCode(t, err, api.CodeNotCoordinator)
		b.c.SetPartitions(0)
		_, err = b.c.FetchOffsets(t.Context(), &api.FetchOffsets{Group: "g"})
		wantCode(t, err, api.CodeCoordinatorNotAvailable)
		b.close()
	})
}

func TestMembersShareAndHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m1 := b.member(api.JoinGroup{ClientID: "one"}).start()
		synctest.Wait()
		mustCommit(t, b.c, commitOf(m1, 3, 30))
		m2 := b.member(api.JoinGroup{ClientID: "two"}).start()
		synctest.Wait()
		if n1, n2 := len(m1.last().Assignment), len(m2.last().Assignment); n1 != 2 || n2 != 2 {
			t.Fatalf("assigned %v and %v", m1.last(), m2.last())
		}
		d, err := b.c.DescribeGroup(t.Context(), "g")
		if err != nil || d.State != "stable" || len(d.Members) != 2 || d.Coordinator != 7 || len(d.Offsets) != 1 {
			t.Fatalf("%+v %v", d, err)
		}
		for p := range int32(4) {
			owner, other := m1, m2
			if !slices.Contains(m1.last().Assignment, api.TopicPartition{Topic: "a", Partition: p}) {
				owner, other = m2, m1
			}
			mustCommit(t, b.c, commitOf(owner, p, 40))
			results, err := b.c.CommitOffsets(t.Context(), commitOf(other, p, 1))
			if err != nil || results[0].Err == nil || results[0].Err.Code != api.CodeStaleMemberEpoch {
				t.Fatalf("commit by a member that does not own the partition: %v %v", results, err)
			}
		}
		m2.send(api.SessionMessage{Leave: true})
		<-m2.done
		if m2.err != nil {
			t.Fatal(m2.err)
		}
		synctest.Wait()
		if len(m1.last().Assignment) != 4 {
			t.Fatalf("%v", m1.last())
		}
		_, err = b.c.CommitOffsets(t.Context(), commitOf(m2, 0, 1))
		wantCode(t, err, api.CodeUnknownMember)
		b.close()
		<-m1.done
		wantCode(t, m1.err, api.CodeNotCoordinator)
	})
}

func TestSilentMemberIsFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m1 := b.member(api.JoinGroup{}).start()
		m2 := b.member(api.JoinGroup{})
		m2.silent = true
		m2.start()
		synctest.Wait()
		began := time.Now()
		<-m2.done
		wantCode(t, m2.err, api.CodeUnknownMember)
		if waited := time.Since(began); waited != 10*time.Second {
			t.Fatalf("fenced after %s", waited)
		}
		synctest.Wait()
		if len(m1.last().Assignment) != 4 {
			t.Fatalf("%v", m1.last())
		}
		m1.cut()
		b.close()
	})
}

// A coordinator that was held up for longer than a session finds the heartbeats
// that came in time, and its timer: nobody is late.
func TestWhoWasHeardWhileTheCoordinatorStoodStillStays(t *testing.T) {
	for range 20 { // which of the two is looked at first is chance
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t)
			synctest.Wait()
			m := b.member(api.JoinGroup{})
			m.every = 4 * time.Second
			m.start()
			synctest.Wait()
			time.Sleep(time.Second)
			held := make(chan struct{})
			b.log.set(func() {
				b.log.outcome = func() (bool, error) {
					<-held
					return true, nil
				}
			})
			committed := make(chan error, 1)
			go func() {
				_, err := b.c.CommitOffsets(context.Background(), adminCommit("another", 0, 1))
				committed <- err
			}()
			time.Sleep(15 * time.Second) // its session is 10 s, and it beats every 4 s
			close(held)
			if err := <-committed; err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			select {
			case <-m.done:
				t.Fatal(m.err)
			default:
			}
			m.cut()
			b.close()
		})
	}
}

func TestMemberThatKeepsWhatItMustGiveUpIsFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m1 := b.member(api.JoinGroup{RebalanceTimeout: 3000}).start()
		synctest.Wait()
		m1.keeps = true
		m2 := b.member(api.JoinGroup{}).start()
		synctest.Wait()
		if len(m2.last().Assignment) != 0 {
			t.Fatalf("given away before it was given up: %v", m2.last())
		}
		<-m1.done
		wantCode(t, m1.err, api.CodeFencedMemberEpoch)
		synctest.Wait()
		if len(m2.last().Assignment) != 4 {
			t.Fatalf("%v", m2.last())
		}
		m2.cut()
		b.close()
	})
}

func TestReconnectLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m := b.member(api.JoinGroup{}).start()
		synctest.Wait()
		before := m.last()
		m.cut()
		time.Sleep(9 * time.Second)
		again := m.resume(b.c)
		synctest.Wait()
		if u := again.last(); u.MemberEpoch != before.MemberEpoch || !slices.Equal(u.Assignment, before.Assignment) {
			t.Fatalf("%v, before %v", u, before)
		}
		newest := again.resume(b.c)
		<-again.done
		wantCode(t, again.err, api.CodeFencedMemberEpoch)
		newest.cut()
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if d, err := b.c.DescribeGroup(t.Context(), "g"); err != nil || len(d.Members) != 0 || d.State != "empty" {
			t.Fatalf("%+v %v", d, err)
		}
		b.close()
	})
}

// A new coordinator resumes: nothing is assigned anew, commits are taken before
// anybody has come back, and a newcomer waits for nobody.
func TestCoordinatorMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m1, m2 := b.member(api.JoinGroup{}).start(), b.member(api.JoinGroup{TopicPattern: "a|b", Topics: []string{"a"}}).start()
		synctest.Wait()
		b.close()
		<-m1.done
		<-m2.done
		had1, had2 := m1.last(), m2.last()
		b.c = b.start()
		synctest.Wait()
		mustCommit(t, b.c, commitOf(m1, had1.Assignment[0].Partition, 1))
		wantCode(t, outcomeOf(b.c.CommitOffsets(t.Context(), commitOf(m2, had1.Assignment[0].Partition, 1))), api.CodeStaleMemberEpoch)
		m1, m2 = m1.resume(b.c), m2.resume(b.c)
		synctest.Wait()
		for _, u := range [][2]api.SessionUpdate{{m1.last(), had1}, {m2.last(), had2}} {
			if !slices.Equal(u[0].Assignment, u[1].Assignment) || u[0].MemberEpoch != u[1].MemberEpoch {
				t.Fatalf("has %+v, had %+v", u[0], u[1])
			}
		}
		b.close()
		<-m1.done
		<-m2.done
		b.c = b.start()
		synctest.Wait()
		m3 := b.member(api.JoinGroup{}).start()
		m1 = m1.resume(b.c)
		synctest.Wait()
		if m3.epoch() != m1.epoch() || m3.epoch() <= had1.MemberEpoch {
			t.Fatalf("a newcomer waits for who is not back: %+v %+v", m1.last(), m3.last())
		}
		m1.cut()
		m3.cut()
		b.close()
	})
}

// outcomeOf is the outcome of a commit of one offset.
func outcomeOf(results []api.CommittedOffset, err error) error {
	if err == nil && results[0].Err != nil {
		err = results[0].Err
	}
	return err
}

// A build that did not write who owns what had the group last: nobody is given
// anything before all members have told.
func TestCoordinatorMovesFromAnOlderBuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m1, m2 := b.member(api.JoinGroup{}).start(), b.member(api.JoinGroup{}).start()
		synctest.Wait()
		b.close()
		<-m1.done
		<-m2.done
		batch := (&batches{}).fresh()
		batch.add(time.Now(), groupKey("g"), groupValue(m1.epoch(), 0))
		bytes, err := batch.build()
		if err != nil {
			t.Fatal(err)
		}
		b.log.Append(record.NewBuf(bytes))
		b.c = b.start()
		synctest.Wait()
		_, err = b.c.CommitOffsets(t.Context(), commitOf(m1, 0, 1))
		wantCode(t, err, api.CodeCoordinatorLoading)
		had1, had2 := m1.last(), m2.last()
		m1 = m1.resume(b.c)
		m3 := b.member(api.JoinGroup{}).start()
		synctest.Wait()
		if u := m1.last(); !slices.Equal(u.Assignment, had1.Assignment) || u.MemberEpoch != had1.MemberEpoch {
			t.Fatalf("moved while a member is awaited: %v, had %v", u, had1)
		}
		if len(m3.last().Assignment) != 0 {
			t.Fatalf("a newcomer got %v while a member is awaited", m3.last())
		}
		m2 = m2.resume(b.c)
		synctest.Wait()
		for _, kept := range []struct{ now, had []api.TopicPartition }{
			{m1.last().Assignment, had1.Assignment}, {m2.last().Assignment, had2.Assignment},
		} {
			for _, tp := range kept.now {
				if !slices.Contains(kept.had, tp) {
					t.Fatalf("has %v, had %v", kept.now, kept.had)
				}
			}
		}
		if n := len(m1.last().Assignment) + len(m2.last().Assignment) + len(m3.last().Assignment); n != 4 {
			t.Fatalf("%d partitions assigned", n)
		}
		if m1.epoch() <= had1.MemberEpoch {
			t.Fatalf("epoch %d, was %d", m1.epoch(), had1.MemberEpoch)
		}
		for _, m := range []*member{m1, m2, m3} {
			m.cut()
		}
		b.close()
	})
}

// TestAwaitedMembersRunOut: nobody comes back to the new coordinator.
func TestAwaitedMembersRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m := b.member(api.JoinGroup{SessionTimeout: 1000}).start()
		synctest.Wait()
		b.close()
		<-m.done
		b.c = b.start()
		for _, members := range []int{1, 0} { // after 4.9 s and after LoadGrace, 5 s
			time.Sleep(4900 * time.Millisecond)
			synctest.Wait()
			if d, err := b.c.DescribeGroup(t.Context(), "g"); err != nil || len(d.Members) != members {
				t.Fatalf("%+v %v", d, err)
			}
		}
		b.close()
	})
}

// TestCloseWaits: even for an append that pays no heed to its context.
func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		ended := false
		b.log.set(func() {
			b.log.outcome = func() (bool, error) {
				time.Sleep(time.Minute)
				ended = true
				return true, nil
			}
		})
		var wg sync.WaitGroup
		wg.Go(func() {
			results, err := b.c.CommitOffsets(t.Context(), adminCommit("g", 0, 1))
			if err != nil || results[0].Err == nil || results[0].Err.Code != api.CodeRequestTimedOut {
				t.Errorf("%v %v", results, err)
			}
		})
		synctest.Wait()
		b.close()
		if !ended {
			t.Fatal("Close returned before the append")
		}
		wg.Wait()
	})
}

// TestNothingIsSeenBeforeItIsCommitted: while the append is under way, neither
// the member nor a reader of offsets hears of anything.
func TestNothingIsSeenBeforeItIsCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		hold := make(chan struct{})
		b.log.set(func() { b.log.hold = hold })
		m := b.member(api.JoinGroup{}).start()
		var wg sync.WaitGroup
		committed := false
		wg.Go(func() {
			mustCommit(t, b.c, adminCommit("other", 0, 9))
			committed = true
		})
		synctest.Wait()
		if committed || len(m.updates) != 0 {
			t.Fatalf("committed %v, updates %v before the append ended", committed, m.updates)
		}
		close(hold)
		synctest.Wait()
		wg.Wait()
		if fetchA(t, b.c, "other", 0) != 9 || len(m.last().Assignment) != 4 {
			t.Fatalf("%v", m.last())
		}
		m.cut()
		b.close()
	})
}

func TestCommitsAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		hold := make(chan struct{})
		b.log.set(func() { b.log.hold = hold })
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() { mustCommit(t, b.c, adminCommit(fmt.Sprintf("g%d", i), 0, record.Offset(i))) })
		}
		synctest.Wait()
		close(hold)
		wg.Wait()
		if b.log.appends > maxAppends+1 {
			t.Fatalf("200 commits took %d appends", b.log.appends)
		}
		if got := fetchA(t, b.c, "g150", 0); got != 150 {
			t.Fatalf("offset %d", got)
		}
		b.close()
	})
}

func TestFailedAppend(t *testing.T) {
	definiteErr := api.Errorf(api.CodeNotEnoughReplicas, "one of two replicas")
	for _, c := range []struct {
		name   string
		stored bool
		err    error
		code   api.Code
		offset record.Offset // afterwards
		ends   bool          // sessions end, the coordinator loads again
	}{
		{"unknown, lost", false, errUnknownOutcome, api.CodeRequestTimedOut, 1, true},
		{"unknown, stored", true, errUnknownOutcome, api.CodeRequestTimedOut, 2, true},
		{"definite", false, definiteErr, api.CodeCoordinatorNotAvailable, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t)
				synctest.Wait()
				mustCommit(t, b.c, adminCommit("h", 0, 1))
				m := b.member(api.JoinGroup{}).start()
				synctest.Wait()
				b.log.set(func() { b.log.outcome = func() (bool, error) { return c.stored, c.err } })
				results, err := b.c.CommitOffsets(t.Context(), adminCommit("h", 0, 2))
				if err != nil || results[0].Err == nil || results[0].Err.Code != c.code {
					t.Fatalf("%v %v", results, err)
				}
				b.log.set(func() { b.log.outcome = nil })
				if c.ends {
					<-m.done
					wantCode(t, m.err, api.CodeCoordinatorLoading)
					_, err := b.c.FetchOffsets(t.Context(), &api.FetchOffsets{Group: "h"})
					wantCode(t, err, api.CodeCoordinatorLoading)
					time.Sleep(time.Second)
					m = m.resume(b.c)
				}
				synctest.Wait()
				if got := fetchA(t, b.c, "h", 0); got != c.offset {
					t.Fatalf("offset %d, want %d", got, c.offset)
				}
				if len(m.last().Assignment) != 4 {
					t.Fatalf("%v", m.last())
				}
				m.cut()
				b.close()
			})
		})
	}
}

// TestFailedJoinIsForgotten: a member whose record was not committed never was.
func TestFailedJoinIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		b.log.set(func() {
			b.log.outcome = func() (bool, error) { return false, api.Errorf(api.CodeNotEnoughReplicas, "") }
		})
		m := b.member(api.JoinGroup{}).start()
		<-m.done
		wantCode(t, m.err, api.CodeCoordinatorNotAvailable)
		if len(m.updates) != 0 {
			t.Fatalf("%v", m.updates)
		}
		b.log.set(func() { b.log.outcome = nil })
		time.Sleep(time.Second)
		_, err := b.c.DescribeGroup(t.Context(), "g")
		wantCode(t, err, api.CodeUnknownGroup)
		b.close()
	})
}

func TestSlowMemberBlocksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		slow := b.member(api.JoinGroup{Topics: []string{"b"}})
		stuck := make(chan struct{})
		slow.onOut = func() { <-stuck }
		slow.start()
		synctest.Wait()
		m := b.member(api.JoinGroup{}).start()
		synctest.Wait()
		if len(m.last().Assignment) != 4 {
			t.Fatalf("%v", m.last())
		}
		other := b.member(api.JoinGroup{}).start()
		third := b.member(api.JoinGroup{}).start()
		synctest.Wait()
		if len(m.last().Assignment) == 4 || len(third.last().Assignment) == 0 {
			t.Fatalf("%v %v", m.last(), third.last())
		}
		close(stuck)
		synctest.Wait()
		if slow.epoch() != m.epoch() {
			t.Fatalf("the slow member is at epoch %d, the others at %d", slow.epoch(), m.epoch())
		}
		for _, one := range []*member{slow, m, other, third} {
			one.cut()
		}
		b.close()
	})
}

func TestTopicsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m := b.member(api.JoinGroup{TopicPattern: "a.*"}).start()
		synctest.Wait()
		b.topics.set("a2", 2)
		b.topics.set("ba", 2) // the pattern must match the whole name
		b.c.TopicsChanged()
		synctest.Wait()
		if len(m.last().Assignment) != 6 {
			t.Fatalf("%v", m.last())
		}
		b.topics.set("a", 0)
		b.c.TopicsChanged()
		synctest.Wait()
		if len(m.last().Assignment) != 2 {
			t.Fatalf("%v", m.last())
		}
		m.cut()
		b.close()
	})
}

func TestDeleteGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		wantCode(t, b.c.DeleteGroup(t.Context(), "g"), api.CodeUnknownGroup)
		m := b.member(api.JoinGroup{}).start()
		synctest.Wait()
		mustCommit(t, b.c, commitOf(m, 0, 3))
		wantCode(t, b.c.DeleteGroup(t.Context(), "g"), api.CodeGroupNotEmpty)
		_, err := b.c.CommitOffsets(t.Context(), adminCommit("g", 0, 1))
		wantCode(t, err, api.CodeGroupNotEmpty)
		m.send(api.SessionMessage{Leave: true})
		<-m.done
		if err := b.c.DeleteGroup(t.Context(), "g"); err != nil {
			t.Fatal(err)
		}
		for range 2 { // now, and after a load
			groups, err := b.c.ListGroups(t.Context())
			if err != nil || len(groups) != 0 || fetchA(t, b.c, "g", 0) != record.UnknownOffset {
				t.Fatalf("%v %v", groups, err)
			}
			b.close()
			b.c = b.start()
			synctest.Wait()
		}
		b.close()
	})
}

func TestListGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m := b.member(api.JoinGroup{Group: "z"}).start()
		mustCommit(t, b.c, adminCommit("h", 0, 2))
		synctest.Wait()
		groups, err := b.c.ListGroups(t.Context())
		want := []api.GroupListing{{Group: "h", State: "empty"}, {Group: "z", Type: api.GroupTypeConsumer, State: "stable", Members: 1}}
		if err != nil || !slices.Equal(groups, want) {
			t.Fatalf("%v %v", groups, err)
		}
		m.cut()
		b.close()
	})
}

func TestBadInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		for name, c := range map[string]struct {
			join api.JoinGroup
			code api.Code
		}{
			"long group":      {api.JoinGroup{Group: strings.Repeat("g", 10_000)}, api.CodeInvalidGroupID},
			"bad utf-8":       {api.JoinGroup{Group: "g\xff"}, api.CodeInvalidGroupID},
			"no subscription": {api.JoinGroup{Topics: []string{}}, api.CodeInvalidArgument},
			"long topic":      {api.JoinGroup{Topics: []string{strings.Repeat("t", 250)}}, api.CodeInvalidTopic},
			"many topics":     {api.JoinGroup{Topics: make([]string, 10_000)}, api.CodeTooManySubscriptions},
			"bad pattern":     {api.JoinGroup{TopicPattern: "a("}, api.CodeInvalidPattern},
			"long pattern":    {api.JoinGroup{TopicPattern: strings.Repeat("a", 5000)}, api.CodeInvalidPattern},
			"costly pattern":  {api.JoinGroup{TopicPattern: "((a{100}){100}){100}"}, api.CodeInvalidPattern},
			"dear pattern":    {api.JoinGroup{TopicPattern: ".{1000}x{1000}[a-c]{1000}"}, api.CodeInvalidPattern},
			"split pattern":   {api.JoinGroup{TopicPattern: "a)|(b"}, api.CodeInvalidPattern},
			"assignor":        {api.JoinGroup{Assignor: "sticky"}, api.CodeUnknownAssignor},
			"short session":   {api.JoinGroup{SessionTimeout: 1}, api.CodeInvalidSessionTimeout},
			"long session":    {api.JoinGroup{SessionTimeout: 1 << 40}, api.CodeInvalidSessionTimeout},
			"rebalance":       {api.JoinGroup{RebalanceTimeout: -1}, api.CodeInvalidArgument},
			"long member id":  {api.JoinGroup{MemberID: strings.Repeat("m", 2000)}, api.CodeInvalidArgument},
			"epoch, no id":    {api.JoinGroup{MemberEpoch: 4}, api.CodeInvalidArgument},
			"unknown member":  {api.JoinGroup{MemberID: "m", MemberEpoch: 4}, api.CodeUnknownMember},
			"owned at 0":      {api.JoinGroup{MemberID: "m", Owned: []api.TopicPartition{{Topic: "a"}}}, api.CodeInvalidArgument},
		} {
			m := b.member(c.join).start()
			<-m.done
			if api.CodeOf(m.err) != c.code {
				t.Errorf("%s: %v, want code %q", name, m.err, c.code)
			}
		}
		wantCode(t, ValidateGroupID(""), api.CodeInvalidGroupID)
		if groups, err := b.c.ListGroups(t.Context()); err != nil || len(groups) != 0 {
			t.Fatalf("refused joins left %v %v", groups, err)
		}
		for name, c := range map[string]struct {
			commit api.OffsetCommit
			code   api.Code
		}{
			"negative":  {api.OffsetCommit{TopicPartition: api.TopicPartition{Topic: "a"}, Offset: -1}, api.CodeInvalidCommitOffset},
			"topic":     {api.OffsetCommit{TopicPartition: api.TopicPartition{Topic: "no"}}, api.CodeUnknownTopic},
			"partition": {api.OffsetCommit{TopicPartition: api.TopicPartition{Topic: "a", Partition: 4}}, api.CodeUnknownPartition},
			"metadata":  {api.OffsetCommit{TopicPartition: api.TopicPartition{Topic: "a"}, Metadata: strings.Repeat("m", 5000)}, api.CodeOffsetMetadataTooLarge},
		} {
			results, err := b.c.CommitOffsets(t.Context(), &api.CommitOffsets{Group: "g", Offsets: []api.OffsetCommit{c.commit}})
			if err != nil || results[0].Err == nil || results[0].Err.Code != c.code || results[0].Err.Topic != c.commit.Topic {
				t.Errorf("%s: %v %v, want code %q", name, results, err, c.code)
			}
		}
		b.close()
	})
}

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		b.log.set(func() { b.log.hold = make(chan struct{}) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := b.c.CommitOffsets(ctx, adminCommit("g", 0, 1))
		wantCode(t, err, api.CodeRequestTimedOut)
		b.close() // with the append still under way
	})
}

// TestNewerEpochReplaces: the same broker leads the partition again.
func TestNewerEpochReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		mustCommit(t, b.c, adminCommit("g", 0, 1))
		m := b.member(api.JoinGroup{Group: "h"}).start()
		synctest.Wait()
		b.c.Load(0, 1, &fakeLog{}) // not newer
		synctest.Wait()
		if fetchA(t, b.c, "g", 0) != 1 {
			t.Fatal("the older epoch replaced")
		}
		b.c.Load(0, 2, b.log)
		<-m.done
		wantCode(t, m.err, api.CodeNotCoordinator)
		synctest.Wait()
		if fetchA(t, b.c, "g", 0) != 1 {
			t.Fatal("lost")
		}
		b.close()
	})
}

// BenchmarkCommit is one offset a request, from 200 callers, over a log that costs nothing.
func BenchmarkCommit(b *testing.B) {
	c, err := New(Config{Topics: &fakeTopics{topics: map[string]int32{"a": 4}}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	c.SetPartitions(1)
	log := &fakeLog{outcome: func() (bool, error) { return false, nil }}
	c.Load(0, 1, log)
	for {
		if _, err := c.CommitOffsets(b.Context(), adminCommit("g", 0, 1)); api.CodeOf(err) != api.CodeCoordinatorLoading {
			break
		}
	}
	b.SetParallelism(100)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.CommitOffsets(b.Context(), adminCommit("g", 1, 2)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/float64(log.appends), "commits/append")
	if err := c.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkLoad replays 100,000 commits of 10,000 groups.
func BenchmarkLoad(b *testing.B) {
	log := &fakeLog{}
	for i := 0; i < 100_000; {
		batch := new(batches).fresh()
		for ; i < 100_000 && !batch.full(); i++ {
			tp := api.TopicPartition{Topic: "a", Partition: int32(i / 10_000)}
			batch.add(time.Unix(0, 0), offsetKey(fmt.Sprintf("group-%d", i%10_000), tp), offsetValue(committed{offset: record.Offset(i)}))
		}
		bytes, err := batch.build()
		if err != nil {
			b.Fatal(err)
		}
		log.mustAppend(b, bytes)
	}
	for b.Loop() {
		if l, err := load(b.Context(), log); err != nil || len(l.groups) != 10_000 {
			b.Fatal(len(l.groups), err)
		}
	}
}
