package rounds

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/pgserver"
)

// ServerOptions say which servers a bench wants.
type ServerOptions struct {
	Pair     Pair
	Name     string // the clusters are called by it: <name>-old and <name>-new
	Durable  bool   // see pgserver.Options
	Settings map[string]string
	// Dir keeps both for the next run, in folders that Size tells apart; empty:
	// temporary ones.
	Dir  string
	Size int
	Say  func(format string, args ...any)
}

// Servers are the two servers of a bench. Close them.
type Servers struct {
	Old, New *pgserver.Cluster
	kept     bool
}

// Start brings the binaries if they are missing and starts both servers.
func Start(ctx context.Context, o ServerOptions) (Servers, error) {
	s := Servers{kept: o.Dir != ""}
	if err := pgserver.Install(ctx, func(text string) { o.Say("%s", text) }, o.Pair.Old, o.Pair.New); err != nil {
		return s, err
	}
	group, inner := errgroup.WithContext(ctx)
	for _, one := range []struct {
		major int
		name  string
		into  **pgserver.Cluster
	}{{o.Pair.Old, o.Name + "-old", &s.Old}, {o.Pair.New, o.Name + "-new", &s.New}} {
		group.Go(func() (err error) {
			dir := ""
			if s.kept {
				dir = filepath.Join(o.Dir, fmt.Sprintf("%s-%d-%d", one.name, one.major, o.Size))
			}
			*one.into, err = pgserver.Start(inner, pgserver.Options{
				Major: one.major, Name: one.name, Dir: dir, Durable: o.Durable, Settings: o.Settings,
			})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return Servers{}, errors.Join(err, s.Close(ctx))
	}
	return s, nil
}

// Close stops the servers, also when ctx has ended, and removes them unless they
// are to be kept.
func (s *Servers) Close(ctx context.Context) error {
	var errs []error
	for _, c := range []*pgserver.Cluster{s.Old, s.New} {
		if c == nil {
			continue
		}
		if s.kept { // the next run is to find it shut down
			errs = append(errs, c.Stop(context.WithoutCancel(ctx)))
		}
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
