package lint

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/penstock/penstock/"

// allowed lists, for each package, which of our packages it may import. A
// trailing slash stands for a folder. Packages under free may import anything.
var allowed = map[string][]string{
	"cmd/penstock":              {"node", "client", "bench", "log", "log/record"},
	"node":                      {"broker", "broker/grpcapi", "kafka", "cluster", "cluster/metadata", "log", "log/record", "internal/vfs", "proto/wire"},
	"broker/grpcapi":            {"broker/api", "log/record", "proto/", "proto/wire"},
	"kafka":                     {"broker/api", "log/record"},
	"broker":                    {"broker/api", "broker/replica", "broker/partition", "cluster", "cluster/metadata", "consumergroup", "consumergroup/coordinator", "log", "log/record", "proto/"},
	"broker/api":                {"log/record"},
	"broker/replica":            {"broker/api", "broker/partition", "log/record", "proto/", "proto/wire"},
	"broker/partition":          {"log/record"},
	"cluster":                   {"cluster/metadata", "cluster/controller", "internal/boltfile", "proto/"},
	"cluster/controller":        {"cluster/metadata", "proto/penstock/meta/v1"},
	"cluster/metadata":          {"proto/penstock/meta/v1"},
	"consumergroup/coordinator": {"consumergroup", "broker/api", "log/record"},
	"consumergroup":             {"consumergroup/assignor"},
	"consumergroup/assignor":    {},
	"log":                       {"log/record", "internal/vfs"},
	"log/logtest":               {"log", "log/record", "internal/vfs"},
	"log/record":                {},
	"internal/boltfile":         {},
	"internal/vfs":              {},
	"internal/punctual":         {},
	"client":                    {"proto/", "proto/wire", "log/record"},
	"proto/wire":                {"proto/", "log/record"},
	"proto/penstock/v1":         {"proto/penstock/meta/v1"},
	"proto/penstock/meta/v1":    {},
	"bench":                     {"client", "internal/punctual"},
}

var free = []string{"internal/lint", "internal/sim", "internal/mutants", "internal/check", "internal/check/", "internal/chaos", "internal/chaos/", "internal/corpus", "internal/demo", "internal/e2e", "internal/loopback", "internal/arenatest", "internal/benchrun", "internal/benchlog", "internal/recoverybench", "internal/groupbench", "bench/spikes/"}

// pure packages depend on nothing of reached, not even through others, and import
// nothing of imported, which the codecs of package record use on their own account.
var (
	pure     = []string{"broker/partition", "cluster/metadata", "cluster/controller", "consumergroup", "consumergroup/assignor", "log/record"}
	reached  = []string{"net", "net/http", "google.golang.org/grpc", "github.com/hashicorp/raft", "log/slog"}
	imported = []string{"math/rand", "math/rand/v2"}
)

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	require.NoError(t, err)
	var pkgs []pkg
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return pkgs
		}
		require.NoError(t, err)
		pkgs = append(pkgs, p)
	}
}

func matches(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		return name == p || strings.HasSuffix(p, "/") && strings.HasPrefix(name, p)
	})
}

func TestImportsFollowTheTable(t *testing.T) {
	for _, p := range list(t) {
		name, ours := strings.CutPrefix(p.ImportPath, module)
		if !ours || matches(name, free) {
			continue
		}
		rule, known := allowed[name]
		if !known {
			t.Errorf("package %s has no line in the import table", name)
			continue
		}
		for _, imp := range p.Imports {
			if imp, ours := strings.CutPrefix(imp, module); ours && !matches(imp, rule) {
				t.Errorf("%s may not import %s", name, imp)
			}
		}
	}
}

func TestTheFrontDoorsDoNotKnowEachOther(t *testing.T) {
	for _, p := range list(t) {
		switch strings.TrimPrefix(p.ImportPath, module) {
		case "broker/grpcapi":
			require.NotContains(t, p.Deps, module+"kafka")
		case "kafka":
			require.NotContains(t, p.Deps, module+"broker/grpcapi")
		}
	}
}

func TestPurePackagesArePure(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if !slices.Contains(pure, name) {
			continue
		}
		for _, dep := range reached {
			if slices.Contains(p.Deps, dep) {
				t.Errorf("%s is pure and may not depend on %s", name, dep)
			}
		}
		for _, dep := range imported {
			if slices.Contains(p.Imports, dep) {
				t.Errorf("%s is pure and may not import %s", name, dep)
			}
		}
	}
}
