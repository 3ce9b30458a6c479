package methods

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// stream is plain logical replication of the whole database, made by hand, and
// a session of the superuser on each server. poll and floor begin with it.
type stream struct {
	old, new *pgx.Conn
	name     string // of slot and subscription
	options  string // of the subscription
}

const (
	publicationSQL  = `create publication bench_publication for all tables`
	subscriptionSQL = `create subscription %s connection '%s' publication bench_publication%s`
)

// unreadySQL counts what is not copied yet.
const unreadySQL = `
select count(*)
  from pg_subscription_rel as r
  join pg_subscription as s on s.oid = r.srsubid
 where s.subname = $1
   and r.srsubstate <> 'r'`

// copied makes the stream and waits until every table is copied and analyzed.
func (t *stream) copied(ctx context.Context, s *Scene) error {
	t.name = "subscription_" + s.Pair.Name
	var err error
	if t.old, err = pgx.Connect(ctx, s.Pair.OldURL()); err != nil {
		return err
	}
	if t.new, err = pgx.Connect(ctx, s.Pair.NewURL()); err != nil {
		return err
	}
	if _, err := t.old.Exec(ctx, publicationSQL); err != nil {
		return fmt.Errorf("making the publication: %w", err)
	}
	address := strings.ReplaceAll(s.Pair.OldURL(), "'", "''")
	if _, err := t.new.Exec(ctx, fmt.Sprintf(subscriptionSQL, t.name, address, t.options)); err != nil {
		return fmt.Errorf("making the subscription: %w", err)
	}
	err = pg.Wait(ctx, "the copy", 50*time.Millisecond, 2*time.Minute, nil, func(ctx context.Context) (bool, string, error) {
		var left int
		err := t.new.QueryRow(ctx, unreadySQL, t.name).Scan(&left)
		return left == 0, fmt.Sprintf("%d tables", left), err
	})
	if err != nil {
		return err
	}
	_, err = t.new.Exec(ctx, "vacuum (analyze)")
	return err
}

// Close ends the sessions.
func (t *stream) Close(ctx context.Context) {
	pg.Close(ctx, t.old)
	pg.Close(ctx, t.new)
}

// EmptyNew: the schema is there, as an operator would have brought it.
func (*stream) EmptyNew() bool { return false }

// readOnlySQL makes new sessions of the application read-only, by default.
const (
	readOnlySQL  = `alter role bench_app set default_transaction_read_only = true`
	readWriteSQL = `alter role bench_app reset default_transaction_read_only`
)

// hideNew keeps multihost clients from new until openNew: they take the first
// server that takes writes, and new does from the beginning.
func (t *stream) hideNew(ctx context.Context, s *Scene) error {
	if s.Clients.Kind != Multihost {
		return nil
	}
	_, err := t.new.Exec(ctx, readOnlySQL)
	return err
}

func (t *stream) openNew(ctx context.Context, s *Scene) error {
	if s.Clients.Kind != Multihost {
		return nil
	}
	_, err := t.new.Exec(ctx, readWriteSQL)
	return err
}

// repoint sends the clients to new: sed and RELOAD, the command, or nothing but
// a new server that takes writes.
func (t *stream) repoint(ctx context.Context, s *Scene) error {
	if err := s.Clients.rewrite(ctx); err != nil {
		return err
	}
	if s.Clients.Kind != PgBouncer {
		return t.openNew(ctx, s)
	}
	admin, err := s.Clients.console(ctx)
	if err != nil {
		return err
	}
	defer admin.close(ctx)
	return admin.run(ctx, "RELOAD")
}
