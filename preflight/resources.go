package preflight

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// checkResources looks for what a new server often has as initdb left it, though
// old's was set: they are read at the start of the server only.
func checkResources(ctx context.Context, p *Pair) ([]Finding, error) {
	names := []string{"shared_buffers", "max_prepared_transactions"}
	older, err := readSettings(ctx, p.Old, names...)
	if err != nil {
		return nil, err
	}
	newer, err := readSettings(ctx, p.New, names...)
	if err != nil {
		return nil, err
	}
	return resourceFindings(older, newer), nil
}

func resourceFindings(older, newer map[string]settingFacts) []Finding {
	var found []Finding
	if o, n := older["max_prepared_transactions"], newer["max_prepared_transactions"]; n.number() < o.number() {
		found = append(found, Finding{
			ID: "settings.prepared-transactions", Severity: Warning, Server: string(pg.New), Object: o.Name,
			Seen: fmt.Sprintf("%s is %s on old, %s on new", o.Name, o.Setting, n.Setting),
			Why:  "PREPARE TRANSACTION of more sessions at a time fails on new; at 0 it is refused altogether, with error 55000.",
		}.setTo(o.Name, o.Setting, true))
	}
	if o, n := older["shared_buffers"], newer["shared_buffers"]; n.number()*2 < o.number() {
		found = append(found, Finding{
			ID: "settings.shared-buffers", Severity: Note, Server: string(pg.New), Object: o.Name,
			Seen: fmt.Sprintf("%s is %s on old, %s on new", o.Name, bytes(int64(o.number())<<13), bytes(int64(n.number())<<13)),
			Why:  "Less than half of what old keeps in its cache fits into new's: queries read from disk after the cutover that did not before.",
		}.setTo(o.Name, literal(o.withUnit()), true))
	}
	return found
}
