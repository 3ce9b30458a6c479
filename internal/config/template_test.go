package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/config"
)

func template(t *testing.T, oldURL, newURL, name string) string {
	t.Helper()
	text, err := config.Template(oldURL, newURL, name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestTemplateLoads(t *testing.T) {
	text := template(t, "postgres://app:s3cret@old/shop?sslmode=disable&password=s3cret", "host=new dbname=shop user=app password='s3 cret'", "")
	c := parse(t, text, noEnv)
	want, err := config.FromURLs("postgres://app@old/shop?sslmode=disable", "host=new dbname=shop user=app", "shop")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c, want) {
		t.Fatalf("got %s\nwant %s", c, want)
	}
	if strings.Contains(text, "s3") {
		t.Fatalf("the template holds the password:\n%s", text)
	}
}

// Every commented option of the template is real, and shows its default. Only
// those that have no default are left out of the comparison.
func TestTemplateOptionsAreTheDefaults(t *testing.T) {
	text := template(t, "postgres://app@old/shop", "postgres://app@new/shop", "shop")
	active := regexp.MustCompile(`(?m)^#(\S| {2})`).ReplaceAllString(text, "$1")
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "hooks"), 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse(filepath.Join(dir, "pgcutover.yaml"), []byte(active), noEnv)
	if err != nil {
		t.Fatalf("%v in\n%s", err, active)
	}
	if len(c.Traffic) != 3 || c.Hooks.Dir != filepath.Join(dir, "hooks") || c.Probe.URL.Empty() || c.Probe.Webhook.Empty() {
		t.Fatalf("the examples are not active: %s", c)
	}
	shown := *c.Traffic[0].PgBouncer
	c.Traffic, c.Hooks, c.Probe = []config.Traffic{}, config.Hooks{}, config.Probe{}
	if want := parse(t, text, noEnv); !reflect.DeepEqual(c, want) {
		t.Fatalf("got %s\nwant %s", c, want)
	}
	least := parse(t, with(`traffic: [ { pgbouncer: { admin_url: "postgres://h/pgbouncer", database: x, config: /y } } ]`), noEnv).Traffic[0].PgBouncer
	if shown.PauseTimeout != least.PauseTimeout || shown.PauseAttempts != least.PauseAttempts {
		t.Errorf("the template shows %+v, the defaults are %+v", shown, least)
	}
	// All sections are there.
	for i := range reflect.TypeFor[config.Config]().NumField() {
		key := reflect.TypeFor[config.Config]().Field(i).Tag.Get("yaml")
		switch key {
		case "streams": // only one value is possible in this version
			continue
		}
		if !strings.Contains("\n"+active, "\n"+key+":") {
			t.Errorf("the template does not mention %s", key)
		}
	}
}

func TestTemplateURLs(t *testing.T) {
	for given, want := range map[string]string{
		"postgres://app@h/shop":                                "postgres://app@h/shop",
		"postgres://app:s3cret@h/shop":                         "postgres://app@h/shop",
		"postgres://app:s3%40cret@h:1/shop?sslmode=disable":    "postgres://app@h:1/shop?sslmode=disable",
		"postgres://app:s3cret@h1:1,h2:2/shop":                 "postgres://app@h1:1,h2:2/shop",
		"postgres://h/shop?pass%77ord=s3cret":                  "postgres://h/shop",
		"postgres://h/shop?sslpassword=s3cret&sslmode=disable": "postgres://h/shop?sslmode=disable",
		"host=h dbname=shop":                                   "host=h dbname=shop",
		"host=h  password = s3cret dbname=shop":                "host=h dbname=shop",
		`host=h password='s3 \' cret' dbname = 'sh\'op'`:       `host=h dbname='sh\'op'`,
		`host=h dbname=shop password=s3\ cret`:                 "host=h dbname=shop",
		"postgres://app@h/sh$$${op}":                           "postgres://app@h/sh$$${op}",
		"postgres://app@h/sh$op":                               "postgres://app@h/sh$op",
		"host=h dbname='shop \"x\" <&>'":                       "host=h dbname='shop \"x\" <&>'",
	} {
		text := template(t, given, "postgres://other/shop", "x")
		if strings.Contains(text, "s3") {
			t.Errorf("the template for %s holds the password:\n%s", given, text)
		}
		if got := parse(t, text, noEnv).Old.URL.Reveal(); got != want {
			t.Errorf("the template for %s has %s, want %s", given, got, want)
		}
	}
}

func TestTemplateIsReadable(t *testing.T) {
	text := template(t, "postgres://app@h/shop?sslmode=disable&application_name=<x>", "postgres://other/shop", "x")
	if !strings.Contains(text, "\n  url: \"postgres://app@h/shop?sslmode=disable&application_name=<x>\"\n") {
		t.Errorf("the url is written otherwise:\n%s", text)
	}
}

func TestTemplateErrors(t *testing.T) {
	for given, want := range map[string]string{
		"":                               "old.url: is missing: the connection string of the old server",
		"postgres://app:1/s3cret@h/shop": "old.url: give it without its password: it cannot be told where in it the password ends",
		"postgres://app:s3@cret@h/shop":  "old.url: give it without its password: it cannot be told where in it the password ends",
		"postgres://app:s3?cret@h/shop":  "old.url: give it without its password: it cannot be told where in it the password ends",
		"mysql://app:s3cret@h/shop":      "old.url: is not a connection string that libpq would take",
	} {
		text, err := config.Template(given, "postgres://other/shop", "x")
		if err == nil || !strings.HasPrefix(err.Error(), want) || text != nil {
			t.Errorf("%s: got %v, want %s", given, err, want)
		}
	}
}
