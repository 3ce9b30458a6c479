package warmup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// QueriesOptions say how queries are run.
type QueriesOptions struct {
	// Jobs is how many sessions run queries at the same time; 1 when 0.
	Jobs int
	// Rounds is how often each query is run with each list of values. When 0: once,
	// or as long as For lasts.
	Rounds int
	// For is when to stop at the latest; 0: after the rounds.
	For time.Duration
	// Rate is how many queries are begun in a second, all sessions together; 0: as
	// many as can be.
	Rate float64
	// Timeout is the statement_timeout; 30 s when 0.
	Timeout time.Duration
	// SearchPath of the sessions; empty: what this role's sessions begin with.
	SearchPath string
	// Progress, which may be nil, is told now and then how many were run.
	Progress func(done int)
}

func (o QueriesOptions) withDefaults() QueriesOptions {
	o.Jobs = max(o.Jobs, 1)
	if o.Rounds <= 0 && o.For <= 0 {
		o.Rounds = 1
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Progress == nil {
		o.Progress = func(int) {}
	}
	return o
}

// RunQueries runs queries and throws their rows away: rehearsal traffic. Each runs
// in a READ ONLY transaction of its own, which is rolled back, as a prepared
// statement, in one of o.Jobs sessions of its own, in the order of the file.
//
// What a read-only transaction refuses (nextval, writing functions, temporary
// tables) is refused; what it allows is the queries' own affair: a function such
// as pg_terminate_backend does what it does.
//
// A query that fails is in the report with its error. An error is returned when
// the server is lost, or the context ends.
func RunQueries(ctx context.Context, s *pg.Server, queries []Query, o QueriesOptions) (QueriesReport, error) {
	o = o.withDefaults()
	began := time.Now()
	if o.SearchPath == "" {
		path, err := clientPath(ctx, s)
		if err != nil {
			return QueriesReport{}, fmt.Errorf("asking the %s server for the search_path: %w", s.Side(), err)
		}
		o.SearchPath = path
	}
	t := &traffic{server: s, queries: queries, options: o, tallies: newTallies(queries)}
	for i, q := range queries {
		for j := range q.Parameters {
			t.runs = append(t.runs, [2]int{i, j})
		}
	}
	group, inner := errgroup.WithContext(ctx)
	for range min(o.Jobs, max(1, t.most())) {
		group.Go(func() error { return t.work(inner) })
	}
	err := group.Wait()
	report := t.report(time.Since(began))
	if err != nil {
		return report, fmt.Errorf("running queries on the %s server: %w", s.Side(), err)
	}
	return report, nil
}

const clientPathSQL = `select current_setting('search_path')`

// clientPath asks in a session without the tool's own settings.
func clientPath(ctx context.Context, s *pg.Server) (path string, err error) {
	err = askAsClient(ctx, s, clientPathSQL, &path)
	return path, err
}

// traffic is one call of RunQueries.
type traffic struct {
	server  *pg.Server
	queries []Query
	options QueriesOptions
	runs    [][2]int // query and list of values, in the order of the file

	mu      sync.Mutex
	began   time.Time // when the first session stood
	next    int       // how many were begun
	done    int
	version string
	tallies []*tally
}

// most is how many queries are run at most; without rounds there is no end.
func (t *traffic) most() int {
	if t.options.Rounds == 0 {
		return len(t.runs) * 1_000_000
	}
	return len(t.runs) * t.options.Rounds
}

// take hands out the next run, at its time; ok is false when there is none left.
func (t *traffic) take(ctx context.Context) (query, values int, ok bool, err error) {
	t.mu.Lock()
	number := t.next
	t.next++
	if number == 0 {
		t.began = time.Now()
	}
	began := t.began
	t.mu.Unlock()
	if t.options.Rounds > 0 && number >= t.most() || len(t.runs) == 0 {
		return 0, 0, false, nil
	}
	wait := time.Duration(0)
	if t.options.Rate > 0 {
		wait = time.Until(began.Add(time.Duration(float64(number) / t.options.Rate * float64(time.Second))))
	}
	if t.options.For > 0 {
		left := time.Until(began.Add(t.options.For))
		if left <= 0 || wait > left {
			return 0, 0, false, nil
		}
	}
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return 0, 0, false, ctx.Err()
		case <-timer.C:
		}
	}
	run := t.runs[number%len(t.runs)]
	return run[0], run[1], true, ctx.Err()
}

// work runs queries in one session until there is none left.
func (t *traffic) work(ctx context.Context) error {
	v, err := t.open(ctx)
	if err != nil {
		return err
	}
	defer func() { endSession(ctx, v.conn) }()
	for {
		query, values, ok, err := t.take(ctx)
		if err != nil || !ok {
			return err
		}
		result, err := v.run(ctx, query, t.queries[query], values)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		t.count(query, values, result, err)
		if err == nil || !v.conn.IsClosed() {
			continue
		}
		// The session is gone, perhaps by what the query did: the next gets another.
		again, err := t.open(ctx)
		if err != nil {
			return err
		}
		v = again
	}
}

// visitor is a session that runs queries, with what it has prepared.
type visitor struct {
	conn     *pgx.Conn
	prepared map[int]*pgconn.StatementDescription
}

func (t *traffic) open(ctx context.Context) (*visitor, error) {
	conn, err := t.server.Connect(ctx, "queries", map[string]string{
		"default_transaction_read_only": "on",
		"statement_timeout":             milliseconds(t.options.Timeout),
		"lock_timeout":                  milliseconds(t.options.Timeout),
		"search_path":                   t.options.SearchPath,
	})
	if err != nil {
		return nil, fmt.Errorf("opening a session to run queries: %w", err)
	}
	t.mu.Lock()
	t.version = conn.PgConn().ParameterStatus("server_version")
	t.mu.Unlock()
	return &visitor{conn: conn, prepared: map[int]*pgconn.StatementDescription{}}, nil
}

// ran is what one run of a query gave.
type ran struct {
	took time.Duration
	rows int64
}

// The transaction around a query. A query cannot leave it, and what it could do to
// the session with set_config is undone with it.
const (
	beginReadOnlySQL = `begin transaction read only`
	rollbackSQL      = `rollback`
)

func (v *visitor) run(ctx context.Context, number int, q Query, values int) (ran, error) {
	pc := v.conn.PgConn()
	if _, err := pc.Exec(ctx, beginReadOnlySQL).ReadAll(); err != nil {
		return ran{}, err
	}
	result, err := v.within(ctx, number, q, values)
	if pc.IsClosed() {
		return result, err
	}
	if prepared := v.prepared[number]; err != nil && prepared != nil {
		// It may have been prepared for a table that is another one by now.
		delete(v.prepared, number)
		deallocate(ctx, pc, prepared.Name)
	}
	if _, errEnd := pc.Exec(ctx, rollbackSQL).ReadAll(); err == nil {
		err = errEnd
	}
	return result, err
}

func (v *visitor) within(ctx context.Context, number int, q Query, values int) (ran, error) {
	pc := v.conn.PgConn()
	prepared := v.prepared[number]
	if prepared == nil {
		var err error
		if prepared, err = pc.Prepare(ctx, fmt.Sprintf("pgcutover_%d", number), q.SQL, nil); err != nil {
			return ran{}, err
		}
		v.prepared[number] = prepared
	}
	encoded, err := q.Parameters[values].encode(prepared.ParamOIDs)
	if err != nil {
		return ran{}, err
	}
	began := time.Now()
	reader := pc.ExecPrepared(ctx, prepared.Name, encoded, nil, nil)
	var result ran
	for reader.NextRow() {
		result.rows++
	}
	_, err = reader.Close()
	result.took = time.Since(began)
	return result, err
}

// told is what the server said, and its SQLSTATE.
func told(err error) (message, code string) {
	var said *pgconn.PgError
	if errors.As(err, &said) {
		return said.Message, said.Code
	}
	return err.Error(), ""
}
