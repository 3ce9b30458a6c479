package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/internal/config"
)

func newInit(a *app) *cobra.Command {
	return command("init", "Write a commented pgcutover.yaml from two connection strings",
		"init writes the config file named by --config and never overwrites one. Passwords are not\nwritten: the file says how to supply them.",
		"  pgcutover init --old postgres://app@old.example/shop --new postgres://app@new.example/shop --name shop",
		func(context.Context) error {
			if a.flags.old == "" || a.flags.new == "" {
				return &usageError{errors.New("give --old and --new")}
			}
			text, err := config.Template(a.flags.old, a.flags.new, a.flags.name)
			if err != nil {
				return &usageError{err}
			}
			file, err := os.OpenFile(a.flags.config, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return fmt.Errorf("writing the config file: %w", err)
			}
			_, err = file.Write(text)
			if err := errors.Join(err, file.Close()); err != nil {
				return fmt.Errorf("writing %s: %w", a.flags.config, err)
			}
			return a.print(struct {
				Config string `json:"config"`
			}{a.flags.config}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s written. Next: pgcutover check\n", a.flags.config)
				return err
			})
		})
}
