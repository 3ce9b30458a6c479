package cutover

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"

	"github.com/pgcutover/pgcutover/sequences"
)

// given are changes of sequences as the journal keeps them: a list or, when there
// are many, a compressed one in base64. Each takes about a kilobyte of text, and the
// next step waits until the record is written: 30,000 of them took longer than a
// record may.
type given []sequences.Change

// plainChanges is up to how many are kept as a list.
const plainChanges = 500

// MarshalJSON writes the list, or what it is compressed to.
func (g given) MarshalJSON() ([]byte, error) {
	list, err := json.Marshal([]sequences.Change(g))
	if err != nil || len(g) <= plainChanges {
		return list, err
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(list); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return json.Marshal(packed.Bytes())
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (g *given) UnmarshalJSON(text []byte) error {
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
	return json.Unmarshal(text, (*[]sequences.Change)(g))
}
