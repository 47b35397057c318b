package chdb

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// Config says where the engine keeps its data and where it is reached.
type Config struct {
	// Dir is the data directory. It is created when missing; one process at a time.
	Dir string
	// Listen is the loopback address to serve HTTP on, host:port; port 0 takes a free one.
	Listen string
	// Library is the path of libchdb.so. Empty: $TIPSTAFF_LIBCHDB, then beside
	// the executable, then tools/chdb/node_modules beside the executable's folder.
	Library string
	// Username that callers must give. Empty means "default".
	Username string
	// Password that callers must give. Empty lets Username in without one.
	Password string
}

// ErrNoLibrary is wrapped when libchdb.so is nowhere.
var ErrNoLibrary = errors.New("libchdb.so is missing: `make tools` brings it")

// libraryInTools is where tools/chdb/install.sh puts the library, from the repository's root.
const libraryInTools = "tools/chdb/node_modules/@chdb/lib-linux-x64-gnu/libchdb.so"

func checkLoopback(listen string) error {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("ClickHouse address %q: %w", listen, err)
	}
	if host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("ClickHouse address %q is not on loopback: the embedded engine has no TLS and serves this machine only", listen)
	}
	return nil
}

func findLibrary(given string) (string, error) {
	if given == "" {
		given = os.Getenv("TIPSTAFF_LIBCHDB")
	}
	if given != "" {
		if _, err := os.Stat(given); err != nil { //nolint:gosec // the operator names it
			return "", fmt.Errorf("%w (%w)", ErrNoLibrary, err)
		}
		return filepath.Abs(given)
	}
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find libchdb.so beside the executable: %w", err)
	}
	here := filepath.Dir(exe)
	for _, p := range []string{filepath.Join(here, "libchdb.so"), filepath.Join(filepath.Dir(here), libraryInTools)} {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w (looked beside %s and in %s)", ErrNoLibrary, filepath.Base(exe), libraryInTools)
}
