package config

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"
)

func TestForDatabase(t *testing.T) {
	c := Default()
	c.Name = "shop"
	c.Old.URL, c.New.URL = NewSecret("postgres://u:p@old:5432/postgres?sslmode=require"), NewSecret("host=new user=u dbname=postgres")
	c.New.PeerURL = NewSecret("postgres://u@n1:1,n2:2/x?dbname=y&sslmode=disable&application_name=z")
	c.Databases = []string{"orders", "We ird/'\\"}
	one, err := c.ForDatabase("orders")
	if err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2]string{
		"name":     {one.Name, "shop_orders"},
		"old":      {one.Old.URL.Reveal(), "postgres://u:p@old:5432/orders?sslmode=require"},
		"new":      {one.New.URL.Reveal(), "host=new user=u dbname=postgres dbname='orders'"},
		"new peer": {one.New.PeerURL.Reveal(), "postgres://u@n1:1,n2:2/orders?sslmode=disable&application_name=z"},
		"old peer": {one.Old.PeerURL.Reveal(), ""},
		"the list": {strings.Join(c.Databases, " "), "orders We ird/'\\"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is %q, want %q", what, pair[0], pair[1])
		}
	}
	odd, err := c.ForDatabase(c.Databases[1])
	if err != nil {
		t.Fatal(err)
	}
	if !nameRule.MatchString(odd.Name) || !strings.HasPrefix(odd.Name, "shop_x") {
		t.Errorf("the database with an odd name is called %q", odd.Name)
	}
	if _, err := c.ForDatabase("billing"); err == nil {
		t.Error("a database that is not in the list is accepted")
	}
}

// Whatever the database is called: its part of the move has a name that may be
// used, and both kinds of connection string lead there.
func TestAnyDatabaseName(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		database := rapid.StringMatching(`[^\x00]{1,30}`).Draw(t, "database")
		move := rapid.StringMatching(`[a-z][a-z0-9_]{0,29}`).Filter(func(s string) bool { return !numbered.MatchString(s) }).Draw(t, "move")
		if name := databaseMove(move, database); !nameRule.MatchString(name) || numbered.MatchString(name) {
			t.Fatalf("%q in %q is called %q", database, move, name)
		} else if !strings.HasPrefix(name, Family(move)+"_") {
			t.Fatalf("%q in %q is called %q, which does not begin as all of its family", database, move, name)
		}
		for _, conninfo := range []string{"postgres://u@h:1/d", "postgresql://h1:1,h2:2", "host=h dbname=d", "postgres://h/d?user=x"} {
			parsed, err := pgx.ParseConfig(withDatabase(conninfo, database))
			if err != nil {
				t.Fatalf("%q for %s: %v", database, conninfo, err)
			}
			if parsed.Database != database {
				t.Fatalf("%s leads to %q, want %q", conninfo, parsed.Database, database)
			}
		}
	})
}

func TestSeveralDatabasesShareNoEntry(t *testing.T) {
	const pooler = `name: shop
old: { url: postgres://old/shop }
new: { url: postgres://new/shop }
databases: [shop, billing]
traffic:
  - pgbouncer: { admin_url: "postgres://a@p:6432/pgbouncer", database: [shop, billing], config: x.ini, old: { dbname: shop }, probe_url: "postgres://p/shop" }
`
	_, err := Parse("f.yaml", []byte(pooler), func(string) (string, bool) { return "", false })
	for _, want := range []string{"traffic[0].pgbouncer.old.dbname: cannot be given for several databases", "traffic[0].pgbouncer.probe_url: leads to one database"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
