package cluster

import (
	"sync"

	"github.com/hashicorp/raft"
)

// confirmations are what a leader of Raft knows of who still follows it: of each server,
// how new the newest heartbeat is that it took, counted in questions. A message carries
// the number of questions that had been asked when it left. So an answer to it says: when
// that question came, or later, this server had not joined a newer term. When a majority
// has said so, nobody had been elected by then, and no log entry is needed to know it.
//
// Raft's VerifyLeader counts answers, too, but also those to messages that had left before
// it was called, and of servers that do not vote. Here it only has heartbeats leave at once.
type confirmations struct {
	mu      sync.Mutex               // guards what follows
	asked   uint64                   // questions so far
	term    uint64                   // of the answers
	taken   map[raft.ServerID]uint64 // by server: what the newest message carried that it took
	changed chan struct{}            // closed when taken says more
}

func newConfirmations() *confirmations {
	return &confirmations{taken: make(map[raft.ServerID]uint64), changed: make(chan struct{})}
}

// ask asks a question and returns its number.
func (c *confirmations) ask() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	return c.asked
}

// leaving is what a message carries that leaves now.
func (c *confirmations) leaving() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

// took notes that a server took a message of a term as one of its leader's.
func (c *confirmations) took(id raft.ServerID, term, carried uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case term < c.term:
		return // an answer that comes after the end of its term
	case term > c.term:
		c.term = term
		clear(c.taken)
	}
	if last, ok := c.taken[id]; ok && carried <= last {
		return
	}
	c.taken[id] = carried
	close(c.changed)
	c.changed = make(chan struct{})
}

// confirmed reports whether a majority of voters, of which the leader itself is one that
// need not be asked, took a message of a term that left after a question; if not, more is
// closed when there is more to know.
func (c *confirmations) confirmed(question, term uint64, self raft.ServerID, voters []raft.Server) (yes bool, more <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := 0
	for _, v := range voters {
		if v.ID == self {
			count++
		} else if at, ok := c.taken[v.ID]; ok && c.term == term && at >= question {
			count++
		}
	}
	return count > len(voters)/2, c.changed
}
