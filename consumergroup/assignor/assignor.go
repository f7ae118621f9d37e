package assignor

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// Topic is a topic that somebody subscribes to.
type Topic struct {
	Name       string
	Partitions int32
	Racks      [][]string // of each partition's replicas; nil: not known
}

// near reports whether a replica of partition p is in a rack.
func (t *Topic) near(p int32, rack string) bool {
	return rack != "" && int(p) < len(t.Racks) && slices.Contains(t.Racks[p], rack)
}

// Partition is a partition of Input.Topics[Topic].
type Partition struct {
	Topic     int32 // index into Input.Topics
	Partition int32
}

func compare(a, b Partition) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}

// Member is a member of the group.
type Member struct {
	ID         string
	InstanceID string // of a static member; takes the place of ID in orderings
	Rack       string
	Topics     []int32     // indexes into Input.Topics, ascending, each once; members may share one list
	Owned      []Partition // what it has now; unknown, foreign and doubly claimed ones are let go
}

// key orders members: a static member that comes back under another id keeps
// its place.
func (m *Member) key() string {
	if m.InstanceID != "" {
		return m.InstanceID
	}
	return m.ID
}

// Input is what an assignor decides on. Assignors do not change it.
type Input struct {
	Topics  []Topic // ascending by name
	Members []Member
}

// Assignment holds the partitions of Input.Members[i] at index i, ascending.
type Assignment [][]Partition

// Func is an assignor.
type Func func(in Input) (Assignment, error)

// The names of the assignors.
const (
	Uniform    = "uniform"
	Range      = "range"
	RoundRobin = "roundrobin"
)

// ErrUnknown is returned by ByName for a name that is none of the three.
var ErrUnknown = errors.New("assignor: unknown name")

// ByName returns the assignor of a name; the empty name is uniform.
func ByName(name string) (Func, error) {
	switch name {
	case Uniform, "":
		return AssignUniform, nil
	case Range:
		return AssignRange, nil
	case RoundRobin:
		return AssignRoundRobin, nil
	}
	return nil, fmt.Errorf("%w %q: use %s, %s or %s", ErrUnknown, name, Uniform, Range, RoundRobin)
}

// InputError says that an Input breaks its rules.
type InputError struct {
	Member string // empty: not about one member
	Reason string
}

func (e *InputError) Error() string {
	if e.Member == "" {
		return "assignor: " + e.Reason
	}
	return fmt.Sprintf("assignor: member %q: %s", e.Member, e.Reason)
}

func (in Input) validate() error {
	for i := range in.Topics {
		if in.Topics[i].Partitions < 0 {
			return &InputError{Reason: fmt.Sprintf("topic %q has %d partitions", in.Topics[i].Name, in.Topics[i].Partitions)}
		}
	}
	for i := range in.Members {
		m := &in.Members[i]
		if i > 0 && sharedTopics(m.Topics, in.Members[i-1].Topics) {
			continue
		}
		last := int32(-1)
		for _, t := range m.Topics {
			if t <= last || int(t) >= len(in.Topics) {
				return &InputError{Member: m.ID, Reason: fmt.Sprintf("topic index %d after %d of %d topics", t, last, len(in.Topics))}
			}
			last = t
		}
	}
	return nil
}

// sharedTopics reports whether two subscriptions are one list, which costs nothing to tell.
func sharedTopics(a, b []int32) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

func sameTopics(a, b []int32) bool { return sharedTopics(a, b) || slices.Equal(a, b) }

// order returns the indexes of the members, ascending by key.
func (in Input) order() []int {
	order := make([]int, len(in.Members))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		x, y := &in.Members[a], &in.Members[b]
		return cmp.Or(cmp.Compare(x.key(), y.key()), cmp.Compare(x.ID, y.ID))
	})
	return order
}

// subscribers returns, for each topic, its members in the order given.
func (in Input) subscribers(order []int) [][]int {
	subs := make([][]int, len(in.Topics))
	for _, m := range order {
		for _, t := range in.Members[m].Topics {
			subs[t] = append(subs[t], m)
		}
	}
	return subs
}

// AssignRange gives each member of a topic a run of neighbouring partitions;
// within a topic loads differ by at most one.
func AssignRange(in Input) (Assignment, error) {
	if err := in.validate(); err != nil {
		return nil, err
	}
	out := make(Assignment, len(in.Members))
	for t, subs := range in.subscribers(in.order()) {
		n := int32(len(subs))
		if n == 0 {
			continue
		}
		quota, extra := in.Topics[t].Partitions/n, in.Topics[t].Partitions%n
		next := int32(0)
		for i, m := range subs {
			end := next + quota
			if int32(i) < extra {
				end++
			}
			for ; next < end; next++ {
				out[m] = append(out[m], Partition{Topic: int32(t), Partition: next})
			}
		}
	}
	return out, nil
}

// AssignRoundRobin deals the partitions, in order, to the members in turn; a
// member that does not subscribe to the topic is passed over.
func AssignRoundRobin(in Input) (Assignment, error) {
	if err := in.validate(); err != nil {
		return nil, err
	}
	out := make(Assignment, len(in.Members))
	order := in.order()
	subs := in.subscribers(order)
	place := make([]int, len(in.Members)) // of a member in order
	for i, m := range order {
		place[m] = i
	}
	next := 0 // place whose turn it is
	for t := range in.Topics {
		if len(subs[t]) == 0 {
			continue
		}
		for p := range in.Topics[t].Partitions {
			i, _ := slices.BinarySearchFunc(subs[t], next, func(m, turn int) int { return cmp.Compare(place[m], turn) })
			if i == len(subs[t]) {
				i = 0
			}
			m := subs[t][i]
			out[m] = append(out[m], Partition{Topic: int32(t), Partition: p})
			next = (place[m] + 1) % len(order)
		}
	}
	return out, nil
}
