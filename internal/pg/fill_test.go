package pg_test

import (
	"testing"

	"github.com/pgcutover/pgcutover/internal/pg"
)

func TestFill(t *testing.T) {
	got := pg.Fill(`select $1, $2::text, $3::jsonb, $4, $11 from x where a = $1`, int64(7), `it's a \`, map[string]int{"a": 1}, true)
	want := `select 7,  E'it''s a \\'::text, '{"a":1}'::jsonb, true, $11 from x where a = 7`
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
