package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func read(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(name)))
	return string(b), err
}

// TestSnippetsOccur holds the list to the product: each snippet is there once.
func TestSnippetsOccur(t *testing.T) {
	files, err := apply(list(), read)
	require.NoError(t, err)
	require.Contains(t, files, "broker/partition/penstock_mutant.go")
	require.Contains(t, files["broker/partition/leader.go"], switched+` == "a suspended leader acts"`)
}

func TestNamesDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range list() {
		require.False(t, seen[m.name], m.name)
		require.NotEmpty(t, m.edits, m.name)
		for _, e := range m.edits {
			require.Contains(t, e.new, "MUTANT", m.name)
		}
		seen[m.name] = true
	}
	require.GreaterOrEqual(t, len(seen), 20)
}

func TestApply(t *testing.T) {
	text := func(string) (string, error) { return "package p\n\nvar a, b = 1, 2\n", nil }
	for _, c := range []struct {
		name, want string
		edits      []edit
	}{
		{"missing", "occurs 0 times", []edit{{"p/f.go", "xyz", ""}}},
		{"twice", "occurs 2 times", []edit{{"p/f.go", ", ", ""}}},
		{"overlap", "overlap", []edit{{"p/f.go", "b = 1", ""}, {"p/f.go", "1, 2", ""}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := apply([]mutant{{name: "m", edits: c.edits}}, text)
			require.ErrorContains(t, err, c.want)
		})
	}
	files, err := apply([]mutant{one("m", "p/f.go", "1, 2", "1, f(MUTANT)")}, text)
	require.NoError(t, err)
	require.Equal(t, "package p\n\nvar a, b = 1, f((penstockMutant == \"m\"))\n", files["p/f.go"])
	require.Equal(t, "package p\n\nimport \"os\"\n\nvar penstockMutant = os.Getenv(\"PENSTOCK_MUTANT\")\n", files["p/penstock_mutant.go"])
}
