package coordinator

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// classicMember is a program of the classic protocol; its leader gives topic a's
// partitions to the members in turn.
type classicMember struct {
	b        *bed
	id       string
	instance string
	joined   *api.ClassicJoined
	synced   *api.ClassicSynced
}

func (m *classicMember) join(ctx context.Context) error {
	req := &api.ClassicJoin{
		Group: "g", MemberID: m.id, InstanceID: m.instance, ClientID: "c", ProtocolType: "consumer", SessionTimeout: 10_000, RebalanceTimeout: 60_000,
		RequireKnownID: true, Protocols: []api.ClassicProtocol{{Name: "range", Metadata: subscriptionOf(nil, "a")}},
	}
	joined, err := m.b.c.JoinClassic(ctx, req)
	if api.CodeOf(err) == api.CodeMemberIDRequired {
		req.MemberID = joined.MemberID
		joined, err = m.b.c.JoinClassic(ctx, req)
	}
	if err == nil {
		m.id, m.joined = joined.MemberID, joined
	}
	return err
}

func (m *classicMember) sync(ctx context.Context) error {
	req := &api.ClassicSync{Group: "g", MemberID: m.id, InstanceID: m.instance, Generation: m.joined.Generation, ProtocolType: "consumer", Protocol: "range"}
	if len(m.joined.Members) > 0 {
		req.Assignments = map[string][]byte{}
		for i, listed := range m.joined.Members {
			var a kmsg.ConsumerMemberAssignment
			topic := kmsg.ConsumerMemberAssignmentTopic{Topic: "a"}
			for p := i; p < 4; p += len(m.joined.Members) {
				topic.Partitions = append(topic.Partitions, int32(p))
			}
			a.Topics = append(a.Topics, topic)
			req.Assignments[listed.MemberID] = a.AppendTo(nil)
		}
	}
	var err error
	m.synced, err = m.b.c.SyncClassic(ctx, req)
	return err
}

func (m *classicMember) beat(ctx context.Context) error {
	return m.b.c.HeartbeatClassic(ctx, &api.ClassicHeartbeat{Group: "g", MemberID: m.id, InstanceID: m.instance, Generation: m.joined.Generation})
}

// subscriptionOf is what a consumer tells its leader.
func subscriptionOf(owned []api.TopicPartition, topics ...string) []byte {
	sub := kmsg.ConsumerMemberMetadata{Version: 1, Topics: topics}
	for _, tp := range owned {
		sub.OwnedPartitions = append(sub.OwnedPartitions, kmsg.ConsumerMemberMetadataOwnedPartition{Topic: tp.Topic, Partitions: []int32{tp.Partition}})
	}
	return sub.AppendTo(nil)
}

// together runs what waits for others at the same time.
func together(t *testing.T, calls ...func(context.Context) error) {
	t.Helper()
	errs := make(chan error, len(calls))
	for _, call := range calls {
		go func() { errs <- call(t.Context()) }()
	}
	for range calls {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
}

func TestClassicGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m1, m2 := &classicMember{b: b}, &classicMember{b: b, instance: "i"}
		began := time.Now()
		together(t, m1.join, m2.join)
		if waited := time.Since(began); waited != 500*time.Millisecond {
			t.Fatalf("the first rebalance took %s", waited)
		}
		together(t, m1.sync, m2.sync)
		commit := &api.CommitOffsets{Group: "g", MemberID: m1.id, MemberEpoch: 1, Offsets: adminCommit("g", 0, 5).Offsets}
		mustCommit(t, b.c, commit)
		commit.MemberEpoch = 0
		_, err := b.c.CommitOffsets(t.Context(), commit)
		wantCode(t, err, api.CodeIllegalGeneration)
		_, err = b.c.CommitOffsets(t.Context(), adminCommit("g", 0, 1))
		wantCode(t, err, api.CodeGroupNotEmpty)
		wantCode(t, b.c.DeleteGroup(t.Context(), "g"), api.CodeGroupNotEmpty)
		d, err := b.c.DescribeGroup(t.Context(), "g")
		if err != nil || d.Type != api.GroupTypeClassic || d.State != "Stable" || len(d.Members) != 2 || len(d.Members[0].Assigned) != 2 || d.Members[0].Topics[0] != "a" {
			t.Fatalf("%+v %v", d, err)
		}

		// A new coordinator knows the members and what they were given.
		b.close()
		b.c = b.start()
		synctest.Wait()
		together(t, m1.beat, m2.beat, m1.sync)
		if len(m1.synced.Assignment) == 0 {
			t.Fatal("the assignment was lost")
		}
		errs, err := b.c.LeaveClassic(t.Context(), "g", []api.ClassicLeave{{MemberID: "nobody"}, {MemberID: m1.id}, {InstanceID: "i"}})
		if err != nil || errs[0] == nil || errs[0].Code != api.CodeUnknownMember || errs[1] != nil || errs[2] != nil {
			t.Fatalf("%v %v", errs, err)
		}
		wantCode(t, m1.beat(t.Context()), api.CodeUnknownMember)
		list, err := b.c.ListGroups(t.Context())
		if err != nil || len(list) != 1 || list[0].State != "Empty" || list[0].Type != api.GroupTypeClassic || list[0].ProtocolType != "consumer" {
			t.Fatalf("%+v %v", list, err)
		}
		if err := b.c.DeleteGroup(t.Context(), "g"); err != nil {
			t.Fatal(err)
		}
		b.close()
		b.c = b.start()
		synctest.Wait()
		if list, err := b.c.ListGroups(t.Context()); err != nil || len(list) != 0 {
			t.Fatalf("%+v %v", list, err)
		}
		b.close()
	})
}

// What a leader assigned is heard by nobody before it is committed, and not at
// all when the append failed.
func TestClassicSyncWaitsForItsRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m1, m2 := &classicMember{b: b}, &classicMember{b: b}
		together(t, m1.join, m2.join)
		b.log.set(func() { b.log.outcome = func() (bool, error) { return false, errUnknownOutcome } })
		errs := make(chan error, 2)
		for _, m := range []*classicMember{m1, m2} {
			go func() { errs <- m.sync(t.Context()) }()
		}
		for range 2 {
			wantCode(t, <-errs, api.CodeCoordinatorLoading)
		}
		b.log.set(func() { b.log.outcome = nil })
		time.Sleep(time.Second)
		wantCode(t, m1.beat(t.Context()), api.CodeUnknownMember)
		b.close()
	})
}

// A request that waits when the coordinator goes is answered.
func TestClassicJoinEndsWithTheCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		errs := make(chan error, 1)
		go func() { errs <- (&classicMember{b: b}).join(t.Context()) }()
		synctest.Wait()
		b.c.Unload(0)
		wantCode(t, <-errs, api.CodeNotCoordinator)
		b.close()
	})
}

// A group without members changes its protocol with who comes next, and its
// epoch goes on.
func TestEmptyGroupChangesItsProtocol(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		m := b.member(api.JoinGroup{}).start()
		synctest.Wait()
		epoch := m.epoch()
		_, err := b.c.JoinClassic(t.Context(), &api.ClassicJoin{Group: "g", ProtocolType: "connect", SessionTimeout: 10_000, Protocols: []api.ClassicProtocol{{Name: "x"}}})
		wantCode(t, err, api.CodeInconsistentProtocol)
		m.send(api.SessionMessage{Leave: true})
		<-m.done
		c := &classicMember{b: b}
		together(t, c.join)
		if c.joined.Generation <= epoch {
			t.Fatalf("generation %d after group epoch %d", c.joined.Generation, epoch)
		}
		together(t, c.sync)
		if errs, err := b.c.LeaveClassic(t.Context(), "g", []api.ClassicLeave{{MemberID: c.id}}); err != nil || errs[0] != nil {
			t.Fatal(errs, err)
		}
		m = b.member(api.JoinGroup{}).start()
		synctest.Wait()
		if m.epoch() <= c.joined.Generation || len(m.last().Assignment) != 4 {
			t.Fatalf("%+v after generation %d", m.last(), c.joined.Generation)
		}
		m.cut()
		b.close()
		b.c = b.start()
		synctest.Wait()
		if list, err := b.c.ListGroups(t.Context()); err != nil || len(list) != 1 || list[0].Type != api.GroupTypeConsumer {
			t.Fatalf("%+v %v", list, err)
		}
		b.close()
	})
}

func TestClassicBadInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		good := func() *api.ClassicJoin {
			return &api.ClassicJoin{Group: "g", ProtocolType: "consumer", SessionTimeout: 10_000, Protocols: []api.ClassicProtocol{{Name: "range"}}}
		}
		for name, c := range map[string]struct {
			spoil func(*api.ClassicJoin)
			code  api.Code
		}{
			"no group":        {func(j *api.ClassicJoin) { j.Group = "" }, api.CodeInvalidGroupID},
			"long group":      {func(j *api.ClassicJoin) { j.Group = strings.Repeat("g", 10_000) }, api.CodeInvalidGroupID},
			"no session":      {func(j *api.ClassicJoin) { j.SessionTimeout = 0 }, api.CodeInvalidSessionTimeout},
			"endless session": {func(j *api.ClassicJoin) { j.SessionTimeout = 1 << 40 }, api.CodeInvalidSessionTimeout},
			"no protocols":    {func(j *api.ClassicJoin) { j.Protocols = nil }, api.CodeInconsistentProtocol},
			"no type":         {func(j *api.ClassicJoin) { j.ProtocolType = "" }, api.CodeInconsistentProtocol},
			"unknown member":  {func(j *api.ClassicJoin) { j.MemberID = "m" }, api.CodeUnknownMember},
			"long member":     {func(j *api.ClassicJoin) { j.MemberID = strings.Repeat("m", 2000) }, api.CodeInvalidArgument},
			"huge metadata":   {func(j *api.ClassicJoin) { j.Protocols[0].Metadata = make([]byte, 1<<20) }, api.CodeInvalidArgument},
		} {
			j := good()
			c.spoil(j)
			if _, err := b.c.JoinClassic(t.Context(), j); api.CodeOf(err) != c.code {
				t.Errorf("%s: %v, want code %q", name, err, c.code)
			}
		}
		if list, err := b.c.ListGroups(t.Context()); err != nil || len(list) != 0 {
			t.Fatalf("refused joins left %v %v", list, err)
		}
		b.close()
	})
}

// poller is a program that speaks KIP-848 request by request.
type poller struct {
	b     *bed
	id    string
	epoch int32
	owned []api.OwnedPartition
	// instance is its static id; empty: it has none.
	instance string
}

func (p *poller) beat(t *testing.T, full bool) error {
	t.Helper()
	req := &api.ConsumerHeartbeat{Group: "g", MemberID: p.id, InstanceID: p.instance, MemberEpoch: p.epoch, RebalanceTimeout: -1}
	if full || p.epoch == 0 {
		req.HasTopics, req.Topics, req.HasOwned, req.Owned, req.RebalanceTimeout = true, []string{"a"}, true, p.owned, 60_000
	}
	for {
		r, err := p.b.c.ConsumerHeartbeat(t.Context(), req)
		if err != nil {
			return err
		}
		p.epoch = r.MemberEpoch
		if !r.HasAssignment {
			return nil
		}
		p.owned = r.Assignment
		req = &api.ConsumerHeartbeat{Group: "g", MemberID: p.id, InstanceID: p.instance, MemberEpoch: p.epoch, RebalanceTimeout: -1, HasOwned: true, Owned: p.owned}
	}
}

func TestConsumerHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		p1, p2 := &poller{b: b, id: "p1"}, &poller{b: b, id: "p2"}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(p1.beat(t, true))
		if p1.epoch == 0 || len(p1.owned) != 4 {
			t.Fatalf("%+v", p1)
		}
		must(p2.beat(t, true))
		if len(p2.owned) != 0 {
			t.Fatalf("given before it was given up: %v", p2.owned)
		}
		must(p1.beat(t, false))
		must(p2.beat(t, false))
		if len(p1.owned) != 2 || len(p2.owned) != 2 {
			t.Fatalf("%v and %v", p1.owned, p2.owned)
		}
		// A streaming member shares with the others.
		m := b.member(api.JoinGroup{}).start()
		for range 3 {
			synctest.Wait()
			must(p1.beat(t, false))
			must(p2.beat(t, false))
		}
		synctest.Wait()
		if n := len(m.last().Assignment); n != 1 || len(p1.owned)+len(p2.owned) != 3 {
			t.Fatalf("%d, %v, %v", n, p1.owned, p2.owned)
		}
		m.send(api.SessionMessage{Leave: true})
		<-m.done
		// The answer that carried the assignment was lost: it comes again.
		lost, err := b.c.ConsumerHeartbeat(t.Context(), &api.ConsumerHeartbeat{Group: "g", MemberID: "p1", MemberEpoch: p1.epoch, RebalanceTimeout: -1})
		if err != nil || lost.HasAssignment && len(lost.Assignment) < len(p1.owned) {
			t.Fatalf("%+v %v", lost, err)
		}
		must(p1.beat(t, true))
		must(p2.beat(t, true))
		if len(p1.owned) != 2 || len(p2.owned) != 2 {
			t.Fatalf("%v and %v", p1.owned, p2.owned)
		}

		// A new coordinator asks for everything, and nobody loses anything.
		b.close()
		b.c = b.start()
		synctest.Wait()
		wantCode(t, p1.beat(t, false), api.CodeNotCoordinator)
		must(p1.beat(t, true))
		must(p2.beat(t, true))
		if len(p1.owned) != 2 || len(p2.owned) != 2 {
			t.Fatalf("%v and %v", p1.owned, p2.owned)
		}
		_, err = b.c.ConsumerHeartbeat(t.Context(), &api.ConsumerHeartbeat{Group: "g", MemberID: "p1", MemberEpoch: p1.epoch + 5})
		wantCode(t, err, api.CodeFencedMemberEpoch)
		must(p1.beat(t, false)) // whoever said that did not harm it
		p1.epoch = api.EpochLeave
		must(p1.beat(t, false))
		wantCode(t, p1.beat(t, false), api.CodeUnknownMember)
		must(p2.beat(t, false))
		p2.epoch = api.EpochLeave
		must(p2.beat(t, false))
		wantCode(t, p2.beat(t, false), api.CodeUnknownMember)
		d, err := b.c.DescribeGroup(t.Context(), "g")
		if err != nil || d.State != "empty" {
			t.Fatalf("%+v %v", d, err)
		}
		if got := fetchA(t, b.c, "g", 0); got != record.UnknownOffset {
			t.Fatal(got)
		}
		b.close()
	})
}
