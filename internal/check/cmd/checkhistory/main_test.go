package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/check"
	"github.com/penstock/penstock/internal/check/record"
)

func TestRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.jsonl")
	rec, err := record.Create(path)
	require.NoError(t, err)
	p := rec.Process()
	s := []check.Send{{Key: check.Key{Topic: "orders"}, Value: 1, Offset: 0}}
	p.Append(check.Op{Type: check.Invoke, F: check.FSend, Sends: s})
	p.Append(check.Op{Type: check.OK, F: check.FSend, Sends: s})
	require.NoError(t, rec.Close())

	for _, c := range []struct {
		args   []string
		failed bool
		last   string
	}{
		{nil, true, "\nanomalies: 1\n"},
		{[]string{"-allow", "unseen"}, false, "\nanomalies: 0\n"},
		{[]string{"-unfinished"}, false, "\nanomalies: 0\n"},
		{[]string{"-compacted", "orders"}, false, "\nanomalies: 0\n"},
		{[]string{"-retained", "orders", "-read-first", "-stale", "15s"}, true, "\nanomalies: 1\n"},
	} {
		var out bytes.Buffer
		failed, err := run(append(c.args, path), &out)
		require.NoError(t, err)
		require.Equal(t, c.failed, failed)
		require.Contains(t, out.String(), c.last)
	}
	var out bytes.Buffer
	_, err = run([]string{"-json", path}, &out)
	require.NoError(t, err)
	var r check.Report
	require.NoError(t, json.Unmarshal(out.Bytes(), &r))
	require.Equal(t, 1, r.Count(check.Unseen))

	_, err = run([]string{"-allow", "unsen", path}, &out)
	require.ErrorContains(t, err, `"unsen" is none of`)
	_, err = run([]string{path + "x"}, &out)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = run(nil, &out)
	require.ErrorContains(t, err, "one file is needed")
}
