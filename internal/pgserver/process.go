package pgserver

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// process is a running server: the postmaster.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the postmaster has ended
	err  error         // how it ended; read after done is closed
}

// startProcess starts the postmaster. It lives at most as long as this process
// where the operating system can tie the two (Linux).
func startProcess(path string, args, env []string, dir string, log *os.File, who *syscall.Credential) (*process, error) {
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Env = dir, env
	cmd.Stdout, cmd.Stderr = log, log
	// Its own process group: a Ctrl-C in the terminal shall reach this process,
	// which then ends its servers in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: who}
	dieWithParent(cmd.SysProcAttr)
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		<-p.done
		return nil, err
	}
	return p, nil
}

// run starts the postmaster and waits for its end, all on one thread: Linux
// sends the parent-death signal when the thread that started the child ends,
// not the process, so that this thread must live as long as the child.
func (p *process) run(started chan<- error) {
	defer close(p.done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err == nil {
		p.err = p.cmd.Wait()
	}
}

// running reports whether the postmaster still lives. A nil process does not.
func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}
