package warmup

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// QueriesReport is what RunQueries measured.
type QueriesReport struct {
	Server  string        `json:"server"` // host:port/database
	Version string        `json:"version"`
	Queries []QueryTiming `json:"queries"` // in the order of the file
	Runs    int           `json:"runs"`
	Failed  int           `json:"failed"`
	Took    time.Duration `json:"took_ns"`
}

// QueryTiming is how long one query took, over all its lists of values, from when
// it was sent to when its last row had come. Times are in milliseconds, of the runs
// that did not fail; the median and p99 are right to one per cent.
type QueryTiming struct {
	Name     string  `json:"name,omitempty"`
	Line     int     `json:"line"`
	SQL      string  `json:"sql"`
	Runs     int     `json:"runs"`
	Failed   int     `json:"failed"`
	MinMS    float64 `json:"min_ms"`
	MedianMS float64 `json:"median_ms"`
	P99MS    float64 `json:"p99_ms"`
	MaxMS    float64 `json:"max_ms"`
	// Rows is how many rows came at the last run with each list of values, -1 where
	// none succeeded.
	Rows   []int64      `json:"rows"`
	Errors []QueryError `json:"errors"`
}

// QueryError is one way in which a query failed.
type QueryError struct {
	Parameters int    `json:"parameters"` // which list of values, from 1
	Message    string `json:"message"`
	Code       string `json:"code,omitempty"` // SQLSTATE
	Count      int    `json:"count"`
}

// tally counts the runs of one query.
type tally struct {
	times    map[int]int // by the logarithm of the time, see bucketOf
	runs     int
	min, max time.Duration
	rows     []int64
	failed   int
	errors   []QueryError
}

// mostErrors is how many different ones of a query are kept.
const mostErrors = 20

func newTallies(queries []Query) []*tally {
	all := make([]*tally, len(queries))
	for i, q := range queries {
		all[i] = &tally{times: map[int]int{}, rows: slices.Repeat([]int64{-1}, len(q.Parameters)), errors: []QueryError{}}
	}
	return all
}

// Times of one bucket differ by two per cent at most.
const bucketWidth = 1.02

func bucketOf(d time.Duration) int {
	return int(math.Floor(math.Log(float64(max(d, 1))) / math.Log(bucketWidth)))
}

func bucketMiddle(bucket int) float64 { return math.Pow(bucketWidth, float64(bucket)+0.5) }

func (t *traffic) count(query, values int, r ran, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tallies[query].add(values, r, err)
	t.done++
	t.options.Progress(t.done)
}

func (t *tally) add(values int, r ran, err error) {
	t.runs++
	if err != nil {
		t.failed++
		t.fail(values, err)
		return
	}
	if t.runs-t.failed == 1 || r.took < t.min {
		t.min = r.took
	}
	t.max = max(t.max, r.took)
	t.times[bucketOf(r.took)]++
	t.rows[values] = r.rows
}

func (t *tally) fail(values int, err error) {
	message, code := told(err)
	at := slices.IndexFunc(t.errors, func(e QueryError) bool {
		return e.Parameters == values+1 && e.Message == message && e.Code == code
	})
	switch {
	case at >= 0:
		t.errors[at].Count++
	case len(t.errors) < mostErrors:
		t.errors = append(t.errors, QueryError{values + 1, message, code, 1})
	}
}

// quantile is the time that this share of the runs did not exceed.
func (t *tally) quantile(share float64) float64 {
	total := t.runs - t.failed
	wanted, seen := int(math.Ceil(share*float64(total))), 0
	for _, bucket := range slices.Sorted(maps.Keys(t.times)) {
		if seen += t.times[bucket]; seen >= wanted {
			middle := time.Duration(bucketMiddle(bucket))
			return inMS(min(max(middle, t.min), t.max))
		}
	}
	return 0
}

func inMS(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (t *traffic) report(took time.Duration) QueriesReport {
	r := QueriesReport{Server: t.server.Address(), Version: t.version, Queries: []QueryTiming{}, Took: took}
	for i, q := range t.queries {
		one := t.tallies[i]
		r.Queries = append(r.Queries, QueryTiming{
			Name: q.Name, Line: q.Line, SQL: q.SQL, Runs: one.runs, Failed: one.failed,
			MinMS: inMS(one.min), MedianMS: one.quantile(0.5), P99MS: one.quantile(0.99), MaxMS: inMS(one.max),
			Rows: one.rows, Errors: one.errors,
		})
		r.Runs += one.runs
		r.Failed += one.failed
	}
	return r
}

// label is how a query is called in a text.
func (q QueryTiming) label() string { return Query{Name: q.Name, Line: q.Line}.String() }

// WriteText prints the report for people.
func (r QueriesReport) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%-24s %7s %9s %9s %9s %9s  rows\n", "query", "runs", "min ms", "median", "p99", "max")
	for _, q := range r.Queries {
		fmt.Fprintf(&b, "%-24s %7d %9s %9s %9s %9s  %s\n", q.label(), q.Runs, short(q.MinMS), short(q.MedianMS), short(q.P99MS), short(q.MaxMS), rowsText(q.Rows))
		q.writeErrors(&b, "")
	}
	fmt.Fprintf(&b, "%d runs on %s in %s, %d failed\n", r.Runs, r.Server, r.Took.Round(time.Millisecond), r.Failed)
	_, err := io.WriteString(w, b.String())
	return err
}

// writeErrors prints how a query failed, a line each.
func (q QueryTiming) writeErrors(b *strings.Builder, where string) {
	for _, e := range q.Errors {
		fmt.Fprintf(b, "     %d failed%s, line %d%s: %s %s\n", e.Count, where, q.Line, listText(e.Parameters, len(q.Rows)), oneLine(e.Message), e.Code)
	}
}

func listText(number, of int) string {
	if of < 2 {
		return ""
	}
	return fmt.Sprintf(" with values %d", number)
}

// rowsText lists the numbers of rows, the first few of them.
func rowsText(rows []int64) string {
	var texts []string
	for i, n := range rows {
		switch {
		case i == 5:
			return strings.Join(append(texts, "..."), ",")
		case n < 0:
			texts = append(texts, "-")
		default:
			texts = append(texts, fmt.Sprint(n))
		}
	}
	return strings.Join(texts, ",")
}
