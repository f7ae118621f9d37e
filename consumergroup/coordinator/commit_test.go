package coordinator

import (
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

// commit sends a commit of one partition of topic a on the member's session.
func (m *member) commit(id uint64, partition int32, offset record.Offset) {
	m.commitAt(m.epoch(), id, partition, offset)
}

func (m *member) commitAt(epoch int32, id uint64, partition int32, offset record.Offset) {
	m.send(api.SessionMessage{Commit: &api.SessionCommit{ID: id, MemberEpoch: epoch, Offsets: []api.OffsetCommit{
		{TopicPartition: api.TopicPartition{Topic: "a", Partition: partition}, Offset: offset, LeaderEpoch: record.UnknownEpoch},
	}}})
}

// answered lists the answers so far, as "id" or "id code".
func (m *member) answered() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	words := make([]string, len(m.answers))
	for i, a := range m.answers {
		words[i] = fmt.Sprint(a.ID)
		if a.Err != nil {
			words[i] += " " + a.Err.Code.String()
		}
		for _, f := range a.Failed {
			words[i] += " " + f.Err.Code.String()
		}
	}
	return strings.Join(words, ", ")
}

func (m *member) wantAnswers(t *testing.T, want string) {
	t.Helper()
	if got := m.answered(); got != want {
		t.Fatalf("answers %q, want %q", got, want)
	}
}

func TestSessionCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m := b.member(api.JoinGroup{}).start()
		synctest.Wait()
		hold := make(chan struct{})
		b.log.set(func() { b.log.hold = hold })
		m.commit(1, 0, 10)
		m.commit(2, 0, 20)
		m.commit(3, 9, 1)       // no such partition
		m.commitAt(99, 4, 0, 1) // an epoch that was not given
		m.commit(5, 1, -2)      // not an offset
		m.commitAt(0, 6, 0, 1)  // of before the partition was given
		m.commit(7, 0, 30)
		synctest.Wait()
		m.wantAnswers(t, "")
		if got := fetchPending(b); got != record.UnknownOffset {
			t.Fatalf("offset %d is seen before it is committed", got)
		}
		close(hold)
		synctest.Wait()
		m.wantAnswers(t, "1, 2, 3 unknown partition, 4 fenced member epoch, 5 invalid commit offset, 6 stale member epoch, 7")
		if got := fetchA(t, b.c, "g", 0); got != 30 {
			t.Fatalf("offset %d", got)
		}
		m.cut()
		b.close()
	})
}

// fetchPending reads an offset without waiting for what is on its way.
func fetchPending(b *bed) record.Offset {
	s, _ := b.c.shardOf("g")
	at := make(chan record.Offset, 1)
	s.requests <- request{run: func() { at <- s.fetch("g", []api.TopicPartition{{Topic: "a"}})[0].Offset }}
	return <-at
}

// What a member commits before it leaves is answered.
func TestCommitBeforeLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m := b.member(api.JoinGroup{}).start()
		synctest.Wait()
		m.commit(1, 2, 5)
		m.send(api.SessionMessage{Leave: true})
		<-m.done
		m.wantAnswers(t, "1")
		if m.err != nil || fetchA(t, b.c, "g", 2) != 5 {
			t.Fatal(m.err)
		}
		b.close()
	})
}

// What the stream of before still holds does not come in after what the new one
// brought.
func TestOldStreamDoesNotCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m := b.member(api.JoinGroup{}).start()
		synctest.Wait()
		hold := make(chan struct{})
		b.log.set(func() { b.log.hold = hold })
		other := b.member(api.JoinGroup{Group: "other"}).start() // its record is under way
		synctest.Wait()
		again := m.resume(b.c)
		synctest.Wait()
		// The end of the old stream waits for the record.
		m.commit(1, 0, 10)
		again.commit(1, 0, 20)
		m.commit(2, 0, 11)
		synctest.Wait()
		close(hold)
		synctest.Wait()
		again.wantAnswers(t, "1")
		if got := fetchA(t, b.c, "g", 0); got != 20 {
			t.Fatalf("offset %d, want the new stream's 20", got)
		}
		<-m.done
		again.cut()
		other.cut()
		b.close()
	})
}

// Appends of offsets follow each other without waiting: one follows a small one at
// once, and more come when they are worth it.
func TestAppendsArePipelined(t *testing.T) {
	for _, c := range []struct {
		name    string
		bytes   int // of metadata
		commits int
		under   int
	}{{"small", 0, 10, 2}, {"middling", 500, 4, 1}, {"large", 4096, 10, maxAppends}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t)
				synctest.Wait()
				hold := make(chan struct{})
				b.log.set(func() { b.log.hold = hold })
				var wg sync.WaitGroup
				commit := func(i int) {
					req := adminCommit(fmt.Sprintf("g%d", i), 0, record.Offset(i))
					req.Offsets[0].Metadata = strings.Repeat("x", c.bytes)
					req.Offsets = append(req.Offsets, req.Offsets[0], req.Offsets[0])
					req.Offsets[1].Partition, req.Offsets[2].Partition = 1, 2
					wg.Go(func() { mustCommit(t, b.c, req) })
					synctest.Wait()
				}
				for i := range c.commits {
					commit(i)
				}
				if b.log.appends != c.under {
					t.Fatalf("%d appends are under way, want %d", b.log.appends, c.under)
				}
				close(hold)
				wg.Wait()
				if b.log.appends != c.under+1 {
					t.Fatalf("%d appends, want the rest in one", b.log.appends)
				}
				b.close()
			})
		})
	}
}

// The end of an append that is told late holds back what was appended after it.
func TestAnswersKeepTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m := b.member(api.JoinGroup{}).start()
		synctest.Wait()
		first, second := make(chan struct{}), make(chan struct{})
		b.log.set(func() { b.log.ends = []chan struct{}{nil, first, second} })
		m.commit(1, 0, 10)
		synctest.Wait()
		m.commit(2, 0, 20)
		synctest.Wait()
		close(second)
		synctest.Wait()
		m.wantAnswers(t, "")
		close(first)
		synctest.Wait()
		m.wantAnswers(t, "1, 2")
		if got := fetchA(t, b.c, "g", 0); got != 20 {
			t.Fatalf("offset %d", got)
		}
		m.cut()
		b.close()
	})
}

// A log must not hold what rests on a record about a group without that record.
func TestGroupRecordsAreAloneUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		var wg sync.WaitGroup
		commit := func(group string) {
			wg.Go(func() { mustCommit(t, b.c, adminCommit(group, 0, 1)) })
			synctest.Wait()
		}
		hold := make(chan struct{})
		b.log.set(func() { b.log.hold = hold })
		commit("one")
		m := b.member(api.JoinGroup{}).start()
		synctest.Wait()
		commit("two")
		if b.log.appends != 1 {
			t.Fatalf("%d appends: records about a group went before the offsets had arrived", b.log.appends)
		}
		again := make(chan struct{})
		b.log.set(func() { b.log.hold = again })
		close(hold)
		synctest.Wait()
		commit("three")
		if b.log.appends != 2 {
			t.Fatalf("%d appends: offsets went before the records about the group had arrived", b.log.appends)
		}
		close(again)
		wg.Wait()
		synctest.Wait()
		if len(m.last().Assignment) != 4 {
			t.Fatalf("%v", m.last())
		}
		m.cut()
		b.close()
	})
}

// hugeCommit takes more than one batch.
func hugeCommit() *api.CommitOffsets {
	req := &api.CommitOffsets{Group: "g"}
	for i := range 100 {
		req.Offsets = append(req.Offsets, api.OffsetCommit{
			TopicPartition: api.TopicPartition{Topic: "wide", Partition: int32(i)}, Offset: 7, Metadata: strings.Repeat("x", 4096),
		})
	}
	return req
}

// Of a commit that takes several batches, each offset is told how it went.
func TestCommitOfSeveralBatches(t *testing.T) {
	for failing := range 3 {
		t.Run(fmt.Sprint("append ", failing), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t)
				b.topics.set("wide", 100)
				synctest.Wait()
				n := 0
				b.log.set(func() {
					b.log.outcome = func() (bool, error) {
						n++
						if n == failing+1 {
							return false, api.Errorf(api.CodeDiskFull, "no room")
						}
						return true, nil
					}
				})
				results, err := b.c.CommitOffsets(t.Context(), hugeCommit())
				if err != nil {
					t.Fatal(err)
				}
				told, refused := map[api.TopicPartition]record.Offset{}, 0
				for _, r := range results {
					told[r.TopicPartition] = record.UnknownOffset
					if r.Err == nil {
						told[r.TopicPartition] = r.Offset
					} else {
						wantCode(t, r.Err, api.CodeCoordinatorNotAvailable)
						refused++
					}
				}
				if failing < 2 && (refused == 0 || refused == len(results)) || failing == 2 && refused > 0 {
					t.Fatalf("%d of %d refused", refused, len(results))
				}
				for range 2 { // as this coordinator has it, and as the log does
					for tp, want := range told {
						got, err := b.c.FetchOffsets(t.Context(), &api.FetchOffsets{Group: "g", Partitions: []api.TopicPartition{tp}})
						if err != nil || got[0].Offset != want {
							t.Fatalf("%v: %v %v, want offset %d", tp, got, err, want)
						}
					}
					b.close()
					b.c = b.start()
					synctest.Wait()
				}
				b.close()
			})
		})
	}
}

func TestSeveralAppendsFail(t *testing.T) {
	full := api.Errorf(api.CodeDiskFull, "no room")
	for _, c := range []struct {
		name    string
		first   error
		second  error
		answers string
		offset  record.Offset // afterwards
		loads   bool
	}{
		{"the first for sure", full, nil, "1 coordinator not available, 2", 2, false},
		{"the second for sure", nil, full, "1, 2 coordinator not available", 1, false},
		{"both for sure", full, full, "1 coordinator not available, 2 coordinator not available", record.UnknownOffset, false},
		{"the first maybe", errUnknownOutcome, nil, "", 2, true},
		{"the second maybe", nil, errUnknownOutcome, "1", 2, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t)
				synctest.Wait()
				m := b.member(api.JoinGroup{}).start()
				synctest.Wait()
				hold, n := make(chan struct{}), 0
				b.log.set(func() {
					b.log.hold = hold
					b.log.outcome = func() (bool, error) {
						n++
						err := []error{c.first, c.second}[n-1]
						return err == nil || errors.Is(err, errUnknownOutcome), err
					}
				})
				m.commit(1, 0, 1)
				synctest.Wait()
				m.commit(2, 0, 2)
				synctest.Wait()
				if b.log.appends != 3 {
					t.Fatalf("%d appends with the join's, want 3", b.log.appends)
				}
				b.log.set(func() { b.log.outcome = nil })
				close(hold)
				synctest.Wait()
				if c.loads {
					<-m.done
					wantCode(t, m.err, api.CodeCoordinatorLoading)
				}
				// What may have failed is answered so, or not at all when the session ends first.
				told := m.answered()
				for _, maybe := range []string{"1 request timed out", "2 request timed out"} {
					told = strings.Trim(strings.ReplaceAll(told, maybe, ""), ", ")
				}
				if told != c.answers {
					t.Fatalf("answers %q, want %q", told, c.answers)
				}
				time.Sleep(time.Second)
				if got := fetchA(t, b.c, "g", 0); got != c.offset {
					t.Fatalf("offset %d, want %d", got, c.offset)
				}
				if s, _ := b.c.shardOf("g"); s.room.taken.Load() != 0 {
					t.Fatalf("%d bytes are still taken", s.room.taken.Load())
				}
				if !c.loads {
					m.cut()
				}
				b.close()
			})
		})
	}
}

// Commits that wait take a bounded part of the memory; those beyond are refused.
func TestCommitsWaitInBoundedRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		b.c.room.limit = 20_000
		synctest.Wait()
		hold := make(chan struct{})
		b.log.set(func() { b.log.hold = hold })
		var wg sync.WaitGroup
		var mu sync.Mutex
		stored, refused := 0, 0
		for i := range 100 {
			wg.Go(func() {
				_, err := b.c.CommitOffsets(t.Context(), adminCommit(fmt.Sprintf("g%d", i), 0, 1))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					stored++
					return
				}
				wantCode(t, err, api.CodeOverloaded)
				refused++
			})
		}
		synctest.Wait()
		if refused < 50 || refused > 95 {
			t.Fatalf("%d of 100 refused", refused)
		}
		close(hold)
		wg.Wait()
		if stored+refused != 100 || b.c.room.taken.Load() != 0 {
			t.Fatalf("%d stored, %d refused, %d bytes still taken", stored, refused, b.c.room.taken.Load())
		}
		if d, err := b.c.ListGroups(t.Context()); err != nil || len(d) != stored {
			t.Fatalf("%d groups, %d stored, %v", len(d), stored, err)
		}
		b.close()
	})
}

func TestCommitsOfOneSessionAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m := b.member(api.JoinGroup{}).start()
		synctest.Wait()
		hold := make(chan struct{})
		b.log.set(func() { b.log.hold = hold })
		for i := range maxSessionCommits + 2 {
			m.commit(uint64(i+1), 0, record.Offset(i))
		}
		synctest.Wait()
		m.wantAnswers(t, fmt.Sprintf("%d overloaded, %d overloaded", maxSessionCommits+1, maxSessionCommits+2))
		close(hold)
		synctest.Wait()
		if len(m.answers) != maxSessionCommits+2 {
			t.Fatalf("%d answers", len(m.answers))
		}
		m.commit(9999, 0, 5)
		synctest.Wait()
		if got := fetchA(t, b.c, "g", 0); got != 5 {
			t.Fatalf("offset %d", got)
		}
		m.cut()
		b.close()
	})
}

// BenchmarkSessionCommit is one offset a commit, 64 under way on each of 100
// sessions, over a log that costs nothing.
func BenchmarkSessionCommit(b *testing.B) {
	c, err := New(Config{Topics: &fakeTopics{topics: map[string]int32{"a": 4}}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	c.SetPartitions(1)
	log := &fakeLog{outcome: func() (bool, error) { return false, nil }}
	c.Load(0, 1, log)
	for api.CodeOf(c.DeleteGroup(b.Context(), "g")) == api.CodeCoordinatorLoading {
		time.Sleep(time.Millisecond)
	}
	const members, window = 100, 64
	var ready, answered, ended sync.WaitGroup
	ins := make([]chan api.SessionMessage, members)
	slots := make([]chan struct{}, members)
	epochs := make([]int32, members)
	for i := range members {
		ins[i], slots[i] = make(chan api.SessionMessage, 16), make(chan struct{}, window)
		ready.Add(1)
		ended.Go(func() {
			join := api.JoinGroup{Group: fmt.Sprint("g", i), Topics: []string{"a"}, SessionTimeout: 1_000_000}
			err := c.Session(b.Context(), join, ins[i], func(u api.SessionUpdate) error {
				if len(u.Assignment) > 0 {
					epochs[i] = u.MemberEpoch
					ready.Done()
				}
				for _, a := range u.Commits {
					if a.Err != nil || len(a.Failed) > 0 {
						b.Error(a.Err, a.Failed)
					}
					<-slots[i]
					answered.Done()
				}
				return nil
			})
			if err != nil {
				b.Error(err)
			}
		})
	}
	ready.Wait()
	answered.Add(b.N)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		m := i % members
		slots[m] <- struct{}{}
		ins[m] <- api.SessionMessage{Commit: &api.SessionCommit{ID: uint64(i), MemberEpoch: epochs[m], Offsets: []api.OffsetCommit{
			{TopicPartition: api.TopicPartition{Topic: "a", Partition: 1}, Offset: record.Offset(i)},
		}}}
	}
	answered.Wait()
	b.StopTimer()
	for _, in := range ins {
		close(in)
	}
	ended.Wait()
	if err := c.Close(); err != nil {
		b.Fatal(err)
	}
}
