// Package state keeps what a move remembers on its two servers: the schema
// pgcutover with the identity of both, the turn, the gate, the markers and
// decisions of both directions, and, on the new server, the journal.
//
// Everything here is small, is made by start, and is removed by abort or
// complete. The fence's functions live in the same schema but belong to
// package fence.
package state

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// Format is the version of the tables below. A tool refuses a newer one.
const Format = 4

// Querier is what a pool, a session and a transaction have in common.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Move is the row that says whose schema this is and which two databases the
// move is between.
type Move struct {
	Name    string    `json:"name"`
	Side    pg.Side   `json:"side"`
	Format  int       `json:"format"`
	Old     Identity  `json:"old"`
	New     Identity  `json:"new"`
	Created time.Time `json:"created"`
}

// schemaSQL makes the tables that both servers have. turn.open says whether
// this server takes client writes; turn.armed lets the guard open it.
const schemaSQL = `
create schema pgcutover;
create table pgcutover.move (
  singleton boolean primary key default true check (singleton),
  name text not null,
  side text not null check (side in ('old', 'new')),
  format integer not null,
  identity jsonb not null,
  before jsonb,
  created timestamptz not null default clock_timestamp()
);
create table pgcutover.turn (
  singleton boolean primary key default true check (singleton),
  attempt bigint not null default 0,
  armed boolean not null default false,
  open boolean not null
);
create table pgcutover.baseline (
  singleton boolean primary key default true check (singleton),
  content bytea not null
);
create table pgcutover.mended (
  number integer primary key,
  server text not null check (server in ('old', 'new')),
  finding text not null,
  object text not null,
  fix text not null,
  undo text not null,
  travels boolean not null,
  at timestamptz not null default clock_timestamp()
);
create table pgcutover.gate ();
create table pgcutover.marker_forward (
  attempt bigint not null,
  stream integer not null,
  at timestamptz not null default clock_timestamp(),
  primary key (attempt, stream)
);
create table pgcutover.decision_forward (
  attempt bigint not null,
  stream integer not null,
  at timestamptz not null default clock_timestamp(),
  primary key (attempt, stream)
);
create table pgcutover.marker_back (
  attempt bigint not null,
  stream integer not null,
  at timestamptz not null default clock_timestamp(),
  primary key (attempt, stream)
);
create table pgcutover.decision_back (
  attempt bigint not null,
  stream integer not null,
  at timestamptz not null default clock_timestamp(),
  primary key (attempt, stream)
);
create table pgcutover.journal (
  list text not null,
  run bigint not null,
  seq bigint not null,
  step text not null,
  event text not null,
  facts jsonb,
  error text,
  at timestamptz not null default clock_timestamp(),
  primary key (list, run, seq)
);`

// moveSQL records whose the schema is.
const moveSQL = `
insert into pgcutover.move (name, side, format, identity)
values ($1, $2, $3, $4)`

// turnSQL makes the one row of turn: old takes writes from the beginning, new
// does not. The attempts of a move count on from the seconds of 2026 in which
// it was started, so that a tool left over from an earlier move between the
// same databases never finds its own number again.
const turnSQL = `
insert into pgcutover.turn (attempt, open)
values (greatest(extract(epoch from clock_timestamp() - timestamptz '2026-01-01 00:00:00Z')::bigint, 10000000), $1)`

// Create makes the state on one server in one transaction. When the state of
// the same move stands there already it is left as it is; another move's is
// an error.
func Create(ctx context.Context, s *pg.Server, m Move) error {
	have, err := Load(ctx, s)
	if err != nil {
		return err
	}
	if have != nil {
		return have.mustBe(s, m)
	}
	return pgx.BeginFunc(ctx, s.Pool(), func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, s.Quiet(schemaSQL)); err != nil {
			return createHint(fmt.Errorf("creating schema pgcutover on the %s server: %w", s.Side(), err), s)
		}
		both := identities{Old: m.Old, New: m.New}
		if _, err := tx.Exec(ctx, moveSQL, m.Name, string(s.Side()), Format, both); err != nil {
			return fmt.Errorf("recording the move on the %s server: %w", s.Side(), err)
		}
		if _, err := tx.Exec(ctx, turnSQL, s.Side() == pg.Old); err != nil {
			return fmt.Errorf("recording the turn on the %s server: %w", s.Side(), err)
		}
		_, err := tx.Exec(ctx, commentSQL(s, m))
		return err
	})
}

func createHint(err error, s *pg.Server) error {
	if pg.IsCode(err, pg.InsufficientPrivilege) {
		return hint.With(err, fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s; (on the %s server)",
			pgx.Identifier{s.Database()}.Sanitize(), pgx.Identifier{s.User()}.Sanitize(), s.Side()))
	}
	return err
}

type identities struct {
	Old Identity `json:"old"`
	New Identity `json:"new"`
}

const existsSQL = `select to_regclass('pgcutover.move') is not null, to_regnamespace('pgcutover') is not null`

const loadSQL = `select name, side, format, identity, created from pgcutover.move`

// Load reads the move's row of a server; nil without error when the server
// has no state of ours.
func Load(ctx context.Context, s *pg.Server) (*Move, error) {
	var table, schema bool
	if err := s.Pool().QueryRow(ctx, existsSQL).Scan(&table, &schema); err != nil {
		return nil, fmt.Errorf("looking for schema pgcutover on the %s server: %w", s.Side(), err)
	}
	if !table {
		if schema {
			return nil, hint.With(fmt.Errorf("the %s server has a schema pgcutover that this tool did not make", s.Side()),
				"rename or drop it: pgcutover needs that name")
		}
		return nil, nil
	}
	var (
		m    Move
		both identities
		side string
	)
	err := s.Pool().QueryRow(ctx, loadSQL).Scan(&m.Name, &side, &m.Format, &both, &m.Created)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading pgcutover.move on the %s server: %w", s.Side(), err)
	}
	m.Side, m.Old, m.New = pg.Side(side), both.Old, both.New
	if m.Format != Format {
		return nil, fmt.Errorf("the state on the %s server has format %d, this pgcutover knows %d: use a newer pgcutover, or the one that began the move", s.Side(), m.Format, Format)
	}
	return &m, nil
}

func (m *Move) mustBe(s *pg.Server, want Move) error {
	switch {
	case m.Name != want.Name:
		return hint.With(fmt.Errorf("the %s server belongs to the move %q, not %q", s.Side(), m.Name, want.Name),
			fmt.Sprintf("finish that move first (pgcutover complete or abort with name: %s), or use its name", m.Name))
	case m.Side != s.Side():
		return hint.With(fmt.Errorf("the server given as %s is the %s server of the move %q", s.Side(), m.Side, m.Name),
			"old and new are swapped: correct the two URLs")
	}
	if err := m.Old.mustBe("old", want.Old); err != nil {
		return err
	}
	return m.New.mustBe("new", want.New)
}

// ErrNoMove means that a server has no state: start has not run, or abort or
// complete has removed it.
var ErrNoMove = errors.New("no move has been started")

// Verify loads the state of both servers and compares it with what they are:
// swapped, restored or failed-over servers are refused by name.
func Verify(ctx context.Context, name string, old, new *pg.Server) (*Move, error) {
	now, err := Observe(ctx, name, old, new)
	if err != nil {
		return nil, err
	}
	var found *Move
	for _, s := range []*pg.Server{old, new} {
		m, err := Load(ctx, s)
		if err != nil {
			return nil, err
		}
		if m == nil {
			return nil, hint.With(fmt.Errorf("the %s server (%s): %w", s.Side(), s.Address(), ErrNoMove), "run: pgcutover start")
		}
		if err := m.mustBe(s, *now); err != nil {
			return nil, WayOut(ctx, err, old, new)
		}
		found = m
	}
	return found, nil
}

// Observe reads the identity of both servers as they are now.
func Observe(ctx context.Context, name string, old, new *pg.Server) (*Move, error) {
	o, err := Identify(ctx, old)
	if err != nil {
		return nil, err
	}
	n, err := Identify(ctx, new)
	if err != nil {
		return nil, err
	}
	if o.System == n.System && o.Database == n.Database {
		return nil, fmt.Errorf("%s and %s: %w", old.Address(), new.Address(), pg.ErrSameServer)
	}
	return &Move{Name: name, Format: Format, Old: o, New: n}, nil
}

// SetBeforeSQL is what SetBefore runs, for the plan.
const SetBeforeSQL = `update pgcutover.move set before = $1 where before is null`

// SetBefore stores, once, what the server looked like before the move changed
// it, for abort to put back.
func SetBefore(ctx context.Context, s *pg.Server, before any) error {
	if _, err := s.Pool().Exec(ctx, SetBeforeSQL, before); err != nil {
		return fmt.Errorf("recording how the %s server was: %w", s.Side(), err)
	}
	return nil
}

const beforeSQL = `select before from pgcutover.move where before is not null`

// Before reads into what SetBefore stored; false when it stored nothing.
func Before(ctx context.Context, s *pg.Server, into any) (bool, error) {
	err := s.Pool().QueryRow(ctx, beforeSQL).Scan(into)
	if errors.Is(err, pgx.ErrNoRows) || pg.IsCode(err, pg.UndefinedTable, pg.InvalidSchemaName) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading how the %s server was: %w", s.Side(), err)
	}
	return true, nil
}

// DropSQL removes the state and, with it, the functions of the fence. It fails
// while a fence trigger still uses them, which is wanted.
const DropSQL = `drop schema if exists pgcutover cascade`

// dependentsSQL counts what outside our schema hangs on it: cascading into
// somebody's tables must not happen (fence triggers are dropped before).
const dependentsSQL = `
select count(*)
  from pg_trigger t
  join pg_proc p on p.oid = t.tgfoid
  join pg_namespace n on n.oid = p.pronamespace
  join pg_class c on c.oid = t.tgrelid
 where n.nspname = 'pgcutover' and c.relnamespace <> n.oid and not t.tgisinternal`

// Drop removes schema pgcutover. It refuses while fence triggers stand on
// tables.
func Drop(ctx context.Context, s *pg.Server) error {
	var n int
	if err := s.Pool().QueryRow(ctx, dependentsSQL).Scan(&n); err != nil {
		return fmt.Errorf("looking for fence triggers on the %s server: %w", s.Side(), err)
	}
	if n > 0 {
		return fmt.Errorf("dropping schema pgcutover on the %s server: %d fence triggers still use it", s.Side(), n)
	}
	if _, err := s.Pool().Exec(ctx, s.Quiet(DropSQL)); err != nil {
		return fmt.Errorf("dropping schema pgcutover on the %s server: %w", s.Side(), err)
	}
	return nil
}

func quoteLiteral(s string) string {
	out := make([]byte, 0, len(s)+2)
	out = append(out, '\'')
	for i := 0; i < len(s); i++ {
		if s[i] == '\'' {
			out = append(out, '\'')
		}
		out = append(out, s[i])
	}
	return string(append(out, '\''))
}
