package preflight

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// foreignServersSQL lists foreign servers with the options that say where they
// are, and the user mappings whose options, if there are any, the role may not read.
const foreignServersSQL = `
select s.srvname::text as name, w.fdwname::text as wrapper,
       coalesce((select option_value from pg_options_to_table(s.srvoptions) where option_name in ('host', 'hostaddr') order by 1 limit 1), '') as host,
       coalesce((select option_value from pg_options_to_table(s.srvoptions) where option_name = 'port'), '') as port,
       coalesce((select option_value from pg_options_to_table(s.srvoptions) where option_name = 'dbname'), '') as database,
       coalesce((select array_agg(m.usename::text order by m.usename)
                   from pg_user_mappings m
                  where m.srvid = s.oid and m.umoptions is null
                    and not (select r.rolsuper from pg_roles r where r.rolname = current_user)), '{}') as hidden
  from pg_foreign_server s
  join pg_foreign_data_wrapper w on w.oid = s.srvfdw
 order by s.srvname`

type foreignRow struct {
	Name, Wrapper, Host, Port, Database string
	Hidden                              []string
}

// isPostgres says that the wrapper's servers are PostgreSQL servers.
func (r foreignRow) isPostgres() bool {
	return r.Wrapper == "postgres_fdw" || r.Wrapper == "dblink_fdw"
}

// checkForeign looks at foreign servers: those that lead back to the old server,
// those whose passwords are not carried, and the others, which new must reach.
func checkForeign(ctx context.Context, p *Pair) ([]Finding, error) {
	rows, err := read[foreignRow](ctx, p.Old, "reading foreign servers", foreignServersSQL)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	port, err := readValues[string](ctx, p.Old, "reading its port", portSQL)
	if err != nil {
		return nil, err
	}
	var elsewhere []string
	var found []Finding
	for _, r := range rows {
		if len(r.Hidden) > 0 {
			found = append(found, Finding{
				ID: "foreign.mapping", Severity: Warning, Server: string(pg.Old), Object: "foreign server " + quote(r.Name),
				Seen: fmt.Sprintf("%s may not read the options of the user mappings for %s", quote(p.Old.User()), list(r.Hidden)),
				Why:  "A user mapping whose password cannot be read arrives without it, and its foreign tables refuse to be read.",
				Fix:  fmt.Sprintf("after start, on new: ALTER USER MAPPING FOR ... SERVER %s OPTIONS (ADD password '...');", quote(r.Name)), FixKind: FixAction,
			})
		}
		if r.isPostgres() && isHere(p.Old, r, port[0]) {
			found = append(found, Finding{
				ID: "foreign.self", Severity: Warning, Server: string(pg.Old), Object: "foreign server " + quote(r.Name),
				Seen: fmt.Sprintf("leads to the old server itself (host %s, port %s, database %s)", quote(r.Host), port[0], quote(r.Database)),
				Why:  "It arrives as it is: read from new, its tables are those of the old server, or of whatever answers there on new's host; writes through it are refused by the fence or miss the new database.",
				Fix:  fmt.Sprintf("make it lead to the new server at the cutover, on new: ALTER SERVER %s OPTIONS (SET host '...', SET port '...');", quote(r.Name)), FixKind: FixAction,
			})
			continue
		}
		elsewhere = append(elsewhere, r.Name)
	}
	if len(elsewhere) > 0 {
		found = append(found, Finding{
			ID: "foreign.elsewhere", Severity: Note, Server: string(pg.Old), Object: "foreign servers",
			Seen: fmt.Sprintf("%s: %s", plural(len(elsewhere), "foreign server"), list(elsewhere)),
			Why:  "They are carried as definitions: the new server must reach them, and they must let it in.",
			Fix:  "see from the new server's host that it reaches them: firewalls, pg_hba.conf there, files that options name", FixKind: FixAction,
		})
	}
	return found, nil
}

const portSQL = `select current_setting('port')`

// isHere says that a foreign server's host and port are those of the server.
func isHere(s *pg.Server, r foreignRow, port string) bool {
	if r.Port == "" {
		r.Port = "5432"
	}
	host := strings.ToLower(r.Host)
	own, ownPort, _ := s.Endpoint()
	local := host == "" || strings.HasPrefix(host, "/") || host == "localhost"
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		local = true
	}
	return (local && r.Port == port) || (strings.EqualFold(host, own) && slices.Contains([]string{port, fmt.Sprint(ownPort)}, r.Port))
}
