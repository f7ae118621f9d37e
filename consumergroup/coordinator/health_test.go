package coordinator

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// lines is what an operator reads.
type lines struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// with counts the lines that contain all of the parts.
func (l *lines) with(parts ...string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for line := range strings.Lines(l.b.String()) {
		all := true
		for _, part := range parts {
			all = all && strings.Contains(line, part)
		}
		if all {
			n++
		}
	}
	return n
}

// loggedBed is a bed whose coordinator's log is read.
func loggedBed(t *testing.T) (*bed, *lines) {
	t.Helper()
	l := &lines{}
	b := newBed(t)
	b.close()
	b.logger = slog.New(slog.NewTextHandler(l, nil))
	b.c = b.start()
	synctest.Wait()
	return b, l
}

func (b *bed) wantState(want State) {
	b.t.Helper()
	if got := b.c.Partitions(); got[want] != 1 || len(got) != 1 {
		b.t.Fatalf("states %v, want one partition that is %s", got, want)
	}
}

// everyRequest asks a coordinator of everything.
func (b *bed) everyRequest() map[string]error {
	c, ctx, tp := b.c, b.t.Context(), api.TopicPartition{Topic: "a"}
	errs := map[string]error{}
	_, errs["commit"] = c.CommitOffsets(ctx, adminCommit("g", 0, 9))
	_, errs["fetch"] = c.FetchOffsets(ctx, &api.FetchOffsets{Group: "g"})
	_, errs["list"] = c.ListGroups(ctx)
	_, errs["describe"] = c.DescribeGroup(ctx, "g")
	errs["delete"] = c.DeleteGroup(ctx, "g")
	_, errs["delete offsets"] = c.DeleteOffsets(ctx, "g", []api.TopicPartition{tp})
	_, errs["reset"] = c.ResetOffsets(ctx, "g", []api.OffsetCommit{{TopicPartition: tp}}, true)
	errs["classic join"] = (&classicMember{b: b}).join(ctx)
	_, errs["classic sync"] = c.SyncClassic(ctx, &api.ClassicSync{Group: "g", MemberID: "m", Generation: 1})
	errs["classic heartbeat"] = c.HeartbeatClassic(ctx, &api.ClassicHeartbeat{Group: "g", MemberID: "m", Generation: 1})
	_, errs["classic leave"] = c.LeaveClassic(ctx, "g", []api.ClassicLeave{{MemberID: "m"}})
	_, errs["consumer heartbeat"] = c.ConsumerHeartbeat(ctx, &api.ConsumerHeartbeat{Group: "g", MemberID: "m", HasTopics: true, Topics: []string{"a"}})
	m := b.member(api.JoinGroup{}).start()
	<-m.done
	errs["session"] = m.err
	return errs
}

// A log that cannot be read is not being loaded: who asks hears why, the operator
// once, and the groups are there when it can be read again.
func TestLogThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, l := loggedBed(t)
		mustCommit(t, b.c, adminCommit("g", 0, 7))
		m := b.member(api.JoinGroup{Group: "other"}).start()
		synctest.Wait()
		b.wantState(StateActive)
		cause := api.Errorf(api.CodeStorageFailed, "the disk said no").At("__consumer_offsets", 0)
		b.log.set(func() { // a flush fails under a commit, and the log with it
			b.log.unread = cause
			b.log.outcome = func() (bool, error) { return false, cause }
		})
		wantCode(t, outcomeOf(b.c.CommitOffsets(t.Context(), adminCommit("g", 0, 8))), api.CodeRequestTimedOut)
		<-m.done
		wantCode(t, m.err, api.CodeCoordinatorLoading)
		for range 3 {
			time.Sleep(time.Minute)
			for what, err := range b.everyRequest() {
				e, ok := errors.AsType[*api.Error](err)
				if !ok || e.Code != api.CodeCoordinatorNotAvailable || !e.Code.Retriable() || !strings.Contains(e.Message, "the disk said no") {
					t.Errorf("%s: %v", what, err)
				}
			}
			b.wantState(StateFailed)
			if lags, err := b.c.Lags(t.Context()); err != nil || len(lags) != 0 {
				t.Errorf("lags of what is left: %v %v", lags, err)
			}
		}
		if n, all := l.with("level=ERROR", "the disk said no"), l.with("disk said no"); n != 1 || all > 2 {
			t.Errorf("told %d times, in %d lines:\n%s", n, all, l.b.String())
		}
		b.log.set(func() { b.log.unread, b.log.outcome = nil, nil })
		time.Sleep(reloadLatest)
		synctest.Wait()
		b.wantState(StateActive)
		if got := fetchA(t, b.c, "g", 0); got != 7 {
			t.Errorf("offset %d", got)
		}
		b.log.set(func() { b.log.outcome = func() (bool, error) { return false, errUnknownOutcome } })
		wantCode(t, outcomeOf(b.c.CommitOffsets(t.Context(), adminCommit("g", 0, 8))), api.CodeRequestTimedOut)
		_, err := b.c.FetchOffsets(t.Context(), &api.FetchOffsets{Group: "g"})
		wantCode(t, err, api.CodeCoordinatorLoading) // what was is over
		b.close()
	})
}

// A coordinator that finds itself deposed while it loads sends everybody on.
func TestLoadOfWhoDoesNotLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, l := loggedBed(t)
		b.log.set(func() { b.log.unread = api.Errorf(api.CodeNotLeader, "broker 8 leads") })
		b.c.Load(0, 2, b.log)
		synctest.Wait()
		for what, err := range b.everyRequest() {
			if what != "list" && api.CodeOf(err) != api.CodeNotCoordinator {
				t.Errorf("%s: %v", what, err)
			}
		}
		b.wantState(StateLoading)
		if n := l.with("level=ERROR"); n != 0 {
			t.Errorf("a change of leaders is no error:\n%s", l.b.String())
		}
		b.close()
	})
}

// A load that waits for its watermark is said to be slow, once.
func TestSlowLoadIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, l := loggedBed(t)
		hold := make(chan struct{})
		b.log.set(func() { b.log.hold = hold })
		b.c.Load(0, 2, b.log)
		for _, at := range []struct {
			wait time.Duration
			told int
		}{{slowLoad - time.Millisecond, 0}, {time.Millisecond, 1}, {time.Hour, 1}} {
			time.Sleep(at.wait)
			synctest.Wait()
			if n := l.with("level=WARN", "still being loaded"); n != at.told {
				t.Fatalf("told %d times after another %s, want %d", n, at.wait, at.told)
			}
			b.wantState(StateLoading)
			_, err := b.c.FetchOffsets(t.Context(), &api.FetchOffsets{Group: "g"})
			wantCode(t, err, api.CodeCoordinatorLoading)
		}
		close(hold)
		synctest.Wait()
		b.wantState(StateActive)
		b.close()
	})
}

// A log that refuses commits is told of once, and shows, and what was committed can be
// read on.
func TestLogThatRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, l := loggedBed(t)
		mustCommit(t, b.c, adminCommit("g", 0, 7))
		for round := 1; round <= 2; round++ {
			b.log.set(func() {
				b.log.outcome = func() (bool, error) { return false, api.Errorf(api.CodeDiskFull, "no room") }
			})
			for range 3 {
				wantCode(t, outcomeOf(b.c.CommitOffsets(t.Context(), adminCommit("g", 0, 8))), api.CodeCoordinatorNotAvailable)
			}
			b.wantState(StateRefusing)
			if got := fetchA(t, b.c, "g", 0); got != 7 {
				t.Errorf("offset %d", got)
			}
			if n := l.with("level=ERROR", "no room"); n != round {
				t.Errorf("told %d times in round %d:\n%s", n, round, l.b.String())
			}
			b.log.set(func() { b.log.outcome = nil })
			mustCommit(t, b.c, adminCommit("g", 0, 7))
			b.wantState(StateActive)
		}
		b.close()
	})
}

// A log that takes nothing about groups is told of once, not with each join.
func TestJoinsThatAreRefusedAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, l := loggedBed(t)
		refuse := func() (bool, error) { return false, api.Errorf(api.CodeNotEnoughReplicas, "one of two replicas") }
		b.log.set(func() { b.log.outcome = refuse })
		join := func() {
			m := b.member(api.JoinGroup{}).start()
			<-m.done
			wantCode(t, m.err, api.CodeCoordinatorNotAvailable)
			time.Sleep(time.Minute)
			b.wantState(StateRefusing)
		}
		join()
		join()
		if n := l.with("level=ERROR", "one of two replicas"); n != 1 {
			t.Errorf("told %d times:\n%s", n, l.b.String())
		}
		b.log.set(func() { b.log.outcome = nil })
		mustCommit(t, b.c, adminCommit("h", 0, 1))
		b.log.set(func() { b.log.outcome = refuse })
		join()
		if n := l.with("level=ERROR", "one of two replicas"); n != 2 {
			t.Errorf("after it was well, told %d times:\n%s", n, l.b.String())
		}
		b.close()
	})
}

// A commit that the log refused leaves nothing of the group that it would have made,
// and everything of one that was there.
func TestRefusedCommitLeavesNoGroup(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
	}{
		{"refused", api.Errorf(api.CodeDiskFull, "no room")},
		{"unknown", errUnknownOutcome},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t)
				b.topics.set("wide", 100)
				synctest.Wait()
				mustCommit(t, b.c, adminCommit("there", 0, 1))
				b.log.set(func() { b.log.outcome = func() (bool, error) { return false, tt.err } })
				for i, req := range []*api.CommitOffsets{adminCommit("new", 0, 1), hugeCommit(), adminCommit("there", 0, 2)} {
					results, err := b.c.CommitOffsets(t.Context(), req)
					if err != nil || results[0].Err == nil {
						t.Fatalf("commit %d: %v %v", i, results, err)
					}
					time.Sleep(time.Minute) // it may have loaded again
				}
				groups, err := b.c.ListGroups(t.Context())
				if got := fmt.Sprint(groups, err); err != nil || len(groups) != 1 || groups[0].Group != "there" {
					t.Errorf("groups %s", got)
				}
				if got := fetchA(t, b.c, "there", 0); got != record.Offset(1) {
					t.Errorf("offset %d", got)
				}
				b.close()
			})
		})
	}
}

// What a refused commit leaves behind is not taken for the group that somebody else made
// meanwhile.
func TestRefusedCommitOfADeletedGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		held, n := make(chan struct{}), 0
		b.log.set(func() {
			b.log.ends = []chan struct{}{held}
			b.log.outcome = func() (bool, error) {
				if n++; n == 1 {
					return false, api.Errorf(api.CodeDiskFull, "no room")
				}
				return true, nil
			}
		})
		var wg sync.WaitGroup
		commit := func(offset record.Offset, code api.Code) {
			wg.Go(func() {
				if got := api.CodeOf(outcomeOf(b.c.CommitOffsets(t.Context(), adminCommit("g", 0, offset)))); got != code {
					t.Errorf("commit of %d: %s, want %s", offset, got, code)
				}
			})
			synctest.Wait()
		}
		commit(1, api.CodeCoordinatorNotAvailable)
		wg.Go(func() {
			if err := b.c.DeleteGroup(t.Context(), "g"); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		commit(2, api.CodeNone)
		close(held)
		wg.Wait()
		if got := fetchA(t, b.c, "g", 0); got != 2 {
			t.Errorf("offset %d, want the 2 that was acknowledged", got)
		}
		b.close()
	})
}

// Groups that cannot be loaded do not hide the others, and are said to be missing.
func TestListWithoutWhatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := loggedBed(t)
		mustCommit(t, b.c, adminCommit("g", 0, 7))
		for failed, want := range []string{"", "partition 1 of", "partition 1 of __consumer_offsets cannot be loaded: bounds: storage failed: disk 1; nor those of 1 more"} {
			if failed > 0 {
				b.c.Load(int32(failed), 1, &fakeLog{unread: api.Errorf(api.CodeStorageFailed, "disk %d", failed)})
				synctest.Wait()
			}
			groups, err := b.c.ListGroups(t.Context())
			if len(groups) != 1 || groups[0].Group != "g" {
				t.Errorf("%d failed: groups %v", failed, groups)
			}
			if want == "" && err != nil || want != "" && (api.CodeOf(err) != api.CodeCoordinatorNotAvailable || !strings.Contains(fmt.Sprint(err), want)) {
				t.Errorf("%d failed: %v, want %q", failed, err, want)
			}
		}
		b.close()
	})
}
