package probe

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// receiver is a webhook that answers as it is told.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	status []int // of the next answers; then 204
	bodies []string
	tries  int
}

func receive(t *testing.T, status ...int) *receiver {
	t.Helper()
	r := &receiver{status: status}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err != nil || request.Method != http.MethodPost || request.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %v", request.Method, request.Header, err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.tries++
		answer := http.StatusNoContent
		if len(r.status) > 0 {
			answer, r.status = r.status[0], r.status[1:]
		}
		if answer < 300 {
			r.bodies = append(r.bodies, string(body))
		}
		if answer == http.StatusFound {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(answer)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) events(t *testing.T) (out []Event) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, body := range r.bodies {
		var e Event
		if err := json.Unmarshal([]byte(body), &e); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(body, "s3cr3t") {
			t.Errorf("the webhook was told a password: %s", body)
		}
		out = append(out, e)
	}
	return out
}

// Every change of state is posted, in order, and nothing else is.
func TestWebhook(t *testing.T) {
	checkLeaks(t)
	hook := receive(t)
	url := pgtest.Database(t, pgtest.Server(t, pgtest.Majors(t)[0]))
	p := start(t, Options{URL: pgtest.WithUser(t, url, "postgres", "s3cr3t"), Webhook: hook.URL + "/T0/s3cr3t"})
	p.until("a write", ok)
	for range 2 {
		setReadOnly(t, url, true)
		p.until("failures", func(r Round) bool { return r.FailedRounds >= 3 && !r.OK })
		setReadOnly(t, url, false)
		p.next("recovery", func(r Round) bool { return r.Change == Recovered })
	}
	r := p.stop()
	if r.Webhook == nil || *r.Webhook != (Delivered{Delivered: 4}) || len(p.warnings) > 0 {
		t.Errorf("delivered %+v, warnings %q", r.Webhook, p.warnings)
	}
	events := hook.events(t)
	if len(events) != 4 {
		t.Fatalf("%d events", len(events))
	}
	for i, e := range events {
		want, text := Failing, "fails: read-only (SQLSTATE 25006)"
		if i%2 == 1 {
			want, text = Recovered, "recovered after"
		}
		if e.Event != want || !strings.Contains(e.Text, text) || e.Prober != r.Prober || e.URL != r.URL || e.At.IsZero() {
			t.Errorf("event %d: %+v", i, e)
		}
		if e.Round.OK != (want == Recovered) || e.Round.Since == nil || (want == Failing) != (e.Round.Failure != nil && e.Round.Failure.Hint != "") {
			t.Errorf("event %d: round %+v", i, e.Round)
		}
	}
}

// A receiver that stumbles is tried again; one that refuses is not; neither
// stops the probe, and nobody is shown the secret in its URL.
func TestWebhookThatFails(t *testing.T) {
	checkLeaks(t)
	port, err := pgserver.ReservePort()
	if err != nil {
		t.Fatal(err)
	}
	defer port.Release()
	for _, test := range []struct {
		name   string
		status []int
		tries  int
		fails  string
	}{
		{name: "stumbles", status: []int{500, 429}, tries: 3},
		{name: "is broken", status: []int{500, 502, 503}, tries: 3, fails: "503 Service Unavailable (3 tries)"},
		{name: "refuses", status: []int{403}, tries: 1, fails: "403 Forbidden (1 tries)"},
		{name: "redirects", status: []int{302}, tries: 1, fails: "302 Found (1 tries)"},
		{name: "is not there", fails: "connection refused (3 tries)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			hook := receive(t, test.status...)
			to := hook.URL
			if test.name == "is not there" {
				to = "http://" + port.Addr()
			}
			var warnings []error
			n, err := newNotifier(to+"/services/s3cr3t?token=s3cr3t", func(err error) { warnings = append(warnings, err) })
			if err != nil {
				t.Fatal(err)
			}
			n.pause = time.Millisecond
			n.tell(Event{Event: Failing})
			got := n.close()
			if hook.tries != test.tries {
				t.Errorf("%d tries, want %d", hook.tries, test.tries)
			}
			if test.fails == "" {
				if got != (Delivered{Delivered: 1}) || len(warnings) > 0 {
					t.Errorf("%+v, %v", got, warnings)
				}
				return
			}
			text := fmt.Sprint(errors.Join(warnings...))
			if got != (Delivered{Failed: 1}) || !strings.Contains(text, test.fails) || !strings.Contains(text, hostOf(to)) || strings.Contains(text, "s3cr3t") {
				t.Errorf("%+v, %s", got, text)
			}
		})
	}
}

// A receiver that says nothing holds up neither the rounds nor, for long, the
// end, and the events that pile up are bounded.
func TestWebhookThatHangs(t *testing.T) {
	checkLeaks(t)
	released := make(chan struct{})
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-released:
		}
	}))
	defer hook.Close()
	defer close(released)
	var mu sync.Mutex
	var warnings []string
	n, err := newNotifier(hook.URL, func(err error) {
		mu.Lock()
		defer mu.Unlock()
		warnings = append(warnings, err.Error())
	})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for range webhookQueue + 10 {
		n.tell(Event{Event: Failing})
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("telling took %s", took)
	}
	n.stop() // as the bound of the farewell does
	got := n.close()
	if got.Failed != webhookQueue+10 || got.Delivered != 0 || time.Since(began) > time.Minute {
		t.Errorf("%+v after %s", got, time.Since(began))
	}
	if len(warnings) != webhookQueue+10 || !strings.Contains(strings.Join(warnings, "\n"), "too many") {
		t.Errorf("%d warnings", len(warnings))
	}
}
