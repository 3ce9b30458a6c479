package warmup

import (
	"bytes"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// silenced returns a server whose session falls silent, for ever, at the first
// statement that names public.b; all other sessions work.
func silenced(t *testing.T) *pg.Server {
	t.Helper()
	database := pgtest.Database(t, pgtest.Server(t, pgtest.Majors(t)[0]))
	// Autovacuum would analyze them itself meanwhile.
	pgtest.Exec(t, database, "create table a with (autovacuum_enabled = off) as select generate_series(1, 1000) as n",
		"create table b with (autovacuum_enabled = off) as table a", "create table c with (autovacuum_enabled = off) as table a")
	address, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	proxy := pgtest.NewProxy(t, address.Host)
	ended, once := make(chan struct{}), make(chan struct{}, 1)
	proxy.OnFrontend(func(_ int, _ byte, payload []byte) pgtest.Action {
		if bytes.Contains(payload, []byte(`"public"."b"`)) {
			select {
			case once <- struct{}{}:
				<-ended
			default:
			}
		}
		return pgtest.Forward
	})
	t.Cleanup(func() { close(ended) })
	return open(t, proxy.URL(t, database))
}

// A session that gets no answer any more is given up, and the others go on.
func TestSilentSession(t *testing.T) {
	t.Parallel()
	t.Run("warm", func(t *testing.T) {
		t.Parallel()
		s := silenced(t)
		r, err := Warm(t.Context(), s, WarmOptions{Jobs: 1, Answer: 8 * time.Second})
		if err != nil || len(r.Tables) != 3 {
			t.Fatalf("error %v, tables %v", err, r.Tables)
		}
		if a, b, c := r.Tables[0], r.Tables[1], r.Tables[2]; a.Method == NotRead || c.Method == NotRead || b.Method != NotRead {
			t.Errorf("read: %v, %v, %v", a, b, c)
		}
		if len(r.Warnings) != 1 || !strings.HasPrefix(r.Warnings[0], `"public"."b": `) || !strings.HasSuffix(r.Warnings[0], "the new server ("+s.Address()+") has not answered for 8s") {
			t.Errorf("warnings %q", r.Warnings)
		}
	})
	t.Run("analyze", func(t *testing.T) {
		t.Parallel()
		s := silenced(t)
		r, err := Analyze(t.Context(), s, AnalyzeOptions{Jobs: 1, PerTable: 5 * time.Second, LockTimeout: 2 * time.Second, Answer: 5 * time.Second})
		var missing *MissingStatisticsError
		if !errors.As(err, &missing) || !strings.Contains(err.Error(), `"public"."b" (failed: the new server (`+s.Address()+") has not answered for 12s)") {
			t.Errorf("error %v", err)
		}
		if o := outcomes(r); o[Analyzed] != 2 || o[Failed] != 1 {
			t.Errorf("outcomes %v", o)
		}
	})
}
