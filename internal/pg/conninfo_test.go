package pg_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/pgcutover/pgcutover/internal/pg"
)

func TestKeyword(t *testing.T) {
	t.Setenv("PGSSLMODE", "verify-full")
	for _, test := range []struct{ conninfo, key, want string }{
		{"host=h port=1 sslmode=disable", "sslmode", "disable"},
		{"host = h  sslmode =  require ", "sslmode", "require"},
		{"sslmode='disable' host=h", "sslmode", "disable"},
		{`password='it''s' sslmode=x`, "password", "it"}, // libpq: quotes are not doubled
		{`password='it\'s \\ odd' host=h`, "password", `it's \ odd`},
		{`password=a\ b host=h`, "password", "a b"},
		{`password='' host=h`, "password", ""},
		{"host=h\tsslmode=allow\n", "sslmode", "allow"},
		{"host=h", "sslmode", "verify-full"},
		{"postgres://u@h/d?sslmode=disable", "sslmode", "disable"},
		{"postgresql://u@h/d", "sslmode", "verify-full"},
		{"", "sslmode", "verify-full"},
		{"nonsense", "host_that_is_nowhere", ""},
	} {
		if got := pg.Keyword(test.conninfo, test.key); got != test.want {
			t.Errorf("%s of %q is %q, want %q", test.key, test.conninfo, got, test.want)
		}
	}
}

// password draws passwords as people and generators make them: long enough that
// finding one in a text is no accident.
func password() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		return rapid.StringOfN(rapid.RuneFrom([]rune(`abcXYZ019 '\"%@:/?#&=+;$[]{}!~éß漢`)), 6, 20, -1).Draw(t, "password") + "Zq"
	})
}

func quote(v string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v) + "'"
}

// Whatever the password and however it is written, no error tells it.
func TestRedact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		secret := password().Draw(t, "secret")
		asURL := (&url.URL{Scheme: "postgres", User: url.UserPassword("u", secret), Host: "h:1", Path: "/d"}).String()
		inQuery := "postgres://u@h:1/d?password=" + strings.ReplaceAll(url.QueryEscape(secret), "+", "%20")
		asWords := "host=h user=u password=" + quote(secret) + " dbname=d"
		for _, conninfo := range []string{asURL, inQuery, asWords} {
			cause := errors.New("connecting with " + conninfo + ", that is password " + secret)
			err := pg.Redact(fmt.Errorf("opening: %w", cause), "", conninfo)
			if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), url.QueryEscape(secret)) && url.QueryEscape(secret) != "" {
				t.Fatalf("%q tells the password %q", err, secret)
			}
			if !strings.HasPrefix(err.Error(), "opening: connecting with ") || !errors.Is(err, cause) {
				t.Fatalf("%q is not the error any more", err)
			}
			c, err := pgx.ParseConfig(conninfo)
			if err == nil && c.Password != secret {
				t.Fatalf("pgx reads %q, the test meant %q", c.Password, secret)
			}
		}
		if got := pg.Keyword(asWords, "password"); got != secret {
			t.Fatalf("the password of %q is %q", asWords, got)
		}
	})
	plain := errors.New("no secret")
	if err := pg.Redact(plain, "postgres://u:p4ssw0rd@h/d"); err != plain { //nolint:errorlint // the very same
		t.Errorf("an error without secret was changed to %v", err)
	}
	if err := pg.Redact(nil, "postgres://u:p4ssw0rd@h/d"); err != nil {
		t.Errorf("nil became %v", err)
	}
}

func TestOpenKeepsPasswordsSecret(t *testing.T) {
	for _, conninfo := range []string{
		"postgres://u:s3cr3t@127.0.0.1:1/d",
		"postgres://u:s3cr3t@127.0.0.1:notaport/d",
		"postgres://u:s3cr3t@127.0.0.1:1/d?sslmode=nonsense",
		"host=127.0.0.1 port=1 user=u password=s3cr3t dbname=d",
		"host=127.0.0.1 port=1 user=u password='s3cr3t sslmode",
		"postgres://u:s3cr3t%zz@127.0.0.1:1/d",
	} {
		_, err := pg.Open(t.Context(), pg.Options{Side: pg.New, URL: conninfo, Move: "m"})
		if err == nil || strings.Contains(fmt.Sprintf("%v %+v", err, err), "s3cr3t") || !strings.Contains(err.Error(), "new server") {
			t.Errorf("%s: %v", strings.Replace(conninfo, "s3cr3t", "x", 1), err)
		}
	}
}
