package assignor

import (
	"cmp"
	"slices"
)

// AssignUniform balances partitions over members and keeps what it can where
// it is; see the package comment.
func AssignUniform(in Input) (Assignment, error) {
	if err := in.validate(); err != nil {
		return nil, err
	}
	u := newUniform(in)
	if u.equal() {
		u.assignEqual()
	} else {
		u.assignMixed()
	}
	for _, ps := range u.out {
		slices.SortFunc(ps, compare)
	}
	return u.out, nil
}

// uniform is the working state of one AssignUniform.
type uniform struct {
	in    Input
	order []int
	subs  [][]int // members of each topic, in order; of assignMixed
	owner [][]int // by topic and partition; -1: free
	out   Assignment
}

const free = -1

// newUniform honours the claims that are valid: the partition exists, the
// member subscribes to it, and no member before it in order claims it.
func newUniform(in Input) *uniform {
	u := &uniform{in: in, order: in.order(), owner: make([][]int, len(in.Topics)), out: make(Assignment, len(in.Members))}
	for t := range in.Topics {
		u.owner[t] = make([]int, in.Topics[t].Partitions)
		for p := range u.owner[t] {
			u.owner[t][p] = free
		}
	}
	for _, m := range u.order {
		claims := slices.Clone(in.Members[m].Owned)
		slices.SortFunc(claims, compare)
		for _, p := range claims {
			if u.valid(m, p) && u.owner[p.Topic][p.Partition] == free {
				u.give(m, p)
			}
		}
	}
	return u
}

func (u *uniform) valid(m int, p Partition) bool {
	if p.Topic < 0 || int(p.Topic) >= len(u.in.Topics) || p.Partition < 0 || p.Partition >= u.in.Topics[p.Topic].Partitions {
		return false
	}
	_, subscribes := slices.BinarySearch(u.in.Members[m].Topics, p.Topic)
	return subscribes
}

func (u *uniform) give(m int, p Partition) {
	u.owner[p.Topic][p.Partition] = m
	u.out[m] = append(u.out[m], p)
}

// equal reports whether all members have the same subscription.
func (u *uniform) equal() bool {
	for i := 1; i < len(u.in.Members); i++ {
		if !sameTopics(u.in.Members[i].Topics, u.in.Members[0].Topics) {
			return false
		}
	}
	return true
}

func (u *uniform) assignEqual() {
	n := len(u.order)
	if n == 0 {
		return
	}
	total := 0
	for _, t := range u.in.Members[0].Topics {
		total += int(u.in.Topics[t].Partitions)
	}
	quota, extra := total/n, total%n
	for _, m := range u.order {
		keep := quota
		if len(u.out[m]) > quota && extra > 0 {
			keep++
			extra--
		}
		u.cut(m, keep)
	}
	extra = u.fillNear(quota, extra)
	u.fill(quota, extra)
}

// cut takes what member m holds beyond its first keep partitions.
func (u *uniform) cut(m, keep int) {
	if len(u.out[m]) <= keep {
		return
	}
	for _, p := range u.out[m][keep:] {
		u.owner[p.Topic][p.Partition] = free
	}
	u.out[m] = u.out[m][:keep]
}

// fillNear gives the free partitions that have a replica in the rack of a member
// with room to such a member, the emptiest first. It returns how many members
// may still hold one more than the quota.
func (u *uniform) fillNear(quota, extra int) int {
	racks := map[string][]int{}
	for _, m := range u.order {
		if rack := u.in.Members[m].Rack; rack != "" {
			racks[rack] = append(racks[rack], m)
		}
	}
	if len(racks) == 0 {
		return extra
	}
	for _, t := range u.in.Members[0].Topics {
		topic := &u.in.Topics[t]
		for p, owner := range u.owner[t] {
			if owner != free || p >= len(topic.Racks) {
				continue
			}
			best := free
			for _, rack := range topic.Racks[p] {
				for _, m := range racks[rack] {
					if best == free || len(u.out[m]) < len(u.out[best]) {
						best = m
					}
				}
			}
			switch {
			case best == free || len(u.out[best]) > quota || len(u.out[best]) == quota && extra == 0:
				continue
			case len(u.out[best]) == quota:
				extra--
			}
			u.give(best, Partition{Topic: t, Partition: int32(p)})
		}
	}
	return extra
}

// fill gives the free partitions to the members below quota, then one each to
// the first extra members that hold just the quota.
func (u *uniform) fill(quota, extra int) {
	i := 0
	limit := quota
	for _, t := range u.in.Members[0].Topics {
		for p, owner := range u.owner[t] {
			if owner != free {
				continue
			}
			for i < len(u.order) && len(u.out[u.order[i]]) >= limit {
				i++
				if i == len(u.order) && limit == quota && extra > 0 {
					i, limit = 0, quota+1
				}
			}
			u.give(u.order[i], Partition{Topic: t, Partition: int32(p)})
		}
	}
}

// assignMixed serves members whose subscriptions differ.
func (u *uniform) assignMixed() {
	u.subs = u.in.subscribers(u.order)
	topics := make([]int32, 0, len(u.in.Topics))
	for t := range u.in.Topics {
		if len(u.subs[t]) > 0 {
			topics = append(topics, int32(t))
		}
	}
	slices.SortStableFunc(topics, func(a, b int32) int { return cmp.Compare(len(u.subs[a]), len(u.subs[b])) })
	load := make([]int, len(u.in.Members))
	for m := range load {
		load[m] = len(u.out[m])
	}
	for _, t := range topics {
		for p, owner := range u.owner[t] {
			if owner == free {
				m := u.lightestNear(t, int32(p), load)
				u.owner[t][p] = m
				load[m]++
			}
		}
	}
	// Each move lowers the sum of the squared loads, so this ends.
	for u.even(topics, load) {
	}
	u.collect()
}

// lightest returns the subscriber of t with the least load, the first in order
// of several.
func (u *uniform) lightest(t int32, load []int) int {
	best := u.subs[t][0]
	for _, m := range u.subs[t][1:] {
		if load[m] < load[best] {
			best = m
		}
	}
	return best
}

// lightestNear is lightest, but of several one in a rack of the partition.
func (u *uniform) lightestNear(t, p int32, load []int) int {
	best := u.lightest(t, load)
	topic := &u.in.Topics[t]
	if len(topic.Racks) == 0 || topic.near(p, u.in.Members[best].Rack) {
		return best
	}
	for _, m := range u.subs[t] {
		if load[m] == load[best] && topic.near(p, u.in.Members[m].Rack) {
			return m
		}
	}
	return best
}

// even makes one pass over all partitions and reports whether one moved.
func (u *uniform) even(topics []int32, load []int) bool {
	moved := false
	for _, t := range topics {
		best := u.lightest(t, load)
		for p := len(u.owner[t]) - 1; p >= 0; p-- {
			from := u.owner[t][p]
			if load[from] <= load[best]+1 {
				continue
			}
			u.owner[t][p] = best
			load[from]--
			load[best]++
			moved = true
			best = u.lightest(t, load)
		}
	}
	return moved
}

// collect writes owner back to out.
func (u *uniform) collect() {
	for m := range u.out {
		u.out[m] = u.out[m][:0]
	}
	for t := range u.owner {
		for p, m := range u.owner[t] {
			if m != free {
				u.out[m] = append(u.out[m], Partition{Topic: int32(t), Partition: int32(p)})
			}
		}
	}
}
