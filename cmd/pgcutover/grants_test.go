package main

import (
	"errors"
	"testing"

	"github.com/pgcutover/pgcutover/internal/provider"
	"github.com/pgcutover/pgcutover/preflight"
)

func TestGrantFlags(t *testing.T) {
	for _, c := range []struct {
		providers, roles []string
		want             preflight.GrantOptions
		wrong            bool
	}{
		{},
		{[]string{"rds"}, []string{"mover"}, preflight.GrantOptions{OldRole: "mover", NewRole: "mover", OldFlavor: provider.RDS, NewFlavor: provider.RDS}, false},
		{[]string{"new=azure", "old=neon"}, []string{"old=a"}, preflight.GrantOptions{OldRole: "a", OldFlavor: provider.Neon, NewFlavor: provider.Azure}, false},
		{[]string{"heroku"}, nil, preflight.GrantOptions{}, true},
		{[]string{"old=rds", "azure"}, nil, preflight.GrantOptions{}, true},
		{[]string{"old=rds", "old=azure"}, nil, preflight.GrantOptions{}, true},
		{nil, []string{"elsewhere=a"}, preflight.GrantOptions{}, true},
		{nil, []string{"old="}, preflight.GrantOptions{}, true},
	} {
		got, err := (&grantFlags{providers: c.providers, roles: c.roles}).options()
		var usage *usageError
		switch {
		case c.wrong && !errors.As(err, &usage):
			t.Errorf("%q %q: %+v, %v; want a usage error", c.providers, c.roles, got, err)
		case !c.wrong && (err != nil || got != c.want):
			t.Errorf("%q %q: %+v, %v; want %+v", c.providers, c.roles, got, err, c.want)
		}
	}
	for side, want := range map[string]bool{"": false, "both": true, "old": true, "new": true} {
		if got, err := (&grantFlags{side: side}).asked(); err != nil || got != want {
			t.Errorf("--grants=%s: %v, %v", side, got, err)
		}
	}
	for _, g := range []grantFlags{{side: "left"}, {roles: []string{"a"}}, {providers: []string{"rds"}}} {
		if _, err := g.asked(); err == nil {
			t.Errorf("%+v is taken", g)
		}
	}
}
