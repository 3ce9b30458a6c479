package sequences

import (
	"fmt"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Mend is a statement that removes a difference, and the server that it is for.
type Mend struct {
	Server pg.Side `json:"server"`
	SQL    string  `json:"sql"`
}

func mends(server pg.Side, statements ...string) []Mend {
	out := make([]Mend, len(statements))
	for i, s := range statements {
		out[i] = Mend{server, s}
	}
	return out
}

// createSQL returns the statement that makes s where it is missing; empty for the
// sequence of an identity column, which is made with its column.
func createSQL(s Sequence) string {
	if s.Identity {
		return ""
	}
	typ, owned := "", ""
	if s.Type != "bigint" {
		typ = " AS " + s.Type
	}
	if s.OwnedBy != "" {
		owned = " OWNED BY " + s.OwnedBy
	}
	return fmt.Sprintf("CREATE SEQUENCE %s%s INCREMENT BY %d MINVALUE %d MAXVALUE %d START WITH %d CACHE %d %s%s;",
		s.Ident(), typ, s.Increment, s.Min, s.Max, s.Start, s.Cache, cycles(s.Cycle), owned)
}

func cycles(yes bool) string {
	if yes {
		return "CYCLE"
	}
	return "NO CYCLE"
}

// alterSQL returns the statement that gives n the definition of o; empty when
// there is nothing that ALTER SEQUENCE can change. A position that the bounds of o
// do not hold becomes o's own, for ALTER SEQUENCE refuses it; whatever it is set
// to, the margin comes on top of it later.
// Postgres manual: ALTER SEQUENCE.
func alterSQL(o, n Sequence) string {
	var parts []string
	add := func(differs bool, format string, args ...any) {
		if differs {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	// AS moves bounds that are those of the type: they are always said with it.
	typed := o.Type != n.Type
	add(typed, "AS %s", o.Type)
	add(o.Increment != n.Increment, "INCREMENT BY %d", o.Increment)
	add(typed || o.Min != n.Min, "MINVALUE %d", o.Min)
	add(typed || o.Max != n.Max, "MAXVALUE %d", o.Max)
	add(o.Start != n.Start, "START WITH %d", o.Start)
	add(n.Readable && (n.LastValue < o.Min || n.LastValue > o.Max), "RESTART WITH %d", o.within())
	add(o.Cache != n.Cache, "CACHE %d", o.Cache)
	add(o.Cycle != n.Cycle, "%s", cycles(o.Cycle))
	owner := o.OwnedBy
	if owner == "" {
		owner = "NONE"
	}
	add(o.OwnedBy != n.OwnedBy && !o.Identity && !n.Identity, "OWNED BY %s", owner)
	if len(parts) == 0 {
		return ""
	}
	return fmt.Sprintf("ALTER SEQUENCE %s %s;", n.Ident(), strings.Join(parts, " "))
}

// within returns a number to begin with: the next one, the end when there is none
// left, or, when that is not known, the first one.
func (s Sequence) within() int64 {
	next, alive := s.next()
	switch {
	case !s.Readable:
		return s.Start
	case alive:
		return next
	default:
		return s.end()
	}
}

// pastSQL raises a sequence past a number that a row has, unless it is there by
// then. One that stands at that very number may have it still to hand out.
func pastSQL(s Sequence, used int64) string {
	sign := "<="
	if s.Increment < 0 {
		sign = ">="
	}
	return fmt.Sprintf("SELECT pg_catalog.setval(%s::pg_catalog.regclass, %d) FROM %s WHERE last_value %s %d;",
		literal(s.Ident()), used, s.Ident(), sign, used)
}
