package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
)

//go:embed slowdisk/delay.c
var delaySource string

// The environment of a server whose reads wait.
const (
	preloadVariable = "LD_PRELOAD"
	delayVariable   = "BENCH_READ_DELAY_US"
)

// canDelay tells whether reads can be made to wait here.
func canDelay() bool {
	_, err := exec.LookPath("cc")
	return runtime.GOOS == "linux" && err == nil
}

// buildDelay compiles what makes the reads of new wait, next to its data.
func (w *world) buildDelay(ctx context.Context) error {
	if w.Delay == 0 {
		return nil
	}
	if !canDelay() {
		return errors.New("making reads wait needs Linux and a C compiler called cc; -delay 0 measures the disk as it is")
	}
	source := filepath.Join(w.New.Dir(), "delay.c")
	if err := os.WriteFile(source, []byte(delaySource), 0o644); err != nil { //nolint:gosec // the server's user reads it
		return err
	}
	w.preload = filepath.Join(w.New.Dir(), "delay.so")
	//nolint:gosec // paths of the bench's own
	text, err := exec.CommandContext(ctx, "cc", "-O2", "-shared", "-fPIC", "-o", w.preload, source).CombinedOutput()
	if err != nil {
		return fmt.Errorf("compiling %s: %w: %s", source, err, text)
	}
	return nil
}

// restartNew starts new again, with reads that wait.
func (w *world) restartNew(ctx context.Context) error {
	if w.preload == "" {
		return w.New.Restart(ctx)
	}
	before := os.Getenv(preloadVariable)
	err := errors.Join(os.Setenv(preloadVariable, w.preload), os.Setenv(delayVariable, strconv.FormatInt(w.Delay.Microseconds(), 10)))
	if err == nil {
		err = w.New.Restart(ctx)
	}
	if before != "" {
		return errors.Join(err, os.Setenv(preloadVariable, before))
	}
	return errors.Join(err, os.Unsetenv(preloadVariable))
}
