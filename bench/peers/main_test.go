package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFlags(t *testing.T) {
	o, err := parse([]string{"-short", "-rounds", "3"}, io.Discard)
	require.NoError(t, err)
	require.Equal(t, []string{"penstock", "kafka", "jetstream"}, o.peers)
	require.Equal(t, []string{"synced"}, o.durabilities)
	require.Equal(t, 3, o.rounds)
	o, err = parse([]string{"-short", "-warmup", "0s", "-durability", "synced,replicated"}, io.Discard)
	require.NoError(t, err)
	require.Zero(t, o.warmup, "what was given stands, also when it is zero or the usual")
	require.Equal(t, []string{"synced", "replicated"}, o.durabilities)
	o, err = parse(nil, io.Discard)
	require.NoError(t, err)
	require.Equal(t, peerNames(), o.peers)
	require.Equal(t, rowNames(), o.rows)
	require.Equal(t, 20*time.Second, o.duration)
	require.False(t, o.quoted())
	o, err = parse([]string{"-quote"}, io.Discard)
	require.NoError(t, err)
	require.True(t, o.quoted())
	o.rounds--
	require.False(t, o.quoted(), "only whole")
}

// TestADiskThatIsTooSmallIsRefused: before anything is installed.
func TestADiskThatIsTooSmallIsRefused(t *testing.T) {
	dir := t.TempDir()
	l := &lab{options: &options{gib: 1 << 40}, dir: dir}
	var bad *flagError
	require.ErrorAs(t, l.fits(), &bad)
	require.Equal(t, "gib", bad.name)
	require.Contains(t, bad.want, "free on the disk of "+dir)
	l.gib = 1e-9
	require.NoError(t, l.fits())
}

// TestBadFlagsAreNamed: each is refused with what was wrong and what would be right.
func TestBadFlagsAreNamed(t *testing.T) {
	for _, tt := range []struct{ name, value, want string }{
		{"peers", "pulsar", "jetstream"},
		{"peers", "", "jetstream"},
		{"peers", "kafka,kafka", "each once"},
		{"rows", "moons", "produce-1k"},
		{"durability", "fsynced", "synced,replicated"},
		{"rounds", "0", "at least 1"},
		{"duration", "0s", "more than 0s"},
		{"warmup", "-1s", "0s or more"},
		{"warm", "-1s", "0s or more"},
		{"touch", "-1", "0 or more"},
		{"gib", "0", "more than 0"},
	} {
		_, err := parse([]string{"-" + tt.name, tt.value}, io.Discard)
		var bad *flagError
		require.ErrorAs(t, err, &bad, tt.name)
		require.Equal(t, tt.name, bad.name)
		require.Equal(t, tt.value, bad.value)
		require.Contains(t, bad.want, tt.want)
	}
	_, err := parse([]string{"-peers", "kafka,", "redis"}, io.Discard)
	require.ErrorContains(t, err, `argument "redis"`)
}

// TestNothingStartsThatCouldNotEnd: a result that would have no place, and a run
// without a binary, are refused before anything is installed, let alone measured.
func TestNothingStartsThatCouldNotEnd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	self, err := os.Executable()
	require.NoError(t, err)
	for _, o := range []*options{
		{binary: self, jsonFile: filepath.Join(file, "peers.json")},
		{binary: self, jsonFile: t.TempDir()},
		{binary: filepath.Join(t.TempDir(), "penstock")},
		{binary: file},
	} {
		o.tools = filepath.Join(t.TempDir(), "tools")
		var out bytes.Buffer
		var bad *flagError
		require.ErrorAs(t, run(t.Context(), o, &out), &bad)
		require.Empty(t, out.String())
		require.NoDirExists(t, o.tools)
	}
}

func TestTheResultIsWrittenIntoANewFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "docs", "performance")
	path := filepath.Join(dir, "peers.json")
	r, err := newReport(path)
	require.NoError(t, err)
	require.DirExists(t, dir, "made first")
	require.NoError(t, r.write(&result{GitRev: "abc"}))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var got result
	require.NoError(t, json.Unmarshal(b, &got))
	require.Equal(t, "abc", got.GitRev)

	r, err = newReport(path)
	require.NoError(t, err)
	require.NoError(t, r.discard())
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	hidden, err := filepath.Glob(filepath.Join(dir, ".*json*"))
	require.NoError(t, err)
	require.Equal(t, []string{path}, append(left, hidden...), "a run that did not measure leaves the result before")

	r, err = newReport("")
	require.NoError(t, err)
	require.NoError(t, r.write(&result{}))
	require.NoError(t, r.discard())
}
