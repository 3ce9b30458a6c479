package preflight

import (
	"context"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// closedSQL tells whether sessions in the database begin read-only: the new
// one's do from start on. The tool's own do not.
const closedSQL = `
select exists (
  select 1
    from pg_db_role_setting s
    join pg_database d on d.oid = s.setdatabase
   cross join unnest(s.setconfig) as c(pair)
   where d.datname = current_database() and s.setrole = 0
     and c.pair in ('default_transaction_read_only=on', 'default_transaction_read_only=true')
)`

// makeWritable ends that for the session of the person who runs a fix: psql runs
// the statements one by one, and the next one begins a transaction of its own.
const makeWritable = "SET default_transaction_read_only = off;\n"

// openSessions makes the SQL of findings such that psql runs it as it stands in a
// database that is closed, too. ALTER SYSTEM does not write by the server's rules;
// fixes with an undo are run by the tool as well, whose sessions are open. What
// cannot be asked is left: the fix is refused then, and says so.
func openSessions(ctx context.Context, p *Pair, findings []Finding) {
	for _, s := range []*pg.Server{p.Old, p.New} {
		its := func(f Finding) bool {
			return f.FixKind == FixSQL && f.Undo == "" && f.on() == s.Side() &&
				!strings.HasPrefix(f.Fix, "ALTER SYSTEM") && !strings.HasPrefix(f.Fix, makeWritable)
		}
		if !slices.ContainsFunc(findings, its) {
			continue
		}
		if closed, err := readValues[bool](ctx, s, "asking whether the database is closed", closedSQL); err != nil || !closed[0] {
			continue
		}
		for i, f := range findings {
			if its(f) {
				findings[i].Fix = makeWritable + f.Fix
			}
		}
	}
}

// on is the server that the fix is for.
func (f Finding) on() pg.Side {
	if f.FixOn != "" {
		return f.FixOn
	}
	return pg.Side(f.Server)
}
