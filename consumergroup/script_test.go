package consumergroup

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// script is a group driven by the files in testdata. Each command prints the
// effects; an assignment that is asked for runs at once.
type script struct {
	now     time.Time
	g       *Group
	out     Effects
	topics  map[string]int32
	lives   map[string]byte // of topics that were created again
	streams map[string]uint64
	last    uint64
	calls   uint64
	ids     int
	store   map[string]*StoredMember
	hash    int64
	target  int32
	b       strings.Builder
}

func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		t.Helper()
		s := &script{
			now: time.Unix(0, 0), g: New("g"), topics: map[string]int32{}, lives: map[string]byte{},
			streams: map[string]uint64{}, store: map[string]*StoredMember{},
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			s.b.Reset()
			s.run(t, d)
			return s.b.String()
		})
	})
}

func (s *script) run(t *testing.T, d *datadriven.TestData) {
	t.Helper()
	var id, owned, by string
	var epoch int
	if len(d.CmdArgs) > 0 {
		id = d.CmdArgs[0].Key
	}
	d.MaybeScanArgs(t, "epoch", &epoch)
	d.MaybeScanArgs(t, "owned", &owned)
	ev := Event{MemberID: id, Epoch: int32(epoch), Stream: s.streams[id], HasOwned: d.HasArg("owned"), Owned: partitions(owned)}
	if d.MaybeScanArgs(t, "stream", &by) {
		n, _ := strconv.Atoi(by)
		ev.Stream = uint64(n)
	}
	switch d.Cmd {
	case "topics":
		for _, arg := range d.CmdArgs {
			n, _ := strconv.Atoi(arg.Vals[0])
			s.topics[arg.Key] = int32(n)
			if n == 0 {
				delete(s.topics, arg.Key)
			}
		}
		ev.Kind, ev.Metadata = EventMetadata, s.metadata()
	case "recreate": // and the group has not heard of it before the next event that says so
		for _, arg := range d.CmdArgs {
			s.lives[arg.Key]++
		}
		return
	case "join":
		s.join(t, d, &ev)
	case "cjoin", "csync", "chb", "cleave":
		s.classic(t, d, id, &ev)
	case "hb":
		ev.Kind = EventHeartbeat
	case "detach":
		ev.Kind = EventDetach
		if d.MaybeScanArgs(t, "grace", &by) {
			grace, err := time.ParseDuration(by)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			ev.Grace = grace
		}
	case "leave":
		ev.Kind = EventLeave
	case "advance":
		dur, err := time.ParseDuration(id)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		s.advance(dur)
		return
	case "move":
		s.move(d.HasArg("older"))
		return
	case "commit":
		s.commit(id, int32(epoch), partitions(owned)[0])
		return
	case "fetch":
		s.verdict(s.g.CheckFetch(id, int32(epoch), partitions(owned)))
		return
	case "show":
		s.show()
		return
	default:
		d.Fatalf(t, "unknown command")
	}
	s.step(ev)
}

func (s *script) join(t *testing.T, d *datadriven.TestData, ev *Event) {
	t.Helper()
	attach, instance, topics, as := 1, "", "a", ""
	d.MaybeScanArgs(t, "attach", &attach)
	d.MaybeScanArgs(t, "instance", &instance)
	d.MaybeScanArgs(t, "topics", &topics)
	d.MaybeScanArgs(t, "assignor", &as)
	s.last++
	s.streams[ev.MemberID] = s.last
	ev.Kind, ev.Stream, ev.Attach, ev.Metadata = EventJoin, s.last, int64(attach), s.metadata()
	ev.Join = &Member{
		ID: ev.MemberID, InstanceID: instance, Topics: strings.Split(topics, "/"), Assignor: as,
		SessionTimeout: 10 * time.Second, RebalanceTimeout: 20 * time.Second,
	}
	if p, ok := strings.CutPrefix(topics, "~"); ok {
		ev.Join.Topics, ev.Join.Pattern = nil, p
	}
}

// classic makes the requests of a member of the classic protocol.
func (s *script) classic(t *testing.T, d *datadriven.TestData, id string, ev *Event) {
	t.Helper()
	generation, owns, instance, topics, kind, says := -1, "", "", "a", "consumer", 0
	protocols := "range"
	d.MaybeScanArgs(t, "gen", &generation)
	d.MaybeScanArgs(t, "owns", &owns)
	d.MaybeScanArgs(t, "instance", &instance)
	d.MaybeScanArgs(t, "topics", &topics)
	d.MaybeScanArgs(t, "type", &kind)
	d.MaybeScanArgs(t, "protocols", &protocols)
	if says = generation; d.HasArg("says") {
		d.MaybeScanArgs(t, "says", &says)
	}
	if id == "new" {
		id = ""
		s.ids++
	}
	s.calls++
	c := &ClassicEvent{Call: s.calls, MemberID: id, InstanceID: instance, Generation: int32(generation), ProtocolType: kind}
	ev.Kind, ev.Classic = EventClassic, c
	switch d.Cmd {
	case "csync":
		c.Kind = ClassicSync
	case "chb":
		c.Kind = ClassicHeartbeat
	case "cleave":
		c.Kind = ClassicLeave
	default:
		c.Kind, c.NewID, c.RequireKnownID = ClassicJoin, fmt.Sprintf("c%d", s.ids), d.HasArg("known")
		c.Join = &ClassicMember{ID: id, InstanceID: instance, SessionTimeout: 10 * time.Second, RebalanceTimeout: 20 * time.Second}
		for name := range strings.SplitSeq(protocols, "/") {
			c.Join.Protocols = append(c.Join.Protocols, ClassicProtocol{Name: name})
		}
		ev.Metadata = s.metadata()
		ev.Subscription = &Subscription{Version: 3, Topics: strings.Split(topics, "/"), Owned: partitions(owns), Generation: int32(says)}
	}
}

// metadata matches a pattern by prefix, which is enough here.
func (s *script) metadata() *Metadata {
	md := &Metadata{Partitions: map[string]int32{}, IDs: map[string]TopicID{}, Matches: map[string][]string{}}
	for name, n := range s.topics {
		md.Partitions[name], md.IDs[name] = n, s.topicID(name)
		md.Matches[name[:1]] = append(md.Matches[name[:1]], name)
	}
	for _, names := range md.Matches {
		if len(names) > 1 && names[0] > names[1] {
			names[0], names[1] = names[1], names[0]
		}
	}
	return md
}

func (s *script) topicID(name string) TopicID {
	id := TopicID{s.lives[name] + 1}
	copy(id[1:], name)
	return id
}

func (s *script) advance(d time.Duration) {
	end := s.now.Add(d)
	for deadline := s.out.Deadline; !deadline.IsZero() && !deadline.After(end); deadline = s.out.Deadline {
		s.now = deadline
		s.step(Event{Kind: EventTimer})
	}
	s.now = end
}

func (s *script) step(ev Event) {
	s.out.Reset()
	s.g.Step(s.now, ev, &s.out)
	assign := s.out.Assign
	s.print()
	if assign {
		s.out.Reset()
		s.g.Step(s.now, Event{Kind: EventAssign}, &s.out)
		s.print()
	}
}

func (s *script) print() {
	for _, m := range s.out.Expired {
		fmt.Fprintf(&s.b, "removed %s: %s\n", m.MemberID, m.Why)
	}
	for _, e := range s.out.List {
		switch e.Kind {
		case EffectUpdate:
			fmt.Fprintf(&s.b, "%s/%d: epoch=%d %v\n", e.MemberID, e.Stream, e.Epoch, e.Assigned)
		case EffectDrop:
			fmt.Fprintf(&s.b, "%s/%d: dropped: %s: %s\n", e.MemberID, e.Stream, e.Code, e.Message)
		case EffectPersistGroup:
			s.hash = e.Hash
			fmt.Fprintf(&s.b, "persist epoch %d\n", e.Epoch)
		case EffectPersistTarget:
			s.target = e.Epoch
			fmt.Fprintf(&s.b, "persist target epoch %d\n", e.Epoch)
		case EffectPersistTargetOf:
			s.stored(e.MemberID).Target = e.Assigned
			fmt.Fprintf(&s.b, "persist target of %s: %v\n", e.MemberID, e.Assigned)
		case EffectPersistCurrent:
			s.stored(e.MemberID).Current = e.Current
			fmt.Fprintf(&s.b, "persist %s: epoch=%d %s\n", e.MemberID, e.Current.Epoch, standing(e.Current))
		case EffectPersistMember:
			s.stored(e.MemberID).Member = *e.Member
			fmt.Fprintf(&s.b, "persist member %s\n", e.MemberID)
		case EffectReply:
			r := e.Reply
			fmt.Fprintf(&s.b, "#%d %s:", r.Call, r.MemberID)
			if r.Code != CodeNone {
				fmt.Fprintf(&s.b, " %s: %s\n", r.Code, r.Message)
				continue
			}
			if r.Generation >= 0 {
				fmt.Fprintf(&s.b, " generation=%d protocol=%s", r.Generation, r.Protocol)
			}
			if r.Assigned != nil {
				fmt.Fprintf(&s.b, " %v", r.Assigned)
			}
			s.b.WriteByte('\n')
		case EffectForgetMember:
			delete(s.store, e.MemberID)
			fmt.Fprintf(&s.b, "forget member %s\n", e.MemberID)
		}
	}
}

func (s *script) stored(id string) *StoredMember {
	m := s.store[id]
	if m == nil {
		m = &StoredMember{}
		s.store[id] = m
	}
	return m
}

// move restarts the group; older: from what a build left that did not write who owns what.
func (s *script) move(older bool) {
	stored := &Stored{Epoch: s.g.Epoch(), Hash: s.hash, TargetEpoch: s.target, TargetIDs: s.g.targetIDs}
	for _, id := range s.g.order {
		m := *s.store[id]
		if older {
			m.Current, m.Target = nil, nil
		}
		stored.Members = append(stored.Members, m)
	}
	s.g = Restore(s.now, "g", stored, 10500*time.Millisecond)
	clear(s.streams)
	s.step(Event{Kind: EventMetadata, Metadata: s.metadata()})
	fmt.Fprintf(&s.b, "%s\n", s.g.State())
}

func standing(c *Current) string {
	text := fmt.Sprint("has ", givenList(c.Assigned))
	if len(c.Revoking) > 0 {
		text += fmt.Sprint(", gives up ", givenList(c.Revoking))
	}
	if c.Waiting {
		text += ", waits"
	}
	return text
}

func givenList(list []Given) string {
	var b strings.Builder
	for i, p := range list {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s@%d", p.TopicPartition, p.Epoch)
	}
	return "[" + b.String() + "]"
}

func (s *script) commit(id string, epoch int32, p TopicPartition) {
	code, message := s.g.CheckMember(id, "", epoch)
	if code == CodeNone {
		code, message = s.g.CheckCommit(id, epoch, p, s.topicID(p.Topic))
	}
	s.verdict(code, message)
}

func (s *script) verdict(code Code, message string) {
	fmt.Fprintf(&s.b, "%s", code)
	if message != "" {
		fmt.Fprintf(&s.b, ": %s", message)
	}
	s.b.WriteByte('\n')
}

func (s *script) show() {
	fmt.Fprintf(&s.b, "%s epoch=%d assignor=%s", s.g.State(), s.g.Epoch(), s.g.Assignor())
	if s.g.OnlyClassic() {
		s.b.WriteString(" only classic members")
	}
	s.b.WriteByte('\n')
	for _, m := range s.g.Members() {
		fmt.Fprintf(&s.b, "%s epoch=%d %v\n", m.ID, m.Epoch, m.Owned)
	}
}

// partitions reads a-0/a-1; "none" is the empty list.
func partitions(text string) (ps []TopicPartition) {
	for item := range strings.SplitSeq(text, "/") {
		if topic, n, ok := strings.Cut(item, "-"); ok {
			i, _ := strconv.Atoi(n)
			ps = append(ps, TopicPartition{topic, int32(i)})
		}
	}
	return ps
}
