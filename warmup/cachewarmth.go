package warmup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Warmth says how much of a hot set is in a server's cache.
type Warmth struct {
	// Known is false when the cache cannot be looked at; Advice then says what
	// would help.
	Known     bool          `json:"known"`
	Estimated bool          `json:"estimated,omitempty"` // by what was read, not by what is there
	Advice    string        `json:"advice,omitempty"`
	Tables    []TableInside `json:"tables"` // in the hot set's order
	Hot       int64         `json:"hot"`    // bytes that would be there if all were
	Warm      int64         `json:"warm"`   // bytes of them that are
	At        time.Time     `json:"at"`
}

// Fraction is how much of the hot set is there, from 0 to 1; 1 when nothing is
// hot.
func (w Warmth) Fraction() float64 { return fraction(w.Warm, w.Hot) }

// TableInside is how much of what is hot of a table, with its TOAST table and
// indexes, is in the cache.
type TableInside struct {
	Table
	Hot     int64 `json:"hot"`
	Warm    int64 `json:"warm"`
	Missing bool  `json:"missing,omitempty"` // the server has no such table
}

// Fraction is as that of Warmth.
func (t TableInside) Fraction() float64 { return fraction(t.Warm, t.Hot) }

func fraction(warm, hot int64) float64 {
	if hot <= 0 {
		return 1
	}
	return min(float64(warm)/float64(hot), 1)
}

// Of returns what is there of a table.
func (w Warmth) Of(t Table) (TableInside, bool) {
	for _, inside := range w.Tables {
		if inside.Table == t {
			return inside, true
		}
	}
	return TableInside{}, false
}

// ReadWarmth looks how much of what is hot on old is in the cache of s, which is
// new, by pg_buffercache there. Blocks of tables count where they are the ones
// that are hot on old, if the order of rows is the same; other files by their
// number. Where the hot set knows no bytes, all of each table that is used is
// taken for hot. When the cache cannot be looked at, Known is false and the
// error nil.
func ReadWarmth(ctx context.Context, s *pg.Server, hot HotSet) (Warmth, error) {
	w := Warmth{Tables: []TableInside{}, At: time.Now().UTC()}
	if err := w.read(ctx, s, &hot); err != nil {
		return w, fmt.Errorf("looking how warm the %s server's cache is: %w", s.Side(), err)
	}
	return w, nil
}

func (w *Warmth) read(ctx context.Context, s *pg.Server, hot *HotSet) error {
	o := HotSetOptions{}.withDefaults()
	conn, err := s.Connect(ctx, "warm", lookSettings(s, o))
	if err != nil {
		return err
	}
	defer endSession(ctx, conn)
	var files []*file
	var found []cached
	var advice string
	err = answered(ctx, s, o.answer(), func(ctx context.Context) (err error) {
		if files, err = filesOf(ctx, conn); err != nil {
			return err
		}
		found, advice, err = lookIntoCache(ctx, conn, files)
		return err
	})
	if errors.Is(err, errNoCache) {
		w.Advice = advice
		return nil
	}
	if err != nil {
		return err
	}
	// Rows are looked up through indexes, in loops.
	settings := WarmOptions{}.withDefaults()
	lookups, err := s.Connect(ctx, "warm", (&warming{server: s, options: settings}).settings())
	if err != nil {
		return err
	}
	defer endSession(ctx, lookups)
	w.Known = true
	inside := insideOf(files, found)
	for i := range hot.Tables {
		t := &hot.Tables[i]
		one := TableInside{Table: t.Table, Missing: inside[t.Table] == nil}
		if !one.Missing {
			err := answered(ctx, s, settings.Answer, func(ctx context.Context) error {
				return one.count(ctx, lookups, hot.Source == FromBufferCache, t, inside[t.Table])
			})
			if err != nil {
				return err
			}
		} else {
			one.Hot = t.Bytes()
		}
		w.Hot += one.Hot
		w.Warm += one.Warm
		w.Tables = append(w.Tables, one)
	}
	return nil
}

// inside is a file and what is in the cache of it.
type inside struct {
	*file
	blocks int64           // in the cache
	at     map[int64]int64 // of them, by range
}

func insideOf(files []*file, found []cached) map[Table][]*inside {
	byOID, byTable := map[uint32]*inside{}, map[Table][]*inside{}
	for _, f := range files {
		i := &inside{file: f, at: map[int64]int64{}}
		byOID[f.OID] = i
		name := Table{Schema: f.Schema, Name: f.Table}
		byTable[name] = append(byTable[name], i)
	}
	for _, c := range found {
		if i := byOID[c.OID]; i != nil {
			i.blocks += c.All
			i.at[c.At] += c.All
		}
	}
	return byTable
}

// count compares a table's files with what is hot of them. A table that cannot
// be read is counted by blocks wherever they are.
func (t *TableInside) count(ctx context.Context, conn *pgx.Conn, known bool, hot *HotTable, files []*inside) error {
	var toast, toastSize int64
	for _, f := range files {
		bytes := f.Blocks * blockBytes
		switch f.Kind {
		case heapFile:
			if !known {
				t.add(bytes, f.blocks*blockBytes)
				continue
			}
			l, err := layoutOf(ctx, conn, hot, f.Blocks)
			if pg.Lost(err) || ctx.Err() != nil {
				return err
			}
			if err != nil || l == nil {
				t.add(scaled(hot.Heap.Hot, hot.Heap.Size, bytes), f.blocks*blockBytes)
				continue
			}
			for _, r := range hot.Heap.Ranges {
				if r.Hot > 0 {
					t.add(f.within(l, r))
				}
			}
		case toastFile, toastIndexFile:
			toast += f.blocks * blockBytes
			toastSize += bytes
		case indexFile:
			switch i := hot.index(f.Name); {
			case i == nil || i.Heat == 0:
			case known:
				t.add(scaled(i.Hot, i.Size, bytes), f.blocks*blockBytes)
			default:
				t.add(bytes, f.blocks*blockBytes)
			}
		}
	}
	switch {
	case known:
		t.add(scaled(hot.Toast.Hot, hot.Toast.Size, toastSize), toast)
	case hot.Toast.Heat > 0:
		t.add(toastSize, toast)
	}
	return nil
}

func (t *TableInside) add(hot, warm int64) {
	t.Hot += hot
	t.Warm += min(hot, warm)
}

// within returns how many bytes of a hot range of old there are on this server,
// and how many blocks of them are in the cache, at most so many.
func (f *inside) within(l *layout, r HotRange) (hot, warm int64) {
	from, to := l.place(r.From), min(l.place(r.To), f.Blocks)
	if to <= from {
		return 0, 0
	}
	hot = max(min(r.Hot*(to-from)/max(r.To-r.From, 1), to-from), 1)
	return hot * blockBytes, f.between(from, to) * blockBytes
}

// between is how many blocks of a range of the file are in the cache, about.
func (f *inside) between(from, to int64) int64 {
	var sum int64
	wide := width(f.Blocks)
	for at := from / wide; at*wide < min(to, f.Blocks); at++ {
		begin, end := max(at*wide, from), min((at+1)*wide, to, f.Blocks)
		if blocks := f.at[at]; blocks > 0 && end > begin {
			size := min((at+1)*wide, f.Blocks) - at*wide
			sum += (blocks*(end-begin) + size - 1) / size
		}
	}
	return sum
}

// EstimateWarmth says how warm the cache is by what was read last, where nobody
// can look: all of it is taken to be there still, and to be what is hot.
func EstimateWarmth(hot HotSet, report WarmReport) Warmth {
	w := Warmth{Estimated: true, Tables: []TableInside{}, At: time.Now().UTC()}
	read := map[Table]int64{}
	for _, t := range report.Tables {
		read[t.Table] = t.Bytes
	}
	for i := range hot.Tables {
		one := TableInside{Table: hot.Tables[i].Table}
		bytes := hot.Tables[i].Bytes()
		if hot.Source != FromBufferCache {
			bytes = hot.Tables[i].Size()
		}
		one.add(bytes, read[one.Table])
		w.Hot += one.Hot
		w.Warm += one.Warm
		w.Tables = append(w.Tables, one)
	}
	return w
}
