package probe

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// table is a table's name, quoted; empty when none was given.
type table string

const (
	// moveTable is the table where a move is under way, see Install.
	moveTable table = `"pgcutover"."probe"`
	// ownTable is the table elsewhere, in the first schema of the role's
	// search_path.
	ownTable table = `"pgcutover_probe"`
)

// identifier matches one part of a name as SQL writes it.
const identifier = `("(?:[^"]|"")+"|[A-Za-z_\x{80}-\x{10FFFF}][A-Za-z0-9_$\x{80}-\x{10FFFF}]*)`

var tableName = regexp.MustCompile(`^` + identifier + `(?:\.` + identifier + `)?$`)

// parseTable reads "name" or "schema.name", folding what is not quoted to lower
// case as SQL does.
func parseTable(text string) (table, error) {
	if text == "" {
		return "", nil
	}
	found := tableName.FindStringSubmatch(text)
	if found == nil {
		return "", fmt.Errorf("probing: %q is not the name of a table: write name or schema.name", text)
	}
	var parts pgx.Identifier
	for _, part := range found[1:] {
		switch {
		case part == "":
		case strings.HasPrefix(part, `"`):
			parts = append(parts, strings.ReplaceAll(part[1:len(part)-1], `""`, `"`))
		default:
			parts = append(parts, strings.ToLower(part))
		}
	}
	return table(parts.Sanitize()), nil
}

// facts is what a session says about the server and about its own rights.
type facts struct {
	version   int
	moving    bool // schema pgcutover is there
	usage     bool // and this role may look into it
	fencing   bool // and this role may make a trigger with the fence's function
	checkable bool // ask the fence by itself: the table has no trigger of it
}

// lookSQL needs no right: it reads catalogs only.
const lookSQL = `
select s.system_identifier::text, d.oid, pg_catalog.current_setting('port'), pg_catalog.pg_is_in_recovery(),
       pg_catalog.current_setting('server_version_num')::int,
       n.oid is not null,
       coalesce(pg_catalog.has_schema_privilege(n.oid, 'usage'), false),
       coalesce((select pg_catalog.has_function_privilege(f.oid, 'execute')
                   from pg_catalog.pg_proc f
                  where f.pronamespace = n.oid and f.proname = 'fence'), false),
       coalesce((select pg_catalog.has_function_privilege(f.oid, 'execute')
                   from pg_catalog.pg_proc f
                  where f.pronamespace = n.oid and f.proname = 'check'), false)
  from pg_catalog.pg_control_system() s
  join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
  left join pg_catalog.pg_namespace n on n.nspname = 'pgcutover'`

// fencedSQL asks whether a trigger of the fence stands on the table, enabled. A
// table that is not there has none.
const fencedSQL = `
select exists (
  select 1
    from pg_catalog.pg_trigger t
    join pg_catalog.pg_proc f on f.oid = t.tgfoid
    join pg_catalog.pg_namespace n on n.oid = f.pronamespace
   where t.tgrelid = pg_catalog.to_regclass($1) and t.tgenabled in ('O', 'A')
     and n.nspname = 'pgcutover' and f.proname = 'fence')`

// look learns who answers and which table to write to.
func (s *session) look(ctx context.Context) error {
	var server Server
	var f facts
	var check bool
	err := s.conn.QueryRow(ctx, lookSQL).Scan(&server.System, &server.Database, &server.Port, &server.Standby,
		&f.version, &f.moving, &f.usage, &f.fencing, &check)
	if err != nil {
		return err
	}
	s.server, s.known, s.facts = server, true, f
	switch {
	case s.prober.named != "":
		s.table = s.prober.named
	case f.moving:
		s.table = moveTable
	default:
		s.table = ownTable
	}
	if !f.moving {
		return nil
	}
	var fenced bool
	if err := s.conn.QueryRow(ctx, fencedSQL, string(s.table)).Scan(&fenced); err != nil {
		return err
	}
	s.facts.checkable = !fenced && f.usage && check
	if !fenced && !s.facts.checkable {
		s.prober.warnUnfenced(s.table)
	}
	return nil
}

// warnUnfenced says, once, what cannot be noticed.
func (p *prober) warnUnfenced(t table) {
	if p.warned {
		return
	}
	p.warned = true
	p.warn(fmt.Errorf("table %s has no fence and this role may not ask for it: through a pooler a closed server may look like an open one. On both servers: grant usage on schema pgcutover to public", t))
}

// errMade says that the table was made and the write can be tried again.
var errMade = errors.New("the table was made")

// errPublished says that the table was not made.
var errPublished = errors.New("subscribers would get a new table that they do not have")

// createSQL is followed by the table. Room is left in its one page, so that
// updates stay in it.
const createSQL = `
create table %s (
  prober text primary key,
  n bigint not null,
  at timestamptz not null default pg_catalog.clock_timestamp()
) with (fillfactor = 50)`

// commentSQL is followed by the table, for those who find one that a killed
// probe has left.
const commentSQL = `comment on table %s is 'made by pgcutover probe; when no probe runs it may be dropped'`

// fenceSQL is followed by the table: it is closed together with the
// application's tables.
const fenceSQL = `
create trigger pgcutover_probe_fence before insert or update or delete or truncate on %[1]s
  for each statement execute procedure pgcutover.fence();
alter table %[1]s enable always trigger pgcutover_probe_fence`

// publishedSQL names a publication that a new table would be in.
const publishedSQL = `
select pubname
  from pg_catalog.pg_publication
 where puballtables
 order by pubname
 limit 1`

// publishedSQL15 is publishedSQL from 15 on, followed by the schema or null for
// the current one.
const publishedSQL15 = `
select p.pubname
  from pg_catalog.pg_publication p
 where p.puballtables
    or exists (select 1
                 from pg_catalog.pg_publication_namespace pn
                 join pg_catalog.pg_namespace n on n.oid = pn.pnnspid
                where pn.pnpubid = p.oid and n.nspname = coalesce($1, pg_catalog.current_schema()))
 order by p.pubname
 limit 1`

// make makes the table that was missing, unless others would get it: a
// subscriber without a table of that name stops.
func (s *session) make(ctx context.Context) error {
	s.doing = "making table " + string(s.table)
	var publication string
	var err error
	if s.facts.version < 150000 {
		err = s.conn.QueryRow(ctx, publishedSQL).Scan(&publication)
	} else {
		err = s.conn.QueryRow(ctx, publishedSQL15, s.table.schema()).Scan(&publication)
	}
	if err == nil {
		return hint.With(fmt.Errorf("%w: publication %q has every new table", errPublished, publication),
			"make a table for the probe on both ends and name it with --table: "+oneLine(fmt.Sprintf(createSQL, s.table)))
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	_, err = s.conn.Exec(ctx, fmt.Sprintf(createSQL+";"+commentSQL, s.table, s.table))
	switch {
	case pg.IsCode(err, pg.UniqueViolation, pg.DuplicateTable, pg.DuplicateObject):
		return errMade // by another prober, at the same moment
	case pg.IsCode(err, pg.InvalidSchemaName) && s.table == moveTable:
		return errMoved // the move was just completed: look again
	}
	if err != nil {
		return err
	}
	if s.table != moveTable {
		s.prober.made[s.server.identity()] = s.table
		return errMade
	}
	if s.facts.fencing {
		_, err := s.conn.Exec(ctx, fmt.Sprintf(fenceSQL, s.table))
		switch {
		case pg.IsCode(err, pg.InvalidSchemaName, pg.UndefinedTable, pg.UndefinedFunction):
			return errMoved // the move was just completed: look again
		case err != nil && !pg.IsCode(err, pg.DuplicateObject):
			return err
		}
	}
	return errMade
}

// schema is the schema's name; nil when the name has none.
func (t table) schema() *string {
	found := tableName.FindStringSubmatch(string(t))
	if found == nil || found[2] == "" {
		return nil
	}
	name := strings.ReplaceAll(found[1][1:len(found[1])-1], `""`, `"`)
	return &name
}

// cleanBound is how long taking the row away may take.
const cleanBound = 5 * time.Second

// forgetSQL is followed by the table. Rows that have not been touched for a day
// are those of probers that were killed.
const forgetSQL = `
delete from %s
 where prober = $1
    or at < pg_catalog.clock_timestamp() - interval '1 day'`

// clean takes the row away and the table, if this prober made it. What stands in
// schema pgcutover of a server that is no longer reached goes with the schema.
func (p *prober) clean(ctx context.Context) {
	if p.last.system == "" {
		return
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanBound)
	defer cancel()
	if err := p.remove(bounded); err != nil {
		p.warn(fmt.Errorf("removing the probe's row from %s: %w; it does no harm, and the next probe removes it after a day", p.rows[p.last], err))
	}
	for server, t := range p.rows {
		if server != p.last && t != moveTable {
			p.warn(fmt.Errorf("a row of the probe is left in %s of a server that is no longer reached (system %s)", t, server.system))
		}
	}
}

func (p *prober) remove(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, p.config)
	if err != nil {
		return err
	}
	s := &session{prober: p, r: &Round{}, conn: conn}
	defer s.close(ctx)
	if err := s.look(ctx); err != nil {
		return err
	}
	if s.server.identity() != p.last {
		return errors.New("the client reaches another server now")
	}
	if err := s.begin(ctx, cleanBound); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, fmt.Sprintf(forgetSQL, p.rows[p.last]), p.report.Prober)
	if pg.IsCode(err, pg.UndefinedTable, pg.InvalidSchemaName) {
		return nil // gone with its schema
	}
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "commit"); err != nil {
		return err
	}
	if made, ok := p.made[p.last]; ok {
		return s.drop(ctx, made)
	}
	return nil
}

// lockSQL is followed by the table: nobody else writes to it while it is looked
// whether it is empty.
const lockSQL = `lock table %s in access exclusive mode`

const emptySQL = `select not exists (select 1 from %s)`

// drop drops the table unless another prober uses it.
func (s *session) drop(ctx context.Context, t table) error {
	if err := s.begin(ctx, cleanBound); err != nil {
		return err
	}
	if _, err := s.conn.Exec(ctx, fmt.Sprintf(lockSQL, t)); err != nil {
		return err
	}
	var empty bool
	if err := s.conn.QueryRow(ctx, fmt.Sprintf(emptySQL, t)).Scan(&empty); err != nil || !empty {
		return err // rolled back when the session ends
	}
	_, err := s.conn.Exec(ctx, fmt.Sprintf("drop table %s; commit", t))
	return err
}

// installSQL makes the table that probes use while a move is under way. It
// needs the fence's functions. Every role may probe; the rest of the schema
// stays closed to them.
const installSQL = `
create table pgcutover.probe (
  prober text primary key,
  n bigint not null,
  at timestamptz not null default pg_catalog.clock_timestamp()
) with (fillfactor = 50);
create trigger pgcutover_probe_fence before insert or update or delete or truncate on pgcutover.probe
  for each statement execute procedure pgcutover.fence();
alter table pgcutover.probe enable always trigger pgcutover_probe_fence;
grant select, insert, update, delete on pgcutover.probe to public;
grant usage on schema pgcutover to public`

// InstallStatements returns what Install runs, for the plan.
func InstallStatements() []string { return []string{installSQL} }

const installedSQL = `select to_regclass('pgcutover.probe') is not null`

// Install makes table pgcutover.probe on a server whose schema pgcutover holds
// the fence's functions. It does nothing when the table is there. The table goes
// with the schema.
func Install(ctx context.Context, s *pg.Server) error {
	return pgx.BeginFunc(ctx, s.Pool(), func(tx pgx.Tx) error {
		var there bool
		if err := tx.QueryRow(ctx, installedSQL).Scan(&there); err != nil || there {
			return err
		}
		if _, err := tx.Exec(ctx, s.Quiet(installSQL)); err != nil {
			return fmt.Errorf("making table pgcutover.probe on the %s server: %w", s.Side(), err)
		}
		return nil
	})
}

// Identify asks a server of a move, directly, who it is, for Options.Servers.
func Identify(ctx context.Context, o pg.Options) (Server, error) {
	s, err := pg.Open(ctx, o)
	if err != nil {
		return Server{}, err
	}
	defer s.Close()
	id, err := state.Identify(ctx, s)
	if err != nil {
		return Server{}, err
	}
	_, port, _ := s.Endpoint()
	return Server{System: id.System, Database: id.Database, Port: strconv.Itoa(port), Side: o.Side}, nil
}
