package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tipstaff-dev/tipstaff/e2e/harness"
	"github.com/tipstaff-dev/tipstaff/e2e/issuer"
)

// mintToken prints a token of the environment that `devenv dev` keeps running.
func mintToken(ctx context.Context, args []string) error {
	fl := flag.NewFlagSet("mint-token", flag.ContinueOnError)
	dir := fl.String("dir", "", "folder that dev describes itself in (default: .dev of this repository)")
	run := fl.String("run", "", "the run's id")
	subject := fl.String("subject", "coder", "the token's sub")
	lifetime := fl.Duration("lifetime", time.Hour, "how long the token lives")
	private := map[string]any{}
	fl.Func("claim", "a further claim, k=v; v may be a JSON object or list", func(s string) error {
		k, v, err := parseClaim(s)
		private[k] = v
		return err
	})
	if err := fl.Parse(args); err != nil {
		return err
	}
	if fl.NArg() > 0 {
		return fmt.Errorf("%q is no flag", fl.Arg(0))
	}
	if *run != "" { // without one the token has none, and is refused: worth trying
		private["run"] = *run
	}
	if *dir == "" {
		root, err := harness.Root()
		if err != nil {
			return err
		}
		*dir = filepath.Join(root, ".dev")
	}
	c := &issuer.Client{Roots: x509.NewCertPool()}
	for name, use := range map[string]func([]byte){
		fileIssuer: func(b []byte) { c.URL = strings.TrimSpace(string(b)) },
		fileSecret: func(b []byte) { c.AdminSecret = string(b) },
		fileCA:     func(b []byte) { c.Roots.AppendCertsFromPEM(b) },
	} {
		b, err := os.ReadFile(filepath.Join(*dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return errNoDev
		} else if err != nil {
			return err
		}
		use(b)
	}
	token, err := c.Mint(ctx, issuer.Claims{Subject: *subject, Private: private, Lifetime: *lifetime})
	if err != nil {
		return err
	}
	fmt.Println(token)
	return nil
}

// parseClaim reads k=v. A value that starts as a JSON object or list is one.
func parseClaim(s string) (string, any, error) {
	k, v, ok := strings.Cut(s, "=")
	if !ok || k == "" {
		return "", nil, errors.New("must be k=v")
	}
	if strings.HasPrefix(v, "{") || strings.HasPrefix(v, "[") {
		var out any
		if err := json.Unmarshal([]byte(v), &out); err != nil {
			return "", nil, fmt.Errorf("the value of %s is not JSON: %w", k, err)
		}
		return k, out, nil
	}
	return k, v, nil
}
