package schema

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Notice is something that did not arrive on the new server as it is on the old
// one, or that was left as it was there: listed, so that a person decides.
type Notice struct {
	Object string `json:"object"` // role "app", database "shop", extension hstore
	Seen   string `json:"seen"`
	Fix    string `json:"fix,omitempty"` // what would mend it
}

// String is the notice in one line.
func (n Notice) String() string {
	text := n.Object + ": " + n.Seen
	if n.Fix != "" {
		text += " (" + n.Fix + ")"
	}
	return text
}

// statement is one that Postgres may refuse without harm: then it is listed.
type statement struct {
	object string
	sql    string
	// secret, when not empty, is a part of sql that is never shown.
	secret string
	// needs are libraries that must be there to load.
	needs []string
}

// text is the statement without its secret.
func (s statement) text() string { return s.hide(s.sql) }

// attempt executes s in a savepoint of tx. What the server refuses becomes a
// notice; anything else (a lost session) is an error. The server's own detail
// and statement are left out, since they may repeat a secret.
func (s statement) attempt(ctx context.Context, tx pgx.Tx) (*Notice, error) {
	inner, err := tx.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("setting a savepoint: %w", err)
	}
	for _, library := range s.needs {
		if _, err = inner.Exec(ctx, "load "+quoteLiteral(library)); err != nil {
			break
		}
	}
	if err == nil {
		_, err = inner.Exec(ctx, s.sql)
	}
	if err == nil {
		return nil, inner.Commit(ctx)
	}
	rollback(ctx, inner)
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || ctx.Err() != nil || fatal(refused) {
		return nil, fmt.Errorf("executing %q: %w", firstWords(s.text(), 200), s.clean(err))
	}
	return &Notice{
		Object: s.object, Fix: s.text() + ";",
		Seen: fmt.Sprintf("the new server refuses it: %s (%s)", s.hide(refused.Message), refused.Code),
	}, nil
}

// hidden stands for a secret.
const hidden = "<what old has>"

// hide takes the secret out of a text.
func (s statement) hide(text string) string {
	if s.secret == "" {
		return text
	}
	return strings.ReplaceAll(text, s.secret, hidden)
}

// clean takes the secret out of an error, which is no longer the server's then.
func (s statement) clean(err error) error {
	if s.secret == "" || !strings.Contains(err.Error(), s.secret) {
		return err
	}
	return errors.New(s.hide(err.Error()))
}

// fatal tells refusals of the statement from failures of the session or the
// server: shutdown, cancellation, lack of memory or disk, deadlock, lock timeout.
func fatal(e *pgconn.PgError) bool {
	switch e.Code[:2] {
	case "08", "25", "40", "53", "57", "XX":
		return true
	}
	return e.Code == pg.LockNotAvailable
}

// message is what the server said, without its SQLSTATE.
func message(err error) string {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		return err.Error()
	}
	if refused.Detail != "" {
		return refused.Message + " (" + firstWords(refused.Detail, 300) + ")"
	}
	return refused.Message
}
