package sequences_test

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/sequences"
)

// seq makes a sequence as CREATE SEQUENCE s does, then changes it.
func seq(last int64, called bool, change ...func(*sequences.Sequence)) sequences.Sequence {
	s := sequences.Sequence{
		Value: sequences.Value{Ref: sequences.Ref{Schema: "public", Name: "s"}, LastValue: last, IsCalled: called},
		Type:  "bigint", Start: 1, Increment: 1, Min: 1, Max: math.MaxInt64, Cache: 1,
		Role: "mover", Readable: true, Alterable: true, Settable: true,
	}
	for _, f := range change {
		f(&s)
	}
	return s
}

func bounds(low, high int64) func(*sequences.Sequence) {
	return func(s *sequences.Sequence) { s.Min, s.Max = low, high }
}

func by(increment int64) func(*sequences.Sequence) {
	return func(s *sequences.Sequence) { s.Increment = increment }
}

func cyclic(s *sequences.Sequence) { s.Cycle = true }

func cache(n int64) func(*sequences.Sequence) {
	return func(s *sequences.Sequence) { s.Cache = n }
}

func TestPlanTargets(t *testing.T) {
	down := func(s *sequences.Sequence) { s.Increment, s.Min, s.Max, s.Start = -1, math.MinInt64, -1, -1 }
	type want struct {
		value           int64
		exhausted, kept bool
		warning         string // part of a warning; empty: no warning at all
	}
	for _, tt := range []struct {
		name     string
		old, new sequences.Sequence
		margin   int64
		want     want
	}{
		{"used, no margin", seq(41, true), seq(1, false), 0, want{value: 42}},
		{"used, margin", seq(41, true), seq(1, false), 100, want{value: 142}},
		{"never used, no margin", seq(1, false), seq(1, false), 0, want{value: 1, kept: true}},
		{"never used, margin", seq(1, false), seq(1, false), 100, want{value: 101}},
		{"set, not handed out", seq(7, false), seq(1, false), 0, want{value: 7}},
		{"negative margin is none", seq(41, true), seq(1, false), -5, want{value: 42}},
		{"same called position", seq(41, true), seq(41, true), 0, want{value: 42, kept: true}},
		{"new ahead", seq(41, true), seq(500, false), 100, want{value: 500, kept: true}},
		{"new ahead by less than the margin", seq(41, true), seq(60, false), 100, want{value: 142}},
		{"descending", seq(-41, true, down), seq(-1, false, down), 100, want{value: -142}},
		{"descending, new ahead", seq(-41, true, down), seq(-500, true, down), 100, want{value: -501, kept: true}},
		{"own steps", seq(40, true, by(10)), seq(1, false, by(10)), 3, want{value: 80}},
		{"a cache block is the least margin", seq(41, true, cache(50)), seq(1, false, cache(50)), 3, want{value: 92}},
		{"no margin, cached", seq(50, true, cache(50)), seq(1, false, cache(50)), 0, want{value: 51}},
		{"the margin just fits", seq(89, true, bounds(1, 100)), seq(1, false, bounds(1, 100)), 10, want{value: 100}},
		{
			"the margin is cut to half of what is left", seq(90, true, bounds(1, 100)), seq(1, false, bounds(1, 100)), 10,
			want{value: 96, warning: "room for only 10 numbers before the bound 100: the margin is 5 instead of 10"},
		},
		{
			"the last number", seq(99, true, bounds(1, 100)), seq(1, false, bounds(1, 100)), 100,
			want{value: 100, warning: "room for only 1 number before"},
		},
		{
			"exhausted", seq(100, true, bounds(1, 100)), seq(1, false, bounds(1, 100)), 100,
			want{value: 100, exhausted: true, warning: "nextval will fail"},
		},
		{
			"exhausted by a step that does not fit", seq(10, true, bounds(1, 11), by(3)), seq(1, false, bounds(1, 11), by(3)), 0,
			want{value: 11, exhausted: true, warning: "nextval will fail"},
		},
		{
			"exhausted on both", seq(100, true, bounds(1, 100)), seq(100, true, bounds(1, 100)), 0,
			want{value: 100, exhausted: true, kept: true, warning: "nextval will fail"},
		},
		{
			"at the end of a cycle", seq(100, true, bounds(1, 100), cyclic), seq(1, false, bounds(1, 100), cyclic), 10,
			want{value: 100, exhausted: true, warning: "the next number is the first one again"},
		},
		{
			"cyclic, no room: never over the bound", seq(97, true, bounds(1, 100), cyclic), seq(1, false, bounds(1, 100), cyclic), 10,
			want{value: 99, warning: "room for only 3 numbers"},
		},
		{
			"cyclic, new far ahead", seq(5, true, bounds(1, 100), cyclic), seq(90, false, bounds(1, 100), cyclic), 10,
			want{value: 90, kept: true, warning: "cyclic, and new is 84 numbers ahead"},
		},
		{
			"new at its end", seq(5, true, bounds(1, 100)), seq(100, true, bounds(1, 100)), 0,
			want{value: 100, exhausted: true, kept: true, warning: "new is at its end (100) while old is not"},
		},
		{
			"exhausted on old, wider on new", seq(32767, true, bounds(1, 32767)), seq(1, false), 100,
			want{value: 32768, warning: "maximum 9223372036854775807 instead of 32767"},
		},
		{
			"the margin reaches past old's bound, wider on new", seq(32760, true, bounds(1, 32767)), seq(1, false), 100,
			want{value: 32768, warning: "maximum"},
		},
		{
			"narrower on new, enough room", seq(50, true, bounds(1, 1000)), seq(1, false, bounds(1, 200)), 100,
			want{value: 151, warning: "maximum 200 instead of 1000"},
		},
		{
			"narrower on new, little room", seq(150, true, bounds(1, 1000)), seq(1, false, bounds(1, 200)), 100,
			want{value: 176, warning: "room for only 50 numbers before the bound 200"},
		},
		{
			"next to the end of bigint", seq(math.MaxInt64-1, true), seq(1, false), math.MaxInt64,
			want{value: math.MaxInt64, warning: "room for only 1 number "},
		},
		{
			"the widest sequence there is", seq(math.MinInt64, false, bounds(math.MinInt64, math.MaxInt64)),
			seq(math.MinInt64, false, bounds(math.MinInt64, math.MaxInt64)), math.MaxInt64,
			want{value: -1},
		},
		{
			"the largest step down", seq(math.MaxInt64, false, bounds(math.MinInt64, math.MaxInt64), by(math.MinInt64)),
			seq(math.MaxInt64, false, bounds(math.MinInt64, math.MaxInt64), by(math.MinInt64)), 1,
			want{value: -1},
		},
		{"another step on new", seq(41, true), seq(1, false, by(10)), 100, want{value: 142, warning: "increment 10 instead of 1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			changes, problems := sequences.Plan([]sequences.Sequence{tt.old}, []sequences.Sequence{tt.new}, tt.margin)
			if len(changes) != 1 || len(problems) != 0 {
				t.Fatalf("changes %+v, problems %+v", changes, problems)
			}
			c := changes[0]
			if c.Value != tt.want.value || c.Exhausted != tt.want.exhausted || c.Kept != tt.want.kept {
				t.Errorf("value %d exhausted %t kept %t, want %+v", c.Value, c.Exhausted, c.Kept, tt.want)
			}
			warnings := strings.Join(c.Warnings, "; ")
			if !strings.Contains(warnings, tt.want.warning) || (tt.want.warning == "") != (warnings == "") {
				t.Errorf("warnings %q, want %q", warnings, tt.want.warning)
			}
			if c.Why == "" {
				t.Error("no reason given")
			}
		})
	}
}

func TestPlanProblems(t *testing.T) {
	ofExtension := func(s *sequences.Sequence) { s.Extension = "ext" }
	unreadable := func(s *sequences.Sequence) { s.Readable = false }
	noRights := func(s *sequences.Sequence) { s.Alterable, s.Settable = false, false }
	ownerOnly := func(s *sequences.Sequence) { s.Settable = false }
	typed := func(name string) func(*sequences.Sequence) { return func(s *sequences.Sequence) { s.Type = name } }
	old := seq(41, true)
	for _, tt := range []struct {
		name       string
		old        sequences.Sequence
		new        []sequences.Sequence
		text, hint string
		ignorable  bool
	}{
		{"missing", old, nil, "missing on new", `CREATE SEQUENCE "public"."s" INCREMENT BY 1`, false},
		{"missing member of an extension", seq(41, true, ofExtension), nil, `extension "ext"`, "", true},
		{"unreadable on old", seq(0, false, unreadable), []sequences.Sequence{old}, "may not read it on old", `GRANT SELECT ON SEQUENCE "public"."s" TO "mover";`, false},
		{"unreadable on new", old, []sequences.Sequence{seq(0, false, unreadable)}, "may not read it on new", `GRANT SELECT ON SEQUENCE "public"."s" TO "mover";`, false},
		{"unreadable member of an extension", seq(0, false, unreadable, ofExtension), []sequences.Sequence{old}, "may not read it on old", "GRANT", true},
		{"no right to set", old, []sequences.Sequence{seq(1, false, noRights)}, "may not set it on new", `GRANT UPDATE ON SEQUENCE "public"."s" TO "mover";`, false},
		{
			"exhausted needs setval", seq(100, true, bounds(1, 100)),
			[]sequences.Sequence{seq(1, false, bounds(1, 100), ownerOnly)},
			"may not set it on new", "GRANT UPDATE", false,
		},
		{"other direction", old, []sequences.Sequence{seq(1, false, by(-1))}, "increment -1 instead of 1, the other direction", "ALTER SEQUENCE", false},
		{"narrower type", old, []sequences.Sequence{seq(1, false, typed("integer"))}, "type integer instead of bigint", "ALTER SEQUENCE", false},
		{"cycles on new only", old, []sequences.Sequence{seq(1, false, cyclic)}, "CYCLE instead of NO CYCLE", "ALTER SEQUENCE", false},
		{"past new's bound", seq(500, true), []sequences.Sequence{seq(1, false, bounds(1, 100))}, "past the bound 100 of new", "MAXVALUE 9223372036854775807", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			changes, problems := sequences.Plan([]sequences.Sequence{tt.old}, tt.new, 10)
			if len(changes) != 0 || len(problems) != 1 {
				t.Fatalf("changes %+v, problems %+v", changes, problems)
			}
			p := problems[0]
			if !strings.Contains(p.Text, tt.text) || !strings.Contains(p.Hint, tt.hint) || p.Blocking == tt.ignorable || p.Ref != tt.old.Ref {
				t.Errorf("problem %+v, want text %q, hint %q, blocking %t", p, tt.text, tt.hint, !tt.ignorable)
			}
		})
	}

	// Without the rights a sequence that needs no change is no problem.
	changes, problems := sequences.Plan([]sequences.Sequence{old}, []sequences.Sequence{seq(900, true, noRights)}, 10)
	if len(problems) != 0 || len(changes) != 1 || !changes[0].Kept {
		t.Errorf("changes %+v, problems %+v, want one kept", changes, problems)
	}
}

func TestChangeSurvivesJSON(t *testing.T) {
	old, fresh := seq(math.MaxInt64-1, true, cache(7)), seq(1, false)
	old.OwnedBy, old.Identity = `"public"."t"."id"`, true
	changes, _ := sequences.Plan([]sequences.Sequence{old}, []sequences.Sequence{fresh}, 100)
	text, err := json.Marshal(changes)
	if err != nil {
		t.Fatal(err)
	}
	var back []sequences.Change
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(changes, back) {
		t.Errorf("became\n%+v, was\n%+v", back, changes)
	}
	if !strings.Contains(string(text), `"schema":"public","name":"s"`) {
		t.Errorf("no schema and name in %s", text)
	}
}

func TestCompare(t *testing.T) {
	type want struct {
		status sequences.Status
		steps  uint64
		text   string
	}
	down := func(s *sequences.Sequence) { s.Increment, s.Min, s.Max, s.Start = -2, -1000, -1, -1 }
	hidden := func(s *sequences.Sequence) { s.Readable = false }
	list := func(s ...sequences.Sequence) []sequences.Sequence { return s }
	for _, tt := range []struct {
		name     string
		old, new []sequences.Sequence
		want     want
		differs  bool
	}{
		{"equal", list(seq(41, true)), list(seq(42, false)), want{sequences.Equal, 0, "both stand"}, false},
		{"ahead", list(seq(41, true)), list(seq(141, true)), want{sequences.Ahead, 100, "100 numbers ahead"}, false},
		{"behind", list(seq(41, true)), list(seq(1, false)), want{sequences.Behind, 41, "41 numbers behind"}, true},
		{"behind by one", list(seq(1, true)), list(seq(1, false)), want{sequences.Behind, 1, "1 number behind"}, true},
		{"descending, behind", list(seq(-11, true, down)), list(seq(-1, false, down)), want{sequences.Behind, 6, "6 numbers behind"}, true},
		{"descending, ahead", list(seq(-11, true, down)), list(seq(-15, false, down)), want{sequences.Ahead, 1, "ahead"}, false},
		{"both exhausted", list(seq(9, true, bounds(1, 9))), list(seq(9, true, bounds(1, 9))), want{sequences.Equal, 0, "both"}, false},
		{"exhausted on new", list(seq(4, true, bounds(1, 9))), list(seq(9, true, bounds(1, 9))), want{sequences.Ahead, 5, "ahead"}, false},
		{"exhausted on old", list(seq(9, true, bounds(1, 9))), list(seq(1, false, bounds(1, 9))), want{sequences.Behind, 9, "behind"}, true},
		{"missing", list(seq(41, true)), nil, want{sequences.Missing, 0, "missing on new"}, true},
		{"extra", nil, list(seq(41, true)), want{sequences.Extra, 0, "only on new"}, true},
		{"unreadable", list(seq(41, true)), list(seq(0, false, hidden)), want{sequences.Unreadable, 0, "may not read it on new"}, true},
		{"definition", list(seq(41, true)), list(seq(42, false, cache(5), by(3))), want{sequences.Equal, 0, "increment 3 instead of 1, cache 5 instead of 1"}, true},
		{
			"the whole range", list(seq(math.MaxInt64, true, bounds(math.MinInt64, math.MaxInt64))),
			list(seq(math.MinInt64, false, bounds(math.MinInt64, math.MaxInt64))),
			want{sequences.Behind, math.MaxUint64, "behind"},
			true,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			diffs := sequences.Compare(tt.old, tt.new)
			if len(diffs) != 1 {
				t.Fatalf("%+v", diffs)
			}
			d := diffs[0]
			if d.Status != tt.want.status || d.Steps != tt.want.steps || !strings.Contains(d.Text, tt.want.text) || d.Differs() != tt.differs {
				t.Errorf("%s, %d steps, %q, differs %t; want %+v, %t", d.Status, d.Steps, d.Text, d.Differs(), tt.want, tt.differs)
			}
		})
	}
}

func TestGrantsOfMany(t *testing.T) {
	e := &sequences.UnreadableError{Role: `the "mover"`}
	for i := range 30 {
		e.Sequences = append(e.Sequences, sequences.Ref{Schema: []string{"a", "B b"}[i%2], Name: string(rune('a' + i))})
	}
	want := `GRANT USAGE ON SCHEMA "a" TO "the ""mover"""; GRANT SELECT ON ALL SEQUENCES IN SCHEMA "a" TO "the ""mover"""; ` +
		`GRANT USAGE ON SCHEMA "B b" TO "the ""mover"""; GRANT SELECT ON ALL SEQUENCES IN SCHEMA "B b" TO "the ""mover""";`
	if got := strings.Join(e.Grants(), " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A rollback sets old's sequences: what is said names the servers that way round.
func TestPlanToOldNamesTheServers(t *testing.T) {
	used, bounded := seq(41, true), seq(1, false, bounds(1, 10))
	hidden := used
	hidden.Readable, hidden.Role = false, "tool"
	for _, tt := range []struct {
		name string
		from sequences.Sequence
		to   []sequences.Sequence
		want string
	}{
		{"missing", used, nil, "missing on old"},
		{"unreadable", hidden, []sequences.Sequence{used}, "may not read it on new"},
		{"another direction", used, []sequences.Sequence{seq(-1, false, by(-1))}, "defined otherwise on old"},
		{"past the bound", used, []sequences.Sequence{bounded}, "past the bound 10 of old"},
	} {
		_, problems := sequences.PlanTo(pg.Old, []sequences.Sequence{tt.from}, tt.to, 0)
		if len(problems) != 1 || !strings.Contains(problems[0].Text, tt.want) || strings.Contains(problems[0].Hint, "on new") {
			t.Errorf("%s: %+v, want %q", tt.name, problems, tt.want)
		}
	}
}
