package probe

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Server is who answered.
type Server struct {
	System   string `json:"system"`         // system identifier of the cluster
	Database uint32 `json:"database"`       // OID of the database
	Port     string `json:"port,omitempty"` // that the server listens on, for messages
	Standby  bool   `json:"standby,omitempty"`
	// Side is set when it is one of Options.Servers.
	Side pg.Side `json:"side,omitempty"`
}

// String names the server as far as it is known by itself.
func (s Server) String() string {
	return "system " + s.System + ", port " + s.Port + ", database OID " + strconv.FormatUint(uint64(s.Database), 10)
}

// identity is what tells one database from every other. A standby has that of
// its primary.
type identity struct {
	system   string
	database uint32
}

func (s Server) identity() identity { return identity{s.System, s.Database} }

// Change is a change of state.
type Change string

// The changes of state.
const (
	Failing   Change = "failing"   // the first round of an outage
	Recovered Change = "recovered" // the first round after one
)

// Round is one attempt to write and read back. Times in milliseconds; a part
// that was not reached is 0.
type Round struct {
	N         int       `json:"n"` // from 1
	At        time.Time `json:"at"`
	OK        bool      `json:"ok"`
	ConnectMS float64   `json:"connect_ms"`
	WriteMS   float64   `json:"write_ms"` // BEGIN to COMMIT
	ReadMS    float64   `json:"read_ms"`
	TookMS    float64   `json:"took_ms"` // all of it
	Slow      bool      `json:"slow,omitempty"`
	// Server is who answered; nil when nobody did.
	Server *Server `json:"server,omitempty"`
	// Moved is set when the last round that succeeded reached another server.
	Moved   bool     `json:"moved,omitempty"`
	Failure *Failure `json:"failure,omitempty"`
	Change  Change   `json:"change,omitempty"`
	// Since is when the outage began, FailingMS how long it has lasted at the
	// end of this round, and FailedRounds its rounds so far: of one that
	// recovers, those of the outage that it ends.
	Since        *time.Time `json:"since,omitempty"`
	FailingMS    float64    `json:"failing_ms,omitempty"`
	FailedRounds int        `json:"failed_rounds,omitempty"`

	ended time.Time
}

// attempts is how often a round tries again because the table had to be made,
// or because the client was moved in the middle.
const attempts = 4

var (
	// errTimeout is the cause when a round ran past Options.Timeout.
	errTimeout = errors.New("no answer in time")
	// errMoved says that two statements of a round found different servers, or
	// one server in different states: the pooler was switched, a move ended, or the
	// table was made anew, in between.
	errMoved = errors.New("the client was moved to another server, or the table was made anew, in the middle")
)

// try does one round.
func (p *prober) try(ctx context.Context) Round {
	p.lastN = max(p.lastN+1, time.Now().UnixMicro())
	r := Round{N: p.report.Rounds + 1, At: time.Now()}
	bounded, cancel := context.WithTimeoutCause(ctx, p.o.Timeout, errTimeout)
	defer cancel()
	s := &session{prober: p, r: &r}
	err := s.run(bounded)
	r.ended = time.Now()
	r.TookMS = milliseconds(r.ended.Sub(r.At))
	r.Slow = r.TookMS > milliseconds(p.o.Slow)
	if s.known {
		server := s.server
		server.Side = p.side(server)
		r.Server = &server
	}
	if err != nil {
		r.Failure = s.diagnose(bounded, err)
		return r
	}
	r.OK = true
	return r
}

// session is one round's connection and what was learned through it.
type session struct {
	prober *prober
	r      *Round
	conn   *pgx.Conn
	doing  string // for messages
	facts  facts
	known  bool // server is set
	server Server
	table  table
	wrote  uint32 // OID of the table that took the write
}

func (s *session) run(ctx context.Context) error {
	s.doing = "connecting"
	began := time.Now()
	conn, err := pgx.ConnectConfig(ctx, s.prober.config)
	s.r.ConnectMS = milliseconds(time.Since(began))
	if err != nil {
		return err
	}
	s.conn = conn
	defer func() { s.close(ctx) }()
	for range attempts {
		if err = s.writeAndRead(ctx); !errors.Is(err, errMoved) && !errors.Is(err, errMade) {
			return err
		}
	}
	return err
}

// close ends the session. A transaction that failed is ended first: a pooler
// would otherwise throw the server's connection away.
func (s *session) close(ctx context.Context) {
	if !s.conn.IsClosed() && s.conn.PgConn().TxStatus() != 'I' {
		//nolint:errcheck // the session is given up either way
		s.rollback(ctx)
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeBound)
	defer cancel()
	//nolint:errcheck // the session is given up either way
	s.conn.Close(end)
	select {
	case <-s.conn.PgConn().CleanupDone():
	case <-end.Done():
	}
}

const (
	// closeBound is short because the server may be gone.
	closeBound = 500 * time.Millisecond
	// rollbackBound is not: the server has just answered.
	rollbackBound = 5 * time.Second
)

// rollback ends the transaction of a statement that the server refused.
func (s *session) rollback(ctx context.Context) error {
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackBound)
	defer cancel()
	_, err := s.conn.Exec(limit, "rollback")
	return err
}

func (s *session) writeAndRead(ctx context.Context) error {
	s.doing = "looking at the server"
	if err := s.look(ctx); err != nil {
		return err
	}
	s.prober.report.Table = string(s.table)
	began := time.Now()
	err := s.write(ctx)
	s.r.WriteMS = milliseconds(time.Since(began))
	if err == nil {
		began = time.Now()
		err = s.readBack(ctx)
		s.r.ReadMS = milliseconds(time.Since(began))
	}
	if wrong := s.expected(err); wrong != nil {
		return wrong
	}
	return err
}

// beginSQL is followed by three times in milliseconds. A write that waits ends on
// the server when nobody waits for it any more, and so does a transaction whose
// client was stopped.
const beginSQL = `
begin;
set local statement_timeout = %[1]d;
set local idle_in_transaction_session_timeout = %[1]d;
set local lock_timeout = %[2]d`

// lockSlice is how long one statement waits for a lock: less than the default
// of deadlock_timeout, so that it is always the probe that gives way, and never
// a cutover that is ended as the victim of a deadlock with it. The round goes on
// waiting, in further slices.
const lockSlice = 500 * time.Millisecond

// begin begins a transaction that takes at most the time left, or a little less,
// so that the server's answer comes before this end gives up.
func (s *session) begin(ctx context.Context, left time.Duration) error {
	slice := min(lockSlice, left*8/10)
	_, err := s.conn.Exec(ctx, fmt.Sprintf(beginSQL, max(1, (left*9/10).Milliseconds()), max(1, slice.Milliseconds())))
	return err
}

// writeSQL is followed by the table. It tells what stood there before, in which
// table of that name, and which server wrote: a pooler may have moved the client
// since the last statement.
const writeSQL = `
with previous as (
  select n from %[1]s where prober = $1
), written as (
  insert into %[1]s as p (prober, n, at)
  values ($1, $2, pg_catalog.clock_timestamp())
      on conflict (prober) do update set n = excluded.n, at = excluded.at
  returning true
)
select previous.n, coalesce(pg_catalog.to_regclass($3)::oid, 0), s.system_identifier::text, d.oid, pg_catalog.current_setting('port'), pg_catalog.pg_is_in_recovery()
  from written
  left join previous on true
 cross join pg_catalog.pg_control_system() s
  join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()`

// checkSQL asks the fence itself, for a table that has none of its triggers.
const checkSQL = `select pgcutover.check()`

// leastLeft is too short a time for one more slice.
const leastLeft = 50 * time.Millisecond

// write commits this round's number, waiting for locks as long as the round may
// take.
func (s *session) write(ctx context.Context) error {
	for {
		s.doing = "writing"
		deadline, _ := ctx.Deadline() // that of the round
		err := s.writeOnce(ctx, time.Until(deadline))
		if !pg.IsCode(err, pg.LockNotAvailable) || time.Until(deadline) < leastLeft {
			return err
		}
		if _, err := s.conn.Exec(ctx, "rollback"); err != nil {
			return err
		}
	}
}

func (s *session) writeOnce(ctx context.Context, left time.Duration) error {
	p := s.prober
	if err := s.begin(ctx, left); err != nil {
		return err
	}
	var previous *int64
	var server Server
	err := s.conn.QueryRow(ctx, fmt.Sprintf(writeSQL, s.table), p.report.Prober, p.lastN, string(s.table)).
		Scan(&previous, &s.wrote, &server.System, &server.Database, &server.Port, &server.Standby)
	if pg.IsCode(err, pg.UndefinedTable, pg.InvalidSchemaName) {
		if _, err := s.conn.Exec(ctx, "rollback"); err != nil {
			return err
		}
		return s.make(ctx)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return &lostError{p.describe(s.server) + " took the statement and wrote nothing: a trigger or rule of table " + string(s.table) + " swallows it"}
	}
	if err != nil {
		return err
	}
	s.server = server
	if s.facts.checkable {
		if _, err := s.conn.Exec(ctx, checkSQL); pg.IsCode(err, pg.UndefinedFunction, pg.InvalidSchemaName, pg.UndefinedTable) {
			return errors.Join(s.rollback(ctx), errMoved) // the move was just completed: look again
		} else if err != nil {
			return err
		}
	}
	s.doing = "committing"
	p.last, p.rows[server.identity()] = server.identity(), s.table
	if _, err := s.conn.Exec(ctx, "commit"); err != nil {
		return err
	}
	here := relation{server.identity(), s.wrote}
	before := p.written[here]
	p.written[here] = acknowledged{n: p.lastN, at: time.Now()}
	if before.n != 0 && (previous == nil || *previous < before.n) {
		return &lostError{fmt.Sprintf("a write that %s acknowledged at %s is no longer there", p.describe(server), before.at.UTC().Format(clock))}
	}
	return nil
}

// clock is how messages write times.
const clock = "2006-01-02 15:04:05Z"

// readSQL is followed by the table. It holds a lock on the table that it reads, so
// that no other one can take the name meanwhile.
const readSQL = `
select p.n, coalesce(pg_catalog.to_regclass($2)::oid, 0), s.system_identifier::text, d.oid
  from pg_catalog.pg_control_system() s
  join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
  left join %[1]s p on p.prober = $1`

// readBack looks for the row in a transaction of its own; behind a pooler that
// may be another connection to the server.
func (s *session) readBack(ctx context.Context) error {
	s.doing = "reading back"
	var n *int64
	var read uint32
	var reached Server
	err := s.conn.QueryRow(ctx, fmt.Sprintf(readSQL, s.table), s.prober.report.Prober, string(s.table)).
		Scan(&n, &read, &reached.System, &reached.Database)
	switch {
	case pg.IsCode(err, pg.UndefinedTable, pg.InvalidSchemaName):
		return errMoved
	case err != nil:
		return err
	case reached.identity() != s.server.identity():
		return errMoved
	case read != s.wrote: // dropped and made again: nothing was lost that is still wanted
		return errMoved
	case n == nil:
		return &lostError{"the write was acknowledged by " + s.prober.describe(s.server) + ", and the next transaction does not find the row"}
	case *n != s.prober.lastN:
		return &lostError{"the write was acknowledged by " + s.prober.describe(s.server) + ", and the next transaction finds an older row"}
	}
	return nil
}

// expected returns an error when another server answered than the expected one,
// with what it did to the write.
func (s *session) expected(err error) error {
	p := s.prober
	if p.o.Expect == "" || !s.known || errors.Is(err, errMoved) || errors.Is(err, errMade) {
		return nil
	}
	if s.server.identity() == p.o.Servers[p.o.Expect].identity() {
		return nil
	}
	did := "it took the write"
	if err != nil {
		did = "it did not take the write: " + oneLine(pg.Redact(err, p.o.URL).Error())
	}
	return &wrongServerError{text: fmt.Sprintf("the client reaches %s, not the %s server; %s", p.describe(s.server), p.o.Expect, did), err: err}
}

// newID names a prober: host and process for people, the rest so that no two are
// alike.
func newID() (string, error) {
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", fmt.Errorf("naming the prober: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d/%s", host, os.Getpid(), hex.EncodeToString(random[:])), nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
