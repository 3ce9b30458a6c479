package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time, written as in Go: 300ms, 10s, 1h30m, 24h.
type Duration time.Duration

// Std returns d as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String writes d without the zeros that time.Duration adds (24h, not 24h0m0s).
func (d Duration) String() string {
	text := time.Duration(d).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// MarshalText writes d as String does; JSON shows it as a string.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what time.ParseDuration reads, except negative lengths.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil || parsed < 0 {
		return errors.New("expects a duration such as 300ms, 10s or 24h")
	}
	*d = Duration(parsed)
	return nil
}

// Size is a number of bytes, written with a unit: 512kB, 16MiB, 20GiB. As in
// postgresql.conf the units are powers of 1024, whether written kB, MB or KiB,
// MiB (Postgres manual 20.1.1).
type Size int64

// units are the powers of 1024 from small to large, with the names of each; the
// first is what String writes.
var units = [][]string{{"B"}, {"kB", "KiB"}, {"MiB", "MB"}, {"GiB", "GB"}, {"TiB", "TB"}}

// Bytes returns s as a plain number.
func (s Size) Bytes() int64 { return int64(s) }

// String writes s with the largest unit that needs no fraction.
func (s Size) String() string {
	if s == 0 {
		return "0"
	}
	power := 0
	for s%1024 == 0 && power < len(units)-1 {
		s /= 1024
		power++
	}
	return strconv.FormatInt(int64(s), 10) + units[power][0]
}

// MarshalText writes s as String does; JSON shows it as a string.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a whole number with a unit, or 0.
func (s *Size) UnmarshalText(text []byte) error {
	wrong := errors.New("expects a size such as 512kB, 16MiB or 20GiB")
	digits := strings.TrimRight(string(text), "BkKMGTi ")
	unit := strings.TrimSpace(string(text)[len(digits):])
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return wrong
	}
	if n == 0 && unit == "" {
		*s = 0
		return nil
	}
	factor := uint64(1)
	for _, names := range units {
		for _, name := range names {
			if unit != name {
				continue
			}
			if n > math.MaxInt64/factor {
				return errors.New("is larger than any server")
			}
			*s = Size(n * factor) //nolint:gosec // checked just now
			return nil
		}
		factor *= 1024
	}
	return wrong
}

// Budget is how much may be read into the cache: a Size, or automatic.
type Budget struct {
	// Size is the amount; 0 means automatic (from the server's settings).
	Size Size
}

// Auto tells whether the amount follows from the server's settings.
func (b Budget) Auto() bool { return b.Size == 0 }

// String writes "auto" or the size.
func (b Budget) String() string {
	if b.Auto() {
		return "auto"
	}
	return b.Size.String()
}

// MarshalText writes b as String does.
func (b Budget) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads "auto" or a size above 0.
func (b *Budget) UnmarshalText(text []byte) error {
	if string(text) == "auto" {
		b.Size = 0
		return nil
	}
	var size Size
	if err := size.UnmarshalText(text); err != nil || size == 0 {
		return errors.New("expects auto or a size such as 2GiB")
	}
	b.Size = size
	return nil
}

// Stage is a statistics target for one run of ANALYZE, or DefaultTarget.
type Stage int

// DefaultTarget is the stage that uses the server's default_statistics_target
// and the columns' own targets.
const DefaultTarget Stage = 0

// maxTarget is the largest target that Postgres takes (manual 19.7.4,
// default_statistics_target).
const maxTarget = 10000

// String writes the number, or "default".
func (s Stage) String() string {
	if s == DefaultTarget {
		return "default"
	}
	return strconv.Itoa(int(s))
}

// MarshalText writes s as String does.
func (s Stage) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads "default" or a number from 1 to 10000.
func (s *Stage) UnmarshalText(text []byte) error {
	if string(text) == "default" {
		*s = DefaultTarget
		return nil
	}
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 || n > maxTarget {
		return fmt.Errorf("expects default or a statistics target from 1 to %d", maxTarget)
	}
	*s = Stage(n)
	return nil
}
