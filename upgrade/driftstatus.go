package upgrade

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// Phases of start before which a comparison of the schemas says nothing, or only
// of what comes before the data.
var (
	beforeSchema = []string{"prepare", "schema"}
	beforeIndex  = []string{"publish", "subscribe", "copy", "index"}
)

// drifts compares the schemas for a status, as far as start has restored them.
func (m *Move) drifts(ctx context.Context, s *Status, next string, more bool) (err error) {
	if more && slices.Contains(beforeSchema, next) {
		return nil
	}
	s.Drift, err = m.Drift(ctx, !more || !slices.Contains(beforeIndex, next))
	if err == nil && len(s.Drift.Rewritten) > 0 {
		s.Warnings = append(s.Warnings, rewrittenText(s.Drift.Rewritten))
	}
	return s.notCompared(err)
}

// notCompared lets a status say all else when a lock kept it from comparing the
// schemas.
func (s *Status) notCompared(err error) error {
	if !pg.IsCode(err, pg.LockNotAvailable) {
		return err
	}
	s.Warnings = append(s.Warnings, "the schemas were not compared: "+err.Error())
	return nil
}

// lockedSequences warns that a lock kept a status from reading the sequences.
func (s *Status) lockedSequences() {
	if s.Condition.Locked != "" {
		s.Warnings = append(s.Warnings, s.Condition.Locked)
	}
}

// notDone says why a cutover cannot begin before start has come to its end.
func (m *Move) notDone(s *Status, next string) []string {
	reasons := []string{"phase " + next + " is not done"}
	if s.Stopped != nil {
		reasons = append(reasons, s.Stopped.Text)
	}
	return reasons
}

// statusGates are gatesTo with a comparison of the schemas that may be a little
// older: a status is repeated every two seconds.
func (m *Move) statusGates(ctx context.Context) error {
	seen, err := m.recent(ctx)
	if pg.IsCode(err, pg.LockNotAvailable) {
		return errors.Join(m.gatesTo(ctx, state.Forward, true), err)
	}
	if err != nil {
		return err
	}
	apply, err := m.inLine(ctx)
	if err != nil {
		return err
	}
	return errors.Join(m.gatesTo(ctx, state.Forward, true), schemaVerdict(seen.differences, apply))
}

// mostLines is how many lines of statements are shown for one difference.
const mostLines = 6

// writeDrift shows what differs and what stands still.
func (s Status) writeDrift(b *strings.Builder) {
	if s.Stopped != nil {
		fmt.Fprintf(b, "  STOPPED     %s\n", s.Stopped.Text)
		if s.Stopped.Next != "" {
			fmt.Fprintf(b, "              mend: %s\n", s.Stopped.Next)
		}
	}
	if s.Drift == nil || len(s.Drift.Differences) == 0 {
		return
	}
	fmt.Fprintf(b, "  schema      %d differences since start:\n", len(s.Drift.Differences))
	for i, d := range s.Drift.Differences {
		if i == maxShown {
			fmt.Fprintf(b, "              and %d more: pgcutover status --json\n", len(s.Drift.Differences)-i)
			break
		}
		d.write(b, "              ")
	}
	fmt.Fprintf(b, "              to apply: %s\n", s.Drift.Apply)
}

// write shows one difference and what brings new in line.
func (d Drifted) write(b *strings.Builder, indent string) {
	fmt.Fprintf(b, "%s%s\n", indent, d.Text)
	lines := strings.Split(strings.Join(d.Statements, ";\n"), "\n")
	for i, line := range lines {
		if line == "" {
			continue
		}
		if i == mostLines {
			fmt.Fprintf(b, "%s  ...\n", indent)
			break
		}
		fmt.Fprintf(b, "%s  %s\n", indent, line)
	}
	if d.Whole {
		fmt.Fprintf(b, "%s  is made as pg_dump describes it\n", indent)
	}
	if d.Advice != "" {
		fmt.Fprintf(b, "%s  by hand: %s\n", indent, d.Advice)
	}
}

// Text shows what is about to be done, for people.
func (p SyncPlan) Text() string {
	var b strings.Builder
	for _, sql := range p.Roles {
		fmt.Fprintf(&b, "%s;\n", sql)
	}
	for _, d := range p.Differences {
		d.write(&b, "")
	}
	for _, script := range p.Scripts {
		for line := range strings.Lines(script) {
			if text := strings.TrimSpace(line); text != "" && !strings.HasPrefix(text, "--") && !strings.HasPrefix(text, "SET ") {
				b.WriteString("  " + line)
			}
		}
		b.WriteString("\n")
	}
	for _, t := range p.Publish {
		fmt.Fprintf(&b, "table %s is published on old and copied\n", t)
	}
	return b.String()
}
