package preflight

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// clockSQL is a server's clock, read in one round trip.
const clockSQL = `select clock_timestamp()`

// reading is what one question after the time brought.
type reading struct {
	Trip   time.Duration // from the question to the answer
	Offset time.Duration // how far the server's clock is ahead of this machine's
}

// readings is how often each server is asked: the shortest round trip says most.
// As long as that is slow it may be the machine that is busy and not the way that
// is long: it is asked on for patience.
const (
	readings = 7
	patience = time.Second
)

// readClock asks a server for the time. The question is taken to have arrived
// in the middle of the round trip, so that the error is at most half of it.
func readClock(ctx context.Context, s *pg.Server) (reading, error) {
	conn, err := s.Pool().Acquire(ctx)
	if err != nil {
		return reading{}, fmt.Errorf("connecting to the %s server: %w", s.Side(), s.Redacted(err))
	}
	defer conn.Release()
	return best(func() (reading, error) {
		var there time.Time
		asked := time.Now()
		if err := conn.QueryRow(ctx, clockSQL).Scan(&there); err != nil {
			return reading{}, fmt.Errorf("reading the clock of the %s server: %w", s.Side(), s.Redacted(err))
		}
		trip := time.Since(asked)
		return reading{Trip: trip, Offset: there.Sub(asked.Add(trip / 2))}, nil
	})
}

// best asks until there are enough readings, and returns the one with the shortest
// round trip.
func best(ask func() (reading, error)) (reading, error) {
	var least reading
	began := time.Now()
	for n := 0; n < readings || (least.Trip >= slowTrip && time.Since(began) < patience); n++ {
		r, err := ask()
		if err != nil {
			return reading{}, err
		}
		if n == 0 || r.Trip < least.Trip {
			least = r
		}
	}
	return least, nil
}

// checkNetwork measures the way to both servers and compares the three clocks.
func checkNetwork(ctx context.Context, p *Pair) ([]Finding, error) {
	older, err := readClock(ctx, p.Old)
	if err != nil {
		return nil, err
	}
	newer, err := readClock(ctx, p.New)
	if err != nil {
		return nil, err
	}
	found := latencyFindings(pg.Old, older.Trip, p.Settings.Pause)
	found = append(found, latencyFindings(pg.New, newer.Trip, p.Settings.Pause)...)
	return append(found, skewFindings(older, newer)...), nil
}

// pauseTrips is how many round trips to one server a write pause waits for: with
// 20 ms to each of both servers a pause of 27 ms became one of 383 ms (measured,
// 15 to 18), which is 18, of which each server has about half.
const pauseTrips = 9

// slowTrip is a round trip from which the network, not the servers, decides how
// long the pause is.
const slowTrip = 5 * time.Millisecond

func latencyFindings(side pg.Side, trip, pause time.Duration) []Finding {
	if trip < slowTrip {
		return nil
	}
	spent := pauseTrips * trip
	f := Finding{
		ID: "network.latency", Severity: Note, Server: string(side), Object: "round trip to the " + string(side) + " server",
		Seen: fmt.Sprintf("%s at best; the write pause has about %d of them: %s", trip.Round(time.Millisecond), pauseTrips, spent.Round(10*time.Millisecond)),
		Why:  "Writers wait for each round trip of the pause.",
	}
	if spent > time.Second || (pause > 0 && spent > pause/2) {
		f.Severity = Warning
	}
	return []Finding{f.told("run pgcutover on a machine near both servers, in their own network")}
}

// skewFindings compares clocks: what is certain of a difference is what half of
// the round trips cannot explain.
func skewFindings(older, newer reading) []Finding {
	var found []Finding
	for _, c := range []struct {
		server, between string
		offset, blur    time.Duration
	}{
		{string(pg.Old), "the old server and this machine", older.Offset, older.Trip / 2},
		{string(pg.New), "the new server and this machine", newer.Offset, newer.Trip / 2},
		{Both, "the new server and the old one", newer.Offset - older.Offset, (older.Trip + newer.Trip) / 2},
	} {
		certain := c.offset.Abs() - c.blur
		if certain < time.Second {
			continue
		}
		f := Finding{
			ID: "network.clock", Severity: Note, Server: c.server, Object: "clocks of " + c.between,
			Seen: fmt.Sprintf("the first is %s %s", c.offset.Abs().Round(time.Second), map[bool]string{true: "ahead", false: "behind"}[c.offset > 0]),
			Why:  "Times in the journal, in logs and in what the tool shows do not fit together.",
		}
		if c.server == Both {
			f.Severity = Warning
			f.Why = "now() jumps by that when the clients move: rows may seem to come from the future, or be older than those before them; jobs and tokens that go by the time are early or late."
		}
		found = append(found, f.told("let all three machines take the time from the same source (chrony, ntpd), then look again"))
	}
	return found
}

// tlsSQL reads whether the server takes TLS, whether this session uses it, and
// how many sessions of others in this database do.
const tlsSQL = `
select current_setting('ssl') = 'on' as offered,
       coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false) as used,
       coalesce(host(inet_server_addr()), '') as address, coalesce(host(inet_client_addr()), '') as client,
       (select count(*)::int
          from pg_stat_ssl s
          join pg_stat_activity a on a.pid = s.pid
         where s.ssl and a.datname = current_database() and coalesce(a.application_name, '') not like 'pgcutover%') as clients`

type tlsFacts struct {
	Offered, Used   bool
	Address, Client string
	Clients         int
}

// remote tells whether the session leaves the machine.
func (t tlsFacts) remote() bool {
	ip := net.ParseIP(t.Client)
	return t.Address != "" && ip != nil && !ip.IsLoopback() && t.Address != t.Client
}

// checkTLS looks at who uses TLS: clients that ask for it are turned away by a
// server without, and what goes over a network without it can be read.
func checkTLS(ctx context.Context, p *Pair) ([]Finding, error) {
	older, err := readOne[tlsFacts](ctx, p.Old, "looking for TLS", tlsSQL)
	if err != nil {
		return nil, err
	}
	newer, err := readOne[tlsFacts](ctx, p.New, "looking for TLS", tlsSQL)
	if err != nil {
		return nil, err
	}
	return slices.Concat(offFindings(older, newer), plainFindings(p.Old, older), plainFindings(p.New, newer)), nil
}

func offFindings(older, newer tlsFacts) []Finding {
	if newer.Offered || !older.Offered {
		return nil
	}
	f := Finding{
		ID: "tls.off", Severity: Note, Server: string(pg.New), Object: "ssl",
		Seen: fmt.Sprintf("ssl is on on old (%s in the database use it now), off on new", plural(older.Clients, "session")),
		Why:  "Clients with sslmode=require, verify-ca or verify-full are refused by new; others send what they have to say in the clear.",
	}
	if older.Clients > 0 {
		f.Severity = Warning
	}
	return []Finding{f.told("put a certificate on the new server (ssl_cert_file, ssl_key_file), then: ALTER SYSTEM SET ssl = on; SELECT pg_reload_conf();")}
}

func plainFindings(s *pg.Server, have tlsFacts) []Finding {
	if have.Used || !have.remote() {
		return nil
	}
	f := Finding{
		ID: "tls.plain", Severity: Note, Server: string(s.Side()), Object: string(s.Side()) + ".url",
		Seen: fmt.Sprintf("the tool connects from %s without TLS", have.Client),
		Why:  "The password and the rows that are compared can be read on the way, and so can those of the subscription unless its connection string asks for TLS.",
	}
	if !have.Offered {
		return []Finding{f.told("turn ssl on on the server, or be sure of the network")}
	}
	return []Finding{f.told(fmt.Sprintf("add sslmode=require (or verify-full with sslrootcert) to %s.url and %s", s.Side(), peerSetting(s)))}
}
