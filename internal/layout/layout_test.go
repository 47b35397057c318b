package layout

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/tipstaff-dev/tipstaff/"

var (
	roles = []string{"authn", "webhook", "approvals", "proxy", "ingest"}
	// below are the packages of this module that a package may import, by the
	// first part of its path. A role may import itself and what stands here.
	shared = []string{"mask", "schema", "api", "internal", "manifests"}
	below  = map[string][]string{
		"api":       {},
		"mask":      {"api", "internal"},
		"manifests": {"api", "internal"},
		"schema":    {"api", "internal"},
		"internal":  {"api", "internal"},
	}
	// owners are the only places that may import a costly dependency.
	owners = map[string][]string{
		"sigs.k8s.io/controller-runtime":    {"webhook", "approvals", "cmd", "e2e"},
		"github.com/ClickHouse/":            {"ingest", "schema", "internal", "cmd"},
		"github.com/coreos/go-oidc":         {"authn"},
		"github.com/nats-io/":               {"ingest"},
		"github.com/zitadel/oidc":           {"e2e"},
		"k8s.io/kubernetes":                 {},
		"github.com/ebitengine/purego":      {"internal"},
		"k8s.io/apiserver/pkg/server/":      {"internal"}, // dynamiccertificates, for httpserve
		"k8s.io/cli-runtime":                {"cmd"},
		"k8s.io/component-base/featuregate": {},
	}
)

func TestImportsRunOneWay(t *testing.T) {
	t.Parallel()
	root := "../.."
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatal(err)
	}
	seen := 0
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, name)
		if d.IsDir() && (rel == "tools" || rel == "bin" || strings.HasPrefix(d.Name(), ".") && rel != ".") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		seen++
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, imp := range f.Imports {
			to, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return err
			}
			if why := forbidden(filepath.ToSlash(rel), to); why != "" {
				t.Errorf("%s imports %s: %s", rel, to, why)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 50 {
		t.Fatalf("read only %d Go files: has the tree moved?", seen)
	}
}

// forbidden says why file may not import to; empty when it may.
func forbidden(file, to string) string {
	from, _, _ := strings.Cut(file, "/")
	test := strings.HasSuffix(file, "_test.go")
	if local, ok := strings.CutPrefix(to, module); ok {
		target, _, _ := strings.Cut(local, "/")
		switch allowed, known := below[from]; {
		case from == "cmd" || from == "e2e" || from == "bench" || target == from:
			return ""
		case known && !slices.Contains(allowed, target):
			return "it lies below"
		case slices.Contains(roles, from) && !slices.Contains(shared, target):
			return "roles never import each other: declare the small interface you need, cmd joins them"
		}
		return ""
	}
	for dep, who := range owners {
		if strings.HasPrefix(to, dep) && !slices.Contains(who, from) && !test {
			return "only " + strings.Join(who, ", ") + " may"
		}
	}
	return ""
}

func TestForbiddenKnowsTheRules(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, file, to string
		want           bool
	}{
		{"a role may not import another", "proxy/proxy.go", module + "authn", true},
		{"a role may import mask", "proxy/proxy.go", module + "mask", false},
		{"mask may not import a role", "mask/mask.go", module + "proxy", true},
		{"internal may not import api's users", "internal/config/x.go", module + "schema", true},
		{"the command may import a role", "cmd/tipstaff/serve.go", module + "proxy", false},
		{"go-oidc belongs to authn", "proxy/proxy.go", "github.com/coreos/go-oidc/v3/oidc", true},
		{"nobody imports the whole of Kubernetes", "cmd/tipstaff/serve.go", "k8s.io/kubernetes/pkg/api", true},
	} {
		if got := forbidden(path.Clean(tc.file), tc.to) != ""; got != tc.want {
			t.Errorf("%s: got %v", tc.name, got)
		}
	}
}
