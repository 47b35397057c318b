package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAuthnExportWritesTheFileAndSaysWhatIsLost(t *testing.T) {
	t.Parallel()
	dir := files(t)
	name := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(name, []byte(documented(t, dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := authnExportCommand(&options{configFile: name})
	var out, warnings bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&warnings)
	cmd.SetArgs(nil)
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "# Made by") || !strings.Contains(out.String(), "\napiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n") {
		t.Errorf("stdout is\n%s", out.String())
	}
	if !strings.Contains(warnings.String(), "gives up revocation") {
		t.Errorf("stderr is %q", warnings.String())
	}
}
