package cutover

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/pgcutover/pgcutover/sequences"
)

// What a killed cutover gave to the sequences is all that its successor has to go
// by.
func TestGivenIsKept(t *testing.T) {
	for _, n := range []int{0, 1, plainChanges, plainChanges + 1, 30_000} {
		var want aheadFacts
		for i := range n {
			ref := sequences.Ref{Schema: "public", Name: fmt.Sprintf("s%d_id_seq", i)}
			want.Given = append(want.Given, sequences.Change{
				Ref: ref, Value: int64(i) << 40, Why: "past the last value",
				Old: sequences.Sequence{Value: sequences.Value{Ref: ref, LastValue: int64(i), IsCalled: true}, Increment: 1},
				New: sequences.Sequence{Value: sequences.Value{Ref: ref, LastValue: 1}, Increment: 1},
			})
		}
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if most := 2_000_000; len(text) > most {
			t.Errorf("%d sequences take %d bytes of the journal, at most %d are wanted", n, len(text), most)
		}
		var got aheadFacts
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%d sequences are not the same when they come back", n)
		}
	}
	for _, broken := range []string{`"no base64"`, `"AAAA"`, `7`, `"H4sI"`} {
		if err := json.Unmarshal([]byte(broken), new(Given)); err == nil {
			t.Errorf("%s is accepted", broken)
		}
	}
}

// What follows before and in the pause is written briefly, and nothing at all is
// written of those that nobody has used; what comes back is whole.
func TestAgainIsShortAndWhole(t *testing.T) {
	all := make(Given, 10_000)
	for i := range all {
		ref := sequences.Ref{Schema: "public", Name: fmt.Sprintf("s%d_id_seq", i)}
		one := sequences.Sequence{Value: sequences.Value{Ref: ref, LastValue: int64(i), IsCalled: true}, Type: "bigint", Increment: 1, Max: 1 << 60, Cache: 1, Readable: true, Settable: true}
		all[i] = sequences.Change{Ref: ref, Old: one, New: one, Value: 2000, Why: "ahead"}
	}
	record := func(later []sequences.Change) []byte {
		t.Helper()
		text, err := json.Marshal(sequenceFacts{Read: len(all), Again: later})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if text := record(nil); len(text) > 100 {
		t.Errorf("10,000 unchanged sequences take %d bytes: %s", len(text), text)
	}
	for _, n := range []int{1, 300, plainChanges + 1} {
		var later []sequences.Change
		for i := range n {
			c := all[i*7]
			c.Old.LastValue, c.New.LastValue, c.New.IsCalled = 1900, 2000, false
			c.Value, c.Margin, c.Wrapped, c.Exhausted, c.Overlap = int64(i)<<40, 7, i%2 > 0, i%3 > 0, &sequences.Range{From: 1, To: 2}
			c.Why = ""
			later = append(later, c)
		}
		text := record(later)
		if len(text) > 300*n+100 {
			t.Errorf("%d sequences take %d bytes", n, len(text))
		}
		var back sequenceFacts
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		want, got := slices.Clone(all), slices.Clone(all)
		want.follow(later)
		if got = got.complete(back.Again); !reflect.DeepEqual(got, want) || reflect.DeepEqual(got, all) {
			t.Errorf("%d sequences are not the same when they come back", n)
		}
	}
}
