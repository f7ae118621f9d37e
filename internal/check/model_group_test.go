package check_test

import (
	"slices"
	"strconv"

	"github.com/penstock/penstock/internal/check"
)

// give lets the coordinator assign a partition that nobody has.
func (m *model) give() {
	l, ok := pick(m, m.parts, func(l *modelLog) bool { return l.owner == nil })
	if !ok {
		return
	}
	to, ok := pick(m, m.members, func(o *modelMember) bool { return !o.fenced })
	if !ok {
		return
	}
	m.epoch++
	l.owner, l.ownerEpoch = to, m.epoch
	to.given = append(to.given, gift{l: l, epoch: m.epoch, fetched: -2})
}

// deliver lets a member look up what is committed, and then begin.
func (m *model) deliver() {
	o, ok := pick(m, m.members, func(o *modelMember) bool { return len(o.given) > 0 })
	if !ok {
		return
	}
	g := &o.given[0]
	if g.fetched == -2 {
		if !o.fenced {
			g.fetched = g.l.committed
		} else {
			o.given = o.given[1:]
		}
		return
	}
	o.epoch = max(o.epoch, g.epoch)
	o.at[g.l] = int(max(g.fetched, 0))
	m.add(check.Op{
		Process: o.id, Type: check.OK, F: check.FAssigned, Group: group, Member: o.name, Epoch: g.epoch,
		Keys: []check.Position{{Key: g.l.key, Offset: g.fetched}},
	})
	o.given = o.given[1:]
}

func (m *model) held(o *modelMember) []*modelLog {
	var out []*modelLog
	for _, l := range m.parts {
		if _, ok := o.at[l]; ok {
			out = append(out, l)
		}
	}
	return out
}

func (m *model) leave(o *modelMember, f check.F, l *modelLog) {
	m.add(check.Op{
		Process: o.id, Type: check.OK, F: f, Group: group, Member: o.name, Epoch: o.epoch, Keys: []check.Position{{Key: l.key, Offset: -1}},
	})
	delete(o.at, l)
	o.taken[l] = o.polling
}

// revoke takes a partition from a member in good order.
func (m *model) revoke() {
	o, ok := pick(m, m.members, func(o *modelMember) bool { return !o.fenced && len(m.held(o)) > 0 })
	if !ok {
		return
	}
	l, _ := pick(m, m.held(o), anyOf)
	m.leave(o, check.FRevoked, l)
	l.owner = nil
}

// expire ends a member's session; what it had is free. Later the member learns
// it, by losing its partitions or by a crash, and joins under a new name.
func (m *model) expire() {
	o, _ := pick(m, m.members, anyOf)
	switch {
	case !o.fenced && m.n(0, 2) == 0:
		o.fenced = true
		for _, l := range m.parts {
			if l.owner == o {
				l.owner = nil
			}
		}
	case o.fenced:
		if m.maybe() {
			m.add(check.Op{Process: o.id, Type: check.Info, F: check.FCrash})
			clear(o.at)
			clear(o.taken)
			o.polling = false
			for _, c := range m.commits {
				c.open = c.open && c.m != o
			}
		} else {
			for _, l := range m.held(o) {
				m.leave(o, check.FLost, l)
			}
		}
		o.lives++
		o.name = "m" + strconv.Itoa(int(o.id)) + "-" + strconv.Itoa(o.lives)
		o.fenced, o.given = false, nil
	}
}

func (m *model) pollMember() {
	o, _ := pick(m, m.members, anyOf)
	if !o.polling {
		o.polling = true
		m.add(check.Op{Process: o.id, Type: check.Invoke, F: check.FPoll})
		return
	}
	o.polling = false
	m.add(m.completePoll(o.id, o.at, o.taken, m.n(0, 5) == 0))
	clear(o.taken)
}

func (m *model) commit() {
	o, ok := pick(m, m.members, func(o *modelMember) bool {
		return len(m.held(o)) > 0 && !slices.ContainsFunc(m.commits, func(c *modelCommit) bool { return c.m == o && c.open })
	})
	if !ok {
		return
	}
	l, _ := pick(m, m.held(o), anyOf)
	c := &modelCommit{m: o, name: o.name, epoch: o.epoch, l: l, offset: int64(o.at[l]), state: check.Invoke, open: true}
	m.commits = append(m.commits, c)
	m.add(m.commitOp(c, check.Invoke))
}

func (m *model) commitOp(c *modelCommit, t check.Type) check.Op {
	return check.Op{
		Process: c.m.id, Type: t, F: check.FCommit, Group: group, Member: c.name, Epoch: c.epoch,
		Keys: []check.Position{{Key: c.l.key, Offset: c.offset}},
	}
}

// applyCommit lets a commit reach the coordinator, whether or not its member
// still waits.
func (m *model) applyCommit() {
	c, ok := pick(m, m.commits, func(c *modelCommit) bool { return c.state == check.Invoke })
	if !ok {
		return
	}
	if c.l.owner == c.m && c.m.name == c.name && c.l.ownerEpoch <= c.epoch {
		c.l.committed, c.state = c.offset, check.OK
	} else {
		c.state = check.Fail
	}
}

func (m *model) endCommit() {
	c, ok := pick(m, m.commits, func(c *modelCommit) bool { return c.open && (c.state != check.Invoke || m.n(0, 5) == 0) })
	if !ok {
		return
	}
	c.open = false
	t := c.state
	if t == check.Invoke || m.n(0, 5) == 0 {
		t = check.Info
	}
	m.add(m.commitOp(c, t))
}

// look is a tool that asks what is committed.
func (m *model) look() {
	switch i := m.n(0, 2); {
	case len(m.looks) == 0:
		l, _ := pick(m, m.parts, anyOf)
		m.looks = append(m.looks, &modelLook{process: 41, l: l, found: -2})
		m.add(check.Op{Process: 41, Type: check.Invoke, F: check.FCommitted, Group: group})
	case m.looks[0].found == -2 || i == 0:
		m.looks[0].found = m.looks[0].l.committed
	default:
		k := m.looks[0]
		m.looks = nil
		m.add(check.Op{
			Process: k.process, Type: check.OK, F: check.FCommitted, Group: group,
			Keys: []check.Position{{Key: k.l.key, Offset: k.found}},
		})
	}
}
