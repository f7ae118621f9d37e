package main

import (
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	// variable names the mutant that is switched on.
	variable = "PENSTOCK_MUTANT"
	// switched is the package-level variable in each changed package.
	switched = "penstockMutant"
)

// writeOverlay writes the changed files and a switch for each of their packages into
// dir, and returns the path of the file for -overlay.
func writeOverlay(root, dir string, mutants []mutant) (string, error) {
	files, err := apply(mutants, func(name string) (string, error) {
		b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		return string(b), err
	})
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for i, name := range slices.Sorted(maps.Keys(files)) {
		to := filepath.Join(dir, strconv.Itoa(i)+".go")
		if err := os.WriteFile(to, []byte(files[name]), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, filepath.FromSlash(name))] = to
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	to := filepath.Join(dir, "overlay.json")
	return to, os.WriteFile(to, b, 0o600)
}

// apply returns the text of each changed file, and of the switches. A snippet that
// does not occur exactly once is an error: the list must follow the product.
func apply(mutants []mutant, read func(name string) (string, error)) (map[string]string, error) {
	byFile := map[string][]edit{}
	for _, m := range mutants {
		for _, e := range m.edits {
			e.new = strings.ReplaceAll(e.new, "MUTANT", "("+switched+" == "+strconv.Quote(m.name)+")")
			byFile[e.file] = append(byFile[e.file], e)
		}
	}
	out := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(byFile)) {
		text, err := read(name)
		if err != nil {
			return nil, err
		}
		if out[name], err = applyTo(name, text, byFile[name]); err != nil {
			return nil, err
		}
		clause, err := parser.ParseFile(token.NewFileSet(), name, text, parser.PackageClauseOnly)
		if err != nil {
			return nil, err
		}
		out[path.Join(path.Dir(name), "penstock_mutant.go")] = fmt.Sprintf(
			"package %s\n\nimport \"os\"\n\nvar %s = os.Getenv(%q)\n", clause.Name.Name, switched, variable)
	}
	return out, nil
}

// applyTo makes all edits of one file; they must not overlap.
func applyTo(name, text string, edits []edit) (string, error) {
	at := func(e edit) int { return strings.Index(text, e.old) }
	for _, e := range edits {
		if n := strings.Count(text, e.old); n != 1 {
			return "", fmt.Errorf("%s: this snippet of the mutants occurs %d times, want once:\n%s", name, n, e.old)
		}
	}
	slices.SortFunc(edits, func(a, b edit) int { return at(a) - at(b) })
	var b strings.Builder
	end := 0
	for _, e := range edits {
		if at(e) < end {
			return "", fmt.Errorf("%s: two snippets of the mutants overlap at:\n%s", name, e.old)
		}
		b.WriteString(text[end:at(e)])
		b.WriteString(e.new)
		end = at(e) + len(e.old)
	}
	b.WriteString(text[end:])
	return b.String(), nil
}
