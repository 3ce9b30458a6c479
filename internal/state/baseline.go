package state

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// baselineTableSQL makes the table for moves that were started by a tool that
// had none. Create makes it with the rest.
const baselineTableSQL = `
create table if not exists pgcutover.baseline (
  singleton boolean primary key default true check (singleton),
  content bytea not null
)`

// SetBaselineSQL is what SetBaseline runs, for the plan.
const SetBaselineSQL = `
insert into pgcutover.baseline (content)
values ($1)
on conflict (singleton) do update set content = excluded.content`

// SetBaseline stores, compressed, what comparing the two schemas needs to know,
// in place of what was stored.
func SetBaseline(ctx context.Context, s *pg.Server, baseline any) error {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if err := errors.Join(json.NewEncoder(w).Encode(baseline), w.Close()); err != nil {
		return fmt.Errorf("compressing the baseline of the schemas: %w", err)
	}
	_, err := s.Pool().Exec(ctx, SetBaselineSQL, b.Bytes())
	if pg.IsCode(err, pg.UndefinedTable) {
		if _, err := s.Pool().Exec(ctx, baselineTableSQL); err != nil {
			return fmt.Errorf("making pgcutover.baseline on the %s server: %w", s.Side(), err)
		}
		_, err = s.Pool().Exec(ctx, SetBaselineSQL, b.Bytes())
	}
	if err != nil {
		return fmt.Errorf("recording the baseline of the schemas on the %s server: %w", s.Side(), err)
	}
	return nil
}

const readBaselineSQL = `select content from pgcutover.baseline`

// Baseline reads into what SetBaseline stored; false when it stored nothing.
func Baseline(ctx context.Context, s *pg.Server, into any) (bool, error) {
	var content []byte
	err := s.Pool().QueryRow(ctx, readBaselineSQL).Scan(&content)
	if errors.Is(err, pgx.ErrNoRows) || pg.IsCode(err, pg.UndefinedTable, pg.InvalidSchemaName) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the baseline of the schemas on the %s server: %w", s.Side(), err)
	}
	r, err := gzip.NewReader(bytes.NewReader(content))
	if err == nil {
		err = errors.Join(json.NewDecoder(r).Decode(into), r.Close())
	}
	if err != nil {
		return false, fmt.Errorf("reading the baseline of the schemas on the %s server: %w", s.Side(), err)
	}
	return true, nil
}
