//go:build !linux

package chaos

import (
	"errors"
	"syscall"
	"testing"
)

// disk would be a small file system.
type disk struct{ dir string }

var errNoDisk = errors.New("there is no disk to fill here")

func ownMounts(*syscall.SysProcAttr) {}

func newDisk(*testing.T) *disk { return nil }

func (*disk) fill() error { return errNoDisk }

func (*disk) empty() error { return errNoDisk }

func (*server) limitFiles() error { return errNoDisk }

func (*server) unlimitFiles() error { return errNoDisk }
