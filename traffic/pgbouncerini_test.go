package traffic

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// rewrite is readIni and rewritten in one.
func rewrite(text, name string, to PoolerEndpoint) (string, error) {
	f, err := readIni([]byte(text))
	if err != nil {
		return "", err
	}
	out, err := f.rewritten(name, to)
	return string(out), err
}

func TestRewriteEntry(t *testing.T) {
	to := PoolerEndpoint{Host: "new", Port: 6543, Database: "shop"}
	for name, test := range map[string]struct{ before, after string }{
		"plain":               {"[databases]\nshop = host=old port=5432\n", "[databases]\nshop = host=new port=6543\n"},
		"other keys":          {"[databases]\nshop=user=app host=old pool_size=7 port=1 connect_query='select ''x=1'''\n", "[databases]\nshop=user=app host=new pool_size=7 port=6543 connect_query='select ''x=1'''\n"},
		"host in a query":     {"[databases]\nshop = connect_query='set host=old' host=old port=1\n", "[databases]\nshop = connect_query='set host=old' host=new port=6543\n"},
		"quotes stay":         {"[databases]\nshop = host='old' port='1' dbname='x'\n", "[databases]\nshop = host='new' port='6543' dbname='shop'\n"},
		"several hosts":       {"[databases]\nshop = host=a,b,c port=1\n", "[databases]\nshop = host=new port=6543\n"},
		"no port":             {"[databases]\nshop = host=old user=app\n", "[databases]\nshop = port=6543 host=new user=app\n"},
		"a socket":            {"[databases]\nshop = user=app\n", "[databases]\nshop = host=new port=6543 user=app\n"},
		"nothing at all":      {"[databases]\nshop =\nx = host=y\n", "[databases]\nshop =host=new port=6543\nx = host=y\n"},
		"the last one counts": {"[databases]\nshop = host=old port=1 host=old2\nshop = host=old port=2 host = a\n", "[databases]\nshop = host=old port=1 host=old2\nshop = host=old port=6543 host = new\n"},
		"comments":            {"; shop = host=old\n[databases]\n  # shop = host=old\n\tshop = host=old  \t\r\n;x", "; shop = host=old\n[databases]\n  # shop = host=old\n\tshop = port=6543 host=new  \t\r\n;x"},
		"other sections":      {"[pgbouncer]\nshop = host=old\n[databases] shop = host=old port=1\n[users]\nshop = pool_mode=session", "[pgbouncer]\nshop = host=old\n[databases] shop = host=new port=6543\n[users]\nshop = pool_mode=session"},
		"included":            {"shop = host=old port=1\n", "shop = host=new port=6543\n"},
		"wanted already":      {"[databases]\nshop = port = 6543   host = 'new'\n", "[databases]\nshop = port = 6543   host = 'new'\n"},
		"similar names":       {"[databases]\nshop2 = host=old\nshop.x = host=old\n-shop = host=old\nshop = host=old port=1\n'sh op' = host=old\n", "[databases]\nshop2 = host=old\nshop.x = host=old\n-shop = host=old\nshop = host=new port=6543\n'sh op' = host=old\n"},
		"a tab is no space":   {"[databases]\nshop = host=old\tport=1 port=2\n", "[databases]\nshop = host=new port=6543\n"},
	} {
		got, err := rewrite(test.before, "shop", to)
		if err != nil || got != test.after {
			t.Errorf("%s: %v\n got %q\nwant %q", name, err, got, test.after)
		}
	}
	got, err := rewrite("[databases]\nshop = port=1\n", "shop", PoolerEndpoint{Host: "/run/with space", Port: 5432, Database: "o'x"})
	if want := "[databases]\nshop = host='/run/with space' dbname='o''x' port=5432\n"; err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestRewriteRefuses(t *testing.T) {
	to := PoolerEndpoint{Host: "new", Port: 6543, Database: "shop"}
	for text, want := range map[string]string{
		"[databases]\nother = host=old\n":       "there is no entry",
		"[pgbouncer]\nshop = host=old\n":        "there is no entry",
		"[databases\nshop = host=old\n":         "line 1: a section's name",
		"[databases]\n\nshop host=old\n":        "line 3: neither",
		"[databases]\nx = host=\n":              "line 2: the entry x",
		"[databases]\nshop = host='old port=1":  "line 2: the entry shop",
		"[databases]\nshop = host='old'port=1":  "line 2: the entry shop",
		"[databases]\nshop = host=old ; words":  "line 2: the entry shop",
		"[databases]\nshop = host=old port=all": "no port number",
		"[databases]\nshop = host=old\x00":      "NUL",
		"[databases]\n\"shop\" = host=old":      "line 2: neither",
	} {
		if _, err := rewrite(text, "shop", to); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	for _, host := range []string{"", "a\nb", "a\x00b"} {
		if _, err := rewrite("shop = host=old", "shop", PoolerEndpoint{Host: host, Port: 1, Database: "shop"}); err == nil {
			t.Errorf("%q was written", host)
		}
	}
}

// A value of an entry, and the ways to write it.
func drawValue(t *rapid.T, label string) string {
	value := rapid.StringMatching(`[a-z0-9/.,:=;#'\t -]{1,8}`).Draw(t, label)
	bare := !strings.ContainsAny(value, " '\t") && rapid.Bool().Draw(t, label+" bare")
	if bare {
		return value
	}
	return "'" + strings.ReplaceAll(value, "'", "''") + "'"
}

func drawEntry(t *rapid.T, name string) string {
	spaces := rapid.SampledFrom([]string{"", " ", "  "})
	var b strings.Builder
	for range rapid.IntRange(1, 5).Draw(t, "keys") {
		key := rapid.SampledFrom([]string{"host", "dbname", "user", "password", "connect_query", "timezone"}).Draw(t, "key")
		value := drawValue(t, key)
		if rapid.IntRange(0, 3).Draw(t, "with port") == 0 {
			key, value = "port", fmt.Sprint(rapid.IntRange(1, 65535).Draw(t, "port"))
		}
		b.WriteString(key + spaces.Draw(t, "s") + "=" + spaces.Draw(t, "s") + value + " ")
	}
	return name + spaces.Draw(t, "s") + "=" + spaces.Draw(t, "s") + b.String()
}

// drawFile makes a file with an entry for shop, and the lines around it.
func drawFile(t *rapid.T, others []string) (before, line, after string) {
	lines := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string {
		kinds := append([]string{"", "; a comment with shop = host=x", "\t# another", "[databases]"}, others...)
		if rapid.Bool().Draw(t, "entry") {
			return drawEntry(t, rapid.SampledFrom([]string{"a", "b.c", "shop2", "_-9"}).Draw(t, "name"))
		}
		return rapid.SampledFrom(kinds).Draw(t, "line")
	}), 0, 6)
	ending := rapid.SampledFrom([]string{"\n", "\r\n", " \n\n"}).Draw(t, "ending")
	join := func(list []string) string {
		if len(list) == 0 {
			return ""
		}
		return strings.Join(list, ending) + ending
	}
	return "[databases]\n" + join(lines.Draw(t, "before")) + "[databases]" + ending, drawEntry(t, "shop"), ending + join(lines.Draw(t, "after"))
}

func drawEndpoint(t *rapid.T) PoolerEndpoint {
	text := rapid.StringMatching(`[a-z0-9/.,' -]{1,8}`)
	return PoolerEndpoint{Host: text.Draw(t, "new host"), Port: rapid.IntRange(1, 65535).Draw(t, "new port"), Database: text.Draw(t, "new dbname")}
}

// Of any file, only the entry changes, and of it only where it leads.
func TestRewritingTouchesNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, line, after := drawFile(t, []string{
			"[pgbouncer]\npool_mode = transaction\nshop = host=x\n[databases]", "[users]\nshop = pool_mode=session\n[databases]", "%include /etc/shop.ini",
		})
		text := before + line + after
		to := drawEndpoint(t)
		file, err := readIni([]byte(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		out, err := file.rewritten("shop", to)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if !bytes.HasPrefix(out, []byte(before)) || !bytes.HasSuffix(out, []byte(after)) {
			t.Fatalf("bytes outside of the line changed:\n%q\n%q", text, out)
		}
		again, err := readIni(out)
		if err != nil {
			t.Fatalf("%q cannot be read: %v", out, err)
		}
		checkEntry(t, file, again, to)
		twice, err := again.rewritten("shop", to)
		if err != nil || !bytes.Equal(twice, out) {
			t.Fatalf("a second time changes it: %v\n%q\n%q", err, out, twice)
		}
		back := mustLead(t, file)
		if back.Host == "" {
			return // nothing says "the default socket" again
		}
		home, err := again.rewritten("shop", back)
		if err != nil {
			t.Fatal(err)
		}
		if got := mustLead(t, must1(readIni(home))); got != back {
			t.Fatalf("back home it leads to %v, not to %v", got, back)
		}
		if len(home) == len(text) && string(home) != text {
			t.Fatalf("back home the bytes differ:\n%q\n%q", text, home)
		}
	})
}

func must1(f ini, err error) ini {
	if err != nil {
		panic(err)
	}
	return f
}

func mustLead(t *rapid.T, f ini) PoolerEndpoint {
	e, ok := f.find("shop")
	if !ok {
		t.Fatalf("no entry in %q", f.text)
	}
	to, err := e.endpoint()
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// checkEntry compares the entries of both files.
func checkEntry(t *rapid.T, before, after ini, to PoolerEndpoint) {
	if got := mustLead(t, after); got != to {
		t.Fatalf("it leads to %v, not to %v", got, to)
	}
	if len(before.entries) != len(after.entries) || len(before.includes) != len(after.includes) {
		t.Fatal("the number of entries changed")
	}
	last, _ := before.find("shop")
	for i, e := range before.entries {
		other := func(pairs []pair) []string {
			var out []string
			for _, p := range pairs {
				if e.at != last.at || !slices.Contains([]string{"host", "port", "dbname"}, p.key) {
					out = append(out, p.key+"="+p.value)
				}
			}
			return out
		}
		if e.name != after.entries[i].name || !slices.Equal(other(e.pairs), other(after.entries[i].pairs)) {
			t.Fatalf("an entry changed: %v, %v", e, after.entries[i])
		}
	}
}

// FuzzRewrite: no file makes the reader panic; what is rewritten can be read,
// and leads where it should.
func FuzzRewrite(f *testing.F) {
	f.Add([]byte("[databases]\nshop = host=old port=5432 dbname='x''y' ; \n%include a\n[users]\nx=y"))
	f.Add([]byte("shop='"))
	f.Add([]byte("[databases]shop=host=a=b  dbname  =  c\v\f\r\n'a b'=host=c"))
	to := PoolerEndpoint{Host: "new.example", Port: 6543, Database: "sh'op"}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := readIni(text)
		if err != nil {
			return
		}
		out, err := file.rewritten("shop", to)
		if err != nil {
			return
		}
		again, err := readIni(out)
		if err != nil {
			t.Fatalf("%q became %q, which cannot be read: %v", text, out, err)
		}
		e, _ := again.find("shop")
		if got, err := e.endpoint(); err != nil || got != to {
			t.Fatalf("%q became %q, which leads to %v, %v", text, out, got, err)
		}
	})
}
