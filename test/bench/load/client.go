package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// client is one connection and what it was told. Only its own goroutine
// touches it.
type client struct {
	options Options
	number  int
	conn    *pgconn.PgConn
	entries []Entry
}

func (c *client) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialBound)
	defer cancel()
	conn, err := c.options.Dial(ctx)
	if err != nil {
		return err
	}
	c.conn = conn
	return nil
}

// drop closes the connection without waiting for the server to answer.
func (c *client) drop(ctx context.Context) {
	if c.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = c.conn.Close(ctx) // given up, whatever the server says
	c.conn = nil
}

func (c *client) run(ctx context.Context, jobs <-chan job) {
	for j := range jobs {
		c.entries = append(c.entries, c.serve(ctx, j))
	}
}

// serve does one transaction to its end: acknowledged, given up, or unknown.
func (c *client) serve(ctx context.Context, j job) Entry {
	e := Entry{Token: j.token, Kind: kindOf(j.token), Due: j.due, Client: c.number}
	for n := 0; ; n++ {
		err := c.attempt(ctx, &e)
		if err == nil {
			e.Acknowledged, e.At = true, time.Now()
			return e
		}
		e.Errors = append(e.Errors, code(err))
		e.At = time.Now()
		if errors.Is(err, errUnknown) {
			e.Unknown = true
			return e
		}
		if time.Since(j.due) > c.options.RetryFor {
			return e
		}
		backoff(ctx, n)
	}
}

// backoff waits longer after every failure, as pools do: dozens of clients that
// connect without a rest would take the processors from the servers.
func backoff(ctx context.Context, failures int) {
	wait := min(backoffFirst<<min(failures, 10), backoffMost)
	timer := time.NewTimer(wait + rand.N(wait)) //nolint:gosec // spreads clients, keeps no secret
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// attempt tries the transaction once. A client that retries takes a new
// connection after any failure, as a pool does that finds its server read-only
// or gone; one behind a pooler keeps what still works.
func (c *client) attempt(ctx context.Context, e *Entry) error {
	if c.conn == nil {
		if err := c.connect(ctx); err != nil {
			return fmt.Errorf("%w: %w", errConnect, err)
		}
	}
	// A deadline on the socket costs less than a context per statement.
	if err := c.conn.Conn().SetDeadline(time.Now().Add(transactionBound)); err != nil {
		c.drop(ctx)
		return err
	}
	err := c.transact(ctx, e)
	if err == nil {
		return nil
	}
	if c.options.RetryFor > 0 || c.conn.IsClosed() {
		c.drop(ctx)
		return err
	}
	if c.conn.TxStatus() != 'I' {
		if _, rollback := c.exec(ctx, "rollback"); rollback != nil {
			c.drop(ctx)
		}
	}
	return err
}

// errUnknown says that the server may have committed: nobody answered.
var errUnknown = errors.New("the answer to the commit was lost")

// errConnect says that no connection was to be had.
var errConnect = errors.New("connecting")

// The values are the bench's own numbers, so that plain text serves; the simple
// protocol is what every pooler understands.
const (
	orderSQL   = `insert into bench.orders (token, note) values (%d, 'an order of the bench, with some text to make it a row') returning id`
	accountSQL = `update bench.accounts set abalance = abalance + %d where aid = %d`
	tellerSQL  = `update bench.tellers set tbalance = tbalance + %d where tid = %d`
	branchSQL  = `update bench.branches set bbalance = bbalance + %d where bid = %d`
	historySQL = `insert into bench.history (token, aid, tid, bid, delta) values (%d, %d, %d, %d, %d) returning id`
)

func (c *client) transact(ctx context.Context, e *Entry) error {
	if e.Kind == Order {
		id, err := c.exec(ctx, fmt.Sprintf(orderSQL, e.Token))
		e.ID = id
		return lostAnswer(err)
	}
	// Fixed by the token, so that a repeated transaction is the same one.
	random := rand.New(rand.NewPCG(uint64(e.Token), 1)) //nolint:gosec // test data
	account, teller, branch := 1+random.IntN(c.options.Accounts), 1+random.IntN(c.options.Tellers), 1+random.IntN(c.options.Branches)
	delta := random.IntN(10001) - 5000
	for _, sql := range []string{
		"begin",
		fmt.Sprintf(accountSQL, delta, account),
		fmt.Sprintf(tellerSQL, delta, teller),
		fmt.Sprintf(branchSQL, delta, branch),
		fmt.Sprintf(historySQL, e.Token, account, teller, branch, delta),
	} {
		id, err := c.exec(ctx, sql)
		if err != nil {
			return err
		}
		e.ID = id
	}
	_, err := c.exec(ctx, "commit")
	return lostAnswer(err)
}

// exec runs a statement and returns the number in the first column of its row,
// if there is one.
func (c *client) exec(ctx context.Context, sql string) (int64, error) {
	results, err := c.conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return 0, err
	}
	if len(results) == 0 || len(results[0].Rows) == 0 {
		return 0, nil
	}
	return strconv.ParseInt(string(results[0].Rows[0][0]), 10, 64)
}

// lostAnswer marks the failure of a committing statement that may have
// committed. An error that the server itself answered with says that it has
// not; a pooler's error of class 08 says that the pooler does not know.
func lostAnswer(err error) error {
	var answer *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &answer) && answer.Code[:2] != "08":
		return err
	}
	return fmt.Errorf("%w: %w", errUnknown, err)
}

// code says in a word what went wrong: a SQLSTATE, or what broke.
func code(err error) string {
	var answer *pgconn.PgError
	switch {
	case errors.Is(err, errConnect):
		return "connect"
	case errors.As(err, &answer):
		return answer.Code
	}
	return "broken"
}
