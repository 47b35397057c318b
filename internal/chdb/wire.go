package chdb

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Parent and engine are joined by one pair of sockets. For every connection the
// parent makes a new pair and sends one end over the first: nothing of it is
// in the file system and no other process can connect. The end of the first
// pair tells the engine that its parent is gone or wants it to stop.

// socketpair returns this process's end and the file to hand over.
func socketpair(kind int) (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "chdb"), os.NewFile(uintptr(fds[1]), "chdb")
	c, err := net.FileConn(ours)
	_ = ours.Close() // FileConn has its own copy
	if err != nil {
		_ = theirs.Close() // unused
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	return c, theirs, nil
}

// dial connects to the engine at the other end of control.
func dial(control *net.UnixConn) (net.Conn, error) {
	c, theirs, err := socketpair(unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	defer theirs.Close() //nolint:errcheck // sent: the engine has its own copy
	if _, _, err := control.WriteMsgUnix([]byte{1}, unix.UnixRights(int(theirs.Fd())), nil); err != nil {
		_ = c.Close() // unused
		return nil, fmt.Errorf("reach the ClickHouse engine: %w", err)
	}
	return c, nil
}

// listener accepts the connections that arrive over control.
type listener struct {
	control *net.UnixConn
	once    sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := l.control.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, net.ErrClosed
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, errors.New("message without a connection")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("message without a connection")
	}
	unix.CloseOnExec(fds[0])
	f := os.NewFile(uintptr(fds[0]), "connection")
	defer f.Close() //nolint:errcheck // FileConn has its own copy
	return net.FileConn(f)
}

func (l *listener) Close() error {
	// Only wakes Accept; the pair itself closes with the process.
	l.once.Do(func() { _ = l.control.SetReadDeadline(time.Unix(1, 0)) })
	return nil
}

func (l *listener) Addr() net.Addr { return l.control.LocalAddr() }
