package sequences_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/sequences"
)

// A Reader sees what the function by names sees, again and again.
func TestReader(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		s := open(t, major)
		s.exec(t, `create sequence fresh; create sequence used; select nextval('used'), nextval('used');
			create sequence down increment -5 maxvalue -1; select nextval('down');
			create schema "App"; create sequence "App"."s ""1"; select setval('"App"."s ""1"', 70)`)
		var refs []sequences.Ref
		for _, one := range s.read(t) {
			refs = append(refs, one.Ref)
		}
		if len(refs) != 4 {
			t.Fatalf("%v", refs)
		}
		reader, err := sequences.NewReader(t.Context(), s.conn, s.version, refs)
		if err != nil {
			t.Fatal(err)
		}
		same := func() []sequences.Value {
			t.Helper()
			want, err := sequences.ReadCalled(t.Context(), s.client, s.version, refs)
			if err != nil {
				t.Fatal(err)
			}
			got, err := reader.ReadCalled(t.Context())
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%v, %v, want %v", got, err, want)
			}
			return got
		}
		same()
		s.exec(t, `select nextval('used'), nextval('fresh'), nextval('down')`)
		used := slices.IndexFunc(same(), func(v sequences.Value) bool { return v.Name == "used" && v.LastValue == 3 && v.IsCalled })
		if used < 0 {
			t.Error("the next number of used was not seen")
		}
		// One of the same name is another one: new was set for the first.
		s.exec(t, `drop sequence used; create sequence used; select setval('used', 1000)`)
		if values, err := reader.ReadCalled(t.Context()); err == nil || !strings.Contains(err.Error(), `"public"."used" is not the same any more`) || hint.Of(err) == "" {
			t.Errorf("%v, %v, although used was made anew", values, err)
		}
		s.exec(t, `drop sequence used`)
		if _, err := reader.ReadCalled(t.Context()); err == nil || !strings.Contains(err.Error(), `"public"."used" is not there`) || hint.Of(err) == "" {
			t.Errorf("%v", err)
		}
		if _, err := sequences.NewReader(t.Context(), s.conn, s.version, refs); err == nil || !strings.Contains(err.Error(), `"public"."used" is not there`) {
			t.Errorf("%v", err)
		}
	})
}

// Nothing to read is no reason to fail.
func TestReaderOfNone(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		s := open(t, major)
		reader, err := sequences.NewReader(t.Context(), s.conn, s.version, nil)
		if err != nil {
			t.Fatal(err)
		}
		if values, err := reader.ReadCalled(t.Context()); err != nil || len(values) != 0 {
			t.Errorf("%v, %v", values, err)
		}
	})
}
