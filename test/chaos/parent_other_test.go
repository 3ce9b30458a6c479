//go:build !linux

package chaos

import (
	"os/exec"
	"syscall"
)

// dieWithParent does nothing where the kernel cannot help; the harness ends its
// processes itself, unless it is killed.
func dieWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{} }
