package state

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Mended is something that `check --fix` changed on a server for the time of the
// move, with the statement that takes it back.
type Mended struct {
	Number  int     `json:"number"`
	Server  pg.Side `json:"server"`
	Finding string  `json:"finding"`
	Object  string  `json:"object"`
	Fix     string  `json:"fix"`
	Undo    string  `json:"undo"`
	// Travels tells that what was changed on old is part of the schema, which
	// comes to new.
	Travels bool `json:"travels"`
}

const insertMendedSQL = `
insert into pgcutover.mended (number, server, finding, object, fix, undo, travels)
select coalesce(max(number), 0) + 1, $1, $2, $3, $4, $5, $6
  from pgcutover.mended`

// Remember records a change in the transaction that makes it.
func (m Mended) Remember(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, insertMendedSQL, string(m.Server), m.Finding, m.Object, m.Fix, m.Undo, m.Travels); err != nil {
		return fmt.Errorf("recording a fix: %w", err)
	}
	return nil
}

const listMendedSQL = `
select number, server, finding, object, fix, undo, travels
  from pgcutover.mended
 order by number desc`

// ReadMended returns what was changed, the newest first; nothing where there is
// no state.
func ReadMended(ctx context.Context, s *pg.Server) ([]Mended, error) {
	move, err := Load(ctx, s)
	if err != nil || move == nil {
		return nil, err
	}
	rows, err := s.Pool().Query(ctx, listMendedSQL)
	if err != nil {
		return nil, fmt.Errorf("reading the fixes on the %s server: %w", s.Side(), err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Mended])
	if err != nil {
		return nil, fmt.Errorf("reading the fixes on the %s server: %w", s.Side(), err)
	}
	return out, nil
}

const copyMendedSQL = `
insert into pgcutover.mended (number, server, finding, object, fix, undo, travels)
values ($1, $2, $3, $4, $5, $6, $7)
    on conflict (number) do nothing`

// CopyMended gives a server the records of the other one, so that they are
// known when that one is gone.
func CopyMended(ctx context.Context, to *pg.Server, all []Mended) error {
	for _, m := range all {
		if _, err := to.Pool().Exec(ctx, copyMendedSQL, m.Number, string(m.Server), m.Finding, m.Object, m.Fix, m.Undo, m.Travels); err != nil {
			return fmt.Errorf("recording a fix on the %s server: %w", to.Side(), err)
		}
	}
	return nil
}

const forgetMendedSQL = `delete from pgcutover.mended where number = $1`

// Forget removes a record in the transaction that takes the change back.
func (m Mended) Forget(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, forgetMendedSQL, m.Number); err != nil {
		return fmt.Errorf("forgetting a fix: %w", err)
	}
	return nil
}
