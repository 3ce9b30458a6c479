package schemas

import (
	"strings"
	"testing"
)

const dumpText = `--
-- PostgreSQL database dump
--

SET default_tablespace = '';

--
-- Name: a; Type: TABLE; Schema: public; Owner: x
--

CREATE TABLE public.a (
    id integer
);


ALTER TABLE public.a OWNER TO x;
ALTER TABLE ONLY public.a ALTER COLUMN id SET (pg_attver=123);


SET default_tablespace = two;

--
-- Name: b; Type: VIEW; Schema: public; Owner: x
--

CREATE VIEW public.b AS
 SELECT 1;


--
-- PostgreSQL database dump complete
--

\unrestrict abc

`

// TestDumpIsTakenApart reads what pg_dump writes.
func TestDumpIsTakenApart(t *testing.T) {
	d := parseDump(t, dumpText)
	if len(d) != 2 || d[0].title != "Name: a; Type: TABLE; Schema: public; Owner: x" ||
		d[0].body != "CREATE TABLE public.a (\n    id integer\n);\n\n\nALTER TABLE public.a OWNER TO x;" || d[1].body != "CREATE VIEW public.b AS\n SELECT 1;" {
		t.Errorf("got %q", d)
	}
}

// TestExplanations makes differences, of which only the explained one may pass.
func TestExplanations(t *testing.T) {
	old := parseDump(t, dumpText)
	x := explanation{title: old[0].title, differ: []string{"id integer", "id bigint"}}
	change := func(from, to string) dump { return parseDump(t, strings.Replace(dumpText, from, to, 1)) }
	for name, c := range map[string]struct {
		new dump
		x   explanation
		why string
	}{
		"explained":          {change("integer", "bigint"), x, ""},
		"same":               {old, x, "nothing of that title"},
		"another":            {change("integer", "text"), x, "another difference"},
		"one more":           {change("id integer", "id bigint,\n    more text"), x, "another difference"},
		"gone":               {old[1:], x, "nothing of that title differs on the new"},
		"not there":          {change("integer", "bigint"), explanation{title: x.title, differ: []string{"id int4", "id int8"}}, "does not stand there once"},
		"gone and so said":   {old[1:], explanation{title: x.title, title2: "-", differ: []string{old[0].body}}, ""},
		"gone, said of else": {old[1:], explanation{title: x.title, title2: "-", differ: []string{"CREATE TABLE public.c ();"}}, "something else"},
	} {
		onlyOld, onlyNew := old.without(c.new), c.new.without(old)
		why := c.x.explain(t, nil, &onlyOld, &onlyNew)
		if (why == "") != (c.why == "") || !strings.Contains(why, c.why) {
			t.Errorf("%s: %q, want %q", name, why, c.why)
		}
		if c.why == "" && len(onlyOld)+len(onlyNew) > 0 {
			t.Errorf("%s: explained, and yet %v %v are left", name, onlyOld, onlyNew)
		}
	}
}

// TestEveryExplanationIsOfACase finds explanations that are never looked at.
func TestEveryExplanationIsOfACase(t *testing.T) {
	for _, x := range explained {
		if x.reason == "" || len(x.pairs) == 0 || !strings.HasPrefix(x.title, "Name: ") {
			t.Errorf("%+v is incomplete", x)
		}
		switch x.of {
		case "inherit", "kinds", "names", "rails":
		default:
			t.Errorf("%q is no case", x.of)
		}
	}
}
