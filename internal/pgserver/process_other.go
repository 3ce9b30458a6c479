//go:build !linux

package pgserver

import "syscall"

// dieWithParent does nothing: only Linux can tie a child's life to its
// parent's. What outlives its parent is stopped by the next sweep.
func dieWithParent(*syscall.SysProcAttr) {}

// orphans lists nothing: without /proc a server's children are not to be told
// from other processes. They end when they notice that the postmaster is gone.
func orphans(string) []int { return nil }
