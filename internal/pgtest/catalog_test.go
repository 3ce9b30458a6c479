package pgtest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgserver"
)

func TestMain(m *testing.M) { Main(m) }

// allMajors are those of PGCUTOVER_TEST_PAIRS, ascending; without it, all that
// this package must work on.
var allMajors = func() []int {
	majors := []int{10, 13, 15, 17, 18}
	if pairs, err := parsePairs(os.Getenv(PairsVariable)); err == nil {
		majors = nil
		for _, p := range pairs {
			majors = append(majors, p.Old, p.New)
		}
	}
	slices.Sort(majors)
	return slices.Compact(majors)
}()

// oldest and newest are for tests for which one major stands for all.
var (
	oldest = allMajors[0]
	newest = allMajors[len(allMajors)-1]
)

// catalogBase is the database that the changes of catalogChanges are made in.
// FUNCTION, in trigger definitions, is version 11's name of PROCEDURE.
const catalogBase = `
CREATE SCHEMA app;
CREATE TABLE app.item (id serial PRIMARY KEY, "Name" text DEFAULT 'x', n int, CHECK (n > 0));
CREATE TABLE app.detail (item int REFERENCES app.item, v text);
CREATE TABLE app.measure (at date NOT NULL, v int) PARTITION BY RANGE (at);
CREATE TABLE app.measure_1 PARTITION OF app.measure FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE VIEW app.names AS SELECT "Name" FROM app.item;
CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON app.item FOR EACH ROW EXECUTE PROCEDURE app.touch();
CREATE TYPE app.mood AS ENUM ('good', 'bad');
CREATE ROLE catalog_reader;
ALTER TABLE app.item ADD COLUMN later int DEFAULT 5;
ANALYZE app.item`

// change is something a tool may leave behind, and its removal.
type change struct {
	do, undo string
	want     string // part of a line that only one snapshot has
	since    int    // the first major that knows it
}

var catalogChanges = []change{
	{do: `ALTER DATABASE %DB% CONNECTION LIMIT 5`, undo: `ALTER DATABASE %DB% CONNECTION LIMIT -1`, want: "limit=5"},
	{do: `REVOKE CONNECT ON DATABASE %DB% FROM PUBLIC`, undo: `GRANT CONNECT ON DATABASE %DB% TO PUBLIC`, want: "database: "},
	{do: `ALTER DATABASE %DB% SET default_transaction_read_only = on`, undo: `ALTER DATABASE %DB% RESET default_transaction_read_only`, want: "role=(all) default_transaction_read_only=on"},
	{do: `ALTER ROLE catalog_reader SET work_mem = '1MB'`, undo: `ALTER ROLE catalog_reader RESET work_mem`, want: "database=(all) role=catalog_reader work_mem=1MB"},
	{do: `ALTER ROLE catalog_reader IN DATABASE %DB% SET work_mem = '1MB'`, undo: `ALTER ROLE catalog_reader IN DATABASE %DB% RESET work_mem`, want: "role=catalog_reader work_mem=1MB"},
	{do: `ALTER SYSTEM SET work_mem = '1MB'`, undo: `ALTER SYSTEM RESET work_mem`, want: "alter system: work_mem = 1MB"},
	{do: `CREATE ROLE catalog_extra REPLICATION`, undo: `DROP ROLE catalog_extra`, want: `role: catalog_extra {"rolsuper": false`},
	{do: `ALTER ROLE catalog_reader LOGIN`, undo: `ALTER ROLE catalog_reader NOLOGIN`, want: `"rolcanlogin": true`},
	{do: `ALTER ROLE catalog_reader PASSWORD 'x'`, undo: `ALTER ROLE catalog_reader PASSWORD NULL`, want: "password="},
	{do: `GRANT pg_monitor TO catalog_reader`, undo: `REVOKE pg_monitor FROM catalog_reader`, want: "catalog_reader in pg_monitor"},
	{do: `SELECT pg_create_logical_replication_slot('catalog_slot', 'pgoutput')`, undo: `SELECT pg_drop_replication_slot('catalog_slot')`, want: "slot: catalog_slot type=logical plugin=pgoutput"},
	{do: `SELECT pg_replication_origin_create('catalog_origin')`, undo: `SELECT pg_replication_origin_drop('catalog_origin')`, want: "origin: catalog_origin"},
	{do: `CREATE PUBLICATION p FOR TABLE app.item`, undo: `DROP PUBLICATION p`, want: "publication table: p app.item"},
	{do: `CREATE PUBLICATION p`, undo: `DROP PUBLICATION p`, want: `publication: p owner=postgres {"pubdelete": true`},
	{do: `CREATE PUBLICATION p FOR TABLE app.item ("Name", id) WHERE (id > 3)`, undo: `DROP PUBLICATION p`, want: `p app.item columns=id,"Name" where=(id > 3)`, since: 15},
	{do: `CREATE PUBLICATION p FOR TABLES IN SCHEMA app`, undo: `DROP PUBLICATION p`, want: "publication schema: p app", since: 15},
	{do: `CREATE SUBSCRIPTION s CONNECTION 'host=h password=secret' PUBLICATION p WITH (connect = false, slot_name = 'z')`, undo: `ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s`, want: "subscription: s owner=postgres"},
	{do: `CREATE SCHEMA extra`, undo: `DROP SCHEMA extra`, want: "schema: extra owner=postgres"},
	{do: `REVOKE USAGE ON SCHEMA public FROM PUBLIC`, undo: `GRANT USAGE ON SCHEMA public TO PUBLIC`, want: "schema: public"},
	{do: `GRANT USAGE ON SCHEMA pg_toast TO catalog_reader; GRANT SELECT ON pg_catalog.pg_authid TO catalog_reader`, undo: `REVOKE USAGE ON SCHEMA pg_toast FROM catalog_reader; REVOKE SELECT ON pg_catalog.pg_authid FROM catalog_reader`, want: "system acl: relation pg_authid catalog_reader=r/postgres"},
	{do: `GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_logdir() TO catalog_reader`, undo: `REVOKE EXECUTE ON FUNCTION pg_catalog.pg_ls_logdir() FROM catalog_reader`, want: "system acl: function pg_ls_logdir()"},
	{do: `REVOKE EXECUTE ON FUNCTION pg_catalog.now() FROM PUBLIC`, undo: `GRANT EXECUTE ON FUNCTION pg_catalog.now() TO PUBLIC`, want: "system acl: function now()"},
	{do: `GRANT SELECT (rolname) ON pg_catalog.pg_authid TO catalog_reader`, undo: `REVOKE SELECT (rolname) ON pg_catalog.pg_authid FROM catalog_reader`, want: "system acl: column pg_authid.rolname"},
	{do: `CREATE TABLE app.extra (n int)`, undo: `DROP TABLE app.extra`, want: "relation: app.extra kind=r"},
	{do: `CREATE TABLE pg_temporary (n int)`, undo: `DROP TABLE pg_temporary`, want: "relation: public.pg_temporary kind=r"},
	{do: `GRANT SELECT ON app.item TO catalog_reader`, undo: `REVOKE SELECT ON app.item FROM catalog_reader`, want: "catalog_reader=r/postgres"},
	{do: `REVOKE SELECT ON app.item FROM postgres`, undo: `GRANT SELECT ON app.item TO postgres`, want: "relation: app.item kind=r"},
	{do: `GRANT USAGE ON SEQUENCE app.item_id_seq TO catalog_reader`, undo: `REVOKE USAGE ON SEQUENCE app.item_id_seq FROM catalog_reader`, want: "relation: app.item_id_seq kind=S"},
	{do: `ALTER TABLE app.item OWNER TO catalog_reader`, undo: `ALTER TABLE app.item OWNER TO postgres`, want: "relation: app.item kind=r persistence=p owner=catalog_reader"},
	{do: `ALTER TABLE app.detail REPLICA IDENTITY FULL`, undo: `ALTER TABLE app.detail REPLICA IDENTITY DEFAULT`, want: "replica_identity=f"},
	{do: `ALTER TABLE app.item REPLICA IDENTITY USING INDEX item_pkey`, undo: `ALTER TABLE app.item REPLICA IDENTITY DEFAULT`, want: "clustered=f replica_identity=t"},
	{do: `ALTER TABLE app.item ENABLE ROW LEVEL SECURITY`, undo: `ALTER TABLE app.item DISABLE ROW LEVEL SECURITY`, want: "row_security=t/f"},
	{do: `ALTER TABLE app.item SET (autovacuum_enabled = off)`, undo: `ALTER TABLE app.item RESET (autovacuum_enabled)`, want: "options={autovacuum_enabled=off}"},
	{do: `ALTER TABLE app.item ADD COLUMN extra int`, undo: `ALTER TABLE app.item DROP COLUMN extra`, want: "column: app.item.extra #5 integer"},
	{do: `ALTER TABLE app.item ALTER n SET NOT NULL`, undo: `ALTER TABLE app.item ALTER n DROP NOT NULL`, want: "column: app.item.n #3 integer not_null=t"},
	{do: `ALTER TABLE app.item ALTER "Name" SET DEFAULT 'y'`, undo: `ALTER TABLE app.item ALTER "Name" SET DEFAULT 'x'`, want: "default='y'::text"},
	{do: `ALTER TABLE app.item ALTER n SET STATISTICS 7`, undo: `ALTER TABLE app.item ALTER n SET STATISTICS -1`, want: "target=7"},
	{do: `GRANT UPDATE (n) ON app.item TO catalog_reader`, undo: `REVOKE UPDATE (n) ON app.item FROM catalog_reader`, want: "acl=catalog_reader=w/postgres"},
	{do: `ALTER TABLE app.item ADD COLUMN extra int GENERATED ALWAYS AS (n + 1) STORED`, undo: `ALTER TABLE app.item DROP COLUMN extra`, want: "generated=s", since: 12},
	{do: `ALTER TABLE app.item ALTER "Name" SET COMPRESSION pglz`, undo: `ALTER TABLE app.item ALTER "Name" SET COMPRESSION default`, want: "compression=p", since: 14},
	{do: `ALTER TABLE app.item ADD CONSTRAINT extra CHECK (n < 9) NOT VALID`, undo: `ALTER TABLE app.item DROP CONSTRAINT extra`, want: "constraint: extra on app.item CHECK ((n < 9)) NOT VALID"},
	{do: `CREATE INDEX extra ON app.item (n)`, undo: `DROP INDEX app.extra`, want: "CREATE INDEX extra ON app.item"},
	{do: `CREATE TRIGGER extra BEFORE DELETE ON app.item FOR EACH ROW EXECUTE PROCEDURE app.touch()`, undo: `DROP TRIGGER extra ON app.item`, want: "CREATE TRIGGER extra"},
	{do: `ALTER TABLE app.item DISABLE TRIGGER touch`, undo: `ALTER TABLE app.item ENABLE TRIGGER touch`, want: "enabled=D"},
	{do: `ALTER TABLE app.item ENABLE REPLICA TRIGGER touch`, undo: `ALTER TABLE app.item ENABLE TRIGGER touch`, want: "enabled=R"},
	{do: `ALTER TABLE app.detail DISABLE TRIGGER ALL`, undo: `ALTER TABLE app.detail ENABLE TRIGGER ALL`, want: `on app.detail of detail_item_fkey enabled=D`},
	{do: `CREATE RULE extra AS ON DELETE TO app.item DO INSTEAD NOTHING`, undo: `DROP RULE extra ON app.item`, want: "rule: CREATE RULE extra"},
	{do: `CREATE POLICY extra ON app.item TO catalog_reader USING (n = 1)`, undo: `DROP POLICY extra ON app.item`, want: "policy: extra on app.item command=* permissive=t roles=catalog_reader using=(n = 1)"},
	{do: `ALTER SEQUENCE app.item_id_seq INCREMENT 2`, undo: `ALTER SEQUENCE app.item_id_seq INCREMENT 1`, want: "increment=2"},
	{do: `ALTER SEQUENCE app.item_id_seq OWNED BY NONE`, undo: `ALTER SEQUENCE app.item_id_seq OWNED BY app.item.id`, want: "owned_by=\n"},
	{do: `ALTER TABLE app.measure DETACH PARTITION app.measure_1`, undo: `ALTER TABLE app.measure ATTACH PARTITION app.measure_1 FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')`, want: "app.measure_1 of app.measure"},
	{do: `CREATE STATISTICS app.extra ON id, n FROM app.item`, undo: `DROP STATISTICS app.extra`, want: "CREATE STATISTICS app.extra"},
	{do: `CREATE OR REPLACE VIEW app.names AS SELECT "Name" FROM app.item WHERE n > 1`, undo: `CREATE OR REPLACE VIEW app.names AS SELECT "Name" FROM app.item`, want: "relation: app.names kind=v"},
	{do: `CREATE OR REPLACE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN OLD; END $$`, undo: `CREATE OR REPLACE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$`, want: "function: app.touch()"},
	{do: `ALTER FUNCTION app.touch() SET search_path = app`, undo: `ALTER FUNCTION app.touch() RESET search_path`, want: "function: app.touch()"},
	{do: `REVOKE EXECUTE ON FUNCTION app.touch() FROM PUBLIC`, undo: `GRANT EXECUTE ON FUNCTION app.touch() TO PUBLIC`, want: "function: app.touch()"},
	{do: `CREATE AGGREGATE app.extra (int) (SFUNC = int4pl, STYPE = int)`, undo: `DROP AGGREGATE app.extra (int)`, want: "function: app.extra(integer)"},
	{do: `CREATE PROCEDURE app.extra() LANGUAGE sql AS ''`, undo: `DROP PROCEDURE app.extra()`, want: "function: app.extra() kind=p", since: 11},
	{do: `CREATE DOMAIN app.extra AS int CHECK (VALUE > 0)`, undo: `DROP DOMAIN app.extra`, want: "type: app.extra type=d owner=postgres base=integer"},
	{do: `CREATE TYPE app.extra AS (a int)`, undo: `DROP TYPE app.extra`, want: "column: app.extra.a"},
	{do: `CREATE TYPE app.extra AS RANGE (subtype = float8)`, undo: `DROP TYPE app.extra`, want: "range=double precision"},
	{do: `ALTER TYPE app.mood RENAME VALUE 'bad' TO 'worse'`, undo: `ALTER TYPE app.mood RENAME VALUE 'worse' TO 'bad'`, want: "labels='good','worse'"},
	{do: `CREATE EXTENSION pg_prewarm`, undo: `DROP EXTENSION pg_prewarm`, want: "extension: pg_prewarm version="},
	{do: `CREATE EXTENSION hstore SCHEMA app`, undo: `DROP EXTENSION hstore`, want: "object: operator class app.btree_hstore_ops USING btree"},
	{do: `CREATE FUNCTION app.guard() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER extra ON ddl_command_end EXECUTE PROCEDURE app.guard()`, undo: `DROP EVENT TRIGGER extra; DROP FUNCTION app.guard()`, want: "event trigger: extra on ddl_command_end"},
	{do: `ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO catalog_reader`, undo: `ALTER DEFAULT PRIVILEGES IN SCHEMA app REVOKE SELECT ON TABLES FROM catalog_reader`, want: "default acl: role=postgres schema=app type=r acl=catalog_reader=r/postgres"},
	{do: `CREATE CAST (app.mood AS int) WITH INOUT`, undo: `DROP CAST (app.mood AS int)`, want: "object: cast (app.mood AS integer)"},
	{do: `CREATE COLLATION app.extra FROM "C"`, undo: `DROP COLLATION app.extra`, want: "object: collation app.extra"},
	{do: `CREATE FOREIGN DATA WRAPPER w; CREATE SERVER extra FOREIGN DATA WRAPPER w OPTIONS (a 'b'); CREATE USER MAPPING FOR PUBLIC SERVER extra OPTIONS (p 'secret')`, undo: `DROP FOREIGN DATA WRAPPER w CASCADE`, want: "foreign server: extra for public"},
	{do: `SELECT lo_create(4711)`, undo: `SELECT lo_unlink(4711)`, want: "large object: 4711 owner=postgres"},
	{do: `COMMENT ON TABLE app.item IS 'two` + "\n" + `lines'`, undo: `COMMENT ON TABLE app.item IS NULL`, want: `comment: table app.item: two\nlines`},
	{do: `COMMENT ON SCHEMA app IS 'x'`, undo: `COMMENT ON SCHEMA app IS NULL`, want: "comment: schema app: x"},
	{do: `COMMENT ON ROLE catalog_reader IS 'x'`, undo: `COMMENT ON ROLE catalog_reader IS NULL`, want: "comment: role catalog_reader: x"},
	{do: `COMMENT ON DATABASE %DB% IS 'x'`, undo: `COMMENT ON DATABASE %DB% IS NULL`, want: "comment: database"},
}

// TestCatalogSeesEveryChange makes each change, which the snapshot must show,
// and takes it back; in the end the snapshot must be the first one again.
func TestCatalogSeesEveryChange(t *testing.T) {
	for _, major := range allMajors {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel() // each major is another server
			url := Database(t, Server(t, major))
			name := Value[string](t, url, `SELECT current_database()`)
			Exec(t, url, catalogBase)
			t.Cleanup(func() { Exec(t, url, `DROP OWNED BY catalog_reader; DROP ROLE catalog_reader`) })
			before := Catalog(t, url)
			for _, c := range catalogChanges {
				if major < c.since {
					continue
				}
				Exec(t, url, strings.ReplaceAll(c.do, "%DB%", name))
				changed := Catalog(t, url)
				if diff := Diff(before, changed); !strings.Contains(diff, c.want) {
					t.Errorf("%s\nshows no %q in\n%s", c.do, c.want, diff)
				}
				if strings.Contains(changed, "secret") {
					t.Errorf("%s\nshows the secret", c.do)
				}
				// A database that is read-only by default must be undone, too.
				Exec(t, url, "SET default_transaction_read_only = off", strings.ReplaceAll(c.undo, "%DB%", name))
			}
			if diff := Diff(before, Catalog(t, url)); diff != "" {
				t.Errorf("with every change taken back there is left\n%s", diff)
			}
		})
	}
}

// TestCatalogSkipsTheNeighbours makes things in another database.
func TestCatalogSkipsTheNeighbours(t *testing.T) {
	for _, major := range allMajors {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			url, other := Database(t, Server(t, major)), Database(t, Server(t, major))
			before := Catalog(t, url)
			Exec(t, other,
				`SELECT pg_create_logical_replication_slot('neighbour', 'pgoutput')`,
				`CREATE SUBSCRIPTION neighbour CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false, slot_name = 'z')`,
				`CREATE TEMPORARY TABLE t (n serial PRIMARY KEY); COMMENT ON SCHEMA public IS 'other'`,
				fmt.Sprintf(`COMMENT ON DATABASE %[1]s IS 'x'; ALTER DATABASE %[1]s SET work_mem = '1MB'`, Value[string](t, other, `SELECT current_database()`)))
			if diff := Diff(before, Catalog(t, url)); diff != "" {
				t.Errorf("the snapshot shows the neighbours:\n%s", diff)
			}
		})
	}
}

func TestCatalogIsSorted(t *testing.T) {
	url := Database(t, Server(t, newest))
	Exec(t, url, `CREATE TABLE "B" (n int); CREATE TABLE a (n int)`)
	text := Catalog(t, url)
	var relations []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "relation: ") {
			relations = append(relations, line)
		}
	}
	if len(relations) != 2 || !slices.IsSorted(relations) {
		t.Errorf("relations %q, want two, sorted", relations)
	}
}

func TestDiff(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"", "", ""},
		{"x\ny\n", "y\nx\n", ""},
		{"x\nx\ny\n", "x\nz\n", "- x\n- y\n+ z\n"},
		{"", "new\n", "+ new\n"},
		{"last", "last\n", ""},
	} {
		if got := Diff(c.a, c.b); got != c.want {
			t.Errorf("Diff(%q, %q) = %q, want %q", c.a, c.b, got, c.want)
		}
	}
}

func TestCatalogFailsOnAnUnreachableServer(t *testing.T) {
	port, err := pgserver.ReservePort()
	if err != nil {
		t.Fatal(err)
	}
	defer port.Release()
	if text, err := catalog(t.Context(), "postgres://postgres@"+port.Addr()+"/x?sslmode=disable"); err == nil {
		t.Errorf("a snapshot of nothing: %q", text)
	}
}
