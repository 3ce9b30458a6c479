package preflight

import (
	"context"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// InFreeze is what a cutover is going to do, while writes are frozen, about what
// logical replication does not carry.
type InFreeze struct {
	Tables, Objects time.Duration // how long unlogged tables and large objects are estimated to take
	Budget          time.Duration
	EmptyTables     bool // unlogged tables are to have no rows
	IgnoreObjects   bool // large objects are to be left behind
}

// inFreeze asks for it; nil when nobody knows.
func (p *Pair) inFreeze(ctx context.Context, source *pg.Server) (*InFreeze, error) {
	if p.Settings.InFreeze == nil {
		return nil, nil //nolint:nilnil // nothing is known
	}
	return p.Settings.InFreeze(ctx, source)
}

// over tells whether the budget is exceeded, and mostly by what takes this long.
func (f *InFreeze) over(takes time.Duration) bool {
	return f.Tables+f.Objects > f.Budget && 2*takes >= f.Tables+f.Objects
}

// unloggedTables says what becomes of them.
func (f *InFreeze) unloggedTables() (severity Severity, why, fix string) {
	switch {
	case f == nil:
		return Warning, "Unlogged tables are not in the stream: a cutover copies them while writes are frozen.", "ALTER TABLE ... SET LOGGED before start; or see that they are small"
	case f.EmptyTables:
		return Warning, "Unlogged tables are not in the stream, and are to have no rows on the new server (unreplicated.unlogged: empty).", "fill them anew after the cutover"
	case f.over(f.Tables):
		return Blocker, fmt.Sprintf("Unlogged tables are not in the stream, and copying them while writes are frozen takes about %s: more than unreplicated.budget (%s) allows.", f.Tables.Round(100*time.Millisecond), f.Budget),
			"ALTER TABLE ... SET LOGGED before start; or raise unreplicated.budget; or unreplicated: { unlogged: empty }"
	}
	return Warning, fmt.Sprintf("Unlogged tables are not in the stream: a cutover copies them while writes are frozen, which takes about %s of unreplicated.budget (%s).", f.Tables.Round(10*time.Millisecond), f.Budget),
		"ALTER TABLE ... SET LOGGED before start, if writes must not wait for that"
}

// largeObjects says what becomes of them.
func (f *InFreeze) largeObjects() (severity Severity, why, fix string) {
	const other = "or keep the bytes in a bytea column"
	switch {
	case f == nil:
		return Warning, "Large objects are not in the stream: a cutover copies them while writes are frozen.", "remove those that nothing refers to (vacuumlo); " + other
	case f.IgnoreObjects:
		return Warning, "Large objects are not in the stream, and are to be left behind (unreplicated.large_objects: ignore).", "stop their writers and carry them with pg_dump --large-objects --section=data; " + other
	case f.over(f.Objects):
		return Blocker, fmt.Sprintf("Large objects are not in the stream, and copying them while writes are frozen takes about %s: more than unreplicated.budget (%s) allows.", f.Objects.Round(100*time.Millisecond), f.Budget),
			"remove those that nothing refers to (vacuumlo), then VACUUM pg_largeobject; or raise unreplicated.budget; or unreplicated: { large_objects: ignore }; " + other
	}
	return Warning, fmt.Sprintf("Large objects are not in the stream: a cutover copies them while writes are frozen, which takes about %s of unreplicated.budget (%s).", f.Objects.Round(10*time.Millisecond), f.Budget),
		"remove those that nothing refers to (vacuumlo), if writes must not wait for that; " + other
}
