package state

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// Journal is the journal.Store in pgcutover.journal on the new server. Each
// Append is one synchronous transaction in one round trip.
type Journal struct{ Server *pg.Server }

// appendSQL writes several records at once, in order.
const appendSQL = `
insert into pgcutover.journal (list, run, seq, step, event, facts, error, at)
select r->>'list', (r->>'run')::bigint, (r->>'seq')::bigint, r->>'step', r->>'event', r->'facts', nullif(r->>'error', ''), (r->>'at')::timestamptz
  from jsonb_array_elements($1::jsonb) as x(r)`

// row is a record as it stands in the table.
type row struct {
	List  string          `json:"list"`
	Run   int64           `json:"run"`
	Seq   int64           `json:"seq"`
	Step  string          `json:"step"`
	Event string          `json:"event"`
	Facts json.RawMessage `json:"facts,omitempty"`
	Error string          `json:"error,omitempty"`
	At    string          `json:"at"`
}

// Append writes the records, all or none.
func (j Journal) Append(ctx context.Context, records ...journal.Record) error {
	rows := make([]row, len(records))
	for i, r := range records {
		rows[i] = row{
			List: r.List, Run: r.Run, Seq: r.Seq, Step: r.Step, Event: string(r.Event), Facts: r.Facts, Error: r.Error,
			At: r.At.UTC().Format("2006-01-02T15:04:05.999999Z07:00"),
		}
	}
	if _, err := j.Server.Pool().Exec(ctx, appendSQL, rows); err != nil {
		if pg.IsCode(err, pg.UniqueViolation) {
			return fmt.Errorf("writing the journal on the new server: %w: %w", journal.ErrConflict, err)
		}
		return fmt.Errorf("writing the journal on the new server: %w", err)
	}
	return nil
}

const loadJournalSQL = `
select list, run, seq, step, event, facts, coalesce(error, ''), at
  from pgcutover.journal
 where list = $1 and run = $2
 order by seq`

// Load reads the records of one run of one list, oldest first.
func (j Journal) Load(ctx context.Context, list string, run int64) ([]journal.Record, error) {
	rows, err := j.Server.Pool().Query(ctx, loadJournalSQL, list, run)
	if err != nil {
		return nil, fmt.Errorf("reading the journal on the new server: %w", err)
	}
	records, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (journal.Record, error) {
		var (
			r     journal.Record
			event string
		)
		err := row.Scan(&r.List, &r.Run, &r.Seq, &r.Step, &event, &r.Facts, &r.Error, &r.At)
		r.Event, r.At = journal.Event(event), r.At.UTC()
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the journal on the new server: %w", err)
	}
	return records, nil
}
