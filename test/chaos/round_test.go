package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// outcome is how a round ended.
type outcome string

const (
	done           outcome = "done"            // by the tool itself
	undone         outcome = "undone"          // by the tool itself
	resumedForward outcome = "resumed forward" // by `pgcutover resume`
	resumedBack    outcome = "resumed back"
	refused        outcome = "refused" // by the gates, by name
)

// round is one cutover, or one rollback, under one fault.
type round struct {
	card
	m        *move
	back     bool // a rollback
	clients  *clients
	tool     *tool
	operator *operator
	before   int64 // newest decision before the round
	logs     map[*server]int64
	finally  []func() error

	begin, over time.Time // of the fault
	missed      bool      // the fault came too late
	result      result
}

// result is what a round adds to the table.
type result struct {
	outcome    outcome
	unwritable time.Duration // longest time in which no server took writes
	recovered  time.Duration // from the fault, or the server's return, to the next accepted write
	resumes    int
	took       time.Duration
	findings
}

// what is what the tool was told to do.
func (r *round) what() string {
	if r.back {
		return "rollback"
	}
	return "cutover"
}

func (r *round) source() *server { return r.m.source() }

func (r *round) target() *server { return r.m.target() }

// after calls f when the round's clients have been proved.
func (r *round) after(f func() error) { r.finally = append(r.finally, f) }

// play plays the round. An error says that something is wrong with the tool, or
// that the harness could not do its work.
func (r *round) play() (err error) {
	began := time.Now()
	defer func() {
		r.result.took = time.Since(began)
		err = errors.Join(err, r.m.endTools(), r.m.killWatchdogs(), r.tidy())
	}()
	if err := r.prepare(); err != nil {
		return fmt.Errorf("preparing the round: %w", err)
	}
	if r.clients, err = r.m.write(r.seed); err != nil {
		return fmt.Errorf("starting the clients: %w", err)
	}
	defer func() { err = errors.Join(err, r.clients.stop()) }()
	if faults[r.fault].when == atStart {
		err = r.playFromStart()
	} else {
		err = r.playAtMoment()
	}
	if err != nil {
		return err
	}
	if err := r.repair(); err != nil {
		return err
	}
	return r.check()
}

// prepare waits for a move that is ready and notes how things stand.
func (r *round) prepare() (err error) {
	r.m.tools = nil
	if err := r.m.ready(); err != nil {
		return err
	}
	for _, s := range []*server{r.source(), r.target()} {
		info, err := os.Stat(s.cluster.LogPath())
		if err != nil {
			return err
		}
		r.logs[s] = info.Size()
	}
	if r.before, err = r.m.decided(); err != nil {
		return err
	}
	return r.setHooks()
}

// tidy undoes what the harness itself has done to the servers.
func (r *round) tidy() error {
	var errs []error
	for _, f := range r.finally {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// tooSlow is said when the pause came to its bound.
const tooSlow = "max_pause"

// playFromStart has the fault there before the tool is started, and until it
// ends, or its time has passed.
func (r *round) playFromStart() (err error) {
	f := faults[r.fault]
	r.begin = time.Now()
	err = f.begin(r)
	if err == nil {
		r.tool, err = r.m.launch(nil, r.m.turn(), "--yes")
	}
	if err == nil {
		select {
		case <-r.tool.done:
		case <-time.After(r.lasts):
		}
	}
	if f.end != nil {
		err = errors.Join(err, f.end(r))
	}
	if err != nil {
		return err
	}
	code, err := r.tool.wait()
	if err != nil || code == exitDone {
		return err
	}
	said := r.tool.complaint()
	if code == exitAborted && strings.Contains(said, tooSlow) {
		return nil // the machine was: what was in the way may have been gone by then
	}
	if !slices.ContainsFunc(f.words, func(word string) bool { return strings.Contains(said, word) }) {
		return fmt.Errorf("the message does not name what was in the way (%s)", strings.Join(f.words, ", "))
	}
	return nil
}

// playAtMoment runs the tool and lets the fault come at its moment.
func (r *round) playAtMoment() error {
	there := make(chan struct{})
	var see func(string)
	if r.at.step != "" {
		see = func(line string) {
			if strings.HasPrefix(line, "ok "+r.at.step+" ") {
				time.AfterFunc(r.at.after, func() { close(there) })
			}
		}
	}
	var err error
	if r.tool, err = r.m.launch(see, r.m.turn(), "--yes"); err != nil {
		return err
	}
	switch {
	case r.at.event != "":
		r.onTold(func() { close(there) })
	case r.at.step == "":
		time.AfterFunc(r.at.after, func() { close(there) })
	}
	select {
	case <-there:
	case <-r.tool.done:
		r.missed = true
		return nil
	case <-time.After(toolBound):
		return fmt.Errorf("the tool did not come to %s", r.at)
	}
	// What is run from now on must not stop at the hook.
	if r.at.event != "" {
		if err := os.Remove(filepath.Join(r.m.dir, "hooks", r.at.event)); err != nil {
			return err
		}
	}
	return r.strike()
}

// strike does the harm, sees what becomes of the clients, takes it back, and
// waits for the tool to end.
func (r *round) strike() error {
	f := faults[r.fault]
	if r.hold == holdNone {
		r.release()
	}
	r.begin = time.Now()
	if err := f.begin(r); errors.Is(err, errMissed) {
		r.missed = true
		r.release()
		_, err = r.tool.wait()
		return err
	} else if err != nil {
		return fmt.Errorf("doing the harm: %w", err)
	}
	if r.hold == holdBegun {
		r.release()
	}
	if f.alone {
		if err := r.alone(); err != nil {
			return err
		}
	}
	if r.second {
		if err := r.serves(r.begin); err != nil {
			return err
		}
		if err := r.otherTool(); err != nil {
			return fmt.Errorf("another tool meanwhile: %w", err)
		}
	}
	rest(time.Until(r.begin.Add(r.lasts)))
	if f.end != nil {
		if err := f.end(r); err != nil {
			return fmt.Errorf("ending the harm: %w", err)
		}
	}
	r.over = time.Now()
	r.release()
	since := r.begin
	if f.down != nil {
		since = r.over // nobody can be asked to serve without his server
	}
	if err := r.serves(since); err != nil {
		return err
	}
	_, err := r.tool.wait()
	return err
}

// alone waits for what has to happen while nobody helps: the pooler's pause
// ends, and its clients write.
func (r *round) alone() error {
	if err := r.unpaused(r.begin); err != nil {
		return err
	}
	return r.clients.pooled(r.begin)
}

// serves waits for a server that takes writes, without anybody's help.
func (r *round) serves(since time.Time) error {
	after, err := r.clients.serves(since)
	r.result.recovered = max(r.result.recovered, after)
	return err
}

const endToolsSQL = `
select count(pg_terminate_backend(pid))
  from pg_stat_activity
 where datname = $1
   and application_name like 'pgcutover/%'
   and application_name <> $2`

// otherTool finishes what the stopped tool has begun, in either direction. It
// ends the stopped tool's session where it is told that this is in the way.
func (r *round) otherTool() error {
	t, err := r.m.run("resume")
	if err != nil {
		return err
	}
	if t.code != exitDone && strings.Contains(t.words.String(), "pg_terminate_backend") {
		if _, err := one[int](r.source(), "postgres", endToolsSQL, r.m.name, harnessName); err != nil {
			return err
		}
		if t, err = r.m.run("resume"); err != nil {
			return err
		}
	}
	switch t.code {
	case exitDone:
		r.result.resumes++
	case exitFailed: // there was nothing to resume yet, or nothing any more
	default:
		return fmt.Errorf("it could not finish: %s", t)
	}
	return nil
}

// repair does what a person would do when the tool has ended: look, and resume
// until there is nothing to resume.
func (r *round) repair() error {
	code, err := r.tool.wait()
	if err != nil {
		return err
	}
	for _, s := range []*server{r.source(), r.target()} {
		if err := s.up(); err != nil {
			return err
		}
	}
	const attempts = 5
	for {
		s, err := r.m.status()
		if err != nil {
			return err
		}
		switch {
		case s.Phase == "cutover under way": // a dead tool's session is ending
			if bound := patience(30 * time.Second); time.Since(r.tool.ended) > bound {
				return fmt.Errorf("%s after the tool ended status still says %+v", bound, s)
			}
			rest(200 * time.Millisecond)
			continue
		case s.Phase == "cutover interrupted" && r.result.resumes == 0 && (code == exitAborted || code == exitDone || code == exitBlocked):
			return fmt.Errorf("the tool ended with status %d, and status says that there is something to resume", code)
		case s.Phase != "cutover interrupted":
			return r.m.watchdogsGone()
		case r.result.resumes == attempts:
			return fmt.Errorf("%d times resumed, and it is not finished", attempts)
		}
		if r.result.resumes > 0 {
			rest(2 * time.Second)
		}
		r.result.resumes++
		if _, err := r.m.run("resume"); err != nil {
			return err
		}
	}
}

// check compares what the round left with what it promised.
func (r *round) check() error {
	now := time.Now()
	if _, err := r.clients.serves(now); err != nil {
		return err
	}
	side := r.clients.accepted(now).Side
	decided, err := r.m.decided()
	if err != nil {
		return err
	}
	serving := r.m.serving
	if decided > r.before {
		serving = serving.Other()
	}
	if side != serving {
		return fmt.Errorf("the %s server takes writes, the %s one should", side, serving)
	}
	if err := r.clients.follow(serving, now); err != nil {
		return err
	}
	if err := r.m.leads(serving); err != nil {
		return err
	}
	s, err := r.m.status()
	if err != nil {
		return err
	}
	if s.Serving != string(serving) {
		return fmt.Errorf("status says that %s serves, it is %s", s.Serving, serving)
	}
	if err := r.clients.stop(); err != nil {
		return err
	}
	r.result.unwritable = r.clients.gap(r.clients.began)
	if r.result.findings, err = r.clients.prove(serving); err != nil {
		return err
	}
	r.m.serving = serving
	r.m.past = append(r.m.past, r.clients)
	r.m.rounds++
	if len(r.result.problems) > 0 {
		return errors.New(strings.Join(r.result.problems, "\n"))
	}
	return r.name(serving)
}

// name finds the outcome, which has to agree with what the tool said.
func (r *round) name(serving pg.Side) error {
	turned := serving == r.clients.target
	switch {
	case r.result.resumes > 0 && turned:
		r.result.outcome = resumedForward
	case r.result.resumes > 0:
		r.result.outcome = resumedBack
	case turned:
		r.result.outcome = done
	case r.tool.code == exitBlocked:
		r.result.outcome = refused
	default:
		r.result.outcome = undone
	}
	if r.second {
		return nil // the stopped tool's words are about what it found
	}
	if r.tool.code == exitDone && !turned || (r.tool.code == exitAborted || r.tool.code == exitBlocked) && turned {
		return fmt.Errorf("the tool ended with status %d, and the %s server serves", r.tool.code, serving)
	}
	return nil
}

// Hooks: the harness and the tool's hooks speak through two named pipes.

// setHooks puts the hook of this round, and no other, into its place.
func (r *round) setHooks() error {
	dir := filepath.Join(r.m.dir, "hooks")
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		return err
	}
	for _, name := range []string{"told", "go"} {
		path := filepath.Join(r.m.dir, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			return fmt.Errorf("making a named pipe: %w", err)
		}
	}
	if r.at.event == "" {
		return nil
	}
	script, err := filepath.Abs(filepath.Join("testdata", "hooks", "tell"))
	if err != nil {
		return err
	}
	// A link: writing an executable and running it at once fails now and then
	// (ETXTBSY) in a process that forks all the time.
	return os.Symlink(script, filepath.Join(dir, r.at.event))
}

// onTold calls f when the hook says that the tool is there.
func (r *round) onTold(f func()) {
	told, err := os.OpenFile(filepath.Join(r.m.dir, "told"), os.O_RDWR, 0)
	if err != nil {
		return // the round ends with the tool, which waits for its hook in vain
	}
	r.after(told.Close)
	go func() {
		if n, err := told.Read(make([]byte, 100)); n > 0 && err == nil {
			f()
		}
	}()
}

// release lets the hook return, and with it the tool. More than once does no
// harm.
func (r *round) release() {
	if r.at.event == "" {
		return
	}
	// The pipe is open for reading, too, so that this never waits; what is
	// written stays in it until the hook reads it.
	pipe, err := os.OpenFile(filepath.Join(r.m.dir, "go"), os.O_RDWR, 0)
	if err != nil {
		return // the hook's time limit ends it
	}
	r.after(pipe.Close)
	pipe.WriteString("\n") //nolint:errcheck // the hook's time limit ends it
}
