package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/schema"
	"github.com/pgcutover/pgcutover/sequences"
	"github.com/pgcutover/pgcutover/warmup"
)

// Condition is what the first queries on a server will find there.
type Condition struct {
	Server pg.Side `json:"server"`
	// Tables are all application tables, ordered by name.
	Tables []TableCondition `json:"tables"`
	// Unowned is the room of sequences that belong to no table of these.
	Unowned []sequences.Room `json:"sequences_without_table"`
	// Room sums up all sequences; nil when the other server could not be asked.
	Room *sequences.RoomLeft `json:"margin,omitempty"`
	// Locked says why the sequences were not read: somebody alters one. Empty when
	// they were.
	Locked string `json:"sequences_locked,omitempty"`
	// Cache says how much of what old keeps in its cache is in this server's; nil
	// when nobody looked, see ReadCache.
	Cache *warmup.Warmth `json:"cache,omitempty"`
	At    time.Time      `json:"at"` // by the server's clock

	from, to []sequences.Sequence // as they were read
}

// TableCondition is the condition of one table.
type TableCondition struct {
	warmup.TableStatistics
	// Sequences are those that the table's columns own.
	Sequences []sequences.Room `json:"sequences,omitempty"`
	// Hot is how many bytes of the table, its TOAST table and indexes are hot on
	// old, and Warm how many of them are in this server's cache; nil when that is
	// not known.
	Hot  *int64 `json:"hot_bytes,omitempty"`
	Warm *int64 `json:"warm_bytes,omitempty"`
}

const clockSQL = `select clock_timestamp()`

// Condition looks at the server that is to serve, or that serves, at the one its
// sequences are compared with, and changes nothing. Ten thousand tables and as many
// sequences take some seconds.
func (m *Move) Condition(ctx context.Context, target pg.Side) (Condition, error) {
	on, from := m.New, m.Old
	if target == pg.Old {
		on, from = m.Old, m.New
	}
	c := Condition{Server: target, Unowned: []sequences.Room{}}
	if err := on.Pool().QueryRow(ctx, clockSQL).Scan(&c.At); err != nil {
		return c, fmt.Errorf("reading the clock of the %s server: %w", target, err)
	}
	statistics, err := warmup.ReadStatistics(ctx, on)
	if err != nil {
		return c, err
	}
	c.Tables = make([]TableCondition, len(statistics))
	byName := make(map[warmup.Table]*TableCondition, len(statistics))
	for i, t := range statistics {
		c.Tables[i].TableStatistics = t
		byName[t.Table] = &c.Tables[i]
	}
	if from == nil {
		return c, nil
	}
	err = m.rooms(ctx, &c, from, on, byName)
	if pg.IsCode(err, pg.LockNotAvailable) {
		c.Locked = "the sequences were not compared: " + err.Error()
		return c, nil
	}
	return c, err
}

// rooms adds how much of their margin the sequences have left.
func (m *Move) rooms(ctx context.Context, c *Condition, from, on *pg.Server, tables map[warmup.Table]*TableCondition) error {
	onFrom, err := m.readableSoon(ctx, from)
	if err != nil {
		return err
	}
	onTarget, err := m.readableSoon(ctx, on)
	if err != nil {
		return err
	}
	c.from, c.to = onFrom, onTarget
	rooms := sequences.Rooms(onFrom, onTarget, m.Options.Margin)
	owners := make(map[sequences.Ref]warmup.Table, len(onTarget))
	for _, s := range onTarget {
		if t, ok := owner(s.OwnedBy); ok {
			owners[s.Ref] = t
		}
	}
	for _, r := range rooms {
		if t := tables[owners[r.Ref]]; t != nil {
			t.Sequences = append(t.Sequences, r)
		} else {
			c.Unowned = append(c.Unowned, r)
		}
	}
	sum := sequences.SumRooms(rooms)
	c.Room = &sum
	return nil
}

// ReadCache adds how much of what is hot on old is in the cache of the server that
// the Condition is of. hot is what was read from old before; nil asks old now,
// which counts accesses for some seconds where old has no pg_buffercache.
func (m *Move) ReadCache(ctx context.Context, c *Condition, hot *warmup.HotSet) error {
	on, old := m.New, m.Old
	if c.Server == pg.Old {
		on = m.Old
	}
	if hot == nil {
		if old == nil {
			return nil
		}
		read, err := warmup.ReadHotSet(ctx, old, warmup.HotSetOptions{})
		if err != nil {
			return fmt.Errorf("reading what is hot on old: %w", err)
		}
		hot = &read
	}
	warmth, err := warmup.ReadWarmth(ctx, on, *hot)
	if err != nil {
		return err
	}
	c.Cache = &warmth
	if !warmth.Known {
		return nil
	}
	for i := range c.Tables {
		inside, _ := warmth.Of(c.Tables[i].Table) // of those that nobody uses nothing is hot
		c.Tables[i].Hot, c.Tables[i].Warm = &inside.Hot, &inside.Warm
	}
	return nil
}

// owner is the table of a column that is written as "schema"."table"."column",
// quoted where it must be.
func owner(column string) (warmup.Table, bool) {
	var parts []string
	var part strings.Builder
	quoted, closed := false, false
	for _, r := range column {
		switch {
		case r == '"':
			if closed { // a doubled quote ends one quotation and begins another
				part.WriteByte('"')
			}
			quoted = !quoted
		case r == '.' && !quoted:
			parts = append(parts, part.String())
			part.Reset()
		default:
			part.WriteRune(r)
		}
		closed = r == '"' && !quoted
	}
	if len(parts) != 2 {
		return warmup.Table{}, false
	}
	return warmup.Table{Schema: parts[0], Name: parts[1]}, true
}

// readable reads the sequences that the role may read.
func readable(ctx context.Context, s *pg.Server) ([]sequences.Sequence, error) {
	return readableBy(ctx, s, s.Pool())
}

func readableBy(ctx context.Context, s *pg.Server, q sequences.Querier) ([]sequences.Sequence, error) {
	var hidden *sequences.UnreadableError
	all, err := sequences.Read(ctx, q, s.Version())
	if err != nil && !errors.As(err, &hidden) {
		return nil, fmt.Errorf("on the %s server: %w", s.Side(), err)
	}
	return all, nil
}

// readableSoon is readable for a status, which waits no longer for a sequence that
// somebody drops or restarts.
func (m *Move) readableSoon(ctx context.Context, s *pg.Server) ([]sequences.Sequence, error) {
	conn, err := s.Connect(ctx, "sequences", map[string]string{"lock_timeout": fmt.Sprint(m.lockPatience().Milliseconds())})
	if err != nil {
		return nil, err
	}
	defer pg.Close(ctx, conn)
	all, err := readableBy(ctx, s, conn)
	if pg.IsCode(err, pg.LockNotAvailable) {
		return nil, fmt.Errorf("%w (%s)", err, strings.Join(schema.Locked(ctx, s), "; "))
	}
	return all, err
}

// WriteText writes a line for each table.
func (c Condition) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(cells ...string) {
		fmt.Fprintln(t, "  "+strings.Join(cells, "\t"))
	}
	line("table", "rows take", "statistics", "changed since", "hot on old, in the cache here", "margin left of its sequences")
	for _, table := range c.Tables {
		line(table.String(), bytes(table.Bytes), table.statistics(c.At), fmt.Sprintf("%d rows", table.Changed), table.cached(), margins(table.Sequences))
	}
	if len(c.Unowned) > 0 {
		line("(sequences without a table)", "", "", "", "", margins(c.Unowned))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if c.Cache == nil {
		return nil
	}
	_, err := fmt.Fprintln(w, "  "+c.cacheLine())
	return err
}

// cached says which part of what is hot is there.
func (t TableCondition) cached() string {
	switch {
	case t.Hot == nil:
		return "?"
	case *t.Hot == 0:
		return "nothing is hot"
	}
	return fmt.Sprintf("%.0f %% of %s", 100*float64(*t.Warm)/float64(*t.Hot), bytes(*t.Hot))
}

func (c Condition) cacheLine() string {
	text := "cache       " + c.Cache.String()
	if c.Cache.Advice != "" {
		text += "; " + c.Cache.Advice
	}
	return text
}

// statistics says how old they are.
func (t TableCondition) statistics(now time.Time) string {
	age, known := t.Age(now)
	switch {
	case t.Lacks != "":
		return "MISSING: " + t.Lacks
	case known:
		return ago(age)
	case t.Carried:
		return "carried over"
	case t.Undated:
		return "age not known"
	}
	return "none needed"
}

// ago writes an age.
func ago(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s old", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min old", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h old", d/time.Hour)
	}
	return fmt.Sprintf("%d days old", d/(24*time.Hour))
}

// margins says how much room the sequence has that has the least.
func margins(rooms []sequences.Room) string {
	if len(rooms) == 0 {
		return ""
	}
	sum := sequences.SumRooms(rooms)
	var parts []string
	if sum.Behind > 0 {
		parts = append(parts, fmt.Sprintf("%d BEHIND", sum.Behind))
	}
	if sum.Least != nil {
		parts = append(parts, fmt.Sprintf("%d of %d", sum.Least.Left, sum.Least.Wanted))
	}
	if sum.Short > 0 {
		parts = append(parts, fmt.Sprintf("%d near the end", sum.Short))
	}
	if len(parts) == 0 {
		return "at the end"
	}
	return strings.Join(parts, ", ")
}

// Summary says in one line for each of the three what a person has to know.
func (c Condition) Summary() []string {
	var out []string
	var oldest *TableCondition
	carried, undated, made, missing := 0, 0, 0, 0
	for i, t := range c.Tables {
		switch {
		case t.Lacks != "":
			missing++
		case t.Carried:
			carried++
		case t.Undated:
			undated++
		case t.Last != nil:
			made++
			if oldest == nil || t.Last.Before(*oldest.Last) {
				oldest = &c.Tables[i]
			}
		}
	}
	text := fmt.Sprintf("statistics  %d tables analyzed, %d carried over, %d without", made+undated, carried, missing)
	if undated > 0 {
		text += fmt.Sprintf("; of %d the server does not know when", undated)
	}
	if oldest != nil {
		age, _ := oldest.Age(c.At)
		text += fmt.Sprintf("; the oldest are %s (%s)", ago(age), oldest.Table)
	}
	out = append(out, text)
	if c.Room != nil && c.Room.Sequences > 0 {
		out = append(out, c.marginLine())
	}
	if c.Cache != nil {
		out = append(out, c.cacheLine())
	}
	return out
}

func (c Condition) marginLine() string {
	text := "margin      "
	if l := c.Room.Least; l != nil {
		text += fmt.Sprintf("at least %d of %d numbers left before old comes to what new was given (%s)", l.Left, l.Wanted, l.Ident())
	} else {
		text += "not set yet"
	}
	if c.Room.Short > 0 {
		text += fmt.Sprintf("; %d sequences near their end", c.Room.Short)
	}
	return text
}
