package workload

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// found is a row of the run as it is on the server.
type found struct {
	table   *table
	nonce   Nonce
	id      int64
	version int
	note    string
	touched string
	detail  string
}

func readRows(ctx context.Context, tx pgx.Tx, t *table, low, high string, there map[Nonce][]found) error {
	rows, err := tx.Query(ctx, t.rows, low, high)
	if err != nil {
		return fmt.Errorf("reading %s: %w", t.name, err)
	}
	f := found{table: t}
	var nonce string
	_, err = pgx.ForEachRow(rows, []any{&nonce, &f.id, &f.version, &f.note, &f.touched, &f.detail}, func() error {
		n, err := parseNonce(nonce)
		if err != nil {
			return err
		}
		f.nonce = n
		there[n] = append(there[n], f)
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading %s: %w", t.name, err)
	}
	return nil
}

// is says whether the rows found are what record r looks like in state s.
func (r *record) is(s state, rows []found) bool {
	if !s.present {
		return len(rows) == 0
	}
	return len(rows) == 1 && rows[0].table == r.table && rows[0].version == s.version && r.differs(s, rows[0]) == ""
}

// differs names the first difference in content, or nothing.
func (r *record) differs(s state, f found) string {
	switch want := r.table.detail(r, s); {
	case f.table != r.table:
		return fmt.Sprintf("it lies in %s", f.table.name)
	case r.id != 0 && f.id != r.id: // 0: the server's answer did not arrive
		return fmt.Sprintf("its id is %d, the server had answered %d", f.id, r.id)
	case f.note != s.note:
		return fmt.Sprintf("note is %q, %q was written", f.note, s.note)
	case f.touched != s.touched:
		return fmt.Sprintf("touched is %q, %q was written", f.touched, s.touched)
	case f.detail != want:
		return fmt.Sprintf("columns are %q, %q was written", f.detail, want)
	}
	return ""
}

// compareRecord judges one row of the ledger by what is there.
func (p *Proof) compareRecord(r *record, rows []found) {
	if r.unknown != nil && (r.is(r.state, rows) || r.is(r.unknown.after, rows)) {
		return // either is right; resolve says which
	}
	want := r.state
	if !want.present && r.unknown != nil && len(rows) > 0 {
		want = r.unknown.after // an insert in doubt that is there, wrongly
	}
	switch {
	case !want.present && len(rows) == 0:
	case !want.present:
		p.Lost++
		p.detail("%s: row %s was deleted and is there", r.table.name, r.nonce)
	case len(rows) == 0:
		p.Lost++
		p.detail("%s: row %s (id %d) is not there", r.table.name, r.nonce, r.id)
	default:
		p.Duplicated += len(rows) - 1
		if len(rows) > 1 {
			p.detail("%s: row %s (id %d) is there %d times", r.table.name, r.nonce, r.id, len(rows))
		}
		p.compareContent(r, want, rows[0])
	}
}

func (p *Proof) compareContent(r *record, want state, f found) {
	switch {
	case f.version < want.version:
		p.Lost += want.version - f.version
		p.detail("%s: row %s (id %d) is of version %d, %d was acknowledged", r.table.name, r.nonce, r.id, f.version, want.version)
	case f.version > want.version && f.touched == want.touched:
		p.Duplicated += f.version - want.version
		p.detail("%s: row %s (id %d) is of version %d after the update that made it %d",
			r.table.name, r.nonce, r.id, f.version, want.version)
	case f.version > want.version:
		p.Phantoms += f.version - want.version
		p.detail("%s: row %s (id %d) is of version %d, %d was acknowledged", r.table.name, r.nonce, r.id, f.version, want.version)
	default:
		if d := r.differs(want, f); d != "" {
			p.WrongContent++
			p.detail("%s: row %s: %s", r.table.name, r.nonce, d)
		}
	}
}

// resolve counts the writes of unknown outcome and returns the transactions
// that turned out to be committed. applied says of each row in doubt whether
// the write in doubt is there.
func (p *Proof) resolve(l *Ledger, applied map[*record]bool) map[*Commit]bool {
	landed := map[*Commit]bool{}
	for _, c := range l.commits {
		if !c.Unknown {
			continue
		}
		n := 0
		for _, ch := range c.changes {
			if applied[ch.record] {
				n++
			}
		}
		p.Unknown += len(c.changes)
		p.UnknownApplied += n
		landed[c] = n > 0
		if n > 0 && n < len(c.changes) {
			p.Torn++
			p.detail("of the transaction of unknown outcome that ended at %s, %d writes of %d are there",
				c.Ended.Format(clock), n, len(c.changes))
		}
	}
	return landed
}
