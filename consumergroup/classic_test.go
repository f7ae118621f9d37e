package consumergroup

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"
)

// classicScript is a classic group driven by the files in testdata.
type classicScript struct {
	now    time.Time
	c      *Classic
	out    ClassicEffects
	calls  uint64
	ids    int
	stored *StoredClassic
	b      strings.Builder
}

func TestClassicScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/classic", func(t *testing.T, path string) {
		t.Helper()
		s := &classicScript{now: time.Unix(0, 0), c: NewClassic("g", 0, 3*time.Second)}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			s.b.Reset()
			s.run(t, d)
			return s.b.String()
		})
	})
}

func (s *classicScript) run(t *testing.T, d *datadriven.TestData) {
	t.Helper()
	var id, instance, assign string
	var generation int
	if len(d.CmdArgs) > 0 && len(d.CmdArgs[0].Vals) == 0 {
		id = d.CmdArgs[0].Key
	}
	d.MaybeScanArgs(t, "gen", &generation)
	d.MaybeScanArgs(t, "instance", &instance)
	d.MaybeScanArgs(t, "assign", &assign)
	ev := ClassicEvent{MemberID: id, InstanceID: instance, Generation: int32(generation)}
	switch d.Cmd {
	case "join":
		s.join(t, d, &ev)
	case "sync":
		ev.Kind = ClassicSync
		ev.Assignments = map[string][]byte{}
		for part := range strings.SplitSeq(assign, "/") {
			if m, a, ok := strings.Cut(part, ":"); ok {
				ev.Assignments[m] = []byte(a)
			}
		}
	case "hb":
		ev.Kind = ClassicHeartbeat
	case "leave":
		ev.Kind = ClassicLeave
	case "advance":
		dur, err := time.ParseDuration(id)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		s.advance(dur)
		return
	case "move":
		s.c = RestoreClassic(s.now, "g", s.stored, 3*time.Second)
		s.step(ClassicEvent{Kind: ClassicTimer})
		return
	case "commit":
		code, message := s.c.CheckCommit(id, instance, int32(generation))
		fmt.Fprintf(&s.b, "%s: %s\n", code, message)
		return
	default:
		d.Fatalf(t, "unknown command")
	}
	s.calls++
	ev.Call = s.calls
	s.step(ev)
}

func (s *classicScript) join(t *testing.T, d *datadriven.TestData, ev *ClassicEvent) {
	t.Helper()
	protocols, kind := "range", "consumer"
	d.MaybeScanArgs(t, "protocols", &protocols)
	d.MaybeScanArgs(t, "type", &kind)
	if ev.MemberID == "new" {
		s.ids++
	}
	ev.Kind, ev.ProtocolType, ev.RequireKnownID, ev.NewID = ClassicJoin, kind, d.HasArg("known"), "m"+strconv.Itoa(s.ids)
	ev.Join = &ClassicMember{ID: ev.MemberID, InstanceID: ev.InstanceID, SessionTimeout: 10 * time.Second, RebalanceTimeout: 30 * time.Second}
	if ev.MemberID == "new" {
		ev.Join.ID = ""
	}
	for p := range strings.SplitSeq(protocols, "/") {
		name, metadata, _ := strings.Cut(p, ":")
		ev.Join.Protocols = append(ev.Join.Protocols, ClassicProtocol{Name: name, Metadata: []byte(metadata)})
	}
}

func (s *classicScript) advance(d time.Duration) {
	end := s.now.Add(d)
	for deadline := s.out.Deadline; !deadline.IsZero() && !deadline.After(end); deadline = s.out.Deadline {
		s.now = deadline
		s.step(ClassicEvent{Kind: ClassicTimer})
	}
	s.now = end
}

func (s *classicScript) step(ev ClassicEvent) {
	before := s.c.State()
	s.out.Reset()
	s.c.Step(s.now, ev, &s.out)
	for _, m := range s.out.Expired {
		fmt.Fprintf(&s.b, "removed %s: %s\n", m.MemberID, m.Why)
	}
	for _, e := range s.out.List {
		if e.Kind == ClassicPersist {
			s.stored = e.Stored
			fmt.Fprintf(&s.b, "persist generation %d, %d members\n", s.stored.Generation, len(s.stored.Members))
			continue
		}
		fmt.Fprintf(&s.b, "#%d %s", e.Call, e.MemberID)
		if e.Code != CodeNone {
			fmt.Fprintf(&s.b, ": %s: %s\n", e.Code, e.Message)
			continue
		}
		fmt.Fprintf(&s.b, " generation=%d protocol=%s leader=%s", e.Generation, e.Protocol, e.Leader)
		if e.SkipAssignment {
			s.b.WriteString(" skip")
		}
		for _, m := range e.Members {
			fmt.Fprintf(&s.b, " %s(%s)", m.ID, m.Metadata)
		}
		if e.Assignment != nil {
			fmt.Fprintf(&s.b, " assignment=%s", e.Assignment)
		}
		s.b.WriteByte('\n')
	}
	if after := s.c.State(); after != before {
		fmt.Fprintf(&s.b, "%s -> %s\n", before, after)
	}
}

// classicWorld runs random members of a classic group as programs.
type classicWorld struct {
	now     time.Time
	c       *Classic
	out     ClassicEffects
	stored  *StoredClassic
	members []*classicProgram
	calls   map[uint64]*classicProgram
	last    uint64
	ids     int
}

// classicProgram is a consumer: what it thinks it is, and what it waits for.
type classicProgram struct {
	id, instance string
	generation   int32
	leader       bool
	all          []ClassicListed
	synced       bool
	assignment   string
	call         uint64 // waits for it
	kind         ClassicKind
	dead         bool
}

func (w *classicWorld) step(ev ClassicEvent) {
	w.out.Reset()
	w.c.Step(w.now, ev, &w.out)
	for _, e := range w.out.List {
		if e.Kind == ClassicPersist {
			w.stored = e.Stored
			continue
		}
		p := w.calls[e.Call]
		delete(w.calls, e.Call)
		if p == nil || p.call != e.Call {
			continue
		}
		p.call = 0
		p.hear(e)
	}
}

func (p *classicProgram) hear(e ClassicEffect) {
	switch e.Code {
	case CodeNone:
		if p.kind == ClassicJoin {
			p.id, p.generation, p.leader, p.all, p.synced = e.MemberID, e.Generation, e.Leader == e.MemberID, e.Members, false
		}
		if p.kind == ClassicSync {
			p.synced, p.assignment = true, string(e.Assignment)
		}
	case CodeMemberIDRequired:
		p.id = e.MemberID
	case CodeUnknownMember:
		p.id, p.synced, p.generation = "", false, 0
	case CodeFencedInstance:
		p.dead = true
	default:
		p.synced = false
	}
}

func (w *classicWorld) request(p *classicProgram, ev ClassicEvent) {
	w.last++
	ev.Call, p.call, p.kind = w.last, w.last, ev.Kind
	w.calls[w.last] = p
	ev.MemberID, ev.InstanceID, ev.Generation = p.id, p.instance, p.generation
	w.step(ev)
}

func (w *classicWorld) join(p *classicProgram) {
	w.ids++
	p.synced = false
	w.request(p, ClassicEvent{
		Kind: ClassicJoin, ProtocolType: "consumer", RequireKnownID: true, NewID: fmt.Sprintf("m%03d", w.ids),
		Join: &ClassicMember{
			ID: p.id, InstanceID: p.instance, SessionTimeout: 10 * time.Second, RebalanceTimeout: 20 * time.Second,
			Protocols: []ClassicProtocol{{Name: "range", Metadata: []byte(p.instance)}},
		},
	})
}

// sync of a leader gives everybody a part named after it and the generation.
func (w *classicWorld) sync(p *classicProgram) {
	ev := ClassicEvent{Kind: ClassicSync, Protocol: "range"}
	if p.leader {
		ev.Assignments = map[string][]byte{}
		for _, m := range p.all {
			ev.Assignments[m.ID] = fmt.Appendf(nil, "%s@%d", m.ID, p.generation)
		}
	}
	w.request(p, ev)
}

// drive does the next thing a program would.
func (w *classicWorld) drive(p *classicProgram) {
	switch {
	case p.dead || p.call != 0:
	case p.id == "" || p.generation == 0:
		w.join(p)
	case p.synced:
		w.request(p, ClassicEvent{Kind: ClassicHeartbeat})
		if !p.synced && !p.dead {
			w.join(p)
		}
	default:
		w.sync(p)
		if p.call == 0 && !p.synced && !p.dead {
			w.join(p)
		}
	}
}

func (w *classicWorld) tick(d time.Duration) {
	w.now = w.now.Add(d)
	for !w.out.Deadline.IsZero() && !w.out.Deadline.After(w.now) {
		w.step(ClassicEvent{Kind: ClassicTimer})
	}
}

// check: of those that may commit, no two have the same id, all are of the
// group's generation, and what each holds is what the leader gave to it.
func (w *classicWorld) check(t *rapid.T) {
	ids := map[string]bool{}
	for _, p := range w.members {
		code, _ := w.c.CheckCommit(p.id, p.instance, p.generation)
		if p.id == "" || code != CodeNone {
			continue
		}
		if ids[p.id] {
			t.Fatalf("two members are %s", p.id)
		}
		ids[p.id] = true
		if p.generation != w.c.Generation() {
			t.Fatalf("%s commits in generation %d of %d", p.id, p.generation, w.c.Generation())
		}
		if p.synced && p.instance == "" && p.assignment != fmt.Sprintf("%s@%d", p.id, p.generation) {
			t.Fatalf("%s holds %q in generation %d", p.id, p.assignment, p.generation)
		}
	}
	for call := range w.calls {
		waits := slices.ContainsFunc(w.c.order, func(id string) bool { m := w.c.members[id]; return m.join == call || m.sync == call })
		if !waits {
			t.Fatalf("call %d is forgotten", call)
		}
	}
}

func TestClassicModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &classicWorld{now: time.Unix(1_000_000, 0), c: NewClassic("g", 0, 3*time.Second), calls: map[uint64]*classicProgram{}}
		pick := func(t *rapid.T) *classicProgram {
			alive := slices.DeleteFunc(slices.Clone(w.members), func(p *classicProgram) bool { return p.dead })
			if len(alive) == 0 {
				t.Skip("nobody")
			}
			return rapid.SampledFrom(alive).Draw(t, "member")
		}
		t.Repeat(map[string]func(*rapid.T){
			"": w.check,
			"start": func(t *rapid.T) {
				if len(w.members) >= 10 {
					t.Skip("enough")
				}
				p := &classicProgram{instance: rapid.SampledFrom([]string{"", "", "s1", "s2"}).Draw(t, "instance")}
				w.members = append(w.members, p)
				w.join(p)
			},
			"drive": func(t *rapid.T) { w.drive(pick(t)) },
			"all": func(*rapid.T) {
				for _, p := range w.members {
					w.drive(p)
				}
			},
			"again": func(t *rapid.T) { w.join(pick(t)) }, // the answer was lost, or its topics changed
			"crash": func(t *rapid.T) { pick(t).dead = true },
			"leave": func(t *rapid.T) {
				p := pick(t)
				w.request(p, ClassicEvent{Kind: ClassicLeave})
				p.dead = true
			},
			"time": func(t *rapid.T) {
				w.tick(time.Duration(rapid.IntRange(1, 5000).Draw(t, "ms")) * time.Millisecond)
			},
			"move": func(*rapid.T) {
				stored := w.stored
				if stored == nil {
					stored = &StoredClassic{}
				}
				w.c = RestoreClassic(w.now, "g", stored, 3*time.Second)
				for _, p := range w.members {
					p.call = 0
				}
				clear(w.calls)
				w.step(ClassicEvent{Kind: ClassicTimer})
			},
		})
		w.settle(t)
	})
}

// settle: programs that go on come to rest with everybody in one generation.
func (w *classicWorld) settle(t *rapid.T) {
	for range 60 {
		for range 4 {
			for _, p := range w.members {
				w.drive(p)
			}
		}
		w.check(t)
		w.tick(time.Second)
	}
	live := map[string]bool{}
	for _, p := range w.members {
		if p.dead {
			continue
		}
		live[p.id] = true
		if !p.synced || p.generation != w.c.Generation() {
			t.Fatalf("%+v is not where the group is: %s, generation %d", p, w.c.State(), w.c.Generation())
		}
	}
	if got := slices.Collect(maps.Keys(live)); len(got) != w.c.Len() {
		t.Fatalf("%d members, %d programs live", w.c.Len(), len(got))
	}
}
