package state

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pglogrepl"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// Identity tells one database of one cluster from every other, also from a
// restored or failed-over copy of itself.
type Identity struct {
	System   string `json:"system"`   // system identifier of the cluster
	Timeline int32  `json:"timeline"` // grows with every failover or restore
	Database uint32 `json:"database"` // OID of the database
	Name     string `json:"name"`     // name of the database, for messages
}

const databaseOIDSQL = `select oid, datname from pg_database where datname = current_database()`

// controlSQL is what IDENTIFY_SYSTEM says, for roles without REPLICATION. After a
// promotion the control file is on the old timeline until the next checkpoint,
// which may take minutes: the WAL that is being written is on the new one, and its
// files are named after it.
const controlSQL = `
select s.system_identifier::text,
       case when pg_is_in_recovery() then c.timeline_id
            else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int
       end
  from pg_control_system() s, pg_control_checkpoint() c`

// Identify asks a server who it is: IDENTIFY_SYSTEM over a replication
// connection where the role may open one, else the control file's functions.
// Postgres manual: 53.4, Streaming Replication Protocol.
func Identify(ctx context.Context, s *pg.Server) (Identity, error) {
	var id Identity
	if err := s.Pool().QueryRow(ctx, databaseOIDSQL).Scan(&id.Database, &id.Name); err != nil {
		return id, fmt.Errorf("identifying the %s server: %w", s.Side(), err)
	}
	if done, err := id.fromReplication(ctx, s); done {
		return id, err
	}
	if err := s.Pool().QueryRow(ctx, controlSQL).Scan(&id.System, &id.Timeline); err != nil {
		return id, fmt.Errorf("identifying the %s server: %w", s.Side(), err)
	}
	return id, nil
}

// fromReplication reports false when the role or the server's settings do not
// allow a replication connection; a check of its own says so where it matters.
func (id *Identity) fromReplication(ctx context.Context, s *pg.Server) (bool, error) {
	conn, err := s.Replication(ctx)
	if err != nil {
		return false, nil // the caller asks another way
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing was changed through it
	sys, err := pglogrepl.IdentifySystem(ctx, conn)
	if err != nil {
		return true, fmt.Errorf("identifying the %s server: %w", s.Side(), err)
	}
	id.System, id.Timeline = sys.SystemID, sys.Timeline
	return true, nil
}

// sameDatabase compares all but the timeline.
func (id Identity) sameDatabase(side string, now Identity) error {
	switch {
	case id.System != now.System:
		return hint.With(fmt.Errorf("the %s server is not the one that this move was started with: system identifier %s, was %s", side, now.System, id.System),
			"correct "+side+".url. "+goneForGood(side))
	case id.Database != now.Database:
		return hint.With(&otherDatabase{side, now, id},
			"it was dropped and made again, or the URL names another database")
	}
	return nil
}

// otherDatabase means that the cluster is the move's and the database is not.
type otherDatabase struct {
	side     string
	now, was Identity
}

func (e *otherDatabase) Error() string {
	return fmt.Sprintf("the %s database %q is not the one that this move was started with: OID %d, was %d", e.side, e.now.Name, e.now.Database, e.was.Database)
}

// WayOut adds to an error the way to end a move whose new database was dropped
// and made anew: to clean old alone. It is given only where it is safe: the
// database that is new's now knows of no move, and old takes the writes, so that
// no decision stands. Any other error is returned as it is.
func WayOut(ctx context.Context, err error, old, new *pg.Server) error {
	var other *otherDatabase
	if !errors.As(err, &other) || other.side != string(pg.New) || old == nil || new == nil {
		return err
	}
	there, failed := Load(ctx, new)
	if failed != nil || there != nil {
		return err
	}
	turn, failed := ReadTurn(ctx, old.Pool())
	if failed != nil || !turn.Open {
		return err
	}
	return hint.With(err, "if it was dropped and made again: pgcutover abort --old-only ends the move on the old server, which takes the writes; then start anew. Otherwise correct new.url")
}

// goneForGood is what to do when a server will never come back and another one is
// where it was. The other side may have the only copy of the rows.
func goneForGood(side string) string {
	if side == string(pg.New) {
		return "If new is gone for good: pgcutover resume --new-is-lost after the cutover, pgcutover abort --old-only before it"
	}
	return "If old is gone for good: pgcutover complete --new-only after the cutover, pgcutover resume --old-is-lost before it, which says first what is lost"
}

func (id Identity) mustBe(side string, now Identity) error {
	if err := id.sameDatabase(side, now); err != nil {
		return err
	}
	if id.Timeline != now.Timeline {
		return hint.With(fmt.Errorf("the %s server is on timeline %d, the move was started on %d: it failed over or was restored", side, now.Timeline, id.Timeline),
			"the streams of this move may have lost changes. Before the cutover: run pgcutover abort, then start. After it: compare both servers before anything else")
	}
	return nil
}

// Owns checks that this state may be removed together with what it made on the
// given servers: it is the named move's, and they are the databases that the
// move was started with. One that has failed over since passes, because
// removing the move is the way out then.
func (m *Move) Owns(ctx context.Context, name string, servers ...*pg.Server) error {
	if m.Name != name {
		return hint.With(fmt.Errorf("the %s server belongs to the move %q, not %q", m.Side, m.Name, name), "give that move's name")
	}
	for _, s := range servers {
		now, err := Identify(ctx, s)
		if err != nil {
			return err
		}
		was := m.Old
		if s.Side() == pg.New {
			was = m.New
		}
		if err := was.sameDatabase(string(s.Side()), now); err != nil {
			return err
		}
	}
	return nil
}
