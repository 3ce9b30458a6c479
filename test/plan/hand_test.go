package plan

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgclient"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// handBound is how long one statement, or one wait, may take here.
const handBound = 2 * time.Minute

// hand follows a runbook: a psql for each session, which stays open.
type hand struct {
	t       *testing.T
	move    *move
	book    runbook
	env     []string
	psql    string
	windows map[[2]string]*terminal
}

// terminal is one running psql.
type terminal struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	err   *bytes.Buffer
	n     int
	pid   string // of its session
}

func newHand(t *testing.T, m *move, markdown string) *hand {
	t.Helper()
	psql, _, err := pgclient.FindClient(t.Context(), "psql", max(m.Old.Major(), 12))
	if err != nil {
		t.Fatal(err)
	}
	h := &hand{t: t, move: m, book: read(t, markdown), psql: psql, windows: map[[2]string]*terminal{}}
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "PG") {
			h.env = append(h.env, entry)
		}
	}
	h.env = append(h.env, "OLD="+m.Old.Conninfo(), "NEW="+m.New.Conninfo(), "OLD_CONNINFO="+m.Old.Conninfo(), "NEW_CONNINFO="+m.New.Conninfo(), "PGCLIENTENCODING=UTF8")
	t.Cleanup(h.close)
	// What the tool has just done it did in sessions that may still be ending.
	h.until("the tool to let go of its lock", func(ctx context.Context) (bool, error) {
		onOld, err := pg.LockHolder(ctx, m.Old)
		if err != nil {
			return false, err
		}
		onNew, err := pg.LockHolder(ctx, m.New)
		return onOld+onNew == "", err
	})
	return h
}

// until waits for what a server does by itself, by the time that a person has the
// next statement ready.
func (h *hand) until(what string, met func(context.Context) (bool, error)) {
	h.t.Helper()
	err := pg.Wait(context.WithoutCancel(h.t.Context()), what, 10*time.Millisecond, time.Minute, nil, func(ctx context.Context) (bool, string, error) {
		done, err := met(ctx)
		return done, "", err
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// close ends all sessions, as one does at the end of a part, and waits until the
// servers have noticed.
func (h *hand) close() {
	pids := map[string][]string{}
	for key, w := range h.windows {
		pids[key[0]] = append(pids[key[0]], w.pid)
		w.in.Close() // psql ends then
		for range w.lines {
		}
		if err := w.cmd.Wait(); err != nil && !h.t.Failed() {
			h.t.Errorf("psql of %v: %v\n%s", key, err, w.err)
		}
		delete(h.windows, key)
	}
	for server, ended := range pids {
		h.until("the sessions on "+server+" to end", func(context.Context) (bool, error) {
			return pgtest.Value[bool](h.t, h.move.url(server), `select count(*) = 0 from pg_stat_activity where pid::text = any ($1)`, ended), nil
		})
	}
}

// window opens a session as the runbook says, unless it is open.
func (h *hand) window(server, session string) *terminal {
	h.t.Helper()
	key := [2]string{server, session}
	if w := h.windows[key]; w != nil {
		return w
	}
	described := h.book.windows[key]
	if described == nil {
		h.t.Fatalf("the runbook does not say how to open session %q of %s", session, server)
	}
	arguments, ok := strings.CutPrefix(described.connect, "psql ")
	if !ok {
		h.t.Fatalf("the session %v is opened by %q", key, described.connect)
	}
	w := &terminal{lines: make(chan string, 1000), err: &bytes.Buffer{}}
	w.cmd = exec.CommandContext(h.t.Context(), "sh", "-c", fmt.Sprintf("exec '%s' -X -q -A -t -v ON_ERROR_STOP=1 %s", h.psql, arguments))
	w.cmd.Env, w.cmd.Stderr = h.env, w.err
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		h.t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() {
		defer close(w.lines)
		scan := bufio.NewScanner(out)
		scan.Buffer(nil, 64<<20)
		for scan.Scan() {
			w.lines <- scan.Text()
		}
	}()
	h.windows[key] = w
	w.pid = strings.Join(h.say(w, "select pg_backend_pid();"), "")
	h.say(w, described.setup)
	return w
}

// say types into a window and returns the lines that it answers.
func (h *hand) say(w *terminal, text string) []string {
	h.t.Helper()
	w.n++
	end := fmt.Sprintf("end of statement %d", w.n)
	typed := text + "\n\\echo '" + end + "'\n"
	wrote := make(chan error, 1)
	go func() {
		_, err := io.WriteString(w.in, typed)
		wrote <- err
	}()
	var answer []string
	limit := time.NewTimer(handBound)
	defer limit.Stop()
	for {
		select {
		case line, ok := <-w.lines:
			if !ok {
				h.t.Fatalf("psql has ended: %s\nat: %.3000s", w.err, text)
			}
			if line == end {
				if err := <-wrote; err != nil {
					h.t.Fatal(err)
				}
				return answer
			}
			answer = append(answer, line)
		case <-limit.C:
			h.t.Fatalf("psql does not answer: %s\nat: %.3000s", w.err, text)
		}
	}
}

// do runs blocks as the text says.
func (h *hand) do(blocks []block) {
	h.t.Helper()
	if len(blocks) == 0 {
		h.t.Fatal("the runbook has no statement here")
	}
	for _, b := range blocks {
		if b.optional {
			continue
		}
		answer := h.answer(b)
		if b.runOn != "" {
			for _, row := range answer {
				h.say(h.window(b.runOn, ""), row+";")
			}
		}
	}
}

// answer runs one block, again and again where the text says to wait.
func (h *hand) answer(b block) []string {
	h.t.Helper()
	w := h.window(b.server, b.session)
	began := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		answer := h.say(w, b.sql)
		if b.expect == "" || strings.Join(answer, "\n") == b.expect {
			return answer
		}
		if b.wait == 0 || time.Since(began) >= handBound {
			h.t.Fatalf("%s %s on %s (session %q) answers %q, not %q:\n%.3000s", b.part, b.step, b.server, b.session, answer, b.expect, b.sql)
		}
		<-tick.C
	}
}
