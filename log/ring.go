package log

// ring is a queue in an array that is used again and again: in the steady state
// nothing is allocated. The zero ring is empty and holds no memory.
type ring[T any] struct {
	items []T // a power of two of them; nil: none
	head  int
	n     int
}

// ringKept is how many items an empty ring keeps room for.
const ringKept = 16

func (r *ring[T]) len() int { return r.n }

// at returns the i-th item from the front.
func (r *ring[T]) at(i int) *T { return &r.items[(r.head+i)&(len(r.items)-1)] }

func (r *ring[T]) push(v T) {
	if r.n == len(r.items) {
		r.resize(max(2*len(r.items), 4))
	}
	r.n++
	*r.at(r.n - 1) = v
}

// dropFront forgets the first n items.
func (r *ring[T]) dropFront(n int) {
	var none T
	for i := range n {
		*r.at(i) = none
	}
	r.head = (r.head + n) & max(len(r.items)-1, 0)
	r.n -= n
	r.shrink()
}

// dropBack forgets the items from the i-th on.
func (r *ring[T]) dropBack(i int) {
	var none T
	for j := i; j < r.n; j++ {
		*r.at(j) = none
	}
	r.n = i
	r.shrink()
}

// shrink gives room back that a burst took.
func (r *ring[T]) shrink() {
	size := len(r.items)
	for size > ringKept && r.n <= size/8 {
		size /= 4
	}
	switch {
	case size == len(r.items):
	case r.n == 0:
		r.items, r.head = nil, 0
	default:
		r.resize(size)
	}
}

func (r *ring[T]) resize(size int) {
	items := make([]T, size)
	for i := range r.n {
		items[i] = *r.at(i)
	}
	r.items, r.head = items, 0
}
