package upgrade

import (
	"context"

	"github.com/pgcutover/pgcutover/preflight"
)

// Grants returns what the tool's roles need on both servers, as scripts. It
// changes nothing.
func (m *Move) Grants(ctx context.Context, o preflight.GrantOptions) (old, new preflight.GrantScript, err error) {
	return preflight.Grants(ctx, m.pair(), o)
}
