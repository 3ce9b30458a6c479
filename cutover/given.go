package cutover

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"

	"github.com/pgcutover/pgcutover/sequences"
)

// Given are changes of sequences as the journal keeps them: a list or, when there
// are many, a compressed one in base64. Each takes about a kilobyte of text, and the
// next step waits until the record is written: 30,000 of them took longer than a
// record may.
type Given []sequences.Change

// plainChanges is up to how many are kept as a list.
const plainChanges = 500

// MarshalJSON writes the list, or what it is compressed to.
func (g Given) MarshalJSON() ([]byte, error) { return pack([]sequences.Change(g)) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (g *Given) UnmarshalJSON(text []byte) error { return unpack(text, (*[]sequences.Change)(g)) }

// Again are changes that follow those of Given, as the journal keeps them: without
// the sequences' definitions, which stand there already, since clients may be
// waiting. What is read has to be completed with what was given.
type Again []sequences.Change

// follow is one of them.
type follow struct {
	sequences.Ref
	Old       position         `json:"old"`
	New       position         `json:"new"`
	Value     int64            `json:"value"`
	Exhausted bool             `json:"exhausted,omitempty"`
	Kept      bool             `json:"kept,omitempty"`
	Wrapped   bool             `json:"wrapped,omitempty"`
	Margin    uint64           `json:"margin"`
	Overlap   *sequences.Range `json:"overlap,omitempty"`
}

type position struct {
	LastValue int64 `json:"last_value"`
	IsCalled  bool  `json:"is_called"`
}

// MarshalJSON writes the short form.
func (a Again) MarshalJSON() ([]byte, error) {
	list := make([]follow, len(a))
	for i, c := range a {
		list[i] = follow{
			Ref: c.Ref, Value: c.Value, Exhausted: c.Exhausted, Kept: c.Kept, Wrapped: c.Wrapped, Margin: c.Margin, Overlap: c.Overlap,
			Old: position{c.Old.LastValue, c.Old.IsCalled}, New: position{c.New.LastValue, c.New.IsCalled},
		}
	}
	return pack(list)
}

// UnmarshalJSON reads the short form.
func (a *Again) UnmarshalJSON(text []byte) error {
	var list []follow
	if err := unpack(text, &list); err != nil {
		return err
	}
	*a = make(Again, len(list))
	for i, f := range list {
		c := sequences.Change{
			Ref: f.Ref, Value: f.Value, Exhausted: f.Exhausted, Kept: f.Kept, Wrapped: f.Wrapped, Margin: f.Margin, Overlap: f.Overlap,
		}
		c.Old.Value = sequences.Value{Ref: f.Ref, LastValue: f.Old.LastValue, IsCalled: f.Old.IsCalled}
		c.New.Value = sequences.Value{Ref: f.Ref, LastValue: f.New.LastValue, IsCalled: f.New.IsCalled}
		(*a)[i] = c
	}
	return nil
}

// complete puts the changes of later into g, with the definitions that g has.
func (g Given) complete(later Again) Given {
	byRef := make(map[sequences.Ref]sequences.Change, len(later))
	for _, c := range later {
		byRef[c.Ref] = c
	}
	for i, before := range g {
		c, found := byRef[before.Ref]
		if !found {
			continue
		}
		from, to := c.Old.Value, c.New.Value
		c.Old, c.New = before.Old, before.New
		c.Old.Value, c.New.Value = from, to
		g[i] = c
	}
	return g
}

// follow puts later ones, which are in its order, into g.
func (g Given) follow(later []sequences.Change) {
	i := 0
	for n := range g {
		if i < len(later) && g[n].Ref == later[i].Ref {
			g[n] = later[i]
			i++
		}
	}
}

// pack writes a list as JSON, compressed when it is long.
func pack[T any](list []T) ([]byte, error) {
	text, err := json.Marshal(list)
	if err != nil || len(list) <= plainChanges {
		return text, err
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return json.Marshal(packed.Bytes())
}

// unpack reads what pack wrote.
func unpack[T any](text []byte, list *[]T) error {
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte(`"`)) {
		var packed []byte
		if err := json.Unmarshal(text, &packed); err != nil {
			return err
		}
		r, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			return fmt.Errorf("unpacking the sequences: %w", err)
		}
		if text, err = io.ReadAll(r); err != nil {
			return fmt.Errorf("unpacking the sequences: %w", err)
		}
	}
	return json.Unmarshal(text, list)
}
