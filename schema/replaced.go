package schema

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// byOID are the tables known by what they are on the old server, whatever they
// are called.
func (b *Baseline) byOID() map[uint32]Known {
	out := make(map[uint32]Known, len(b.Tables))
	for _, name := range slices.Sorted(maps.Keys(b.Tables)) {
		k := b.Tables[name]
		out[k.OID] = k
	}
	return out
}

// streamed reports whether the table's own rows are in the stream: a partitioned
// table has none, those of an unlogged one are copied by the cutover.
func (o Object) streamed() bool {
	first, _, _ := strings.Cut(o.Definition, ",")
	return o.Kind == kindTable && first != "partitioned" && first != "unlogged"
}

// replaced lists the tables and columns of the old server that both servers have,
// but of which only the name is that of what was copied. The stream goes by names
// and says nothing of it.
func (b *Baseline) replaced(old, new []Object) []Difference {
	onNew, known := keysOf(new), b.byOID()
	var out []Difference
	for _, o := range old {
		if !o.streamed() || !onNew[o.key()] {
			continue
		}
		k, found := b.table(o.Identity)
		if !found {
			k, found = known[o.oid]
		}
		switch {
		case !found || k.OID == 0:
		case k.OID != o.oid:
			out = append(out, Difference{What: Replaced, Kind: kindTable, Identity: o.Identity, object: o})
		default:
			for _, name := range slices.Sorted(maps.Keys(o.numbers)) {
				c := Object{Kind: kindColumn, Identity: o.Identity + "." + name, On: o.Identity}
				if number, found := k.Numbers[name]; found && number != o.numbers[name] && onNew[c.key()] {
					out = append(out, Difference{What: Replaced, Kind: kindColumn, Identity: c.Identity, object: c})
				}
			}
		}
	}
	return out
}

// withReplaced puts what was replaced first. What else differs of a table that was
// replaced, or of the columns beside one that was, comes with it: nothing is
// brought in line before the rows are.
func (b *Baseline) withReplaced(differences []Difference, old, new []Object) []Difference {
	out := b.replaced(old, new)
	tables, beside := map[string]int{}, map[string]int{}
	for i, d := range out {
		if d.Kind == kindTable {
			tables[d.Identity] = i
		} else if _, found := beside[d.object.On]; !found {
			beside[d.object.On] = i
		}
	}
	for _, d := range differences {
		i, found := tables[cmp.Or(d.object.On, d.Identity)]
		if found = found && (d.object.On != "" || d.Kind == kindTable); !found && d.Kind == kindColumn {
			i, found = beside[d.object.On]
		}
		if found {
			out[i].Parts = append(append(out[i].Parts, d), d.Parts...)
			continue
		}
		out = append(out, d)
	}
	return out
}

// Table returns schema and name of the table that was [Replaced], or whose column
// was.
func (d Difference) Table() (schema, name string) {
	parts := names(cmp.Or(d.object.On, d.Identity))
	return parts[0], parts[len(parts)-1]
}

// Remade remembers the tables that the fixes have made on the new server: from
// here on their rows are those of the old server's tables, old is the fingerprint
// that the fixes were derived from. They are copied before anything is cut over,
// since a table that was made there has no rows, and none from the stream, until
// the subscription has copied it.
func (b *Baseline) Remade(old []Object, fixes []Fix) {
	made := map[string]bool{}
	for _, f := range fixes {
		for _, d := range append([]Difference{f.Difference}, f.Difference.Parts...) {
			if f.Whole && d.What == Absent && d.Kind == kindTable {
				made[d.Identity] = true
			}
		}
	}
	for _, o := range old {
		if o.Kind == kindTable && made[o.Identity] {
			b.know(o, o.file)
		}
	}
}

// settleTables remembers the tables as they are on the old server where nothing of
// them differs any more.
func (b *Baseline) settleTables(old, new []Object, fixes []Fix) {
	b.Remade(old, fixes)
	differ := map[string]bool{}
	for _, d := range b.Compare(old, new) {
		for _, part := range append([]Difference{d}, d.Parts...) {
			differ[part.Identity], differ[part.object.On] = true, true
		}
	}
	renamed := map[string]bool{}
	for _, f := range fixes {
		if d := f.Difference; d.What == Absent && d.Kind == kindTable && !f.Whole {
			renamed[d.Identity] = true
		}
	}
	before, oids := b.Tables, b.byOID()
	b.Tables = map[string]Known{}
	for name, k := range before {
		if differ[name] {
			b.Tables[name] = k
		}
	}
	for _, o := range old {
		if o.Kind != kindTable {
			continue
		}
		k, known := before[o.Identity]
		former, is := oids[o.oid]
		switch {
		case is && (renamed[o.Identity] || !known && differ[o.Identity]):
			b.Tables[o.Identity] = former // by its new name; its columns are compared with the former ones
		case differ[o.Identity]:
		case known:
			b.know(o, k.Copied)
		case is:
			b.know(o, former.Copied)
		default:
			b.know(o, o.file)
		}
	}
}

// Rewritten lists the streamed tables of the old server whose rows were written
// anew since they were copied, by schema and name: by VACUUM FULL, CLUSTER or
// TRUNCATE, which change nothing that the stream does not say, or by ALTER TABLE,
// which may have given the rows other values.
func (b *Baseline) Rewritten(old []Object) [][2]string {
	if b == nil {
		return nil
	}
	known := b.byOID()
	var out [][2]string
	for _, o := range old {
		k := known[o.oid]
		if o.streamed() && k.Copied != 0 && k.Copied != o.file {
			parts := names(o.Identity)
			out = append(out, [2]string{parts[0], parts[len(parts)-1]})
		}
	}
	return out
}

// replacedTable is for what only the rows can bring in line: copying them anew.
func (s *syncing) replacedTable(d Difference) (Fix, error) {
	table := cmp.Or(d.object.On, d.Identity)
	return Fix{}, byHand("its rows have to be copied anew: on the new server set default_transaction_read_only = off; drop table %s cascade; then run pgcutover start --sync-schema, which makes it anew with what depended on it and copies it; or: %s", table, again)
}
