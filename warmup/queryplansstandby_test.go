package warmup

import (
	"fmt"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// A standby refuses transactions that are SERIALIZABLE, by whatever default: what
// clients' sessions begin with is asked in others.
func TestStandbyOfSerializable(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			c := pgtest.Cluster(t, pgserver.Options{Major: major, Name: "standby"})
			pgtest.Exec(t, c.URL("postgres"), "alter database postgres set default_transaction_isolation = serializable", "alter database postgres set search_path = shop")
			pgtest.BecomeStandby(t, c)
			s := open(t, c.URL("postgres"))
			for name, path := range map[string]func() (string, error){
				"plans":   func() (string, error) { return serverPath(t.Context(), s) },
				"queries": func() (string, error) { return clientPath(t.Context(), s) },
			} {
				if got, err := path(); err != nil || name == "queries" && got != "shop" || name == "plans" && got == "shop" {
					t.Errorf("%s: search_path %q, %v", name, got, err)
				}
			}
			e, err := openExplainer(t.Context(), s, PlansOptions{}.withDefaults())
			if err != nil {
				t.Fatal(err)
			}
			defer endSession(t.Context(), e.conn)
			if got := e.pathOf(""); got != "shop" {
				t.Errorf("explained with search_path %q", got)
			}
			if _, err := e.explain(t.Context(), &question{Text: "select 1", Method: GenericPlan, Path: "shop"}); err != nil {
				t.Error(err)
			}
		})
	}
}
