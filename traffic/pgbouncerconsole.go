package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// console is a connection to a pooler's admin console, which speaks the simple
// query protocol only. It is driven message by message, because a driver that
// gives up on an answer sends a cancel request first, and at the admin console
// that request ends a PAUSE of the whole pooler, whoever gave it.
// https://www.pgbouncer.org/usage.html#admin-console
type console struct {
	conn     net.Conn
	frontend *pgproto3.Frontend
	waiting  bool // for an answer
}

// adminDatabase is the reserved name of the console.
const adminDatabase = "pgbouncer"

// openConsole connects to the admin console.
func openConsole(ctx context.Context, url string) (*console, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	// A pooler refuses startup parameters that it does not know.
	config.Database = adminDatabase
	config.RuntimeParams = map[string]string{"application_name": "pgcutover"}
	conn, err := pgconn.ConnectConfig(ctx, &config.Config)
	if err != nil {
		return nil, err
	}
	raw, err := conn.Hijack()
	if err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	return &console{conn: raw.Conn, frontend: raw.Frontend}, nil
}

// row is a row of an answer, by the columns' names, which stay the same over
// PgBouncer's versions while their order does not. NULL is empty.
type row map[string]string

// query sends a command and returns its rows. When ctx ends first, the
// connection is of no more use.
func (c *console) query(ctx context.Context, command string) ([]row, error) {
	// A connection's reader wakes up when its deadline moves to the past.
	stop := context.AfterFunc(ctx, func() {
		//nolint:errcheck // fails on a closed connection only
		c.conn.SetDeadline(time.Unix(1, 0))
	})
	defer stop()
	c.frontend.SendQuery(&pgproto3.Query{String: command})
	c.waiting = true
	rows, err := c.answer()
	c.waiting = err != nil && pg.Code(err) == ""
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	return rows, nil
}

// answer reads up to ReadyForQuery, after an error too.
func (c *console) answer() (rows []row, refused error) {
	if err := c.frontend.Flush(); err != nil {
		return nil, err
	}
	var names []string
	for {
		message, err := c.frontend.Receive()
		if err != nil {
			return nil, errors.Join(refused, err)
		}
		switch m := message.(type) {
		case *pgproto3.RowDescription:
			names = names[:0]
			for _, field := range m.Fields {
				names = append(names, string(field.Name))
			}
		case *pgproto3.DataRow:
			r := row{}
			for i, value := range m.Values {
				if i < len(names) {
					r[names[i]] = string(value)
				}
			}
			rows = append(rows, r)
		case *pgproto3.ErrorResponse:
			refused = pgconn.ErrorResponseToPgError(m)
		case *pgproto3.ReadyForQuery:
			return rows, refused
		}
	}
}

// close ends the connection. A command that was not answered is taken back as
// far as the network allows: a PAUSE that arrives after it was given up would
// hold the clients for ever.
func (c *console) close() {
	if c == nil {
		return
	}
	if !c.waiting {
		c.frontend.Send(&pgproto3.Terminate{})
		//nolint:errcheck // a courtesy
		c.frontend.Flush()
	} else if tcp, ok := plain(c.conn).(*net.TCPConn); ok {
		//nolint:errcheck // it is closed below in any case
		tcp.SetLinger(0)
	}
	//nolint:errcheck // nothing depends on it: the pooler sees the end of the connection
	c.conn.Close()
}

// plain is the connection that a TLS connection goes through.
func plain(conn net.Conn) net.Conn {
	if secured, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return secured.NetConn()
	}
	return conn
}

// quoteName quotes a database's name for a command.
func quoteName(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// quoteText quotes a setting's value for SET.
func quoteText(value string) string { return "'" + strings.ReplaceAll(value, "'", "''") + "'" }
