package pg_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func eachMajor(t *testing.T, test func(t *testing.T, s *pg.Server, url string)) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t, pgtest.Server(t, major))
			test(t, open(t, url), url)
		})
	}
}

func open(t *testing.T, url string) *pg.Server {
	t.Helper()
	s, err := pg.Open(t.Context(), pg.Options{Side: pg.Old, URL: url, Move: "m"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func session(t *testing.T, s *pg.Server) *pgx.Conn {
	t.Helper()
	conn, err := s.Connect(t.Context(), "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Close(context.WithoutCancel(t.Context()), conn) })
	return conn
}

func until(t *testing.T, what string, met func() bool) {
	t.Helper()
	err := pg.Wait(t.Context(), what, 5*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
		return met(), "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
