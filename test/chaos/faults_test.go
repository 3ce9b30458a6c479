package chaos

import (
	"errors"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// when says at which moments a fault comes.
type when int

const (
	atStart        when = iota // before the tool is started
	atEachStep                 // in a deck once at every hook, and some at random instants
	atSomeStep                 // at any hook or instant
	whileStreaming             // at a hook before the stream is dropped, or at any instant
)

// fault is one kind of harm.
type fault struct {
	when  when
	count int // cards in a deck, besides one for each hook of atEachStep
	// How long it lasts: three of ten of a deck's cards are long ones.
	short, long span
	// begin does the harm, and end takes it back (nil: it needs no end).
	begin func(*round) error
	end   func(*round) error
	// down is the server that takes no connections, or no writes, meanwhile; nil
	// for none.
	down func(*round) *server
	// second: it stops the tool, and another one may do its work.
	second bool
	// alone: the tool does nothing any more, and its watchdog ends the pause.
	alone bool
	// words of which one has to stand in the refusal, for what is there from the
	// start.
	words []string
}

func (f fault) weight(steps stepNames) int {
	if f.when == atEachStep {
		return f.count + len(steps.events())
	}
	return f.count
}

// errMissed says that what the fault was to hit was not there any more.
var errMissed = errors.New("too late for this fault")

const killTool = "tool killed"

// faults are all kinds of harm, by their names in the table. Source and target
// are the servers that take the writes before and after; for a cutover old and
// new, for a rollback the other way round.
var faults = map[string]fault{
	killTool: {when: atEachStep, count: 6, alone: true, begin: func(r *round) error { return r.tool.signal(syscall.SIGKILL) }},
	"tool stopped, woken later": {
		when: atSomeStep, count: 10, short: span{8 * time.Second, 10 * time.Second}, long: span{36 * time.Second, 40 * time.Second},
		begin:  func(r *round) error { return r.tool.signal(syscall.SIGSTOP) },
		end:    func(r *round) error { return r.tool.signal(syscall.SIGCONT) },
		second: true,
		alone:  true,
	},

	"tool killed, nobody reads on": {when: atSomeStep, count: 6, alone: true, begin: func(r *round) error {
		return errors.Join(r.tool.deafen(), r.tool.signal(syscall.SIGKILL))
	}},
	"tool and watchdog killed": {when: atSomeStep, count: 6, begin: (*round).killBoth},
	"PgBouncer killed": {
		when: atSomeStep, count: 10, short: span{50 * time.Millisecond, 900 * time.Millisecond},
		begin: (*round).killPooler, end: (*round).restartPooler,
	},

	"tool-source network cut":       network((*pgtest.Proxy).Cut, func(r *round) []*pgtest.Proxy { return toTool(r.m.source()) }),
	"tool-source network silent":    network((*pgtest.Proxy).Stall, func(r *round) []*pgtest.Proxy { return toTool(r.m.source()) }),
	"tool-target network cut":       network((*pgtest.Proxy).Cut, func(r *round) []*pgtest.Proxy { return toTool(r.m.target()) }),
	"tool-target network silent":    network((*pgtest.Proxy).Stall, func(r *round) []*pgtest.Proxy { return toTool(r.m.target()) }),
	"source-target network cut":     network((*pgtest.Proxy).Cut, func(r *round) []*pgtest.Proxy { return toPeers(r.m) }),
	"source-target network silent":  network((*pgtest.Proxy).Stall, func(r *round) []*pgtest.Proxy { return toPeers(r.m) }),
	"tool-both networks cut":        network((*pgtest.Proxy).Cut, toBoth),
	"tool-both networks silent":     network((*pgtest.Proxy).Stall, toBoth),
	"source crashed and restarted":  restart((*round).source),
	"target crashed and restarted":  restart((*round).target),
	"walsender terminated":          process((*round).source, walsenderSQL, false),
	"walsender killed (SIGKILL)":    process((*round).source, walsenderSQL, true),
	"apply worker terminated":       process((*round).target, applySQL, false),
	"apply worker killed (SIGKILL)": process((*round).target, applySQL, true),
	"new's disk full": {
		when: atSomeStep, count: 5, short: span{500 * time.Millisecond, 6 * time.Second},
		begin: func(r *round) error { return r.m.w.new.fillDisk() },
		end:   func(r *round) error { return r.m.w.new.emptyDisk() },
		down:  func(r *round) *server { return r.m.w.new },
	},
	"target's writes to files fail": {
		when: atSomeStep, count: 3, short: span{200 * time.Millisecond, 2 * time.Second},
		begin: func(r *round) error { return r.target().limitFiles() },
		end:   func(r *round) error { return r.target().unlimitFiles() },
		down:  (*round).target,
	},
	// Postgres by itself loses rows then, see docs/evidence.md.
	"apply worker terminated, target crashed": {
		when: whileStreaming, count: 4, short: span{10 * time.Millisecond, 300 * time.Millisecond},
		begin: func(r *round) error {
			if err := process((*round).target, applySQL, false).begin(r); err != nil {
				return err
			}
			rest(r.lasts)
			return r.target().cluster.Crash()
		},
		end:  func(r *round) error { return r.target().restart() },
		down: (*round).target,
	},

	"long autovacuum on a hot table": {
		count: 2, short: span{from: time.Minute}, begin: (*round).autovacuum, words: []string{"vacuum"},
	},
	"vacuum against wraparound on a hot table": {
		count: 2, short: span{from: time.Minute}, begin: (*round).wraparound, end: (*round).endWraparound, words: []string{"vacuum"},
	},
	"CREATE INDEX CONCURRENTLY on a hot table": {
		count: 2, short: span{3 * time.Second, 6 * time.Second}, long: span{from: time.Minute}, begin: (*round).createIndex, end: (*round).dropIndex, words: []string{"index", "INDEX"},
	},
	"write transaction open on a hot table": {
		count: 3, short: span{4 * time.Second, 8 * time.Second}, long: span{from: time.Minute}, begin: (*round).openTransaction, end: (*round).commitTransaction, words: []string{"transaction"},
	},
}

func faultNames() []string { return slices.Sorted(maps.Keys(faults)) }

// network harms networks, mostly for a short time.
func network(harm func(*pgtest.Proxy), which func(*round) []*pgtest.Proxy) fault {
	return fault{
		when: atSomeStep, count: 4, short: span{100 * time.Millisecond, 3 * time.Second}, long: span{9 * time.Second, 12 * time.Second},
		begin: func(r *round) error {
			for _, p := range which(r) {
				harm(p)
			}
			return nil
		},
		end: func(r *round) error {
			for _, p := range which(r) {
				p.Restore(r.m.w.t)
			}
			return nil
		},
	}
}

func toTool(s *server) []*pgtest.Proxy { return []*pgtest.Proxy{s.tool} }

func toPeers(m *move) []*pgtest.Proxy { return []*pgtest.Proxy{m.w.old.peer, m.w.new.peer} }

func toBoth(r *round) []*pgtest.Proxy { return []*pgtest.Proxy{r.m.w.old.tool, r.m.w.new.tool} }

// restart is pg_ctl stop -m immediate and, a moment later, start.
func restart(which func(*round) *server) fault {
	return fault{
		when: atSomeStep, count: 6, short: span{0, time.Second}, down: which,
		begin: func(r *round) error { return which(r).cluster.Crash() },
		end:   func(r *round) error { return which(r).restart() },
	}
}

const walsenderSQL = `
select active_pid
  from pg_replication_slots
 where slot_name ~ ('^pgcutover_' || $1 || '(_[0-9]{8,})?$')
   and active_pid is not null`

const applySQL = `
select pid
  from pg_stat_subscription
 where subname ~ ('^pgcutover_' || $1 || '(_[0-9]{8,})?$')
   and relid is null
   and pid is not null`

const terminateSQL = `select pg_terminate_backend($1)`

// process ends a server process of the stream, by its own server's hand or by
// the kernel's, after which the server restarts all its processes.
func process(which func(*round) *server, sql string, kill bool) fault {
	f := fault{when: whileStreaming, count: 3}
	if kill {
		f.down = which
		f.end = func(r *round) error { return which(r).up() }
	}
	f.begin = func(r *round) error {
		s := which(r)
		pids, err := ask[int32](s, r.m.name, sql, r.m.name)
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return errMissed
		}
		if kill {
			return s.killProcesses(pids)
		}
		for _, pid := range pids {
			if _, err := one[bool](s, "postgres", terminateSQL, pid); err != nil {
				return err
			}
		}
		return nil
	}
	return f
}
