package storm

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func everyKind() (kinds []Kind) {
	for _, t := range traits() {
		kinds = append(kinds, t.kind)
	}
	return kinds
}

func TestASeedIsASchedule(t *testing.T) {
	first, again := Draw(7, 200, false, everyKind()), Draw(7, 200, false, everyKind())
	require.Equal(t, first, again)
	require.NotEqual(t, Draw(7, 20, false, everyKind()).Steps, Draw(8, 20, false, everyKind()).Steps)
}

// What is drawn is never beyond what the cluster promises to survive, and nothing
// that the harness cannot do.
func TestDrawnSteps(t *testing.T) {
	for seed := range uint64(50) {
		for _, short := range []bool{false, true} {
			seen, pairs := map[Kind]int{}, 0
			for _, s := range Draw(seed, 120, short, everyKind()).Steps {
				whole, disks := 0, 0
				for _, a := range s.Actions {
					seen[a.Kind]++
					tr := traitOf(a.Kind)
					if tr.whole {
						whole++
						require.Empty(t, a.Role)
					} else {
						require.NotEmpty(t, a.Role)
					}
					if touchesDisks(tr) {
						disks++
					}
					require.False(t, tr.alone && len(s.Actions) > 1, "%s", s.Name())
					require.Zero(t, a.Node, "roles are resolved while it runs")
				}
				if len(s.Actions) > 1 {
					pairs++
					require.LessOrEqual(t, whole, 1, "%s", s.Name())
					require.False(t, whole == 1 && disks == 2, "%s", s.Name())
					require.False(t, tooMuch(s.Actions[0].Kind, s.Actions[1].Kind), "%s", s.Name())
					require.False(t, asksWhoLeads(s.Actions[1].Kind) && traitOf(s.Actions[0].Kind).whole, "%s: nobody is there to ask", s.Name())
				}
				hurts := slices.ContainsFunc(s.Actions, func(a Action) bool { return asksWhoLeads(a.Kind) })
				require.False(t, hurts && s.Eager, "two nodes may not be damaged, and whether one noticed is seen in the end")
				require.LessOrEqual(t, s.Hold, 10*time.Second)
			}
			require.Greater(t, pairs, 20)
			for _, tr := range traits() {
				require.Equal(t, !short || tr.short, seen[tr.kind] > 0, "%s in 120 steps of seed %d, short %t", tr.kind, seed, short)
			}
		}
	}
}

// Two faults that each take a copy of a record away are more than is promised.
func TestTwoCopiesAreNotTaken(t *testing.T) {
	for _, pair := range [][2]Kind{{FlipBits, FlipBits}, {FlipBits, BadCheckpoint}, {BadTopicID, BadCheckpoint}, {Replace, BadTopicID}, {BadCheckpoint, Replace}} {
		require.True(t, tooMuch(pair[0], pair[1]), "%s and %s", pair[0], pair[1])
		require.True(t, tooMuch(pair[1], pair[0]), "%s and %s", pair[1], pair[0])
	}
	// A replacement looks by itself for flipped bits elsewhere.
	for _, pair := range [][2]Kind{{FlipBits, Replace}, {BadEpochs, FlipBits}, {BadIndex, BadSnapshot}, {BadCheckpoint, PowerAll}} {
		require.False(t, tooMuch(pair[0], pair[1]), "%s and %s", pair[0], pair[1])
	}
}

func TestOnlySomeKinds(t *testing.T) {
	kinds, err := Only([]Kind{Kill, SlowLink, Pause}, []string{"slow link", " kill -9"})
	require.NoError(t, err)
	require.Equal(t, []Kind{SlowLink, Kill}, kinds)
	_, err = Only([]Kind{Kill}, []string{"slow link"})
	require.ErrorContains(t, err, "slow link")
}

func TestAScheduleFromAFile(t *testing.T) {
	s := Draw(3, 30, false, everyKind())
	s.Steps[0].Actions[0].Node = 2
	path := filepath.Join(t.TempDir(), "schedule.json")
	require.NoError(t, s.Write(path))
	again, err := ReadSchedule(path)
	require.NoError(t, err)
	require.Equal(t, s, again)
	_, err = ReadSchedule(filepath.Join(filepath.Dir(path), "none"))
	require.Error(t, err)
}

func TestKindsThatCannotBeHadAreNotDrawn(t *testing.T) {
	for _, s := range Draw(1, 50, false, []Kind{Kill, Pause}).Steps {
		for _, a := range s.Actions {
			require.Contains(t, []Kind{Kill, Pause}, a.Kind)
		}
	}
}
