package config_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/config"
)

func flatten(err error) []error {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		var all []error
		for _, e := range joined.Unwrap() {
			all = append(all, flatten(e)...)
		}
		return all
	}
	return []error{err}
}

func TestSecretShows(t *testing.T) {
	t.Setenv("PGUSER", "me")
	for text, want := range map[string]string{
		"":                                  "",
		"postgres://app:s3cret@h/shop":      "postgres://app@h:5432/shop",
		"postgresql://app:s3cret@h:1/shop":  "postgres://app@h:1/shop",
		"postgres://app:s3%40cret@h/shop":   "postgres://app@h:5432/shop",
		"postgres://h/shop?password=s3cret": "postgres://me@h:5432/shop",
		"postgres://h/shop?user=app&password=s3cret&sslmode=disable": "postgres://app@h:5432/shop",
		"host=h dbname=shop user=app password=s3cret":                "postgres://app@h:5432/shop",
		`host=h dbname=shop user=app password='s3 \'cret'`:           "postgres://app@h:5432/shop",
		"postgres://app:s3cret@h1,h2:5433/shop":                      "postgres://app@h1:5432,h2:5433/shop",
		"host=/var/run/postgresql dbname=shop password=s3cret":       "postgres://me@/shop?host=/var/run/postgresql&port=5432",
		"postgres://app:s3cret@[::1]:5433/shop":                      "postgres://app@[::1]:5433/shop",
		"postgres://app:s3cret#x@h/shop":                             "postgres://app@h:5432/shop", // as libpq reads it
		"postgres://app:s3cret?x@h/shop":                             "postgres://app@h:5432/shop",
		// Passwords that were not encoded, so that their parts end up elsewhere.
		"postgres://app:1/s3cret@h/shop":  "(redacted)",
		"postgres://app:s3cret/x@h/shop":  "(redacted)",
		"postgres://app:s3cret@x@h/shop":  "(redacted)",
		"postgres://app:x@s3cret@h/shop":  "(redacted)",
		"postgres://app%3As3cret@h/shop":  "(redacted)",
		"mysql://app:s3cret@h/shop":       "(redacted)",
		"s3cret":                          "(redacted)",
		"host=h password='s3cret":         "(redacted)",
		"postgres://app:s3cret@h:port/x":  "(redacted)",
		"postgres://h/x?sslmode=s3cret":   "(redacted)",
		"host=h dbname=x@s3cret user=app": "(redacted)",
		"host=h@s3cret dbname=x user=app": "(redacted)",
		"host=h dbname=x user=app?s3cret": "(redacted)",
	} {
		s := config.NewSecret(text)
		if s.String() != want {
			t.Errorf("%s shows as %s, want %s", text, s, want)
		}
		if s.Reveal() != text || s.Empty() != (text == "") {
			t.Errorf("%s is kept as %s", text, s.Reveal())
		}
	}
}

// However a Config or a Secret is printed, logged or marshaled, alone, behind a
// pointer or hidden within something else, the password does not show.
func TestPasswordIsNeverShown(t *testing.T) {
	const url = "postgres://app:s3cret@h/shop"
	c, err := config.FromURLs(url, "host=h2 dbname=shop password=s3cret", "")
	if err != nil {
		t.Fatal(err)
	}
	c.Old.PeerURL = config.NewSecret(url)
	secret := c.Old.URL
	type wrapper struct {
		inner  config.Secret
		Outer  config.Secret
		config *config.Config
		whole  config.Config
	}
	w := wrapper{secret, secret, c, *c}
	shows := func(how, text string) {
		t.Helper()
		if strings.Contains(text, "s3cret") {
			t.Errorf("%s shows the password: %s", how, text)
		}
	}
	for _, value := range []any{secret, &secret, *c, c, w, &w, []any{secret, *c}, map[string]any{"x": secret, "y": c}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%p", "%10.2v"} {
			shows(fmt.Sprintf("%s of %T", verb, value), fmt.Sprintf(verb, value))
		}
		shows(fmt.Sprintf("Sprint of %T", value), fmt.Sprint(value))
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		shows(fmt.Sprintf("JSON of %T", value), string(text))
		text, err = yaml.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		shows(fmt.Sprintf("YAML of %T", value), string(text))
		for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
			"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
			"json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
		} {
			var b bytes.Buffer
			slog.New(handler(&b)).Info("config", "value", value)
			shows(fmt.Sprintf("slog %s of %T", name, value), b.String())
		}
	}
	shows("an error", fmt.Errorf("connecting: %v", secret).Error())
	// It is not hidden by showing nothing at all.
	for how, got := range map[string]string{
		"String":   secret.String(),
		"LogValue": secret.LogValue().String(),
		"%v":       fmt.Sprintf("%v", secret),
		"%d":       fmt.Sprintf("%d", secret),
		"JSON":     strings.Trim(marshaled(t, json.Marshal, secret), `"`),
		"YAML":     strings.TrimSpace(marshaled(t, yaml.Marshal, secret)),
	} {
		if got != "postgres://app@h:5432/shop" {
			t.Errorf("%s is %q", how, got)
		}
	}
	for _, got := range []string{fmt.Sprintf("%q", secret), fmt.Sprintf("%#v", secret)} {
		if got != `"postgres://app@h:5432/shop"` {
			t.Errorf("got %s", got)
		}
	}
}

func marshaled(t *testing.T, f func(any) ([]byte, error), value any) string {
	t.Helper()
	text, err := f(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestConfigJSON(t *testing.T) {
	c, err := config.FromURLs("postgres://app:s3cret@h/shop", "postgres://app@h2/shop", "")
	if err != nil {
		t.Fatal(err)
	}
	c.Traffic = []config.Traffic{{MultiHost: &config.MultiHost{}}, {Hook: &config.Hook{Command: []string{"x"}}}}
	got := marshaled(t, json.Marshal, c)
	want := `{"name":"shop","old":{"url":"postgres://app@h:5432/shop","peer_url":""},` +
		`"new":{"url":"postgres://app@h2:5432/shop","peer_url":""},"tables":{"include":["*.*"],"exclude":[]},` +
		`"check":{},"copy":{"mode":"native","jobs":4},"streams":1,"sequences":{"margin":100},` +
		`"warm":{"recent":"24h","budget":"auto","jobs":4,"rate":"0","prewarm":"auto","every":"5m","before_cutover":"30s"},"analyze":{"stages":["1","10","default"],"jobs":4,"per_table":"15m","foreign":false,"carry":true},` +
		`"wal":{"warn":"20GiB","on_limit":"warn"},"cutover":{"max_lag":"16MiB","max_pause":"10s","lock_timeout":"300ms",` +
		`"attempts":20,"on_closed":"error","terminate_blockers_after":"0s","revoke_connect":false},"unreplicated":{"budget":"2s","unlogged":"copy","large_objects":"copy"},"refresh":{"before_cutover":true,"bound":"1h"},"traffic":[{"multihost":{}},{"hook":{"command":["x"]}}],"hooks":{"dir":""},"rollback":{"keep":true},"probe":{"url":"","webhook":""}}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// FuzzSecret: whatever stands around a password, it is not shown and does not
// get into a template, neither where libpq takes it for the password nor where
// a person would.
func FuzzSecret(f *testing.F) {
	f.Add("postgres://app:", "@h/shop")
	f.Add("postgres://app:1/", "@h/shop")
	f.Add("postgres://app:x@", "@h1:1,h2/shop?sslmode=disable")
	f.Add("postgres://h/shop?sslmode=disable&pass%77ord=", "&user=app")
	f.Add("host=h dbname=shop password=", " user=app")
	f.Add(`host=h password='x \\' `, `\'' dbname = 'a'`)
	f.Fuzz(func(t *testing.T, before, after string) {
		const password = "correcthorsebatterystaple"
		text := before + password + after
		s := config.NewSecret(text)
		_, userinfo, isURL := strings.Cut(before, "://")
		meant := isURL && strings.Contains(userinfo, ":") && strings.Contains(after, "@")
		c, err := pgx.ParseConfig(text)
		taken := err == nil && strings.Contains(c.Password, password) &&
			!strings.Contains(c.User+c.Database+c.Host, password)
		if (meant || taken) && strings.Contains(fmt.Sprintf("%s %#v", s, s), password) {
			t.Fatalf("%q shows as %s", text, s)
		}
		template, err := config.Template(text, "postgres://other.example/other", "x")
		if err != nil && strings.Contains(err.Error(), password) {
			t.Fatalf("the error for %q shows the password: %v", text, err)
		}
		if (meant || taken) && strings.Contains(string(template), password) {
			t.Fatalf("the template for %q holds the password:\n%s", text, template)
		}
	})
}
