package chaos

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// killProcesses kills processes of a server and returns when it has noticed,
// which ends all its sessions; errMissed when they have ended by themselves.
func (s *server) killProcesses(pids []int32) error {
	ctx, cancel := context.WithTimeout(context.Background(), askBound)
	defer cancel()
	conn, err := s.connect(ctx, "postgres")
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	killed := false
	for _, pid := range pids {
		err := syscall.Kill(int(pid), syscall.SIGKILL)
		if err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("killing process %d of the %s server: %w", pid, s.side, err)
		}
		killed = killed || err == nil
	}
	if !killed {
		return errMissed
	}
	return until("the "+string(s.side)+" server to notice", askBound, func() (bool, string, error) {
		return conn.Ping(ctx) != nil, "", nil
	})
}

// restart starts a server that was crashed.
func (s *server) restart() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return s.cluster.Restart(ctx)
}

var errNoRoom = errors.New("this server has no disk of its own")

// fillDisk takes all room that the server's disk has left.
func (s *server) fillDisk() error {
	if s.disk == nil {
		return errNoRoom
	}
	return s.disk.fill()
}

// emptyDisk gives it back.
func (s *server) emptyDisk() error {
	if err := s.disk.empty(); err != nil {
		return err
	}
	return s.revive()
}

// revive starts a server that has ended, and waits for one that is about to
// come back by itself.
func (s *server) revive() error {
	if !s.cluster.Running() {
		if err := s.restart(); err != nil {
			return err
		}
	}
	return s.up()
}
