package lint

import (
	"os"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestThePageNamesEveryPackage: the table of packages in docs/ARCHITECTURE.md has each,
// or the folder that it is in, and nothing that is not there.
func TestThePageNamesEveryPackage(t *testing.T) {
	b, err := os.ReadFile("../../docs/ARCHITECTURE.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(b), "\n## Packages\n")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n## ")
	named := map[string]bool{}
	for line := range strings.Lines(table) {
		folders, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
		for _, m := range regexp.MustCompile("`([a-z0-9/]+)`").FindAllStringSubmatch(folders, -1) {
			named[m[1]] = true
			require.DirExists(t, path.Join("../..", m[1]), "named in the table")
		}
	}
	for _, p := range list(t) {
		name, ours := strings.CutPrefix(p.ImportPath, module)
		for at := name; ours && !named[at]; at = path.Dir(at) {
			if at == "." {
				t.Errorf("%s is missing from the table of packages in docs/ARCHITECTURE.md", name)
				break
			}
		}
	}
}
