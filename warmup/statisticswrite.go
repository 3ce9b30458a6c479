package warmup

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// restoreSQL writes what is known of one table, $2 in schema $1, and of its
// indexes' expressions: row 0 of the answer is the table's number of rows, which
// is written only where the target has not counted them, together with the
// target's own size; then one row for each of the lists' elements. False means
// that the server did not take all. $3 is the source's version, $4 its number of
// rows, $5 a foreign table's pages.
// Postgres manual 18: 9.28.10, Statistics Manipulation Functions.
const restoreSQL = `
select 0, coalesce((
       select pg_catalog.pg_restore_relation_stats(
                  'version', $3::int, 'schemaname', $1::text, 'relname', $2::text,
                  'relpages', case when c.relkind in ('r', 'm') then (pg_relation_size(c.oid) / current_setting('block_size')::int)::int
                                   else $5::int end,
                  'reltuples', $4::real)
         from pg_class c
         join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = $1::text and c.relname = $2::text
          and c.reltuples < 0 and $4::real >= 0 and (c.relkind <> 'm' or c.relispopulated)), true)
union all
select s.n, pg_catalog.pg_restore_attribute_stats(
                  'version', $3::int, 'schemaname', $1::text, 'relname', s.relname,
                  'attname', s.attname, 'attnum', s.attnum::smallint, 'inherited', s.inherited::boolean,
                  'null_frac', s.null_frac::real, 'avg_width', s.avg_width::int, 'n_distinct', s.n_distinct::real,
                  'most_common_vals', s.most_common_vals, 'most_common_freqs', s.most_common_freqs::real[],
                  'histogram_bounds', s.histogram_bounds, 'correlation', s.correlation::real,
                  'most_common_elems', s.most_common_elems, 'most_common_elem_freqs', s.most_common_elem_freqs::real[],
                  'elem_count_histogram', s.elem_count_histogram::real[],
                  'range_length_histogram', s.range_length_histogram, 'range_empty_frac', s.range_empty_frac::real,
                  'range_bounds_histogram', s.range_bounds_histogram)
  from unnest($6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[],
              $15::text[], $16::text[], $17::text[], $18::text[], $19::text[], $20::text[], $21::text[], $22::text[])
       with ordinality as s(relname, attname, attnum, inherited, null_frac, avg_width, n_distinct,
                            most_common_vals, most_common_freqs, histogram_bounds, correlation,
                            most_common_elems, most_common_elem_freqs, elem_count_histogram,
                            range_length_histogram, range_empty_frac, range_bounds_histogram, n)`

// restoreName is what the statement is prepared as in each session.
const restoreName = "pgcutover_statistics"

// pipelineBytes is about how much is sent before answers are read.
const pipelineBytes = 4 << 20

// write sends the tables' statistics, each table as a transaction of its own,
// without waiting for an answer in between.
func (c *carrying) write(ctx context.Context, conn *pgx.Conn, part []*parcel) error {
	var todo []*parcel
	for _, p := range part {
		if len(p.rows) > 0 {
			todo = append(todo, p)
		} else {
			p.carry.Outcome = NoneOnSource
			if len(p.carry.Skipped) > 0 {
				p.carry.Outcome = CarryFailed
			}
			p.carry.sortSkipped()
		}
	}
	for len(todo) > 0 {
		n, size := 0, 0
		for n < len(todo) && size < pipelineBytes {
			size += todo[n].size()
			n++
		}
		failed, err := c.send(ctx, conn, todo[:n])
		if err != nil {
			return err
		}
		for i, p := range todo[:n] {
			if err := c.settleTable(ctx, conn, p, failed[i]); err != nil {
				return err
			}
		}
		todo = todo[n:]
	}
	return nil
}

func (p *parcel) size() int {
	n := 200
	for _, row := range p.rows {
		for _, v := range row.values {
			if v != nil {
				n += len(*v)
			}
		}
	}
	return n
}

// answer is what the server said of one table.
type answer struct {
	err   error
	taken []bool // of the rows
}

// send runs restoreSQL once for each parcel.
func (c *carrying) send(ctx context.Context, conn *pgx.Conn, part []*parcel) ([]answer, error) {
	raw := conn.PgConn()
	if _, err := conn.Prepare(ctx, restoreName, restoreSQL); err != nil {
		return nil, fmt.Errorf("preparing to write statistics: %w", err)
	}
	pipeline := raw.StartPipeline(ctx)
	for _, p := range part {
		pipeline.SendQueryPrepared(restoreName, c.parameters(p), nil, nil)
		pipeline.SendPipelineSync()
	}
	err := pipeline.Flush()
	answers := make([]answer, len(part))
	for i := 0; i < len(part) && err == nil; i++ {
		answers[i], err = receive(pipeline, len(part[i].rows))
	}
	if closing := pipeline.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return nil, hidden("writing statistics", err)
	}
	return answers, nil
}

// receive reads what belongs to one table: an answer or an error, and the sync.
func receive(pipeline *pgconn.Pipeline, rows int) (answer, error) {
	a := answer{taken: make([]bool, rows+1)}
	for {
		result, err := pipeline.GetResults()
		var refusal *pgconn.PgError
		switch r := result.(type) {
		case *pgconn.ResultReader:
			err = readTaken(r, a.taken)
		case *pgconn.PipelineSync:
			return a, nil
		case nil:
			if err == nil {
				return a, errors.New("the server answered too little")
			}
		}
		if errors.As(err, &refusal) && !pg.Lost(err) {
			a.err = err
			continue
		}
		if err != nil {
			return a, err
		}
	}
}

// readTaken reads pairs of a number and a truth value in text form.
func readTaken(r *pgconn.ResultReader, taken []bool) error {
	for r.NextRow() {
		values := r.Values()
		n, err := strconv.Atoi(string(values[0]))
		if err != nil || n >= len(taken) {
			return fmt.Errorf("reading which statistics were taken: row %q", values[0])
		}
		taken[n] = string(values[1]) == "t"
	}
	_, err := r.Close()
	return err
}

// parameters are those of restoreSQL, in text form.
func (c *carrying) parameters(p *parcel) [][]byte {
	text := func(s string) []byte { return []byte(s) }
	tuples := p.old.Tuples
	if tuples == 0 && c.old.version < 140000 {
		tuples = -1 // never counted, perhaps
	}
	out := [][]byte{
		text(p.carry.Schema), text(p.carry.Name), text(strconv.Itoa(c.old.version)),
		text(strconv.FormatFloat(float64(tuples), 'g', -1, 32)), nil,
	}
	if p.old.Kind == "f" {
		out[4] = text(strconv.Itoa(int(p.old.Pages)))
	}
	const names = 4
	var lists [names + fields]arrayText
	for _, row := range p.rows {
		number, attname := "", row.column.Name
		lists[0].add(&row.relation.Name)
		if row.relation.Of != "" { // an expression's name is made up by the server
			number = strconv.Itoa(int(row.column.Number))
			lists[1].add(nil)
			lists[2].add(&number)
		} else {
			lists[1].add(&attname)
			lists[2].add(nil)
		}
		inherited := strconv.FormatBool(row.inherited)
		lists[3].add(&inherited)
		for i, v := range row.values {
			lists[names+i].add(v)
		}
	}
	for i := range lists {
		out = append(out, lists[i].bytes())
	}
	return out
}

// arrayText writes an array of texts as the server reads it, byte by byte: the
// values are in the client's encoding, or, in SQL_ASCII, in none.
// Postgres manual: 8.15.6, Array Input and Output Syntax.
type arrayText struct{ b strings.Builder }

var arrayEscaper = strings.NewReplacer(`"`, `\"`, `\`, `\\`)

func (a *arrayText) add(v *string) {
	if a.b.Len() > 0 {
		a.b.WriteByte(',')
	}
	if v == nil {
		a.b.WriteString("NULL")
		return
	}
	a.b.WriteByte('"')
	//nolint:errcheck // a strings.Builder takes everything
	arrayEscaper.WriteString(&a.b, *v)
	a.b.WriteByte('"')
}

func (a *arrayText) bytes() []byte { return []byte("{" + a.b.String() + "}") }

// settleTable notes what became of a table. One that the server refused for a
// value is tried again column by column.
func (c *carrying) settleTable(ctx context.Context, conn *pgx.Conn, p *parcel, a answer) error {
	t := p.carry
	defer t.sortSkipped()
	switch {
	case a.err == nil:
		p.note(p.rows, a.taken[1:])
	case pg.IsCode(a.err, pg.LockNotAvailable, pg.DeadlockDetected):
		t.Outcome = CarryLocked
		c.mu.Lock()
		c.locked = append(c.locked, p)
		c.mu.Unlock()
		return nil
	case pg.IsCode(a.err, pg.UndefinedTable, pg.InvalidSchemaName):
		t.Outcome = NotOnTarget
		return nil
	case pg.IsCode(a.err, pg.InsufficientPrivilege):
		t.Outcome, t.Reason = CarryNotAllowed, "SQLSTATE "+pg.Code(a.err)
		return nil
	case pg.IsCode(a.err, pg.QueryCanceled, pg.AdminShutdown), len(p.rows) == 1:
		p.refuse(p.rows, a.err)
	default:
		if err := c.oneByOne(ctx, conn, p); err != nil {
			return err
		}
	}
	switch {
	case t.Columns == 0:
		t.Outcome = CarryFailed
	case len(t.Skipped) > 0:
		t.Outcome = PartlyCarried
	default:
		t.Outcome = Carried
	}
	return nil
}

// oneByOne writes the columns of a table each in a transaction.
func (c *carrying) oneByOne(ctx context.Context, conn *pgx.Conn, p *parcel) error {
	var each []*parcel
	for _, row := range p.rows {
		each = append(each, &parcel{carry: p.carry, old: p.old, new: p.new, rows: []*statRow{row}})
	}
	answers, err := c.send(ctx, conn, each)
	if err != nil {
		return err
	}
	for i, a := range answers {
		if a.err != nil {
			p.refuse(each[i].rows, a.err)
		} else {
			p.note(each[i].rows, a.taken[1:])
		}
	}
	return nil
}

// note counts what was written. Of a row that was not taken whole the server
// has written the rest.
func (p *parcel) note(rows []*statRow, taken []bool) {
	for i, row := range rows {
		p.carry.Columns++
		if !taken[i] {
			p.carry.skip(row.relation.Name, row.column.Name, "the target refused a part")
		}
	}
}

func (p *parcel) refuse(rows []*statRow, err error) {
	for _, row := range rows {
		p.carry.skip(row.relation.Name, row.column.Name, "the target refused it: SQLSTATE "+pg.Code(err))
	}
}
