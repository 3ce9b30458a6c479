package upgrade

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/subscriber"
)

const stuckSQL = `
create table public.stuck (id integer primary key);
insert into public.stuck select generate_series(1, 5);
create schema app;
create table app.entered (id integer primary key);
insert into app.entered select generate_series(1, 5);
grant usage on schema app to pgct_stall_owner;
alter table app.entered owner to pgct_stall_owner`

// Tables whose copy fails again and again are named with the reason, and stop start
// when nothing else comes further; start goes on when the reasons are gone.
func TestStalledCopy(t *testing.T) {
	const owner = "pgct_stall_owner"
	eachMove(t, "stall", `do $$ begin if to_regrole('`+owner+`') is null then create role `+owner+`; end if; end $$;`+stuckSQL, func(t *testing.T, m *Move, oldURL, newURL string) {
		t.Cleanup(func() {
			for _, url := range []string{oldURL, newURL} {
				pgtest.Exec(t, url, `set default_transaction_read_only to off`, `drop owned by `+owner+` cascade`, `drop role `+owner)
			}
		})
		if _, err := m.Start(t.Context(), t.Context(), "publish"); err != nil {
			t.Fatal(err)
		}
		begun := 1
		behind(t, m, newURL, "public.stuck", `insert into public.stuck values (3)`)
		wanted := []string{"public.stuck: the table has rows on the new server"}
		if m.New.Major() >= 16 {
			pgtest.Exec(t, newURL, `set default_transaction_read_only = off`, `revoke usage on schema app from `+owner)
			begun++
			wanted = append(wanted, `app.entered: its owner "`+owner+`", in whose name it is copied, has no USAGE on its schema`)
		}
		if _, err := m.Start(t.Context(), t.Context(), "subscribe"); err != nil {
			t.Fatal(err)
		}
		untilCopiesFail(t, m, begun)
		m.stall = 2 * time.Second
		_, err := m.Start(t.Context(), t.Context(), "copy")
		if !errors.Is(err, subscriber.ErrStalled) {
			t.Fatalf("the copy of tables that cannot be copied: %v", err)
		}
		for _, text := range wanted {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%v\nhas nothing of %q", err, text)
			}
		}
		advice, _, found := strings.Cut(strings.TrimPrefix(hint.Of(err), "on the new server: "), "; then run: pgcutover start")
		if !found {
			t.Fatalf("hint %q", hint.Of(err))
		}
		pgtest.Exec(t, newURL, advice)
		m.stall = time.Minute
		if m.New.Major() >= 16 { // that was the first; now the other
			m.stall = 2 * time.Second
			if _, err = m.Start(t.Context(), t.Context(), "copy"); !errors.Is(err, subscriber.ErrStalled) || strings.Contains(err.Error(), owner) {
				t.Errorf("the copy of what is left: %v", err)
			}
			behind(t, m, newURL, "public.stuck", `truncate only public.stuck`)
			m.stall = time.Minute
		}
		if _, err := m.Start(t.Context(), t.Context(), "copy"); err != nil {
			t.Fatal(err)
		}
		if n := pgtest.Value[int](t, newURL, `select (select count(*) from public.stuck) * (select count(*) from app.entered)`); n != 25 {
			t.Errorf("the product of the tables' rows is %d", n)
		}
	})
}

// untilCopiesFail waits until all tables are copied but those few, whose copy was
// begun.
func untilCopiesFail(t *testing.T, m *Move, few int) {
	t.Helper()
	err := pg.Wait(t.Context(), "the copies to be begun", 50*time.Millisecond, time.Minute, nil, func(ctx context.Context) (bool, string, error) {
		states, err := subscriber.States(ctx, m.New, m.first())
		begun := 0
		for _, table := range states {
			if table.State == "d" {
				begun++
			}
		}
		return begun == few && subscriber.Ready(states)+begun == len(states), fmt.Sprintf("%+v", states), err
	})
	if err != nil {
		t.Fatal(err)
	}
}
