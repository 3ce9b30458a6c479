package fence

import (
	"context"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// keptSQL makes the table that remembers what closing the server has replaced,
// until opening it puts that back.
const keptSQL = `
create table pgcutover.kept (key text primary key, value text)`

// announceSQL comments the database, for whoever looks at it before he meets
// the fence. Only the database's owner may; it returns false where the role is
// not that.
const announceSQL = `
create or replace function pgcutover.announce(said text) returns boolean
language plpgsql set search_path = pg_catalog set lock_timeout = '1s' as $pgcutover$
declare
  db record;
begin
  select d.datname, shobj_description(d.oid, 'pg_database') as comment, pg_has_role(d.datdba, 'usage') as mine
    into db from pg_database d where d.datname = current_database();
  if not db.mine then
    return false;
  end if;
  if not exists (select 1 from pgcutover.kept k where k.key = 'announced' and k.value is not distinct from db.comment) then
    insert into pgcutover.kept values ('comment', db.comment)
      on conflict (key) do update set value = excluded.value;
  end if;
  insert into pgcutover.kept values ('announced', said)
    on conflict (key) do update set value = excluded.value;
  execute format('comment on database %I is %L', db.datname, said);
  return true;
end
$pgcutover$`

// retractSQL puts the earlier comment back, if nobody has changed ours
// meanwhile.
const retractSQL = `
create or replace function pgcutover.retract() returns void
language plpgsql set search_path = pg_catalog set lock_timeout = '1s' as $pgcutover$
declare
  said text;
  db record;
begin
  select k.value into said from pgcutover.kept k where k.key = 'announced';
  if not found then
    return;
  end if;
  select d.datname, shobj_description(d.oid, 'pg_database') as comment
    into db from pg_database d where d.datname = current_database();
  if db.comment is not distinct from said then
    execute format('comment on database %I is %L', db.datname,
                   (select k.value from pgcutover.kept k where k.key = 'comment'));
  end if;
  delete from pgcutover.kept k where k.key in ('announced', 'comment');
end
$pgcutover$`

// refusal is how the message of every refused write begins.
const refusal = "writes are refused: pgcutover moves this database"

// why is what a closed server says about itself: why, since when, and what to
// do.
func why(s *pg.Server, since time.Time) (message, advice string) {
	message = fmt.Sprintf("%s (move %q, %s server, closed since %s)", refusal, s.Move(), s.Side(), since.UTC().Format("2006-01-02 15:04:05Z"))
	advice = fmt.Sprintf("The %s server takes the writes: connect there. To see where the move stands: pgcutover status", s.Side().Other())
	return message, advice
}

// CommentSQL comments the database of a closed server with why writes are
// refused there, since when, and which command to run, and remembers the
// comment that it had. open_now() and Revert put that back. It belongs into the
// transaction that closes the server, and returns false when the role may not
// comment the database.
func CommentSQL(s *pg.Server, since time.Time) string {
	message, advice := why(s, since)
	return "select pgcutover.announce(" + literal(message+". "+advice) + ")"
}

// Comment runs CommentSQL.
func Comment(ctx context.Context, q state.Querier, s *pg.Server, since time.Time) (bool, error) {
	var done bool
	if err := q.QueryRow(ctx, CommentSQL(s, since)).Scan(&done); err != nil {
		return false, fmt.Errorf("commenting the database on the %s server: %w", s.Side(), err)
	}
	return done, nil
}
