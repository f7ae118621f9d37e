package main

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestJudge: a mutant is caught by a broken promise or by a panic; a hunt that says
// neither, or runs out of time, is no catch and no survivor.
func TestJudge(t *testing.T) {
	exit := errors.New("exit status 2")
	for _, c := range []struct {
		name, output    string
		err             error
		seed, invariant string
		survived, none  bool
	}{
		{"caught", "SEED\t1\nSEED\t2\nCAUGHT\t2\t3 logs agree\nPASS\n", nil, "2", "3 logs agree", false, false},
		{"survived", "SEED\t1\nSURVIVED\nPASS\n", nil, "", "", true, false},
		{"panic", "SEED\t7\npanic: index out of range [3] with length 2\n\ngoroutine 1:\n", exit, "7", "panic: index out of range [3] with length 2", false, false},
		{"panic before the first seed", "panic: nil map\n", exit, "?", "panic: nil map", false, false},
		{"too slow", "SEED\t7\npanic: test timed out after 10m0s\n", exit, "", "", false, true},
		{"silence", "PASS\n", nil, "", "", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := judge([]byte(c.output), c.err)
			require.Equal(t, c.seed, v.seed)
			require.Equal(t, c.invariant, v.invariant)
			require.Equal(t, c.survived, errors.Is(v.err, errSurvived))
			require.Equal(t, c.survived || c.none, v.err != nil)
		})
	}
}

// TestJudgeState: a mutant is caught by the test that is to fail, and by no other; a test
// that was not run is no survivor.
func TestJudgeState(t *testing.T) {
	exit := errors.New("exit status 1")
	v := judgeState("TestScripts/a", []byte("--- FAIL: TestScripts (0.0s)\n    --- FAIL: TestScripts/a (0.0s)\n"), exit)
	require.NoError(t, v.err)
	require.Equal(t, "TestScripts/a", v.invariant)
	require.ErrorIs(t, judgeState("TestA", []byte("--- PASS: TestA (0.0s)\nPASS\n"), nil).err, errSurvived)
	require.ErrorIs(t, judgeState("TestA", []byte("testing: warning: no tests to run\nPASS\n"), nil).err, errNoVerdict)
	require.ErrorIs(t, judgeState("TestA", []byte("--- FAIL: TestAB (0.0s)\n"), exit).err, exit)
}

// TestReport: the table says why a mutant was not caught.
func TestReport(t *testing.T) {
	var out bytes.Buffer
	mutants := []mutant{{name: "a"}, {name: "b"}, {name: "c"}}
	survived := report(&out, mutants, []verdict{{seed: "3", invariant: "panic: nil map"}, {err: errSurvived}, {err: errNoVerdict}})
	require.Equal(t, 2, survived)
	require.Contains(t, out.String(), "panic: nil map")
	require.Contains(t, out.String(), "SURVIVED")
	require.Contains(t, out.String(), "NO VERDICT")
}
