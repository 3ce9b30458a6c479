package step

import (
	"fmt"
	"io"
	"strings"
)

// WriteSQL writes the runbook as a script for psql: that of one server or, when
// server is empty, of all with clear marks. Nothing is left out. Where a script
// has to wait for what happens on the other server both bear the same number.
//
// Waits are DO blocks with a bound. What may be left out, and what the undo of a
// step would run, stands there as a comment.
func (r Runbook) WriteSQL(w io.Writer, server string) error {
	var b strings.Builder
	comment(&b, r.Title)
	for _, text := range r.Intro {
		comment(&b, text)
	}
	if server != "" {
		comment(&b, "This is the script of "+server+". At \"<<< n\" wait until the script of the other server has come to \">>> n\".")
	}
	b.WriteString("\\set ON_ERROR_STOP on\n")
	for _, s := range r.Sessions {
		if server == "" || s.Server == server {
			r.sqlSession(&b, s)
		}
	}
	x := script{b: &b, only: server}
	for _, p := range r.Parts {
		x.part(p)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r Runbook) sqlSession(b *strings.Builder, s Session) {
	fmt.Fprintf(b, "\n-- Session %s: %s\n--   psql \"%s\"\n", s.Title(), oneLine(s.Why), s.Connect)
	setup := s.Setup
	for _, v := range r.Variables {
		if v.Server == s.Server && s.Name == Subscribe {
			setup += "\n" + v.set() + "\n-- " + v.Environment + ": " + v.What
		}
	}
	for line := range strings.Lines(strings.Trim(setup, "\n")) {
		b.WriteString("--   " + strings.TrimRight(line, "\n") + "\n")
	}
}

// script writes the statements of one server, or of all.
type script struct {
	b      *strings.Builder
	only   string
	server string // of the statement before
	sync   int
	window string // of the statement before that was written
}

func (x *script) part(p Part) {
	x.line("\n-- ######## " + oneLine(p.Title) + " ########")
	comment(x.b, p.About)
	for i, e := range p.Entries {
		x.line(fmt.Sprintf("\n-- ==== %s %d: %s: %s", p.Name, i+1, e.Name, oneLine(e.About)))
		text := "at most " + seconds(e.BoundSeconds)
		if e.Estimate != nil {
			text += ", " + e.Estimate.String()
		}
		comment(x.b, strings.Join(append([]string{text}, e.remarks()...), ", "))
		for _, s := range e.Statements {
			x.statement(s)
		}
		for _, s := range e.UndoStatements {
			if x.only == "" || s.Server == x.only {
				x.line("-- undo on " + s.where() + ":")
				comment(x.b, strings.Trim(s.Script(), "\n"))
			}
		}
	}
}

func (x *script) line(text string) { x.b.WriteString(text + "\n") }

func (x *script) statement(s Statement) {
	if x.server != "" && s.Server != x.server {
		x.sync++
		if x.only == "" || x.only == x.server {
			x.line(fmt.Sprintf("-- >>> %d: %s has come so far", x.sync, x.server))
		}
		if x.only == "" || x.only == s.Server {
			x.line(fmt.Sprintf("-- <<< %d: %s goes on when %s has come so far", x.sync, s.Server, x.server))
		}
	}
	x.server = s.Server
	if x.only != "" && x.only != s.Server {
		return
	}
	if window := s.where(); window != x.window {
		x.window = window
		x.line("-- ---- in the window of " + window)
	}
	if s.Why != "" {
		comment(x.b, s.Why)
	}
	for _, remark := range s.remarks() {
		comment(x.b, remark)
	}
	switch {
	case s.Optional != "":
		comment(x.b, s.Script())
	case s.Expect != "":
		x.line(s.demand())
	default:
		x.line(s.Script())
	}
}

// wakeEvery is how long a wait sleeps between two looks, in seconds.
const wakeEvery = 0.2

// demand is a DO block that runs the query until it answers what is expected.
func (s Statement) demand() string {
	tries := 1
	if s.WaitSeconds > 0 {
		tries = int(s.WaitSeconds/wakeEvery) + 1
	}
	quote := func(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
	answers := quote(s.Expect)
	if s.Expect == "t" {
		answers += ", 'true'" // what PL/pgSQL makes of it
	}
	return fmt.Sprintf(`do $pgcutover_wait$
declare
  answer text;
begin
  for i in 1 .. %[1]d loop
    perform pg_catalog.pg_stat_clear_snapshot();
    execute %[2]s into answer;
    if answer in (%[3]s) then
      return;
    end if;
    if i < %[1]d then
      perform pg_catalog.pg_sleep(%.1[4]f);
    end if;
  end loop;
  raise exception '%%: do not go on', coalesce('the answer is ' || answer, 'there is no answer');
end
$pgcutover_wait$;`, tries, quote(strings.TrimRight(strings.Trim(s.SQL, "\n "), ";")), answers, wakeEvery)
}

// comment writes text as comments of SQL.
func comment(b *strings.Builder, text string) {
	for line := range strings.Lines(text) {
		b.WriteString(strings.TrimRight("-- "+strings.TrimRight(line, "\r\n"), " ") + "\n")
	}
}
