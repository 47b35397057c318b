package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	module     = "module github.com/tipstaff-dev/tipstaff\n"
	tempPrefix = "tipstaff-run-"
)

// Root finds the repository: the folder of the module's go.mod, from the
// working folder upwards, or from this program's own folder.
func Root() (string, error) {
	var from []string
	if wd, err := os.Getwd(); err == nil {
		from = append(from, wd)
	}
	if exe, err := os.Executable(); err == nil {
		from = append(from, filepath.Dir(exe))
	}
	for _, dir := range from {
		for ; ; dir = filepath.Dir(dir) {
			if b, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && strings.HasPrefix(string(b), module) {
				return dir, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", errors.New("the Tipstaff repository isn't here: run this inside it")
}

// place is a run's folder, locked as long as the run lives.
type place struct {
	dir  string
	lock *os.File
	temp bool // a temporary folder, whose lock goes with it
}

// newPlace makes dir empty and ours; "" means a new temporary folder. What a
// killed run left behind is removed.
func newPlace(dir string) (*place, error) {
	temp := dir == ""
	if temp {
		sweep(os.TempDir())
		d, err := os.MkdirTemp("", tempPrefix)
		if err != nil {
			return nil, fmt.Errorf("make a folder for this run: %w", err)
		}
		dir = d
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, fmt.Errorf("make a folder for this run: %w", err)
	}
	// The lock lies beside the folder: the folder comes and goes.
	lock, err := lockFile(dir + ".lock")
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("another one is running in %s: stop it first (Ctrl-C where it runs)", dir)
	} else if err != nil {
		return nil, err
	}
	p := &place{dir: dir, lock: lock, temp: temp}
	if err := os.RemoveAll(dir); err != nil {
		p.unlock()
		return nil, fmt.Errorf("clear %s, which an earlier run left: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		p.unlock()
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	return p, nil
}

// sweep removes temporary folders of runs that are dead.
func sweep(tmp string) {
	locks, err := filepath.Glob(filepath.Join(tmp, tempPrefix+"*.lock"))
	if err != nil {
		return // only for a bad pattern
	}
	for _, name := range locks {
		f, err := lockFile(name)
		if err != nil {
			continue // alive, or not ours
		}
		_ = os.RemoveAll(strings.TrimSuffix(name, ".lock")) // somebody else's stays
		_ = os.Remove(name)
		_ = f.Close()
	}
}

func (p *place) unlock() {
	if p.temp { // a name that comes again must keep its file, or two could lock one each
		_ = os.Remove(p.lock.Name())
	}
	_ = p.lock.Close()
}

// remove gives the folder back.
func (p *place) remove() {
	_ = os.RemoveAll(p.dir) // the next run sweeps what is left
	p.unlock()
}
