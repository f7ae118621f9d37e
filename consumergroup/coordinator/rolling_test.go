package coordinator

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup"
	"github.com/penstock/penstock/log/record"
)

// roller is a consumer of the classic protocol that lives by itself: it beats
// every second, joins when it is told to, and assigns when it leads.
type roller struct {
	t           *testing.T
	c           atomic.Pointer[Coordinator]
	cooperative bool
	stop, done  chan struct{}
	mu          sync.Mutex // guards the rest, which only its own goroutine writes
	id          string
	generation  int32
	owned       []api.TopicPartition
	err         error // what its last request met
}

// now is where it stands.
func (r *roller) now() (id string, generation int32, owned []api.TopicPartition) {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.id, r.generation, r.owned
}

func (r *roller) number() int32 {
	_, generation, _ := r.now()
	return generation
}

func (r *roller) has() []api.TopicPartition {
	_, _, owned := r.now()
	return owned
}

func (r *roller) set(id string, generation int32, owned []api.TopicPartition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.id, r.generation, r.owned = id, generation, owned
}

func (b *bed) roller(cooperative bool) *roller {
	r := &roller{t: b.t, cooperative: cooperative, generation: -1, stop: make(chan struct{}), done: make(chan struct{})}
	r.c.Store(b.c)
	go func() {
		defer close(r.done)
		for {
			if err := r.turn(); err != nil {
				r.err = err
				return
			}
			select {
			case <-time.After(time.Second):
			case <-r.stop:
				return
			}
		}
	}()
	return r
}

// halt ends the program without a farewell.
func (r *roller) halt() {
	close(r.stop)
	<-r.done
}

func (r *roller) turn() error {
	if r.generation > 0 {
		err := r.c.Load().HeartbeatClassic(r.t.Context(), &api.ClassicHeartbeat{Group: "g", MemberID: r.id, Generation: r.generation})
		if code := api.CodeOf(err); code != api.CodeRebalanceInProgress {
			return err
		}
	}
	for {
		again, err := r.rejoin()
		if err != nil && api.CodeOf(err) != api.CodeRebalanceInProgress {
			return err
		}
		if err == nil && !again {
			return nil
		}
	}
}

func (r *roller) metadata() []byte {
	sub := kmsg.ConsumerMemberMetadata{Version: 3, Topics: []string{"a"}, Generation: r.generation}
	for _, tp := range r.owned {
		sub.OwnedPartitions = append(sub.OwnedPartitions, kmsg.ConsumerMemberMetadataOwnedPartition{Topic: tp.Topic, Partitions: []int32{tp.Partition}})
	}
	return sub.AppendTo(nil)
}

// rejoin joins and syncs; again: it gave something up, so that it must join again.
func (r *roller) rejoin() (again bool, err error) {
	if !r.cooperative {
		r.set(r.id, r.generation, nil)
	}
	req := &api.ClassicJoin{
		Group: "g", MemberID: r.id, ClientID: "c", ProtocolType: "consumer", SessionTimeout: 10_000, RebalanceTimeout: 60_000,
		RequireKnownID: true, Protocols: []api.ClassicProtocol{{Name: "p", Metadata: r.metadata()}},
	}
	joined, err := r.c.Load().JoinClassic(r.t.Context(), req)
	if api.CodeOf(err) == api.CodeMemberIDRequired {
		req.MemberID = joined.MemberID
		joined, err = r.c.Load().JoinClassic(r.t.Context(), req)
	}
	if err != nil {
		return false, err
	}
	r.set(joined.MemberID, joined.Generation, r.owned)
	sync := &api.ClassicSync{Group: "g", MemberID: r.id, Generation: r.generation, ProtocolType: "consumer", Protocol: "p"}
	if len(joined.Members) > 0 {
		sync.Assignments = assignInTurn(r.t, joined.Members, r.cooperative)
	}
	synced, err := r.c.Load().SyncClassic(r.t.Context(), sync)
	if err != nil {
		return false, err
	}
	claims, ok := readClaims(&consumergroup.ClassicMember{Protocols: []consumergroup.ClassicProtocol{{Metadata: r.metadata()}}, Assignment: synced.Assignment})
	if !ok {
		return false, fmt.Errorf("assignment %x", synced.Assignment)
	}
	before := r.owned
	r.set(r.id, r.generation, fromMachine(claims.Assigned))
	again = slices.ContainsFunc(before, func(tp api.TopicPartition) bool { return !slices.Contains(r.owned, tp) })
	return again, nil
}

// assignInTurn is what a leader does: topic a's four partitions in turn, but not
// what another cooperative member has.
func assignInTurn(t *testing.T, members []api.ClassicListed, cooperative bool) map[string][]byte {
	t.Helper()
	owner := map[consumergroup.TopicPartition]string{}
	for _, m := range members {
		sub, _ := readSubscription(m.Metadata)
		for _, tp := range sub.Owned {
			owner[tp] = m.MemberID
		}
	}
	given := map[string][]consumergroup.TopicPartition{}
	for i := range int32(4) {
		tp := consumergroup.TopicPartition{Topic: "a", Partition: i}
		id := members[int(i)%len(members)].MemberID
		if had := owner[tp]; !cooperative || had == "" || had == id {
			given[id] = append(given[id], tp)
		}
	}
	out := map[string][]byte{}
	for _, m := range members {
		out[m.MemberID] = appendAssignment(1, given[m.MemberID])
	}
	return out
}

// A classic group of two, of whom one is replaced by a member of the new protocol
// and then the other way round. At every step each partition is owned once at the
// most, and soon exactly once; committed offsets stay; the coordinator moves in
// between, and nobody notices.
func TestGroupRollsToTheNewProtocolAndBack(t *testing.T) {
	for _, cooperative := range []bool{false, true} {
		t.Run(fmt.Sprintf("cooperative %v", cooperative), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { rollBothWays(t, cooperative) })
		})
	}
}

func rollBothWays(t *testing.T, cooperative bool) {
	t.Helper()
	b := newBed(t)
	synctest.Wait()
	r1, r2 := b.roller(cooperative), b.roller(cooperative)
	time.Sleep(20 * time.Second)
	all := func(lists ...[]api.TopicPartition) {
		t.Helper()
		synctest.Wait()
		seen := map[api.TopicPartition]bool{}
		n := 0
		for _, list := range lists {
			for _, tp := range list {
				seen[tp] = true
				n++
			}
		}
		if n != 4 || len(seen) != 4 {
			t.Fatalf("of 4 partitions %d are owned, %d times: %v", len(seen), n, lists)
		}
	}
	all(r1.has(), r2.has())
	generation := r1.number()
	commit := func(r *roller, offset record.Offset) error {
		id, generation, owned := r.now()
		req := adminCommit("g", owned[0].Partition, offset)
		req.MemberID, req.MemberEpoch = id, generation
		results, err := b.c.CommitOffsets(t.Context(), req)
		if err == nil && results[0].Err != nil {
			err = results[0].Err
		}
		return err
	}
	if err := commit(r1, 1); err != nil {
		t.Fatal(err)
	}

	// A member of the new protocol joins.
	m := b.member(api.JoinGroup{}).start()
	time.Sleep(5 * time.Second)
	all(r1.has(), r2.has(), m.last().Assignment)
	if len(m.last().Assignment) != 1 || m.epoch() <= generation {
		t.Fatalf("%+v after generation %d", m.last(), generation)
	}
	d, err := b.c.DescribeGroup(t.Context(), "g")
	if err != nil || d.Type != api.GroupTypeConsumer || d.State != "stable" || len(d.Members) != 3 {
		t.Fatalf("%+v %v", d, err)
	}
	if classic := slices.DeleteFunc(d.Members, func(m api.GroupMember) bool { return !m.Classic }); len(classic) != 2 {
		t.Fatalf("%+v", classic)
	}
	if err := commit(r1, 2); err != nil {
		t.Fatal(err)
	}

	// The coordinator moves: the classic members go on as they were.
	before := [2]int32{r1.number(), r2.number()}
	m.cut()
	b.close()
	b.c = b.start()
	r1.c.Store(b.c)
	r2.c.Store(b.c)
	synctest.Wait()
	m = m.resume(b.c)
	if err := commit(r1, 3); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second)
	all(r1.has(), r2.has(), m.last().Assignment)
	if after := [2]int32{r1.number(), r2.number()}; before != after {
		t.Fatalf("generations %v became %v", before, after)
	}

	// A second one joins and a classic one goes.
	r1.halt()
	if errs, err := b.c.LeaveClassic(t.Context(), "g", []api.ClassicLeave{{MemberID: r1.id}}); err != nil || errs[0] != nil {
		t.Fatal(errs, err)
	}
	wantCode(t, commit(r1, 4), api.CodeUnknownMember)
	time.Sleep(5 * time.Second)
	all(r2.has(), m.last().Assignment)

	// A new classic member comes, the only one of the new protocol goes: back again.
	r3 := b.roller(cooperative)
	time.Sleep(5 * time.Second)
	all(r2.has(), r3.has(), m.last().Assignment)
	epoch := m.epoch()
	m.send(api.SessionMessage{Leave: true})
	<-m.done
	time.Sleep(5 * time.Second)
	all(r2.has(), r3.has())
	if r2.number() <= epoch || r2.number() != r3.number() {
		t.Fatalf("generations %d and %d after epoch %d", r2.number(), r3.number(), epoch)
	}
	d, err = b.c.DescribeGroup(t.Context(), "g")
	if err != nil || d.Type != api.GroupTypeClassic || d.State != "Stable" || len(d.Members) != 2 {
		t.Fatalf("%+v %v", d, err)
	}
	r2.halt()
	r3.halt()
	if r2.err != nil || r3.err != nil {
		t.Fatal(r2.err, r3.err)
	}
	b.close()

	// Nothing of the other protocol is left in the log.
	l, err := load(t.Context(), b.log)
	if err != nil {
		t.Fatal(err)
	}
	lg := l.groups["g"]
	if lg == nil || lg.classic == nil || lg.epoch != 0 || lg.target != 0 || len(lg.members)+len(lg.targets)+len(lg.currents) > 0 {
		t.Fatalf("%+v", lg)
	}
}

// What the policy forbids, and who cannot be hosted.
func TestMigrationIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		r := b.roller(true)
		time.Sleep(5 * time.Second)
		p := &poller{b: b, id: "p"}
		b.c.cfg.Migration = MigrateDown
		wantCode(t, p.beat(t, true), api.CodeInconsistentProtocol)
		b.c.cfg.Migration = MigrateNot
		wantCode(t, p.beat(t, true), api.CodeInconsistentProtocol)
		b.c.cfg.Migration = MigrateUp
		_, err := b.c.ConsumerHeartbeat(t.Context(), &api.ConsumerHeartbeat{Group: "g", MemberID: "p", MemberEpoch: 3, HasTopics: true, Topics: []string{"a"}, HasOwned: true})
		wantCode(t, err, api.CodeUnknownMember)
		if d, err := b.c.DescribeGroup(t.Context(), "g"); err != nil || d.Type != api.GroupTypeClassic || d.State != "Stable" {
			t.Fatalf("a refused join changed the group: %+v %v", d, err)
		}
		if err := p.beat(t, true); err != nil {
			t.Fatal(err)
		}
		// There is no way back with this policy.
		p.epoch = api.EpochLeave
		if err := p.beat(t, false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if d, err := b.c.DescribeGroup(t.Context(), "g"); err != nil || d.Type != api.GroupTypeConsumer || len(d.Members) != 1 || len(r.has()) != 4 {
			t.Fatalf("%+v %v, %v", d, err, r.has())
		}
		// Who does not speak as consumers do has no place beside them.
		join := &api.ClassicJoin{
			Group: "g", ClientID: "c", ProtocolType: "connect", SessionTimeout: 10_000,
			Protocols: []api.ClassicProtocol{{Name: "p", Metadata: []byte{1}}},
		}
		_, err = b.c.JoinClassic(t.Context(), join)
		wantCode(t, err, api.CodeInconsistentProtocol)
		join.ProtocolType = "consumer"
		_, err = b.c.JoinClassic(t.Context(), join)
		wantCode(t, err, api.CodeInconsistentProtocol)
		r.halt()
		b.close()
	})
}

// A commit keeps a classic member's session, as in Kafka.
func TestClassicCommitRenewsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m := &classicMember{b: b}
		together(t, m.join)
		together(t, m.sync)
		for range 5 {
			time.Sleep(8 * time.Second)
			mustCommit(t, b.c, &api.CommitOffsets{Group: "g", MemberID: m.id, MemberEpoch: 1, Offsets: adminCommit("g", 0, 5).Offsets})
		}
		time.Sleep(11 * time.Second)
		wantCode(t, m.beat(t.Context()), api.CodeUnknownMember)
		b.close()
	})
}

// A join that waited longer than its stream lived is not heard.
func TestJoinOfADeadStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		hold := make(chan struct{})
		s := b.c.shards[0]
		if err := s.enqueue(t.Context(), request{run: func() { <-hold }, fail: func(*api.Error) {}}); err != nil {
			t.Fatal(err)
		}
		m := b.member(api.JoinGroup{MemberID: "m"}).start()
		synctest.Wait()
		m.cut()
		close(hold)
		synctest.Wait()
		if list, err := b.c.ListGroups(t.Context()); err != nil || len(list) != 0 {
			t.Fatalf("%+v %v", list, err)
		}
		b.close()
	})
}

// A coordinator that died on the way from one protocol to the other: the classic
// group counts while its record is there, and what is left of the other goes.
func TestConversionThatWasCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		r := b.roller(true)
		time.Sleep(5 * time.Second)
		r.halt()
		b.close()
		half := (&batches{}).fresh()
		hosted := consumergroup.Member{ID: r.id, Topics: []string{"a"}, SessionTimeout: 10 * time.Second, Classic: []consumergroup.ClassicProtocol{{Name: "p"}}}
		half.add(time.Now(), memberKey("g", r.id), memberValue(&hosted))
		half.add(time.Now(), currentKey("g", r.id), currentValue(&consumergroup.Current{Epoch: 1}, nil))
		half.add(time.Now(), groupKey("g"), groupValue(1, 1))
		bytes, err := half.build()
		if err != nil {
			t.Fatal(err)
		}
		b.log.Append(record.NewBuf(bytes))
		b.c = b.start()
		synctest.Wait()
		if err := b.c.HeartbeatClassic(t.Context(), &api.ClassicHeartbeat{Group: "g", MemberID: r.id, Generation: r.generation}); err != nil {
			t.Fatal(err)
		}
		if d, err := b.c.DescribeGroup(t.Context(), "g"); err != nil || d.Type != api.GroupTypeClassic || len(d.Members) != 1 || len(d.Members[0].Assigned) != 4 {
			t.Fatalf("%+v %v", d, err)
		}
		b.close()
		if l, err := load(t.Context(), b.log); err != nil || l.groups["g"].epoch != 0 || len(l.groups["g"].members)+len(l.groups["g"].currents) > 0 {
			t.Fatalf("%+v %v", l.groups["g"], err)
		}
	})
}

// What a pattern matches is looked at once a change of topics, is in the log, and
// goes with the pattern.
func TestPatternsAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		stored := func() map[string][]string {
			t.Helper()
			synctest.Wait()
			l, err := load(t.Context(), b.log)
			if err != nil {
				t.Fatal(err)
			}
			if l.groups["g"] == nil {
				return nil
			}
			return l.groups["g"].patterns
		}
		m1 := b.member(api.JoinGroup{TopicPattern: "[ab]"}).start()
		m2 := b.member(api.JoinGroup{TopicPattern: "a.*"}).start()
		if got := stored(); !slices.Equal(got["[ab]"], []string{"a", "b"}) || !slices.Equal(got["a.*"], []string{"a"}) {
			t.Fatal(got)
		}
		looked := b.topics.listed.Load()
		m3 := b.member(api.JoinGroup{TopicPattern: "a.*"}).start()
		synctest.Wait()
		if n := b.topics.listed.Load(); n != looked {
			t.Fatalf("all topics were looked at %d times more", n-looked)
		}
		b.topics.set("az", 1)
		b.c.TopicsChanged()
		if got := stored(); !slices.Equal(got["a.*"], []string{"a", "az"}) {
			t.Fatal(got)
		}
		for _, m := range []*member{m1, m2, m3} {
			m.send(api.SessionMessage{Leave: true})
			<-m.done
			if m == m1 && len(stored()) != 1 {
				t.Fatal(stored())
			}
		}
		if got := stored(); len(got) > 0 {
			t.Fatal(got)
		}
		if err := b.c.DeleteGroup(t.Context(), "g"); err != nil {
			t.Fatal(err)
		}
		b.close()
	})
}
