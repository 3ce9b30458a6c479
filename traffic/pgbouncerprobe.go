package traffic

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// identity is what a server says of itself. The start of the postmaster tells a
// server from its physical copies, which have the same system identifier.
type identity struct {
	System   string // system identifier; empty when the role may not see it
	Started  string // start of the postmaster, microseconds since 1970
	Version  string
	Database string
	Address  string // for messages: it depends on the way to the server
}

const identitySQL = `
select c.system_identifier::text,
       (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint::text,
       current_setting('server_version'),
       current_database()::text,
       coalesce(host(inet_server_addr()), 'a Unix socket') || ':' || current_setting('port')
  from pg_control_system() c`

// identityWithoutSystemSQL is for roles that may not call pg_control_system.
const identityWithoutSystemSQL = `
select '',
       (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint::text,
       current_setting('server_version'),
       current_database()::text,
       coalesce(host(inet_server_addr()), 'a Unix socket') || ':' || current_setting('port')`

// querier is a connection or a pool.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func identify(ctx context.Context, q querier) (identity, error) {
	var id identity
	scan := func(sql string) error {
		return q.QueryRow(ctx, sql).Scan(&id.System, &id.Started, &id.Version, &id.Database, &id.Address)
	}
	err := scan(identitySQL)
	if pg.IsCode(err, pg.InsufficientPrivilege) {
		err = scan(identityWithoutSystemSQL)
	}
	return id, err
}

// same reports whether both are the same database of the same running server.
func (i identity) same(other identity) bool {
	systems := i.System == other.System || i.System == "" || other.System == ""
	return systems && i.Started == other.Started && i.Version == other.Version && i.Database == other.Database
}

// String names the server.
func (i identity) String() string {
	return fmt.Sprintf("%s/%s (PostgreSQL %s, system identifier %q)", i.Address, i.Database, i.Version, i.System)
}

// errElsewhere says that a probe reached another server.
var errElsewhere = errors.New("a client of the pooler reaches another server")

// probe connects through the pooler, as a client would, under each name, until
// the server that serves answers; bound is for each of them.
func (d *PgBouncer) probe(ctx context.Context, to Target, bound time.Duration) error {
	server := to.server()
	if server == nil {
		return errors.New("it is not known which server serves")
	}
	want, err := identify(ctx, server.Pool())
	if err != nil {
		return fmt.Errorf("asking the %s server who it is: %w", server.Side(), server.Redacted(err))
	}
	configs, err := d.probeConfigs()
	if err != nil {
		return err
	}
	for _, config := range configs {
		if err := probeOne(ctx, config, want, bound); err != nil {
			return fmt.Errorf("probing %s as %s: %w", config.Database, config.User, err)
		}
	}
	return nil
}

// probeConfigs are the connections to probe with.
func (d *PgBouncer) probeConfigs() ([]*pgx.ConnConfig, error) {
	if d.o.ProbeURL != "" {
		config, err := pgx.ParseConfig(d.o.ProbeURL)
		if err != nil {
			return nil, fmt.Errorf("reading probe_url: %w", err)
		}
		return []*pgx.ConnConfig{asClient(config)}, nil
	}
	admin, err := pgx.ParseConfig(d.o.AdminURL)
	if err != nil {
		return nil, fmt.Errorf("reading admin_url: %w", err)
	}
	client, err := pgx.ParseConfig(d.o.ClientURL)
	if err != nil {
		return nil, fmt.Errorf("reading the connection string of the old server: %w", err)
	}
	var configs []*pgx.ConnConfig
	for _, name := range d.o.Databases {
		config := admin.Copy()
		config.Database, config.User, config.Password = name, client.User, client.Password
		configs = append(configs, asClient(config))
	}
	return configs, nil
}

// asClient takes out what does not go through a transaction pooler: prepared
// statements and settings. Its application_name is not one of the tool's own
// sessions, because it may stay with the pooler's connection.
func asClient(config *pgx.ConnConfig) *pgx.ConnConfig {
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	config.RuntimeParams = map[string]string{"application_name": "probe of pgcutover"}
	return config
}

func probeOne(ctx context.Context, config *pgx.ConnConfig, want identity, bound time.Duration) error {
	var last error
	began := time.Now()
	err := waitFor(ctx, "a client of the pooler to reach "+want.String(), 50*time.Millisecond, bound, func() (bool, string, error) {
		var is identity
		if is, last = ask(ctx, config); last == nil && !is.same(want) {
			last = fmt.Errorf("%w: %s instead of %s", errElsewhere, is, want)
		}
		// A name may need a moment to lead to another address.
		settled := errors.Is(last, errElsewhere) && time.Since(began) > readyBound
		return last == nil || settled || pg.IsCode(last, pg.InvalidPassword, pg.InvalidAuthorization), "", nil
	})
	if last == nil {
		return err
	}
	err = errors.Join(err, last)
	if pg.IsCode(last, pg.InvalidPassword, pg.InvalidAuthorization, protocolViolation) {
		err = hint.With(err, "set probe_url under pgbouncer to a connection string that clients of this pooler use")
	}
	return err
}

// protocolViolation is the SQLSTATE of most of what PgBouncer itself refuses.
const protocolViolation = "08P01"

// ask asks who is behind a connection.
func ask(ctx context.Context, config *pgx.ConnConfig) (identity, error) {
	limit, cancel := context.WithTimeoutCause(ctx, answerBound, errNoAnswer)
	defer cancel()
	conn, err := pgx.ConnectConfig(limit, config)
	if err != nil {
		return identity{}, err
	}
	defer pg.Close(ctx, conn)
	return identify(limit, conn)
}
