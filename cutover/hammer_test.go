package cutover_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// hammer is clients of one server, which write large objects and an unlogged
// table as fast as they are answered.
type hammer struct {
	url   string
	stop  context.CancelFunc
	group sync.WaitGroup

	mu       sync.Mutex
	objects  map[uint32]string // acknowledged, with their contents
	unlinked map[uint32]bool   // acknowledged, or of unknown outcome
	rows     map[int64]bool    // acknowledged in the unlogged table
	refused  map[string]int    // by SQLSTATE, since the last look
	strange  error
}

// write does one thing in one transaction, and says what to remember when it was
// acknowledged.
type write func(ctx context.Context, tx pgx.Tx, h *hammer, text string) (acknowledged func(), err error)

func makeObject(ctx context.Context, tx pgx.Tx, h *hammer, text string) (func(), error) {
	var oid uint32
	err := tx.QueryRow(ctx, `select lo_from_bytea(0, $1)`, []byte(text)).Scan(&oid)
	return func() { h.objects[oid] = text }, err
}

// makeEmpty makes one and writes nothing into it, which keeps no lock.
func makeEmpty(ctx context.Context, tx pgx.Tx, h *hammer, _ string) (func(), error) {
	var oid uint32
	err := tx.QueryRow(ctx, `select lo_create(0)`).Scan(&oid)
	if err == nil {
		_, err = tx.Exec(ctx, `select pg_sleep(0.003)`)
	}
	return func() { h.objects[oid] = "" }, err
}

func objectThenRow(ctx context.Context, tx pgx.Tx, h *hammer, text string) (func(), error) {
	done, err := makeObject(ctx, tx, h, text)
	if err == nil {
		_, err = tx.Exec(ctx, `insert into public.docs (object) values (0)`)
	}
	return done, err
}

func rowThenObject(ctx context.Context, tx pgx.Tx, h *hammer, text string) (func(), error) {
	if _, err := tx.Exec(ctx, `insert into public.docs (object) values (0)`); err != nil {
		return nil, err
	}
	return makeObject(ctx, tx, h, text)
}

func unlinkOne(ctx context.Context, tx pgx.Tx, h *hammer, _ string) (func(), error) {
	var oid uint32
	h.mu.Lock()
	for o := range h.objects {
		if len(h.objects) > 20 {
			oid = o
		}
		break
	}
	delete(h.objects, oid) // whatever the answer will be
	h.mu.Unlock()
	if oid == 0 {
		return func() {}, nil
	}
	_, err := tx.Exec(ctx, `select lo_unlink($1)`, oid)
	return func() { h.unlinked[oid] = true }, err
}

func cacheRow(ctx context.Context, tx pgx.Tx, h *hammer, text string) (func(), error) {
	var id int64
	err := tx.QueryRow(ctx, `insert into public.cache (v) values ($1) returning id`, text).Scan(&id)
	return func() { h.rows[id] = true }, err
}

// hammered lets clients write to a server until the test ends or stop is called.
func hammered(t *testing.T, url string) *hammer {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	h := &hammer{url: url, stop: stop, objects: map[uint32]string{}, unlinked: map[uint32]bool{}, rows: map[int64]bool{}, refused: map[string]int{}}
	for i, w := range []write{makeObject, makeEmpty, objectThenRow, rowThenObject, unlinkOne, cacheRow, cacheRow} {
		h.group.Go(func() { h.client(ctx, i, w) })
	}
	t.Cleanup(func() {
		stop()
		h.group.Wait()
	})
	return h
}

func (h *hammer) client(ctx context.Context, number int, w write) {
	var conn *pgx.Conn
	pace := time.NewTicker(4 * time.Millisecond) // leaves the stream some of the machine
	defer pace.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		<-pace.C
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = pgx.Connect(ctx, h.url); err != nil {
				h.answered(nil, err)
				continue
			}
		}
		var done func()
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		err := pgx.BeginFunc(limit, conn, func(tx pgx.Tx) (err error) {
			done, err = w(limit, tx, h, fmt.Sprintf("client %d write %d", number, n))
			return err
		})
		cancel()
		h.answered(done, err)
	}
	if conn != nil {
		pg.Close(ctx, conn)
	}
}

func (h *hammer) answered(done func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		done()
		return
	}
	code := pg.Code(err)
	h.refused[code]++
	switch code {
	case "", pg.ReadOnlyTransaction, pg.AdminShutdown, "42501": // refused, ended, or the functions are taken away
	default:
		h.strange = err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		h.strange = fmt.Errorf("a client waited for ever: %w", err)
	}
}

func (h *hammer) written() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.rows) + len(h.objects)
}

// writes waits until all kinds of writes were acknowledged some more times.
func (h *hammer) writes(t *testing.T) {
	t.Helper()
	before := h.written()
	until(t, "writes of large objects and rows", func() (bool, error) { return h.written() >= before+60, nil })
}

// refuses waits until clients were refused often since now, and ends them.
func (h *hammer) refuses(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	clear(h.refused)
	h.mu.Unlock()
	until(t, "clients to be refused", func() (bool, error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.refused[pg.ReadOnlyTransaction] >= 10 && h.refused["42501"]+h.refused[pg.ReadOnlyTransaction] >= 40, nil
	})
	h.stop()
	h.group.Wait()
}

const allObjectsSQL = `
select coalesce(string_agg(concat_ws(' ', m.oid, pg_get_userbyid(m.lomowner), m.lomacl::text, encode(lo_get(m.oid), 'escape')), E'\n' order by m.oid), '')
  from pg_largeobject_metadata m`

const allRowsSQL = `select coalesce(string_agg(id || ' ' || v, E'\n' order by id), '') from public.cache`

// proved compares what the server that does not serve any more has with what the
// other had when it began to, and with what was acknowledged.
func (h *hammer) proved(t *testing.T, from, objects, rows string) {
	t.Helper()
	if h.strange != nil {
		t.Errorf("a client met %v", h.strange)
	}
	if d := pgtest.Diff(pgtest.Value[string](t, from, allObjectsSQL), objects); d != "" {
		t.Errorf("large objects differ:\n%.3000s", d)
	}
	if d := pgtest.Diff(pgtest.Value[string](t, from, allRowsSQL), rows); d != "" {
		t.Errorf("rows of the unlogged table differ:\n%.3000s", d)
	}
	there := map[string]string{}
	for _, line := range strings.Split(objects, "\n") {
		parts := strings.SplitN(line, " ", 3)
		there[parts[0]] = parts[len(parts)-1]
	}
	for oid, text := range h.objects {
		if got, known := there[fmt.Sprint(oid)]; !known || text != "" && got != text {
			t.Errorf("the acknowledged large object %d (%s) is %q there", oid, text, got)
		}
	}
	for oid := range h.unlinked {
		if _, known := there[fmt.Sprint(oid)]; known {
			t.Errorf("large object %d was unlinked and is there", oid)
		}
	}
	lines := map[string]bool{}
	for _, line := range strings.Split(rows, "\n") {
		id, _, _ := strings.Cut(line, " ")
		lines[id] = true
	}
	for id := range h.rows {
		if !lines[fmt.Sprint(id)] {
			t.Errorf("row %d of the unlogged table was acknowledged and is not there", id)
		}
	}
	t.Logf("%d large objects, %d unlinked, %d rows, refused %v", len(h.objects), len(h.unlinked), len(h.rows), h.refused)
}
