package config_test

import (
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pgcutover/pgcutover/internal/config"
)

func TestDuration(t *testing.T) {
	for text, want := range map[string]struct {
		d     time.Duration
		shown string
	}{
		"300ms":  {300 * time.Millisecond, "300ms"},
		"10s":    {10 * time.Second, "10s"},
		"24h":    {24 * time.Hour, "24h"},
		"90m":    {90 * time.Minute, "1h30m"},
		"1h0m5s": {time.Hour + 5*time.Second, "1h0m5s"},
		"10m":    {10 * time.Minute, "10m"},
		"20m10s": {20*time.Minute + 10*time.Second, "20m10s"},
		"0s":     {0, "0s"},
		"0":      {0, "0s"},
	} {
		var d config.Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || d.Std() != want.d || d.String() != want.shown {
			t.Errorf("%s is %s (%s), %v", text, d, d.Std(), err)
		}
	}
	for _, text := range []string{"", "10", "s", "-1s", "1 s", "1d"} {
		var d config.Duration
		if err := d.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is accepted as %s", text, d)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]struct {
		bytes int64
		shown string
	}{
		"0":        {0, "0"},
		"0GiB":     {0, "0"},
		"1B":       {1, "1B"},
		"512kB":    {512 << 10, "512kB"},
		"512KiB":   {512 << 10, "512kB"},
		"16MiB":    {16 << 20, "16MiB"},
		"16 MB":    {16 << 20, "16MiB"},
		"2048kB":   {2 << 20, "2MiB"},
		"20GiB":    {20 << 30, "20GiB"},
		"1TiB":     {1 << 40, "1TiB"},
		"2048TB":   {2 << 50, "2048TiB"},
		"1025kB":   {1025 << 10, "1025kB"},
		"1500000B": {1500000, "1500000B"},
	} {
		var s config.Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s.Bytes() != want.bytes || s.String() != want.shown {
			t.Errorf("%s is %s (%d), %v", text, s, s.Bytes(), err)
		}
	}
	for _, text := range []string{"", "1", "B", "-1B", "1.5GiB", "1gb", "1KB", "1GiBB", "1 G", "9223372036854775808B", "8388608TiB", "0x10B"} {
		var s config.Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is accepted as %s", text, s)
		}
	}
}

// What is written can be read, and is the same then.
func TestValuesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type values struct {
			D config.Duration
			S config.Size
			B config.Budget
			T config.Stage
		}
		v := values{
			D: config.Duration(rapid.Int64Min(0).Draw(t, "duration")),
			S: config.Size(rapid.Int64Min(0).Draw(t, "size")),
			B: config.Budget{Size: config.Size(rapid.Int64Min(0).Draw(t, "budget"))},
			T: config.Stage(rapid.IntRange(0, 10000).Draw(t, "stage")),
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var again values
		if err := json.Unmarshal(text, &again); err != nil || again != v {
			t.Fatalf("%+v became %s, then %+v, %v", v, text, again, err)
		}
	})
}
