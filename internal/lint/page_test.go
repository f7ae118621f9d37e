package lint

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
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

// TestDocsNameEveryFile: where a package's comment says what is where, it names each of
// the package's files, and none that is gone.
func TestDocsNameEveryFile(t *testing.T) {
	word := regexp.MustCompile(`[a-z0-9_*]+\.go\b`)
	tables := 0
	for _, p := range list(t) {
		folder := path.Join("../..", strings.TrimPrefix(p.ImportPath, module))
		doc, err := os.ReadFile(path.Join(folder, "doc.go"))
		_, table, found := strings.Cut(string(doc), "\n// # What is where\n//\n")
		if err != nil || !found {
			continue
		}
		tables++
		table, _, _ = strings.Cut(table, "\n//\n")
		table, _, _ = strings.Cut(table, "\npackage ")
		patterns := word.FindAllString(table, -1)
		files, err := filepath.Glob(path.Join(folder, "*.go"))
		require.NoError(t, err)
		for _, f := range files {
			name := filepath.Base(f)
			named := slices.ContainsFunc(patterns, func(p string) bool { ok, err := path.Match(p, name); return ok && err == nil })
			if !named && name != "doc.go" && !strings.HasSuffix(name, "_test.go") {
				t.Errorf("%s: doc.go does not say what %s is for", p.ImportPath, name)
			}
		}
		for _, pattern := range patterns {
			if there, err := filepath.Glob(path.Join(folder, pattern)); err != nil || len(there) == 0 {
				t.Errorf("%s: doc.go speaks of %s, which is not there", p.ImportPath, pattern)
			}
		}
	}
	require.Positive(t, tables)
}

// TestPagesLeadSomewhere: the links of our pages to files and headings here, and the
// files and folders that docs/ARCHITECTURE.md names.
func TestPagesLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			target, heading, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			there := page
			if target != "" {
				there = path.Join(path.Dir(page), target)
			}
			if _, err := os.Stat(there); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", page, m[1])
			} else if heading != "" && !slices.Contains(headings(t, there), heading) {
				t.Errorf("%s: %s has no heading %q", page, target, heading)
			}
		}
	}
	text, err := os.ReadFile("../../docs/ARCHITECTURE.md")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile("`([a-z0-9_]+/[a-zA-Z0-9_/*.]+)`").FindAllStringSubmatch(string(text), -1) {
		if there, err := filepath.Glob(path.Join("../..", m[1])); err != nil || len(there) == 0 {
			t.Errorf("docs/ARCHITECTURE.md speaks of %s, which is not there", m[1])
		}
	}
}

// pages are the Markdown files of the repository, but for what is built or installed.
func pages(t *testing.T) (found []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir("../..", func(name string, entry fs.DirEntry, err error) error {
		switch base := entry.Name(); {
		case err != nil:
			return err
		case entry.IsDir() && (base == "bin" || base == "node_modules" || base == ".git"):
			return filepath.SkipDir
		case path.Ext(base) == ".md":
			found = append(found, filepath.ToSlash(name))
		}
		return nil
	}))
	return found
}

// headings are the anchors of a page, as GitHub makes them.
func headings(t *testing.T, page string) (anchors []string) {
	t.Helper()
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if title := strings.TrimLeft(line, "#"); title != line {
			words := regexp.MustCompile(`[^\pL\pN _-]`).ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
			anchors = append(anchors, strings.ReplaceAll(words, " ", "-"))
		}
	}
	return anchors
}
