package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/upgrade"
)

// A pooler stays paused when the tool that paused it dies. So before the pause
// the tool starts this child, which holds the other end of a pipe: a beat comes
// every second, a word when the pause is over; when the beats stop, or the pipe
// closes without the word, the child ends the pause as the decision says.
const (
	beatEvery   = time.Second
	beatMissing = 5 * time.Second // the lease of a tool that was stopped has ended by then
	readyBound  = 20 * time.Second
	// dismissBound is how long a dismissed watchdog may take to end.
	dismissBound = 3 * time.Second
	beat         = 'b'
	dismissed    = 'd'
)

func newWatchdog(a *app) *cobra.Command {
	cmd := command("watchdog", "End a pooler's pause should the tool vanish (started by cutover)",
		"watchdog is started by cutover and rollback while poolers are paused. It reads from a pipe.",
		"  pgcutover watchdog",
		func(ctx context.Context) error {
			// Nor may the end of whoever reads its text, or of the terminal.
			signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
			// The pipe may end at any time; what has to be done then must not end
			// with it, nor with a signal that was meant for the tool.
			return a.withMove(context.WithoutCancel(ctx), func(m *upgrade.Move) error { return a.watch(context.WithoutCancel(ctx), m, os.Stdin) })
		})
	cmd.Hidden = true
	return cmd
}

// watch is the child.
func (a *app) watch(ctx context.Context, m *upgrade.Move, pipe io.Reader) error {
	c, err := m.NewCutover(ctx)
	if err != nil {
		return err
	}
	in := bufio.NewReader(pipe)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("reading what to watch: %w", err)
	}
	var w cutover.Watched
	if err := json.Unmarshal(line, &w); err != nil {
		return fmt.Errorf("reading what to watch: %w", err)
	}
	fmt.Fprintln(a.out, "ready")
	heard := make(chan byte)
	go func() {
		defer close(heard)
		for {
			b, err := in.ReadByte()
			if err != nil {
				return
			}
			heard <- b
		}
	}()
	end := func() error {
		return c.EndPause(ctx, w, func(text string) { a.say("watchdog of attempt %d: %s", w.Attempt, text) })
	}
	silence := time.NewTimer(beatMissing)
	for {
		select {
		case b, open := <-heard:
			if !open {
				return takenOver(end())
			}
			if b == dismissed {
				return nil
			}
			silence.Reset(beatMissing)
		case <-silence.C:
			// It was stopped, or its host hangs. It may wake up and pause again
			// before it notices: so the pipe is listened to until it ends.
			if err := takenOver(end()); err != nil {
				a.say("watchdog of attempt %d: %v", w.Attempt, err)
			}
			silence.Reset(beatMissing)
		}
	}
}

func takenOver(err error) error {
	if errors.Is(err, cutover.ErrTakenOver) {
		return nil
	}
	return err
}

// watchdogFor returns what starts the watchdog of one database's pause; its name
// is empty where the config has no list.
func (a *app) watchdogFor(database string) func(context.Context, cutover.Watched) (func(), error) {
	return func(ctx context.Context, w cutover.Watched) (func(), error) { return a.startWatchdog(ctx, database, w) }
}

// startWatchdog starts the child and waits until it is ready. stop dismisses it.
func (a *app) startWatchdog(ctx context.Context, database string, w cutover.Watched) (stop func(), err error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	config, err := filepath.Abs(a.flags.config)
	if err != nil {
		return nil, err
	}
	arguments := []string{"watchdog", "--config", config}
	if database != "" {
		arguments = append(arguments, "--database", database)
	}
	cmd := exec.Command(program, arguments...) //nolint:noctx // it must outlive this process
	cmd.Stderr = a.err
	// In a group of its own: what is typed at the terminal, or sent to the group,
	// is not meant for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	stop = func() {
		close(done)
		pipe.Write([]byte{dismissed})                                       //nolint:errcheck // gone already, or it sees the end of the pipe
		pipe.Close()                                                        //nolint:errcheck // as above
		late := time.AfterFunc(dismissBound, func() { cmd.Process.Kill() }) //nolint:errcheck // gone already
		cmd.Wait()                                                          //nolint:errcheck // it was dismissed
		late.Stop()
	}
	if err := greet(ctx, w, pipe, out); err != nil {
		stop()
		return nil, err
	}
	go func() {
		tick := time.NewTicker(beatEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				pipe.Write([]byte{beat}) //nolint:errcheck // a watchdog that died is no reason to stop now
			}
		}
	}()
	return stop, nil
}

// greet tells the child what to watch and waits for its answer.
func greet(ctx context.Context, w cutover.Watched, pipe io.Writer, out io.Reader) error {
	line, err := json.Marshal(w)
	if err != nil {
		return err
	}
	if _, err := pipe.Write(append(line, '\n')); err != nil {
		return err
	}
	answer := make(chan error, 1)
	go func() {
		text, err := bufio.NewReader(out).ReadString('\n')
		if err == nil && text != "ready\n" {
			err = fmt.Errorf("it answered %q", text)
		}
		answer <- err
	}()
	limit, cancel := context.WithTimeout(ctx, readyBound)
	defer cancel()
	select {
	case err := <-answer:
		return err
	case <-limit.Done():
		return fmt.Errorf("it did not answer: %w", context.Cause(limit))
	}
}
