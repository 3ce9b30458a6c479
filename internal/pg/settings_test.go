package pg_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// Settings of the database and the role that change how text, names and arrays are
// read, or how transactions are isolated, do not reach the tool's sessions.
func TestSettingsOfTheDatabase(t *testing.T) {
	eachMajor(t, func(t *testing.T, _ *pg.Server, url string) {
		pgtest.Exec(t, url, `do $$ declare setting text; begin
			foreach setting in array '{standard_conforming_strings = off,quote_all_identifiers = on,array_nulls = off,default_transaction_isolation = serializable,"datestyle = ''SQL, DMY''"}'::text[] loop
				execute format('alter database %I set %s', current_database(), setting);
			end loop; end $$`)
		var conforming, quoted, style, isolation string
		var null bool
		s := open(t, url)
		err := s.Pool().QueryRow(t.Context(), `
			select current_setting('standard_conforming_strings'), format_type('timetz'::regtype, null) || quote_ident('plain'),
			       current_setting('datestyle'), current_setting('transaction_isolation'), $1::text::text[] = array[null]::text[]`,
			pgx.QueryExecModeSimpleProtocol, "{NULL}").Scan(&conforming, &quoted, &style, &isolation, &null)
		if err != nil || conforming != "on" || quoted != "time with time zoneplain" || style != "ISO, YMD" || isolation != "read committed" || !null {
			t.Errorf("error %v, strings %q, name %q, dates %q, isolation %q, nulls %t", err, conforming, quoted, style, isolation, null)
		}
	})
}
