package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Event is what a webhook gets, as JSON, when the state changes.
type Event struct {
	Event Change `json:"event"` // failing or recovered
	// Text is the whole in one line; chat services show a field of that name.
	Text   string    `json:"text"`
	URL    string    `json:"url"` // that is probed, without its password
	Prober string    `json:"prober"`
	At     time.Time `json:"at"`
	Round  Round     `json:"round"`
}

// event makes the event of a round that changed the state.
func (p *prober) event(r Round) Event {
	text := fmt.Sprintf("pgcutover probe of %s: recovered after %.1f s (%d rounds failed)", p.report.URL, r.FailingMS/1000, r.FailedRounds)
	if r.Change == Failing {
		text = fmt.Sprintf("pgcutover probe of %s fails: %s", p.report.URL, r.Failure)
	}
	return Event{Event: r.Change, Text: text, URL: p.report.URL, Prober: p.report.Prober, At: r.ended, Round: r}
}

// Delivered counts the events of a webhook.
type Delivered struct {
	Delivered int `json:"delivered"`
	Failed    int `json:"failed"`
}

// Bounds of a delivery. Three tries of five seconds with two pauses make at most
// 18 seconds an event.
const (
	webhookTries   = 3
	webhookTimeout = 5 * time.Second
	webhookPause   = time.Second
	webhookQueue   = 32
	// webhookFarewell is how long events that are still under way may take when
	// the probe ends.
	webhookFarewell = 20 * time.Second
)

// notifier posts events, one after the other, beside the rounds.
type notifier struct {
	url     string
	client  *http.Client
	warn    func(error)
	events  chan Event
	stopped context.Context //nolint:containedctx // ends with the notifier, not with a caller
	stop    context.CancelFunc
	done    chan struct{}
	pause   time.Duration
	counts  Delivered // of the goroutine until done
	dropped int       // of the caller
}

func newNotifier(text string, warn func(error)) (*notifier, error) {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, errors.New("probing: the webhook is not an http or https URL") // it may hold a secret
	}
	n := &notifier{
		url: text, warn: warn, pause: webhookPause,
		// A redirected POST may arrive as a GET: who redirects has not taken it.
		client: &http.Client{
			Timeout:       webhookTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
		},
		events: make(chan Event, webhookQueue),
		done:   make(chan struct{}),
	}
	n.stopped, n.stop = context.WithCancel(context.Background())
	go n.run()
	return n, nil
}

// tell queues an event. It never waits.
func (n *notifier) tell(e Event) {
	select {
	case n.events <- e:
	default:
		n.dropped++
		n.warn(fmt.Errorf("telling the webhook %s: too many changes wait to be delivered; one was dropped", hostOf(n.url)))
	}
}

// close waits for what is under way, within a bound, and returns the counts.
func (n *notifier) close() Delivered {
	close(n.events)
	late := time.AfterFunc(webhookFarewell, n.stop)
	defer late.Stop()
	<-n.done
	n.stop()
	n.counts.Failed += n.dropped
	return n.counts
}

func (n *notifier) run() {
	defer close(n.done)
	for e := range n.events {
		if err := n.deliver(e); err != nil {
			n.counts.Failed++
			n.warn(fmt.Errorf("telling the webhook %s that the probe is %s: %w", hostOf(n.url), e.Event, err))
			continue
		}
		n.counts.Delivered++
	}
}

// deliver tries a few times.
func (n *notifier) deliver(e Event) error {
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		again, err := n.post(body)
		if err == nil {
			return nil
		}
		if !again || try == webhookTries {
			return fmt.Errorf("%w (%d tries)", err, try)
		}
		timer := time.NewTimer(n.pause)
		select {
		case <-n.stopped.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

// post sends the event once. again says that another try may succeed.
func (n *notifier) post(body []byte) (again bool, err error) {
	request, err := http.NewRequestWithContext(n.stopped, http.MethodPost, n.url, bytes.NewReader(body))
	if err != nil {
		return false, errors.New("the URL cannot be used")
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "pgcutover-probe")
	response, err := n.client.Do(request)
	if err != nil {
		// The error of net/http holds the whole URL; its cause does not.
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return n.stopped.Err() == nil, err
	}
	if err := response.Body.Close(); err != nil {
		return true, err
	}
	if response.StatusCode >= 200 && response.StatusCode < 300 {
		return false, nil
	}
	again = response.StatusCode >= 500 || response.StatusCode == http.StatusTooManyRequests || response.StatusCode == http.StatusRequestTimeout
	return again, fmt.Errorf("it answered %s", response.Status)
}
