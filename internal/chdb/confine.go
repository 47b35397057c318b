package chdb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errNoLandlock: this kernel cannot confine. It comes with Linux 5.13 and must be enabled.
var errNoLandlock = errors.New("this kernel has no Landlock")

const (
	landlockReadFile = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE
	landlockRead     = landlockReadFile | unix.LANDLOCK_ACCESS_FS_READ_DIR
	// landlockAllFS is every file right up to Landlock ABI 3, REFER (2) and TRUNCATE (3) included.
	landlockAllFS = 1<<15 - 1
	landlockABI   = 3
)

// confine leaves the calling thread, and what it executes, no file but those of
// dir, the system's libraries and facts about the machine, and no TCP where the kernel
// can forbid it. SQL's file(), url(), executable() and the like run into it.
// Call it with the thread locked, and exec after it.
func confine(dir string, read ...string) error {
	abi, _, _ := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if int(abi) < landlockABI {
		return errNoLandlock
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: landlockAllFS}
	size := unsafe.Sizeof(attr.Handled_access_fs)
	if abi >= 4 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		size += unsafe.Sizeof(attr.Handled_access_net)
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0) //nolint:gosec // as the system call takes it
	if errno != 0 {
		return fmt.Errorf("confine the engine: %w", errno)
	}
	defer unix.Close(int(fd)) //nolint:errcheck // only holds the rules until they apply
	if err := allow(int(fd), dir, landlockAllFS); err != nil {
		return err
	}
	for _, p := range append([]string{
		"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo",
		"/etc/ld.so.cache", "/etc/localtime", "/etc/timezone",
		"/proc/self", "/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/proc/loadavg", "/proc/uptime",
		"/proc/sys", "/sys/devices/system", "/sys/fs/cgroup", "/dev/urandom", "/dev/random", "/dev/zero",
	}, read...) {
		if err := allow(int(fd), p, landlockRead); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := allow(int(fd), "/dev/null", landlockAllFS); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("confine the engine: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("confine the engine: %w", errno)
	}
	return nil
}

func allow(ruleset int, path string, rights uint64) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("confine the engine to %s: %w", path, err)
	}
	defer unix.Close(fd) //nolint:errcheck // O_PATH
	if info, err := os.Stat(path); err != nil {
		return err
	} else if !info.IsDir() {
		rights &= landlockReadFile | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(fd)}                                                                                    //nolint:gosec // a file descriptor fits
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 { //nolint:gosec // as the system call takes it
		return fmt.Errorf("confine the engine to %s: %w", path, errno)
	}
	return nil
}
