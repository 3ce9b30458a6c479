package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pgserver"
)

// cleanupBound is how long the dropping of a test's database may take.
const cleanupBound = 60 * time.Second

var (
	databaseCount atomic.Int64
	notInNames    = regexp.MustCompile(`[^a-z0-9]+`)
)

// databaseName makes a name that tells the test and is unique in the binary.
func databaseName(test string) string {
	text := strings.Trim(notInNames.ReplaceAllString(strings.ToLower(test), "_"), "_")
	return fmt.Sprintf("test%d_%s", databaseCount.Add(1), text[:min(len(text), 40)])
}

// createDatabase is followed by the database's name. template0, unlike
// template1, has no sessions that would make a concurrent copy fail.
const createDatabase = `CREATE DATABASE %s TEMPLATE template0`

// Database makes a database for the test on the server c and returns the
// superuser's URL for it. At the test's end it is dropped with its
// subscriptions, replication slots, prepared transactions and sessions,
// whatever settings the test left on it. Roles outlive it.
func Database(t testing.TB, c *pgserver.Cluster) string {
	t.Helper()
	name := databaseName(t.Name())
	Exec(t, c.URL("postgres"), fmt.Sprintf(createDatabase, pgx.Identifier{name}.Sanitize()))
	t.Cleanup(func() {
		if !c.Running() {
			return // a test of its own cluster stopped it: nothing to drop
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), cleanupBound)
		defer cancel()
		if err := dropDatabase(ctx, c, name); err != nil {
			t.Errorf("dropping the test's database %s: %v", name, err)
		}
	})
	return c.URL(name)
}

// allowConnections is followed by the database's name: a test may have closed
// the database.
const allowConnections = `ALTER DATABASE %s ALLOW_CONNECTIONS true`

// dropDatabaseStatement is followed by the database's name.
const dropDatabaseStatement = `DROP DATABASE %s`

// dropDatabase ends what keeps a database in use, then drops it.
func dropDatabase(ctx context.Context, c *pgserver.Cluster, name string) error {
	conn, err := connectPlainly(ctx, c.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	quoted := pgx.Identifier{name}.Sanitize()
	if _, err := conn.Exec(ctx, fmt.Sprintf(allowConnections, quoted)); err != nil {
		return fmt.Errorf("allowing connections: %w", err)
	}
	if _, err := conn.Exec(ctx, terminateSessions, name); err != nil { // their locks would block what follows
		return fmt.Errorf("ending the sessions: %w", err)
	}
	if err := emptyDatabase(ctx, c.URL(name)); err != nil {
		return err
	}
	// Sessions end asynchronously, and an apply worker that is being restarted
	// may come back once. The server drops the slots that are no longer in use.
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		if _, err = conn.Exec(ctx, terminateSessions, name); err == nil {
			_, err = conn.Exec(ctx, fmt.Sprintf(dropDatabaseStatement, quoted))
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}

// terminateSessions ends the sessions of a database, walsenders included.
const terminateSessions = `
SELECT pg_terminate_backend(pid)
FROM pg_stat_activity
WHERE datname = $1
  AND pid <> pg_backend_pid()`

// listSubscriptions lists the current database's subscriptions, quoted.
const listSubscriptions = `
SELECT quote_ident(s.subname)
FROM pg_subscription AS s
JOIN pg_database AS d ON d.oid = s.subdbid
WHERE d.datname = current_database()
ORDER BY s.subname`

// listPrepared lists the current database's prepared transactions, quoted.
const listPrepared = `
SELECT quote_literal(gid)
FROM pg_prepared_xacts
WHERE database = current_database()
ORDER BY gid`

// emptyDatabase drops what only a session in the database itself can drop.
func emptyDatabase(ctx context.Context, url string) error {
	conn, err := connectPlainly(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	prepared, err := column[string](ctx, conn, listPrepared)
	if err != nil {
		return fmt.Errorf("listing prepared transactions: %w", err)
	}
	for _, gid := range prepared {
		if _, err := conn.Exec(ctx, "ROLLBACK PREPARED "+gid); err != nil {
			return fmt.Errorf("rolling back %s: %w", gid, err)
		}
	}
	subscriptions, err := column[string](ctx, conn, listSubscriptions)
	if err != nil {
		return fmt.Errorf("listing subscriptions: %w", err)
	}
	for _, name := range subscriptions {
		// Without its slot: the publisher may be gone, and drops its own.
		for _, statement := range []string{
			"ALTER SUBSCRIPTION " + name + " DISABLE",
			"ALTER SUBSCRIPTION " + name + " SET (slot_name = NONE)",
			"DROP SUBSCRIPTION " + name,
		} {
			if _, err := conn.Exec(ctx, statement); err != nil {
				return fmt.Errorf("dropping subscription %s: %w", name, err)
			}
		}
	}
	return nil
}

// connectPlainly opens a session that a test's leftovers do not hinder: writes
// are allowed whatever the database's default, and no event triggers fire.
func connectPlainly(ctx context.Context, url string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, errors.New("parsing the URL of a test's database")
	}
	config.RuntimeParams["application_name"] = "pgtest"
	config.RuntimeParams["default_transaction_read_only"] = "off"
	config.RuntimeParams["session_replication_role"] = "replica"
	config.RuntimeParams["statement_timeout"] = "0"
	config.RuntimeParams["lock_timeout"] = "0"
	return pgx.ConnectConfig(ctx, config)
}

// column returns a query's only column.
func column[T any](ctx context.Context, conn *pgx.Conn, sql string, args ...any) ([]T, error) {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[T])
}

// WithUser returns a URL for the same server and database and another role;
// password may be empty.
func WithUser(t testing.TB, databaseURL, role, password string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatalf("parsing a database URL: %v", err)
	}
	u.User = url.User(role)
	if password != "" {
		u.User = url.UserPassword(role, password)
	}
	return u.String()
}
