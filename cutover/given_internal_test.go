package cutover

import (
	"encoding/json"
	"fmt"
	"reflect"
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
		if err := json.Unmarshal([]byte(broken), new(given)); err == nil {
			t.Errorf("%s is accepted", broken)
		}
	}
}
