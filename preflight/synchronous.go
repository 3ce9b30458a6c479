package preflight

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// syncSQL reads what synchronous replication is asked for and what there is of
// it. hidden: the role may not see the state of walsenders.
const syncSQL = `
select current_setting('synchronous_standby_names') as names,
       coalesce(current_setting('synchronized_standby_slots', true), '') as slots,
       (select count(*)::int from pg_stat_replication where sync_state in ('sync', 'quorum')) as synchronous,
       exists (select 1 from pg_stat_replication where sync_state is null) as hidden,
       (select coalesce(array_agg(distinct r.application_name), '{}')
          from pg_stat_replication r
          join pg_stat_activity a on a.pid = r.pid
         where a.datid is null and r.state = 'streaming') as standbys`

type syncFacts struct {
	Names       string
	Slots       string // synchronized_standby_slots, 17 and later
	Synchronous int
	Hidden      bool
	Standbys    []string // the physical ones, by the names that they give themselves
}

func readSync(ctx context.Context, s *pg.Server) (syncFacts, error) {
	return readOne[syncFacts](ctx, s, "reading synchronous replication", syncSQL)
}

// syncNumber finds the number of standbys that a commit waits for: FIRST 2 (a,
// b, c), ANY 2 (...) or 2 (...). Without one it is one.
// Postgres manual: 19.6.2, synchronous_standby_names.
var syncNumber = regexp.MustCompile(`(?i)^\s*(?:(?:first|any)\s+)?(\d+)\s*\(`)

func (f syncFacts) wanted() int {
	if m := syncNumber.FindStringSubmatch(f.Names); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			return n
		}
	}
	return 1
}

// names tells whether a walsender of that name counts as a standby to wait for.
func (f syncFacts) named(application string) bool {
	list := f.Names
	if m := syncNumber.FindStringIndex(list); m != nil {
		list = strings.TrimSuffix(strings.TrimSpace(list[m[1]:]), ")")
	}
	for name := range strings.SplitSeq(list, ",") {
		name = strings.Trim(strings.TrimSpace(name), `"`)
		if name == "*" || strings.EqualFold(name, application) {
			return true
		}
	}
	return false
}

// synchronous looks at the commits of both servers: old's, of which one decides
// the cutover, and new's.
func synchronous(ctx context.Context, p *Pair, older syncFacts, severity Severity) ([]Finding, error) {
	newer, err := readSync(ctx, p.New)
	if err != nil {
		return nil, err
	}
	found := append(syncFindings(p.Old, older, severity), applyFindings(p.Old, older)...)
	found = append(found, syncFindings(p.New, newer, severity)...)
	if p.Settings.Rollback {
		found = append(found, applyFindings(p.New, newer)...)
	}
	return found, nil
}

// syncFindings names the case in which every COMMIT, the decision's too, waits
// for a standby that is not there.
func syncFindings(s *pg.Server, have syncFacts, severity Severity) []Finding {
	if have.Names == "" || have.Synchronous >= have.wanted() || have.Hidden {
		return nil
	}
	f := Finding{
		ID: "standbys.sync-missing", Severity: severity, Server: string(s.Side()), Object: "synchronous_standby_names",
		Seen: fmt.Sprintf("synchronous_standby_names is %q: %d needed, %d connected", have.Names, have.wanted(), have.Synchronous),
		Why:  "Every COMMIT waits for a standby that is not there; so would the one that decides the cutover, with clients stopped.",
	}
	if s.Side() == pg.New {
		f.Why = "Every COMMIT waits for a standby that is not there: the tool's own stand still, and so would the clients' after the cutover."
	}
	return []Finding{f.mended("-- if the standby is not to come back:\nALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf();")}
}

// applyFindings names the case in which the server takes the stream of the move
// itself for a standby that its commits wait for. A commit then took 170 ms
// longer (measured, 15 to 18), and for ever when the stream stands still.
func applyFindings(s *pg.Server, have syncFacts) []Finding {
	stream := streamName(s.Move())
	if have.Names == "" || !have.named(stream) {
		return nil
	}
	f := Finding{
		ID: "standbys.sync-apply", Severity: Warning, Server: string(s.Side()), Object: "synchronous_standby_names",
		Seen: fmt.Sprintf("synchronous_standby_names is %q, which matches %s", have.Names, stream),
		Why:  "The move's own stream counts as a synchronous standby: each commit of the clients waits for the other server, and for ever when the stream stands still.",
	}
	names := slices.Clone(have.Standbys)
	for i, name := range names {
		names[i] = quote(name)
	}
	if len(names) < have.wanted() {
		return []Finding{f.mended("-- or name the standbys that are meant\nALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf();")}
	}
	return []Finding{f.setTo("synchronous_standby_names", literal(fmt.Sprintf("FIRST %d (%s)", have.wanted(), strings.Join(names, ", "))), false)}
}
