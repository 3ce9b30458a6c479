package rights

import (
	"os/exec"
	"syscall"
)

// dieWithParent lets the kernel end the process when its parent ends, see
// prctl(2), PR_SET_PDEATHSIG.
func dieWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
