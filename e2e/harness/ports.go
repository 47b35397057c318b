package harness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Ports come from below Linux's ephemeral range (32768 up), where no outgoing
// connection takes one between our look and the part's bind.
const firstPort, lastPort = 20000, 31999

// errLocked says that another process holds the lock.
var errLocked = errors.New("locked by another process")

// lockFile takes a lock that ends with this process, however that ends. The
// returned file holds it.
func lockFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}

// ports hands out loopback ports that no other harness on this machine uses.
type ports struct{ held []*os.File }

// take returns a free loopback address, ours until release.
func (p *ports) take() (string, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("tipstaff-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the folder of port locks: %w", err)
	}
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		f, err := lockFile(filepath.Join(dir, strconv.Itoa(port)))
		if errors.Is(err, errLocked) {
			continue
		} else if err != nil {
			return "", err
		}
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			_ = f.Close() // somebody else's port
			continue
		}
		if err := l.Close(); err != nil {
			_ = f.Close()
			return "", fmt.Errorf("give port %d to a part: %w", port, err)
		}
		p.held = append(p.held, f)
		return addr, nil
	}
	return "", fmt.Errorf("no free loopback port between %d and %d: end what holds them (see `ss -ltn`)", firstPort, lastPort)
}

func (p *ports) release() {
	for _, f := range p.held {
		_ = f.Close() // gives the lock back
	}
	p.held = nil
}
