//go:build !linux

package clients

import "os/exec"

// dieWithParent does nothing: only Linux can do that.
func dieWithParent(*exec.Cmd) {}
