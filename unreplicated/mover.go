package unreplicated

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// TableMode says what becomes of unlogged tables on the target.
type TableMode string

// What becomes of unlogged tables.
const (
	CopyTables  TableMode = "copy"  // they have the source's rows
	EmptyTables TableMode = "empty" // they have none
)

// ObjectMode says what becomes of large objects.
type ObjectMode string

// What becomes of large objects.
const (
	CopyObjects   ObjectMode = "copy"   // moved while their writers are held
	IdleObjects   ObjectMode = "idle"   // moved as they are: the operator promises that nobody writes them
	IgnoreObjects ObjectMode = "ignore" // left where they are
)

// Options say how Prepare and Move go about it.
type Options struct {
	Tables  TableMode
	Objects ObjectMode
	// Guard is asked in every transaction on the target before that changes
	// anything; an error ends it. It must keep the turn until the transaction ends.
	Guard func(ctx context.Context, tx pgx.Tx) error
	// CopyTo reads a table of the source whose lock somebody waits for, in a
	// session that has it already; nil: such a table fails.
	CopyTo func(ctx context.Context, w io.Writer, sql string) error
	// SkipMissing leaves tables out that the target does not have.
	SkipMissing bool
	// Bound is how long any one statement may take.
	Bound time.Duration
}

// sessions is how many there are on each server at the most: two servers that
// are busy with nothing else meanwhile.
const sessions = 4

// Mover is what Prepare has made ready. Close it.
type Mover struct {
	source, target *pg.Server
	inventory      Inventory
	options        Options
	groups         []group // of tables
	quiet          bool    // foreign keys can be kept from being checked again
	lanes          chan *lane
}

// lane is a session on each server.
type lane struct{ from, to *pgx.Conn }

// Moved is what Move did.
type Moved struct {
	Tables  int     `json:"tables,omitempty"`
	Rows    int64   `json:"rows,omitempty"`
	Objects int     `json:"large_objects,omitempty"`
	Bytes   int64   `json:"bytes,omitempty"` // of rows as COPY writes them, and of large objects
	TookMS  float64 `json:"took_ms"`
}

// lockWait is for how long a table of the target may be waited for, in
// milliseconds: more than the usual deadlock_timeout (1 s), when an autovacuum
// that is at work on it is sent away. With no more than that nobody would ever
// send it away.
const lockWait = "3000"

// settings make text mean the same on both servers: every digit of a float, money
// and intervals alike, names of tables in full (Postgres manual: 20.11.2, and
// what pg_dump sets).
func settings(o Options) map[string]string {
	return map[string]string{
		"statement_timeout":                   fmt.Sprint(o.Bound.Milliseconds()),
		"lock_timeout":                        lockWait,
		"idle_in_transaction_session_timeout": "5000",
		"extra_float_digits":                  "3",
		"IntervalStyle":                       "postgres",
		"TimeZone":                            "UTC",
		"lc_monetary":                         "C",
		"bytea_output":                        "hex",
		"row_security":                        "off",
		"synchronous_commit":                  "on",
	}
}

// Prepare opens the sessions, two for each thing that can be moved beside others,
// and reads how the target's tables are made. Whatever it finds amiss is better
// known before clients wait.
func Prepare(ctx context.Context, source, target *pg.Server, inventory Inventory, o Options) (*Mover, error) {
	m := &Mover{source: source, target: target, inventory: inventory, options: o, lanes: make(chan *lane, sessions)}
	var err error
	if m.groups, err = m.group(ctx); err != nil {
		return nil, err
	}
	if m.quiet, err = mayQuiet(ctx, target); err != nil {
		return nil, err
	}
	n := len(m.groups)
	if o.Objects != IgnoreObjects {
		n += 1 + int(inventory.Objects.Bytes/chunkBytes)
	}
	for range min(n, sessions) {
		l, err := m.open(ctx)
		if err != nil {
			m.Close(ctx)
			return nil, err
		}
		m.lanes <- l
	}
	return m, nil
}

func (m *Mover) open(ctx context.Context) (*lane, error) {
	from, err := m.source.Connect(ctx, "unreplicated", settings(m.options))
	if err != nil {
		return nil, err
	}
	to, err := m.target.Connect(ctx, "unreplicated", settings(m.options))
	if err != nil {
		pg.Close(ctx, from)
		return nil, err
	}
	return &lane{from, to}, nil
}

// Close ends the sessions. It may be called on nil, and again.
func (m *Mover) Close(ctx context.Context) {
	if m == nil {
		return
	}
	for {
		select {
		case l := <-m.lanes:
			pg.Close(ctx, l.from)
			pg.Close(ctx, l.to)
		default:
			return
		}
	}
}

// Inventory is what was found by Look and is going to be moved.
func (m *Mover) Inventory() Inventory { return m.inventory }

// task is one thing that is moved in transactions of its own.
type task struct {
	weight int64
	run    func(context.Context, *lane) (Moved, error)
}

// Move makes the target have what the source has; nothing else may write either
// meanwhile. objects tells whether large objects are to be looked at: they may
// have been made since Look.
func (m *Mover) Move(ctx context.Context, objects bool) (Moved, error) {
	began := time.Now()
	var tasks []task
	for _, g := range m.groups {
		tasks = append(tasks, task{g.bytes(), func(ctx context.Context, l *lane) (Moved, error) { return m.moveGroup(ctx, l, g) }})
	}
	if objects && m.options.Objects != IgnoreObjects {
		chunks, err := m.chunks(ctx)
		if err != nil {
			return Moved{}, err
		}
		for _, c := range chunks {
			tasks = append(tasks, task{c.bytes, func(ctx context.Context, l *lane) (Moved, error) { return m.moveChunk(ctx, l, c) }})
		}
	}
	all, err := m.run(ctx, tasks)
	all.TookMS = float64(time.Since(began).Microseconds()) / 1000
	return all, err
}

// run does the tasks, the largest first, as many beside each other as there are
// sessions.
func (m *Mover) run(ctx context.Context, tasks []task) (Moved, error) {
	slices.SortStableFunc(tasks, func(a, b task) int { return cmp.Compare(b.weight, a.weight) })
	done := make([]Moved, len(tasks))
	workers, ctx := errgroup.WithContext(ctx)
	workers.SetLimit(max(cap(m.lanes), 1))
	for i, t := range tasks {
		workers.Go(func() error {
			var l *lane
			select {
			case l = <-m.lanes:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			defer func() { m.lanes <- l }()
			var err error
			done[i], err = t.run(ctx, l)
			return err
		})
	}
	err := workers.Wait()
	var all Moved
	for _, d := range done {
		all.Tables += d.Tables
		all.Rows += d.Rows
		all.Objects += d.Objects
		all.Bytes += d.Bytes
	}
	return all, err
}

// transaction runs f in one on the target, after the guard.
func (m *Mover) transaction(ctx context.Context, l *lane, f func(tx pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, l.to, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		if err := m.options.Guard(ctx, tx); err != nil {
			return err
		}
		return f(tx)
	})
}
