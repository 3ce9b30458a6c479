package sequences_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/sequences"
)

func named(name string) func(*sequences.Sequence) {
	return func(s *sequences.Sequence) { s.Name = name }
}

func TestText(t *testing.T) {
	hidden := func(s *sequences.Sequence) { s.Readable = false }
	member := func(s *sequences.Sequence) { s.Extension = "pg_cron" }
	identity := func(s *sequences.Sequence) { s.Identity, s.OwnedBy = true, "public.t.id" }
	foreign := func(s *sequences.Sequence) { s.Alterable, s.Settable = false, false }
	onOld := []sequences.Sequence{
		seq(5, true, named("a\x1b[2J\nb")), seq(7, true, named("equal")), seq(7, true, named("evil\nname")), seq(0, false, hidden, named("hidden")),
		seq(3, true, identity, named("ident")), seq(3, true, member, named("jobs")), seq(9, true, named("theirs")), seq(0, false, member, hidden, named("veiled")),
	}
	onNew := []sequences.Sequence{
		seq(1, false, named("a\x1b[2J\nb")), seq(7, true, named("equal")), seq(7, true, named("evil\nname"), cache(5)), seq(0, false, hidden, named("hidden")),
		seq(4, true, named("new")), seq(1, false, named("theirs"), foreign), seq(0, false, member, hidden, named("veiled")),
	}
	differences := sequences.Compare(onOld, onNew)
	differences[1].NotLooked = []sequences.NotLooked{{Server: pg.Old, Text: "no index begins with column id of public.t"}}
	want := `9 sequences compared: 1 equal or ahead on new, 8 to look at.

MISSING on new: a cutover refuses to begin
  "public"."ident": missing on new; old stands at 3 (handed out); column public.t.id is no identity column on new

UNREADABLE: where it stands is not known, and a cutover refuses to begin
  "public"."hidden": role "mover" may not read it on old; role "mover" may not read it on new
    on old: GRANT USAGE ON SCHEMA "public" TO "mover";
    on old: GRANT SELECT ON SEQUENCE "public"."hidden" TO "mover";
    on new: GRANT USAGE ON SCHEMA "public" TO "mover";
    on new: GRANT SELECT ON SEQUENCE "public"."hidden" TO "mover";

MEMBERS OF EXTENSIONS that a cutover leaves as they are: tables of the extension use them
  "public"."jobs": missing on new; old stands at 3 (handed out); a member of extension "pg_cron", which does not bring it on new
  "public"."veiled": role "mover" may not read it on old; role "mover" may not read it on new
    on old: GRANT USAGE ON SCHEMA "public" TO "mover";
    on old: GRANT SELECT ON SEQUENCE "public"."veiled" TO "mover";
    on new: GRANT USAGE ON SCHEMA "public" TO "mover";
    on new: GRANT SELECT ON SEQUENCE "public"."veiled" TO "mover";

DEFINED OTHERWISE on new
  "public"."evil?name": both stand at 7 (handed out); defined otherwise: cache 5 instead of 1
    on new: -- a name in it holds control characters: take the statement from --json: ALTER SEQUENCE "public"."evil?name" CACHE 1;

ONLY on new: left alone
  "public"."new": only on new

BEHIND on new: it would hand out again what old has handed out, until a cutover sets it
  "public"."a?[2J?b": old stands at 5 (handed out), new is 5 numbers behind at 1 (not handed out yet)
  "public"."theirs": old stands at 9 (handed out), new is 9 numbers behind at 1 (not handed out yet); role "mover" may not set it on new
    on new: GRANT UPDATE ON SEQUENCE "public"."theirs" TO "mover";

A server that is closed for clients takes statements after: set default_transaction_read_only = off;
`
	few := sequences.Text(differences, false)
	tail := "\nWhether rows are beyond their sequence was not looked at for 1 column (named with --all): it needs an index that begins with the column, and the right to read it.\n"
	if few != want+tail {
		t.Errorf("got\n%s\nwant\n%s", few, want+tail)
	}
	all := sequences.Text(differences, true)
	tail = `
EQUAL OR AHEAD on new
  "public"."equal": both stand at 7 (handed out)

NOT LOOKED AT, whether rows are beyond the sequence
  "public"."equal" on old: no index begins with column id of public.t
`
	if all != want+tail {
		t.Errorf("got\n%s\nwant\n%s", all, want+tail)
	}
}

// A right on many sequences is one statement for the schema.
func TestTextOfManyRights(t *testing.T) {
	var all []sequences.Sequence
	for i := range 30 {
		all = append(all, seq(0, false, named(fmt.Sprint("s", i)), func(s *sequences.Sequence) { s.Readable = false }))
	}
	text := sequences.Text(sequences.Compare(all, all), false)
	if n := strings.Count(text, "GRANT "); n != 4 || !strings.Contains(text, `on new: GRANT SELECT ON ALL SEQUENCES IN SCHEMA "public" TO "mover";`) {
		t.Errorf("%d statements:\n%s", n, text)
	}
}

// Once clients are on new, old is what a rollback sets.
func TestTextTheOtherWay(t *testing.T) {
	onNew := []sequences.Sequence{seq(500, true, named("used")), seq(1, false, named("made"))}
	onOld := []sequences.Sequence{seq(40, true, named("used")), seq(1, false, named("dropped"))}
	differences := sequences.CompareTo(pg.Old, onNew, onOld)
	most := int64(500)
	sequences.AddRows(differences, []sequences.Reached{{Sequence: onOld[0], Furthest: &most, Column: "public.t.id"}}, []sequences.Reached{{Sequence: onNew[0], Furthest: &most, Column: "public.t.id"}}, 100)
	want := `3 sequences compared: 0 equal or ahead on old, 3 to look at.

MISSING on old: a rollback refuses to begin
  "public"."made": missing on old; new stands at 1 (not handed out yet)
    on old: CREATE SEQUENCE "public"."made" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1 NO CYCLE;

ONLY on old: left alone
  "public"."dropped": only on old

BEHIND on old: it would hand out again what new has handed out, until a rollback sets it
  "public"."used": new stands at 500 (handed out), old is 460 numbers behind at 40 (handed out)

A server that is closed for clients takes statements after: set default_transaction_read_only = off;
`
	if got := sequences.Text(differences, false); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
