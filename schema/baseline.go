package schema

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
)

// Baseline remembers what the two servers of a move say of the same thing in
// different words.
//
// A view, a default or a check is printed anew by every server, and majors print
// differently; owners and privileges begin differently where a schema comes from
// initdb. Comparing such texts as they are would raise false alarms, leaving them
// out would miss changes. So, when a schema has been restored, each text of the old
// server that is not, letter by letter, that of the new one is kept with it, as a
// pair that means the same. From then on two texts agree when they are equal or
// such a pair; anything else was changed on one of the servers. Nothing is kept of
// the texts that are equal, which are nearly all.
//
// What the old server said is taken in the transaction in which the schema is
// dumped: a change on the old server between the dump and the end of the restore
// is a change, and no pair is made of it.
type Baseline struct {
	// Dumped are the texts that the old server had when an object was dumped
	// first, until what has become of them on the new server is known.
	Dumped map[string]string `json:"dumped,omitempty"`
	// Pairs are the texts that mean the same.
	Pairs map[string][]string `json:"pairs"`
	// Tables are those of the old server, by name, as they were when they were
	// last in line with the new one's.
	Tables map[string]Known `json:"tables,omitempty"`
	// Brought are digests of the names of all objects that the new server may have
	// from the old one, also of those that the old one has dropped since; empty in
	// moves whose start did not record them. See [Remove].
	Brought map[string]bool `json:"brought,omitempty"`
}

// Bring remembers objects that the new server gets from the old one: they are the
// move's own for good, whatever becomes of them on the old server.
func (b *Baseline) Bring(objects []Object) {
	if b.Brought == nil {
		b.Brought = make(map[string]bool, len(objects))
	}
	for _, o := range objects {
		b.Brought[o.key().digest()] = true
	}
}

// brought reports whether the object came from the old server. A nil Baseline
// knows of none.
func (b *Baseline) brought(k key) bool { return b != nil && b.Brought[k.digest()] }

// Known is by what a table on the old server is known when it gets another name,
// other columns, or is rewritten.
type Known struct {
	OID     uint32 `json:"oid"`
	Columns int    `json:"columns"` // the highest number that a column ever had
	File    int64  `json:"file"`
	// Copied is the file that it had when its rows were copied to the new server,
	// Numbers are those of its columns by quoted name; both are missing in moves
	// whose start did not record them, and then nothing is concluded from them.
	Copied  int64            `json:"copied,omitempty"`
	Numbers map[string]int16 `json:"numbers,omitempty"`
}

func (b *Baseline) table(name string) (Known, bool) {
	if b == nil {
		return Known{}, false
	}
	k, found := b.Tables[name]
	return k, found
}

// rewritten reports whether the table's rows may have been written anew since.
func (b *Baseline) rewritten(name string, file int64) bool {
	k, found := b.table(name)
	return !found || k.File != file
}

// know remembers a table of the old server; copied is what [Known] calls so.
func (b *Baseline) know(o Object, copied int64) {
	if b.Tables == nil {
		b.Tables = map[string]Known{}
	}
	b.Tables[o.Identity] = Known{OID: o.oid, Columns: o.columns, File: o.file, Copied: copied, Numbers: o.numbers}
}

// NewBaseline returns one that knows of no differences in words.
func NewBaseline() *Baseline {
	return &Baseline{Dumped: map[string]string{}, Pairs: map[string][]string{}}
}

// digest shortens a text.
func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func (k key) digest() string { return digest(k.kind, k.identity) }

func (o Object) aspectID(a Aspect) string { return digest(o.Kind, o.Identity, string(a)) }

// Dump remembers what the archive's objects were like on the old server. An
// object that an earlier dump had stays as it was then: that is what was
// restored.
func (b *Baseline) Dump(archived []Object) {
	if b.Dumped == nil {
		b.Dumped = map[string]string{}
	}
	before := b.byOID()
	for _, o := range archived {
		_, found := b.table(o.Identity)
		if _, renamed := before[o.oid]; o.Kind == kindTable && !found && !renamed {
			b.know(o, o.file)
		}
		for _, a := range aspects {
			id := o.aspectID(a)
			if text := o.text(a); text != "" && b.Dumped[id] == "" {
				b.Dumped[id] = digest(text)
			}
		}
	}
}

// late reports whether the object may get its last form with PostData only:
// pg_dump makes a view without its query where the query needs a primary key,
// and a function whose body does so later.
func (o Object) late() bool {
	return o.Section == PostData || slices.Contains([]string{kindView, "function", "procedure"}, o.Kind)
}

// Restored pairs what was dumped with what the new server says now, after all
// sections (whole), or after those that come before the data. The latter settles
// expressions only: the rest is restored at the end.
func (b *Baseline) Restored(new []Object, whole bool) {
	for _, o := range new {
		for _, a := range aspects {
			if late := o.late() || a != Expression; late != whole {
				continue
			}
			was, is := b.Dumped[o.aspectID(a)], ""
			if text := o.text(a); text != "" {
				is = digest(text)
			}
			b.pair(o, a, was, is)
		}
	}
	if whole {
		b.Dumped = nil
	}
}

// Applied pairs what both servers say of what the fixes have just made the same;
// old is the fingerprint that they were derived from. Tables are known by what
// they are in it where nothing of them differs any more; one that takes the place
// of another only when it was made on the new server, to be copied.
func (b *Baseline) Applied(old, new []Object, fixes []Fix) {
	same := map[string]bool{}
	for _, f := range fixes {
		for _, d := range append([]Difference{f.Difference}, f.Difference.Parts...) {
			a := d.Aspect
			if a == Definition {
				a = Expression
			}
			same[d.object.aspectID(a)] = true
		}
	}
	b.accept(old, new, same)
	b.settleTables(old, new, fixes)
}

func (b *Baseline) accept(old, new []Object, same map[string]bool) {
	onNew := make(map[key]Object, len(new))
	for _, o := range new {
		onNew[o.key()] = o
	}
	for _, o := range old {
		n, found := onNew[o.key()]
		if !found {
			continue
		}
		for _, a := range aspects {
			if same[o.aspectID(a)] {
				b.pair(o, a, short(o.text(a)), short(n.text(a)))
			}
		}
	}
}

func short(text string) string {
	if text == "" {
		return ""
	}
	return digest(text)
}

func (b *Baseline) pair(o Object, a Aspect, old, new string) {
	if old == new {
		return
	}
	if b.Pairs == nil {
		b.Pairs = map[string][]string{}
	}
	id, words := o.aspectID(a), old+":"+new
	if !slices.Contains(b.Pairs[id], words) {
		b.Pairs[id] = append(b.Pairs[id], words)
	}
}

// Compare lists what differs between the old and the new database, ordered by
// kind and identity. With a nil Baseline only definitions are compared: then
// nobody knows which words mean the same. See [Diff] for what is no difference.
// First come tables and columns that have only the name of those that were copied
// ([Replaced]): dropped and made again on the old server, or renamed to it.
func (b *Baseline) Compare(old, new []Object) []Difference {
	if b == nil {
		return Diff(old, new)
	}
	return b.withReplaced(fold(compare(old, new, b.same), old, new), old, new)
}

func (b *Baseline) same(o Object, a Aspect, old, new string) bool {
	return slices.Contains(b.Pairs[o.aspectID(a)], short(old)+":"+short(new))
}

// BeforePostData leaves out what a restore that has not come to PostData yet has
// still to bring, and what is settled only then: see [Baseline.Restored].
func BeforePostData(differences []Difference) []Difference {
	var out []Difference
	for _, d := range differences {
		settled := d.Aspect == Definition || d.Aspect == Expression
		if settled && !d.object.late() {
			out = append(out, d)
		}
	}
	return out
}
