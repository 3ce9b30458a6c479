package schema

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Fix is what brings the new server in line with one difference: statements
// built from the catalogs of the old one, an object as pg_dump describes it, or,
// where neither can be derived safely, advice.
type Fix struct {
	Difference Difference
	// Loosen are statements of a fix that has to wait (Contract) which come before
	// what it waits for: what else would refuse rows without that which goes.
	Loosen []string
	// Drop are the statements that come first, all of them, by Order.
	Drop []string
	// Whole says that the object, with its Parts, is restored from an archive.
	Whole bool
	// Statements run after what is restored before data, by Order.
	Statements []string
	// Alone says that Statements run first, each in a transaction of its own.
	Alone bool
	// Contract says that it takes something away, or its name: rows that old wrote
	// before still have it in the stream, so that it waits until these are applied.
	Contract bool
	// Late says that Statements look at rows, and so have to wait until the new server
	// has those that were there when old was changed, or that they give privileges,
	// owners or comments, which others may have to be made for first.
	Late bool
	// Order ranks fixes: what others need has a lower one.
	Order int
	// Advice says what to do where nothing is derived; then the rest is empty.
	Advice string
}

// All returns the statements, for people.
func (f Fix) All() []string { return slices.Concat(f.Loosen, f.Drop, f.Statements) }

// Renamed returns what the fix gives old's name on the new server: a table, or,
// when column is not empty, a column of it.
func (f Fix) Renamed() (schema, table, column string, ok bool) {
	d := f.Difference
	if !f.Contract || f.Order != orderRename || f.Whole || d.What != Absent || d.Kind != kindTable && d.Kind != kindColumn {
		return "", "", "", false
	}
	schema, table = d.Table()
	if d.Kind == kindColumn {
		parts := names(d.Identity)
		column = parts[len(parts)-1]
	}
	return schema, table, column, true
}

// Early reports whether the fix, or what of it is restored, can be done before the
// tables are copied.
func (f Fix) Early() bool { return !f.Late || f.Whole && f.Difference.Kind != kindConstraint }

// Orders of statements.
const (
	orderRename = iota
	orderDrop
	orderAlter
	orderView
	orderRights
)

// syncing derives fixes.
type syncing struct {
	old, new *pg.Server
	baseline *Baseline
	all      []Difference
}

// noSafeWay is wrapped where a statement cannot be derived; its text is the
// advice.
type noSafeWay struct{ advice string }

func (e *noSafeWay) Error() string { return e.advice }

func byHand(format string, args ...any) error { return &noSafeWay{fmt.Sprintf(format, args...)} }

// Fixes says what brings the new server in line with the old one, in the order
// in which it has to be done. It changes nothing. Nothing is guessed: where the
// catalogs do not say enough, above all about rows that are there already, the
// fix is advice. A nil baseline means that renamed and added columns cannot be
// told apart.
func Fixes(ctx context.Context, old, new *pg.Server, baseline *Baseline, differences []Difference) ([]Fix, error) {
	s := &syncing{old: old, new: new, baseline: baseline, all: differences}
	fixes := make([]Fix, 0, len(differences))
	for _, d := range differences {
		f, err := s.fix(ctx, d)
		var advice *noSafeWay
		switch {
		case errors.As(err, &advice):
			f = Fix{Advice: advice.advice}
		case errors.Is(err, pgx.ErrNoRows) || pg.IsCode(err, pg.UndefinedTable, pg.UndefinedObject, pg.UndefinedFunction, pg.InvalidSchemaName):
			f = Fix{Advice: "it was changed again meanwhile: look once more"}
		case err != nil:
			return nil, fmt.Errorf("deriving what brings %s in line: %w", d.Object(), old.Redacted(err))
		}
		f.Difference = d
		f.Contract = f.Contract || f.Order == orderRename && !f.Alone || d.What == Extra && takesAway(d.Kind)
		f.Late = f.Late || f.Order == orderRights || slices.ContainsFunc(f.Statements, looksAtRows)
		fixes = append(fixes, f)
	}
	slices.SortStableFunc(fixes, func(a, b Fix) int {
		return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(dropRank(a.Difference), dropRank(b.Difference)))
	})
	return fixes, nil
}

// takesAway reports whether dropping an object of the kind may be in the way of
// rows that are still in the stream. Dropping what restricts rows is not.
func takesAway(kind string) bool {
	return !slices.Contains([]string{
		kindConstraint, "domain constraint", kindIndex, kindTrigger, kindRule, kindPolicy, kindStatistics, kindEventTrigger, kindDefaults,
	}, kind)
}

// looksAtRows reports whether a statement of ours fails when rows are not as it
// wants them.
func looksAtRows(sql string) bool {
	return strings.HasSuffix(sql, " set not null") || strings.Contains(sql, " validate constraint ") || strings.Contains(sql, " attach partition ")
}

func dropRank(d Difference) int {
	if rank, found := dropOrder[d.Kind]; found {
		return rank
	}
	return 11
}

func (s *syncing) fix(ctx context.Context, d Difference) (Fix, error) {
	switch {
	case d.What == Replaced:
		return s.replacedTable(d)
	case d.What == Absent:
		return s.absent(ctx, d)
	case d.What == Extra:
		return s.extra(ctx, d)
	}
	switch d.Aspect {
	case Definition:
		return s.definition(ctx, d)
	case Expression:
		return s.expression(ctx, d)
	case Owner:
		return ownerFix(d)
	case Privileges:
		sql, err := privilegeStatements(d.object, d.New, d.Old)
		return Fix{Statements: sql, Order: orderRights}, err
	case Comment:
		sql, err := commentStatement(d.object, d.Old)
		return Fix{Statements: sql, Order: orderRights}, err
	case Settings:
		sql, err := s.columnSettings(ctx, d)
		return Fix{Statements: sql, Order: orderAlter}, err
	}
	return Fix{}, byHand("bring it in line by hand")
}

// absent brings what only the old server has.
func (s *syncing) absent(ctx context.Context, d Difference) (Fix, error) {
	switch d.Kind {
	case kindColumn:
		return s.addColumn(ctx, d)
	case kindTable:
		if from := s.renamedTable(d); from != "" {
			return renameTable(from, d.Identity)
		}
	case kindConstraint, "domain constraint":
		if strings.HasPrefix(d.Old, "check") {
			sql, err := s.addConstraint(ctx, d)
			return Fix{Statements: sql, Order: orderAlter, Late: true}, err
		}
	case kindDefaults:
		sql, err := defaultPrivileges(d)
		return Fix{Statements: sql, Order: orderRights}, err
	}
	after, err := aspectStatements(d)
	return Fix{Whole: true, Statements: after, Order: orderRights}, err
}

// aspectStatements give a restored object, and its parts, privileges and
// comments; all else comes with it.
func aspectStatements(d Difference) ([]string, error) {
	var out []string
	for _, part := range append([]Difference{d}, d.Parts...) {
		if part.What != Absent {
			continue
		}
		rights, err := privilegeStatements(part.object, "", part.object.text(Privileges))
		if err != nil {
			return nil, err
		}
		out = append(out, rights...)
		comment, err := commentStatement(part.object, part.object.text(Comment))
		if err != nil {
			return nil, err
		}
		if part.object.text(Comment) != "" {
			out = append(out, comment...)
		}
	}
	return out, nil
}

// extra drops what only the new server has.
func (s *syncing) extra(ctx context.Context, d Difference) (Fix, error) {
	switch d.Kind {
	case kindColumn:
		return s.dropColumn(ctx, d)
	case kindTable:
		return s.dropTable(ctx, d)
	case kindDefaults:
		sql, err := defaultPrivileges(d)
		return Fix{Statements: sql, Order: orderRights}, err
	case "server", "foreign-data wrapper", "user mapping", "language", "access method", "cast", "transform", kindSchema:
		return Fix{}, byHand("if it is not wanted any more, drop it on the new server by hand")
	}
	sql, err := dropStatement(d)
	return Fix{Drop: sql, Order: orderDrop}, err
}

// dropStatement drops what is on the new server; it never cascades.
func dropStatement(d Difference) ([]string, error) {
	switch d.Kind {
	case kindConstraint:
		return []string{fmt.Sprintf("alter table %s drop constraint %s", d.object.On, d.name())}, nil
	case "domain constraint":
		return []string{fmt.Sprintf("alter domain %s drop constraint %s", d.object.On, d.name())}, nil
	case "function", "procedure", "aggregate":
		return []string{"drop routine " + d.Identity}, nil
	case kindStatistics:
		return []string{"drop statistics " + d.Identity}, nil
	}
	return []string{fmt.Sprintf("drop %s %s", strings.ReplaceAll(d.Kind, "-", " "), d.Identity)}, nil
}

// replaced drops an object and restores it as it is on the old server. The
// privileges and the comment that went with it show as differences then.
func replaced(d Difference) (Fix, error) {
	sql, err := dropStatement(d)
	return Fix{Drop: sql, Whole: true, Order: orderDrop}, err
}

// definition changes what both servers have.
func (s *syncing) definition(ctx context.Context, d Difference) (Fix, error) {
	alter := func(sql []string, err error) (Fix, error) { return Fix{Statements: sql, Order: orderAlter}, err }
	switch d.Kind {
	case kindColumn:
		return alter(s.alterColumn(ctx, d))
	case kindTable:
		return alter(s.alterTable(ctx, d))
	case kindSequence:
		return alter(s.alterSequence(ctx, d))
	case "function", "procedure":
		return alter(s.replaceFunction(ctx, d))
	case kindType:
		return s.alterType(ctx, d)
	case kindConstraint, "domain constraint":
		if d.New == d.Old+" not valid" {
			return alter(validate(d), nil)
		}
		return s.replacedConstraint(ctx, d)
	case kindTrigger:
		if trimEnabled(d.Old) == trimEnabled(d.New) && len(d.Parts) == 0 {
			return alter([]string{fmt.Sprintf("alter table %s %s trigger %s", d.object.On, enabled(d.Old), d.name())}, nil)
		}
		return replaced(d)
	case kindIndex:
		if d.Old == d.New+" clustered" {
			return alter([]string{fmt.Sprintf("alter table %s cluster on %s", d.object.On, d.name())}, nil)
		}
		return replaceIndex(d)
	case kindRule, kindPolicy, kindEventTrigger:
		return replaced(d)
	case kindExtension:
		return alter([]string{fmt.Sprintf("alter extension %s set %s", d.Identity, d.Old)}, nil)
	case kindView:
		return s.replaceView(ctx, d)
	case kindDefaults:
		sql, err := defaultPrivileges(d)
		return Fix{Statements: sql, Order: orderRights}, err
	}
	return Fix{}, byHand("bring it in line on the new server by hand")
}

// expression changes what the servers print.
func (s *syncing) expression(ctx context.Context, d Difference) (Fix, error) {
	alter := func(sql []string, err error) (Fix, error) { return Fix{Statements: sql, Order: orderAlter}, err }
	switch d.Kind {
	case kindColumn:
		return alter(s.alterColumn(ctx, d))
	case kindTable:
		return alter(s.alterTable(ctx, d))
	case "function", "procedure":
		return alter(s.replaceFunction(ctx, d))
	case kindType:
		return alter(s.domainDefault(ctx, d))
	case kindConstraint, "domain constraint":
		return s.replacedConstraint(ctx, d)
	case kindIndex:
		return replaceIndex(d)
	case kindView:
		return s.replaceView(ctx, d)
	case kindTrigger, kindRule, kindPolicy, kindStatistics, kindMatview:
		return replaced(d)
	}
	return Fix{}, byHand("bring it in line on the new server by hand")
}

// replaceIndex builds the index anew; one that is a part of something else has to
// wait for that.
func replaceIndex(d Difference) (Fix, error) {
	if d.object.Parent != "" {
		return Fix{}, byHand("drop the index of the partitioned table on the new server by hand, then run this again: it comes anew with those of the partitions")
	}
	if strings.Contains(d.Old, "invalid") {
		return Fix{}, byHand("the index is not valid on the old server: finish or drop it there")
	}
	return replaced(d)
}

func validate(d Difference) []string {
	if d.Kind == kindConstraint {
		return []string{fmt.Sprintf("alter table %s validate constraint %s", d.object.On, d.name())}
	}
	return []string{fmt.Sprintf("alter domain %s validate constraint %s", d.object.On, d.name())}
}

var triggerStates = []string{" disabled", " always", " replica", " "}

func trimEnabled(definition string) string {
	for _, state := range triggerStates {
		if rest, found := strings.CutSuffix(definition, state); found {
			return rest
		}
	}
	return definition
}

func enabled(definition string) string {
	switch {
	case strings.HasSuffix(definition, " disabled"):
		return "disable"
	case strings.HasSuffix(definition, " always"):
		return "enable always"
	case strings.HasSuffix(definition, " replica"):
		return "enable replica"
	}
	return "enable"
}

// names takes a qualified and quoted name apart.
func names(identity string) []string {
	var out []string
	var part strings.Builder
	quoted := false
	runes := []rune(identity)
	for i := 0; i < len(runes); i++ {
		switch r := runes[i]; {
		case r == '"' && quoted && i+1 < len(runes) && runes[i+1] == '"':
			part.WriteRune(r)
			i++
		case r == '"':
			quoted = !quoted
		case r == '.' && !quoted:
			out = append(out, part.String())
			part.Reset()
		default:
			part.WriteRune(r)
		}
	}
	return append(out, part.String())
}

func unquoted(name string) string { return names(name)[0] }
