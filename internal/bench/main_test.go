package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// reports writes each text into a file of its own and returns the paths.
func reports(t *testing.T, texts ...string) []string {
	t.Helper()
	var files []string
	for i, text := range texts {
		file := filepath.Join(t.TempDir(), string(rune('a'+i))+".json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	return files
}

func TestBenchSumsUp(t *testing.T) {
	files := reports(t,
		`{"write_pause_ms": 30.5, "lost": 0, "duplicated": 0, "phases": []}`,
		`{"write_pause_ms": 10, "lost": 0, "duplicated": 0}`,
		`{"write_pause_ms": 20.25, "lost": 0, "duplicated": 0}`)
	var stdout, stderr strings.Builder
	if err := bench(files, &stdout, &stderr); err != nil {
		t.Fatal(err)
	}
	var got summary
	if err := json.Unmarshal([]byte(stdout.String()), &got); err != nil {
		t.Fatalf("stdout is no JSON object: %v\n%s", err, stdout.String())
	}
	if got.Rounds != 3 || got.Median != 20.25 || got.Min != 10 || got.Max != 30.5 {
		t.Errorf("got %+v, want 3 rounds, median 20.25, min 10, max 30.5", got)
	}
	if want := "median"; !strings.Contains(stderr.String(), want) {
		t.Errorf("the table has no line %q:\n%s", want, stderr.String())
	}
}

func TestBenchFails(t *testing.T) {
	const good = `{"write_pause_ms": 1, "lost": 0, "duplicated": 0}`
	for name, text := range map[string]string{
		"lost":             `{"write_pause_ms": 1, "lost": 1, "duplicated": 0}`,
		"duplicated":       `{"write_pause_ms": 1, "lost": 0, "duplicated": 2}`,
		"pause not said":   `{"lost": 0, "duplicated": 0}`,
		"lost not said":    `{"write_pause_ms": 1, "duplicated": 0}`,
		"twice not said":   `{"write_pause_ms": 1, "lost": 0}`,
		"text before JSON": "moving\n" + good,
		"empty":            "",
	} {
		if err := bench(reports(t, good, text), io.Discard, io.Discard); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := bench(nil, io.Discard, io.Discard); err == nil {
		t.Error("no files: no error")
	}
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{7}, 7},
		{[]float64{4, 1}, 2.5},
		{[]float64{9, 1, 2}, 2},
		{[]float64{9, 1, 2, 4}, 3},
	} {
		if got := median(tt.values); got != tt.want {
			t.Errorf("median(%v) = %v, want %v", tt.values, got, tt.want)
		}
	}
}
