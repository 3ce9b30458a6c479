package preflight

import (
	"context"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// The majors that the tool is tested with.
const (
	oldestMajor = 10 // the first with logical replication
	newestMajor = 18
)

// knownMinor is, of each major, the newest minor release that there was when this
// version was made. https://www.postgresql.org/docs/release/
var knownMinor = map[int]int{10: 23, 11: 22, 12: 22, 13: 23, 14: 23, 15: 18, 16: 14, 17: 10, 18: 4}

// minorsBehind is how many of them a server may lack: there is one in every
// quarter of a year, so that four are a year of fixes.
const minorsBehind = 4

// endOfLife is the last day on which a major gets fixes.
// https://www.postgresql.org/support/versioning/
var endOfLife = map[int]string{
	10: "2022-11-10", 11: "2023-11-09", 12: "2024-11-21", 13: "2025-11-13", 14: "2026-11-12",
	15: "2027-11-11", 16: "2028-11-09", 17: "2029-11-08", 18: "2030-11-14",
}

func checkVersions(_ context.Context, p *Pair) ([]Finding, error) {
	found := versionFindings(p.Old.Major(), p.New.Major(), time.Now())
	return append(found, minorFindings(p.Old.Version(), p.New.Version())...), nil
}

func versionFindings(older, newer int, now time.Time) []Finding {
	var found []Finding
	if newer < older {
		found = append(found, Finding{
			ID: "versions.downgrade", Severity: Blocker, Server: Both, Object: "server version",
			Seen: fmt.Sprintf("old is PostgreSQL %d, new is PostgreSQL %d", older, newer),
			Why:  "A schema of a newer major may not load into an older one; the tool moves to the same or a newer major only.",
		}.told("exchange old.url and new.url if they are swapped, or take a newer server as new"))
	}
	for _, s := range []struct {
		side  pg.Side
		major int
	}{{pg.Old, older}, {pg.New, newer}} {
		found = append(found, supportFindings(s.side, s.major, now)...)
	}
	return found
}

// supportFindings judges one server's major.
func supportFindings(side pg.Side, major int, now time.Time) []Finding {
	f := Finding{Server: string(side), Object: "server version", Seen: fmt.Sprintf("PostgreSQL %d", major)}
	switch {
	case major < oldestMajor:
		f.ID, f.Severity = "versions.unsupported", Blocker
		f.Why = fmt.Sprintf("Logical replication begins with PostgreSQL %d.", oldestMajor)
		return []Finding{f.told("move by pg_upgrade, or by pg_dump and pg_restore")}
	case major > newestMajor:
		f.ID, f.Severity = "versions.untested", Warning
		f.Why = fmt.Sprintf("This pgcutover was tested with PostgreSQL %d to %d.", oldestMajor, newestMajor)
		return []Finding{f.told("look for a newer pgcutover, or try the move with a copy of the database first")}
	}
	last, err := time.Parse(time.DateOnly, endOfLife[major])
	if err != nil {
		return nil
	}
	f.ID, f.Severity = "versions.end-of-life", Note
	switch {
	case !now.Before(last):
		f.Why = fmt.Sprintf("PostgreSQL %d gets no fixes since %s.", major, endOfLife[major])
	case side == pg.New && now.AddDate(1, 0, 0).After(last):
		f.Why = fmt.Sprintf("PostgreSQL %d gets no fixes after %s, which is less than a year away: the next move would follow soon.", major, endOfLife[major])
	default:
		return nil
	}
	if side == pg.New {
		f.Severity = Warning
		return []Finding{f.told(fmt.Sprintf("take a newer major as new; PostgreSQL %d gets fixes until %s", newestMajor, endOfLife[newestMajor]))}
	}
	return []Finding{f}
}

// minorFindings names servers that lack many fixes of their own major. older and
// newer are of the form of server_version_num.
func minorFindings(older, newer int) []Finding {
	var found []Finding
	for _, s := range []struct {
		side    pg.Side
		version int
	}{{pg.Old, older}, {pg.New, newer}} {
		major, minor := s.version/10000, s.version%10000
		known, ok := knownMinor[major]
		if !ok || minor+minorsBehind >= known {
			continue
		}
		found = append(found, Finding{
			ID: "versions.minor", Severity: Warning, Server: string(s.side), Object: "server version",
			Seen: fmt.Sprintf("PostgreSQL %d.%d; %d.%d was out when this pgcutover was made", major, minor, major, known),
			Why:  fmt.Sprintf("It lacks the fixes of %d releases, those of logical replication among them.", known-minor),
		}.told(fmt.Sprintf("install the newest PostgreSQL %d packages and restart the server: a minor release changes no data", major)))
	}
	return found
}

const recoverySQL = `select pg_is_in_recovery()`

// checkIdentity makes sure that there are two databases and that both take
// writes.
func checkIdentity(ctx context.Context, p *Pair) ([]Finding, error) {
	found, err := onBoth(p, func(s *pg.Server) ([]Finding, error) { return recoveryFindings(ctx, s) })
	if err != nil {
		return nil, err
	}
	older, err := state.Identify(ctx, p.Old)
	if err != nil {
		return found, err
	}
	newer, err := state.Identify(ctx, p.New)
	if err != nil {
		return found, err
	}
	if older.System != newer.System {
		return found, nil
	}
	f := Finding{Server: Both, Object: "system identifier " + older.System}
	if older.Database == newer.Database {
		f.ID, f.Severity = "identity.same-database", Blocker
		f.Seen = fmt.Sprintf("%s and %s are one and the same database", p.Old.Address(), p.New.Address())
		f.Why = "There is nothing to move."
		f = f.told("correct old.url or new.url")
	} else {
		f.ID, f.Severity = "identity.same-cluster", Warning
		f.Seen = fmt.Sprintf("%s and %s are two databases of one cluster, or one cluster is a physical copy of the other", p.Old.Address(), p.New.Address())
		f.Why = "Within one cluster the major stays as it is; roles, workers and slots are shared."
		f = f.told("take a database of another cluster as new, unless a move within the cluster is meant")
	}
	return append(found, f), nil
}

func recoveryFindings(ctx context.Context, s *pg.Server) ([]Finding, error) {
	standby, err := readValues[bool](ctx, s, "asking whether it is a standby", recoverySQL)
	if err != nil || !standby[0] {
		return nil, err
	}
	f := Finding{
		ID: "identity.standby", Severity: Blocker, Server: string(s.Side()), Object: s.Address(),
		Seen: "the server is in recovery: it is a standby",
		Why:  "A standby takes no publication, no subscription and no write.",
	}.told("put the primary's address into " + string(s.Side()) + ".url")
	if s.Side() == pg.New {
		f.Fix += ", or promote it: SELECT pg_promote();"
	}
	return []Finding{f}, nil
}
