package coordinator

import (
	"container/heap"
	"time"
)

// deadlines orders the groups of a shard by when their timer is due. The zero
// value is empty.
type deadlines struct {
	h deadlineHeap
}

// next returns the earliest deadline.
func (d *deadlines) next() (time.Time, bool) {
	if len(d.h) == 0 {
		return time.Time{}, false
	}
	return d.h[0].deadline, true
}

// due returns a group whose deadline has come; nil: none.
func (d *deadlines) due(now time.Time) *group {
	if len(d.h) == 0 || d.h[0].deadline.After(now) {
		return nil
	}
	return d.h[0]
}

// set moves g's deadline; the zero time takes g out.
func (d *deadlines) set(g *group, t time.Time) {
	switch {
	case g.deadline.Equal(t) && (g.place > 0) == !t.IsZero():
	case t.IsZero():
		if g.place > 0 {
			heap.Remove(&d.h, g.place-1)
		}
		g.deadline = t
	case g.place == 0:
		g.deadline = t
		heap.Push(&d.h, g)
	default:
		g.deadline = t
		heap.Fix(&d.h, g.place-1)
	}
}

// deadlineHeap keeps each group's index plus one in group.place.
type deadlineHeap []*group

func (h deadlineHeap) Len() int           { return len(h) }
func (h deadlineHeap) Less(i, j int) bool { return h[i].deadline.Before(h[j].deadline) }

func (h deadlineHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i+1, j+1
}

// Push implements heap.Interface.
func (h *deadlineHeap) Push(x any) {
	g, ok := x.(*group)
	if !ok {
		return
	}
	g.place = len(*h) + 1
	*h = append(*h, g)
}

// Pop implements heap.Interface.
func (h *deadlineHeap) Pop() any {
	last := len(*h) - 1
	g := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	g.place = 0
	return g
}
