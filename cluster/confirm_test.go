package cluster

import (
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// What a majority said to messages that left after the question counts, and nothing else.
func TestConfirmations(t *testing.T) {
	voters := func(ids ...raft.ServerID) (list []raft.Server) {
		for _, id := range ids {
			list = append(list, raft.Server{ID: id, Suffrage: raft.Voter})
		}
		return list
	}
	three := voters("a", "b", "c")
	const term, self = 5, raft.ServerID("a")
	c := newConfirmations()
	yes := func(question, term uint64, voters []raft.Server) bool {
		yes, _ := c.confirmed(question, term, self, voters)
		return yes
	}
	require.True(t, yes(c.ask(), term, voters("a")), "who votes alone asks nobody")

	before := c.leaving()
	question := c.ask()
	require.False(t, yes(question, term, three), "its own vote is not enough")
	_, more := c.confirmed(question, term, self, three)
	c.took("b", term, before)
	require.False(t, yes(question, term, three), "that message had left before the question: another may have been elected since it was taken")
	select {
	case <-more:
	default:
		t.Fatal("nobody was told of the answer")
	}
	c.took("no voter", term, c.leaving())
	require.False(t, yes(question, term, three), "who does not vote elects nobody, and confirms nobody")
	c.took("c", term, c.leaving())
	require.True(t, yes(question, term, three))
	require.False(t, yes(question, term, voters("a", "b", "c", "d", "e")), "two of five")
	require.False(t, yes(c.ask(), term, three), "the next question has its own answers")

	c.took("b", term, before)
	c.took("c", term, before)
	require.True(t, yes(question, term, three), "an answer that comes late takes nothing back")

	// A leader that lost its role and got it again knows nothing of who follows it now.
	c.took("d", term+1, c.leaving())
	require.False(t, yes(question, term, three))
	require.False(t, yes(question, term+1, three))
	c.took("b", term, c.leaving())
	require.False(t, yes(question, term+1, three), "an answer of the term before")
	c.took("b", term+1, c.leaving())
	require.True(t, yes(question, term+1, three))
}
