package sequences

import (
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Beyond is a column with a number that its sequence has yet to hand out: rows
// were inserted with numbers of their own. When the sequence comes there, an
// insert fails, or, without a unique index, a number is there twice.
type Beyond struct {
	Server   pg.Side `json:"server"`
	Column   string  `json:"column"`   // quoted: schema.table.column
	Furthest int64   `json:"furthest"` // its greatest number, the least when the sequence descends
	Text     string  `json:"text"`
	// Mend raises the sequence past it, as its owner; empty where that would bring
	// the sequence to its end.
	Mend string `json:"mend,omitempty"`
}

// NotLooked says which rows of a server could not be looked at.
type NotLooked struct {
	Server pg.Side `json:"server"`
	Text   string  `json:"text"`
}

// AddRows completes what Compare returned by how far rows use the numbers on both
// servers. margin is that of Plan: a sequence on the target counts from where a
// cutover will set it, so rows that the source's sequence has passed there are no
// difference, and neither are those that it has from the source, where they are
// named already.
func AddRows(differences []Difference, onOld, onNew []Reached, margin int64) {
	sides := map[pg.Side]map[Ref]*Reached{pg.Old: byName(onOld), pg.New: byName(onNew)}
	for i := range differences {
		d := &differences[i]
		from := d.Target.Other()
		o, n := sides[from][d.Ref], sides[d.Target][d.Ref]
		var named *int64
		if o != nil {
			if b, found := o.beyond(from, o.Sequence); found {
				d.Beyond, named = append(d.Beyond, b), &b.Furthest
			}
			d.notLooked(from, o)
		}
		if n == nil {
			continue
		}
		d.notLooked(d.Target, n)
		b, found := n.beyond(d.Target, d.afterCutover(margin))
		if found && (named == nil || beyond(b.Furthest, *named, n.Increment)) {
			d.Beyond = append(d.Beyond, b)
		}
	}
}

func byName(all []Reached) map[Ref]*Reached {
	out := make(map[Ref]*Reached, len(all))
	for i := range all {
		out[all[i].Ref] = &all[i]
	}
	return out
}

func (d *Difference) notLooked(server pg.Side, r *Reached) {
	if r.Unlooked {
		d.NotLooked = append(d.NotLooked, NotLooked{server, r.Unknown})
	}
}

// afterCutover returns the target's sequence as a cutover, or a rollback, would leave
// it.
func (d *Difference) afterCutover(margin int64) Sequence {
	o, n := d.source(), d.target()
	if o == nil {
		return *n
	}
	c, problem := way{from: d.Target.Other(), to: d.Target}.planOne(*o, *n, true, margin)
	if problem != nil {
		return *n
	}
	return c.after()
}

// beyond reports whether s, standing where it does, will come to a number that a
// row has.
func (r *Reached) beyond(server pg.Side, s Sequence) (Beyond, bool) {
	next, alive := s.next()
	if !s.Readable || r.Furthest == nil || !alive || beyond(next, *r.Furthest, s.Increment) {
		return Beyond{}, false
	}
	what := "greatest"
	if s.Increment < 0 {
		what = "least"
	}
	b := Beyond{
		Server: server, Column: r.Column, Furthest: *r.Furthest,
		Text: fmt.Sprintf("column %s has %d as its %s number on %s, and the sequence is to hand out %d next there", r.Column, *r.Furthest, what, server, next),
	}
	used := s
	used.LastValue, used.IsCalled = *r.Furthest, true
	switch rest := used.left(); {
	case beyond(*r.Furthest, s.end(), s.Increment):
		b.Text += fmt.Sprintf("; that is past its end, %d", s.end())
	case rest < uint64(max(s.Cache, 1)):
		b.Text += fmt.Sprintf("; that is its end, %d: perhaps a row that stands for none", s.end())
	default:
		b.Mend = pastSQL(s, *r.Furthest)
	}
	return b, true
}
