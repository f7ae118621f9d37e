package corpus

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParagraphs(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     []Record
	}{
		{"empty", "", nil},
		{"blank lines only", "\n\n", nil},
		{"one, no newline at the end", "Package: a\nX: 1", []Record{{"a", []byte("Package: a\nX: 1")}}},
		{"two", "Package: a\nX: 1\n\n\nX: 2\nPackage: b\n\n", []Record{
			{"a", []byte("Package: a\nX: 1\n")}, {"b", []byte("X: 2\nPackage: b\n")},
		}},
		{"no package", "X: 1\n", []Record{{"", []byte("X: 1\n")}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Paragraphs(strings.NewReader(tc.in))
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
		})
	}
}

func TestFilesReadLinesByPath(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a"), []byte("1\n\n2"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, ".git"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".git", "b"), []byte("no"), 0o600))
	c, err := files(dir)
	require.NoError(t, err)
	require.Equal(t, []Record{{"a", []byte("1")}, {"a", []byte{}}, {"a", []byte("2")}}, c.Records)
	_, err = files(t.TempDir())
	require.ErrorIs(t, err, ErrEmpty)
}
