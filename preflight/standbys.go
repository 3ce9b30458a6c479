package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// standbysSQL lists the physical standbys of a server: walsenders that belong
// to no database, and physical slots whether connected or not. Programs that
// make copies are no standbys. Whether a walsender serves a logical slot would
// not tell: one that copies a table of another subscription has it only now and
// then. Postgres manual: 53.4, parameter replication.
const standbysSQL = `
select coalesce(s.slot_name::text, '') as slot, coalesce(r.application_name, '') as application,
       coalesce(host(r.client_addr), '') as address, r.pid is not null as connected
  from (select slot_name, active_pid from pg_replication_slots where slot_type = 'physical' and not temporary) s
  full join (
    select pid, application_name, client_addr
      from pg_stat_replication
     where pid in (select pid from pg_stat_activity where datid is null)
       and coalesce(application_name, '') not in ('pg_basebackup', 'pg_receivewal', 'pg_recvlogical', 'pg_rewind')
       and coalesce(application_name, '') not like 'pgcutover%'
       and coalesce(state, '') not in ('backup', 'startup')
  ) r on r.pid = s.active_pid
 order by 1, 2, 3`

type standbyRow struct {
	Slot, Application, Address string
	Connected                  bool
}

func (r standbyRow) String() string {
	parts := []string{}
	for _, part := range []struct{ what, value string }{{"slot", r.Slot}, {"application", r.Application}, {"address", r.Address}} {
		if part.value != "" {
			parts = append(parts, part.what+" "+part.value)
		}
	}
	if !r.Connected {
		parts = append(parts, "not connected")
	}
	return strings.Join(parts, ", ")
}

// standbysCheck looks for standbys of the old server that could be promoted
// without the decision: a logical walsender sends a commit on before any
// standby has it, so that new may be open while the promoted standby is not
// fenced. From 17 on synchronized_standby_slots closes that.
// Postgres manual: 19.6.2, synchronized_standby_slots.
func standbysCheck(severity Severity) func(context.Context, *Pair) ([]Finding, error) {
	return func(ctx context.Context, p *Pair) ([]Finding, error) {
		have, err := readSync(ctx, p.Old)
		if err != nil {
			return nil, err
		}
		rows, err := read[standbyRow](ctx, p.Old, "looking for standbys", standbysSQL)
		if err != nil {
			return nil, err
		}
		found, err := synchronous(ctx, p, have, severity)
		if err != nil {
			return nil, err
		}
		if p.Settings.FailoverPaused {
			return found, nil
		}
		return append(found, uncovered(p.Old, rows, have.Slots, severity)...), nil
	}
}

func uncovered(s *pg.Server, rows []standbyRow, synchronized string, severity Severity) []Finding {
	var covered []string
	for name := range strings.SplitSeq(synchronized, ",") {
		covered = append(covered, strings.Trim(strings.TrimSpace(name), `"`))
	}
	var found []Finding
	for _, r := range rows {
		if r.Slot != "" && slices.Contains(covered, r.Slot) {
			continue
		}
		f := Finding{
			ID: "standbys.unfenced", Severity: severity, Server: string(s.Side()), Object: "standby", Seen: r.String(),
			Why: "The decision may reach the new server before this standby: promoted right then, it takes writes beside the new server.",
		}.told(fmt.Sprintf("pause its failover for the cutover and declare it: %s.failover: paused", s.Side()))
		switch {
		case s.Major() >= 17 && r.Slot != "":
			f = f.mended(fmt.Sprintf("ALTER SYSTEM SET synchronized_standby_slots = %s; SELECT pg_reload_conf();\n-- or %s",
				literal(strings.Trim(synchronized+","+quote(r.Slot), ",")), f.Fix))
		case s.Major() >= 17:
			f.Fix = "let it stream from a slot (primary_slot_name) that synchronized_standby_slots names, or " + f.Fix
		}
		found = append(found, f)
	}
	return found
}
