/*
 * One cutover from old to new: both servers, two tools, the stream between them.
 *
 * Old: the turn's row, the fence, the sessions of the leases, a COMMIT on its
 * way (sent, flushed but not visible yet, visible), crashes. New: what was
 * applied and how much of it is flushed, the armed guard, crashes, which lose
 * what was applied and not flushed, and an opening that a tool has prepared. A
 * tool may end, or be held up for any time, before each of its steps, and may
 * lose its session, and with it the answer to its COMMIT, at any moment. One
 * atomic step here is one transaction there, but for the lease and what is
 * prepared.
 *
 * Checked in every state:
 *   (a) never two servers that take writes; none on old after the decision
 *   (b) whatever old acknowledged is on new while new takes writes
 *   (c) where nothing can move any more, exactly one server takes writes
 *
 * Bounds are WRITES (on old), OLD_CRASHES, NEW_CRASHES and SECOND (what the
 * second tool may be). A switch that is defined takes one precaution away; see
 * README.md.
 */

#ifndef WRITES
#define WRITES 1
#endif
#ifndef OLD_CRASHES
#define OLD_CRASHES 1
#endif
#ifndef NEW_CRASHES
#define NEW_CRASHES 1
#endif

/* What the second tool may be: a sum. 0 means that there is none. */
#define CUTOVER 1
#define RESUME  2
#define ABORT   4
#ifndef SECOND
#define SECOND 7
#endif

/* Old: one lease session for each tool, as the server sees it. A session that
 * is there holds the one-tool lock; from LEASE on the turn's row and the locks
 * that keep DDL out; from FROZEN on the gate. */
#define NONE    0
#define LOCK    1
#define LEASE   2
#define FROZEN  3
#define SENT    4 /* the client has sent COMMIT */
#define FLUSHED 5 /* its record is on disk and may stream; not visible yet */
byte sess[2];
bit  conn[2];  /* the tool still has its end of that session */
byte mine[2];  /* the attempt that a COMMIT of that session decides */

byte oatt;     /* turn.attempt */
bit  trig;     /* the fence triggers stand */
bit  closed;   /* check() refuses, and turn.open is false */
bit  odec[3];  /* the decision of an attempt is visible */

/* The stream: positions of records in old's WAL, 0 for none. */
byte wal;      /* records so far */
byte lastw;    /* the last write */
byte mark[3];  /* the marker of an attempt */
byte dec[3];   /* its decision */
bit  dropped;  /* the subscription was dropped */

/* New. */
byte vis;      /* records applied and visible */
byte flu;      /* and flushed */
byte natt;     /* turn.attempt */
bit  armed;    /* turn.armed */
bit  nopen;    /* turn.open, and check() passes */
byte prep;     /* tool + 1 whose opening is prepared there, not committed */

/* Constants, false, that name what is violated. */
bit never_two_writers;
bit nothing_missing;
bit exactly_one_writer;

byte writes;
byte ocrash;
byte ncrash;

#ifdef SESSION_GUARD
byte watch;    /* the attempt whose decision the guard's session waits for */
#endif
#ifdef ASYNC_LEASE
byte loose;    /* a decision that is visible and acknowledged, not flushed */
#endif
#ifdef NO_LEASE_LOCK
byte holder;   /* tool + 1 that holds the one-tool lock, in another session */
#endif

#define TURN_FREE  (sess[0] < LEASE && sess[1] < LEASE)
#define OLD_WRITES (sess[0] < FROZEN && sess[1] < FROZEN && !(trig && closed))
#define MARKED(a)  (mark[a] != 0 && mark[a] <= vis)
#define ARRIVED(a) (dec[a] != 0 && dec[a] <= vis)
#define MAX(a, b)  ((a) > (b) -> (a) : (b))

#ifdef TAKE_ANYWAY
#define MAY_TAKE 1
#else
#define MAY_TAKE (!closed)
#endif

#ifdef OPEN_ANYWAY
#define MAY_OPEN(a) 1
#else
#define MAY_OPEN(a) MARKED(a)
#endif

/* A prepared opening holds the turn's row on new: whatever else takes it waits. */
#define NEW_TURN_FREE (prep == 0)
#define GUARD_NEXT    (vis + 1 == dec[1] || vis + 1 == dec[2])

#ifdef PREPARE_UNMARKED
#define MAY_PREPARE(a) 1
#else
#define MAY_PREPARE(a) MAY_OPEN(a)
#endif

#ifdef SESSION_GUARD
#define GUARDED (watch != 0)
#else
#define GUARDED 0
#endif

#ifdef NO_LEASE_LOCK
#define LOCK_FREE(t) ((holder == 0 || holder == t + 1) && sess[t] == NONE)
#define TAKE_LOCK(t) holder = t + 1; sess[t] = LOCK; conn[t] = 1
#else
#define LOCK_FREE(t) (sess[0] == NONE && sess[1] == NONE)
#define TAKE_LOCK(t) sess[t] = LOCK; conn[t] = 1
#endif

/* REACH asks whether something can happen at all: then its assertion fails. */
#ifdef REACH
#define REACHED(n) assert(REACH != n)
#else
#define REACHED(n) skip
#endif
#define R_DECIDED   1 /* a decision is made */
#define R_OPENED    2 /* a tool opens new before the decision has arrived there */
#define R_GUARD     3 /* the guard opens new when no tool is left */
#define R_UNDONE    4 /* a tool undoes after the answer to its COMMIT was lost */
#define R_YES       5 /* a tool goes forward after that answer was lost */
#define R_RESUMED   6 /* the second tool opens what the first decided */
#define R_CRASH     7 /* old crashes when the decision is flushed and not visible */
#define R_LOSS      8 /* new loses a marker that was visible */
#define R_SECOND    9 /* the second attempt is decided */
#define R_PREPARED 10 /* a tool opens new by what it has prepared */
#define R_WAITED   11 /* the guard waits for a prepared opening, and opens new later */
#if REACH == R_WAITED
bit waited;
#endif

inline open_new() {
	nopen = 1; armed = 0; flu = vis
}

/* What a tool has prepared ends with it; the server may notice later, which only
 * holds up who waits for it. */
inline drop(t) {
	if
	:: prep == t + 1 -> prep = 0
	:: else
	fi
}

/* What PostgreSQL does by itself with the session of tool t. */
inline session(t) {
	if
	/* The session ends and is rolled back: network, idle timeout, pg_terminate_backend. */
	:: atomic { sess[t] != NONE && (sess[t] < SENT || sess[t] == SENT && !conn[t]) -> sess[t] = NONE; conn[t] = 0 }
	/* The answer to COMMIT will be lost. */
	:: atomic { sess[t] >= SENT && conn[t] -> conn[t] = 0 }
	/* max_pause is over. */
	:: atomic { conn[t] && (sess[t] == LEASE || sess[t] == FROZEN) -> sess[t] = LOCK }
#ifdef ASYNC_LEASE
	:: atomic { sess[t] == SENT -> loose = mine[t]; odec[mine[t]] = 1; closed = 1; sess[t] = (conn[t] -> LOCK : NONE) }
#else
	:: atomic { sess[t] == SENT -> wal++; dec[mine[t]] = wal; sess[t] = FLUSHED }
	:: atomic { sess[t] == FLUSHED -> odec[mine[t]] = 1; closed = 1; sess[t] = (conn[t] -> LOCK : NONE); REACHED(R_DECIDED);
		if :: mine[t] == 2 -> REACHED(R_SECOND) :: else fi }
#endif
	fi
}

inline crash_old(t) {
	if
	:: sess[t] == FLUSHED -> odec[mine[t]] = 1; closed = 1; REACHED(R_CRASH)
	:: else
	fi;
	sess[t] = NONE; conn[t] = 0
}

/* Both servers, the stream and the writers. */
active proctype world() {
end:
	do
	:: atomic { writes < WRITES && OLD_WRITES ->
		if :: dec[1] != 0 || dec[2] != 0 -> assert(never_two_writers) :: else fi;
		writes++; wal++; lastw = wal }
	:: session(0)
	:: session(1)
	:: atomic { vis < wal && !dropped && (NEW_TURN_FREE || !GUARD_NEXT) -> vis++;
		if
#ifndef SESSION_GUARD
		:: armed && !nopen && natt != 0 && dec[natt] == vis ->
			open_new();
#if REACH == R_WAITED
			if :: waited -> REACHED(R_WAITED) :: else fi;
#endif
			if :: _nr_pr == 2 -> REACHED(R_GUARD) :: else fi
#endif
		:: else
		fi }
	:: atomic { flu < vis -> flu = vis } /* the WAL writer */
#ifndef PREPARE_LASTS
	/* idle for too long, or the connection is lost */
	:: atomic { prep != 0 -> prep = 0 }
#endif
#if REACH == R_WAITED
	:: atomic { !waited && prep != 0 && GUARD_NEXT -> waited = 1 }
#endif
	:: atomic { ocrash < OLD_CRASHES -> ocrash++; crash_old(0); crash_old(1);
#ifdef ASYNC_LEASE
		if :: loose != 0 -> odec[loose] = 0; closed = 0; loose = 0 :: else fi;
#endif
#ifdef NO_LEASE_LOCK
		holder = 0
#endif
		}
	:: atomic { ncrash < NEW_CRASHES && (flu < vis || GUARDED) -> ncrash++;
		if :: mark[1] != 0 && flu < mark[1] && mark[1] <= vis -> REACHED(R_LOSS) :: else fi;
		vis = flu; prep = 0;
#ifdef SESSION_GUARD
		watch = 0
#endif
		}
#ifdef SESSION_GUARD
	:: atomic { watch != 0 && NEW_TURN_FREE && !nopen && ARRIVED(watch) -> open_new() }
#ifdef GUARD_DEADLINE
	:: atomic { watch != 0 -> watch = 0 }
#endif
#endif
#ifdef ASYNC_LEASE
	:: atomic { loose != 0 -> wal++; dec[loose] = wal; loose = 0 }
#endif
#ifdef NO_LEASE_LOCK
	:: atomic { holder != 0 -> holder = 0 }
#endif
	od
}

active proctype monitor() {
end:
	if
	:: atomic { OLD_WRITES && nopen -> assert(never_two_writers) }
	:: atomic { nopen && lastw > vis -> assert(nothing_missing) }
	:: atomic { timeout && OLD_WRITES == nopen -> assert(exactly_one_writer) }
	fi
}

proctype tool(byte me; byte role) {
	byte a;     /* the attempt */
	bit known;  /* its decision is known from old, or was seen */

	if
	:: atomic { role & CUTOVER -> role = CUTOVER }
	:: atomic { role & RESUME -> role = RESUME; a = MAX(oatt, natt) }
	:: atomic { role & ABORT -> role = ABORT }
	fi;
	if
	:: atomic { LOCK_FREE(me) -> TAKE_LOCK(me) }
	:: goto stop
	fi;
	if
	:: role == CUTOVER
	:: role == RESUME -> goto resume
	:: role == ABORT -> goto abort
	fi;

	/* gates */
	if
	:: !closed
	:: else -> goto stop
	fi;
	if
	:: atomic { TURN_FREE && MAY_TAKE -> oatt = MAX(oatt, natt) + 1; a = oatt }
	:: goto stop
	fi;
	if
	:: !nopen
	:: goto stop
	fi;
	/* ahead */
	if
	:: atomic { (trig || TURN_FREE) -> trig = 1 }
	:: goto undo
	:: goto stop
	fi;
	/* guard */
	if
	:: atomic { NEW_TURN_FREE && natt <= a && !nopen -> natt = a; armed = 1;
#ifdef SESSION_GUARD
		watch = a
#endif
		}
	:: goto undo
	:: goto stop
	fi;
	/* lease */
	if
	:: atomic { conn[me] && sess[me] == LOCK && TURN_FREE && oatt == a && !closed -> sess[me] = LEASE; trig = 1 }
	:: goto undo
	:: goto stop
	fi;
	/* freeze */
	if
	:: atomic { conn[me] && sess[me] == LEASE -> sess[me] = FROZEN }
	:: goto undo
	:: goto stop
	fi;
	/* drain */
	if
	:: atomic { wal++; mark[a] = wal }
	:: goto undo
	:: goto stop
	fi;
	if
#ifdef NO_FLUSH
	:: MARKED(a)
#else
	:: atomic { MARKED(a) -> flu = vis }
#endif
	:: goto undo
	:: goto stop
	fi;
	/* decide; the opening of new may be prepared before */
	do
	:: atomic { NEW_TURN_FREE && natt == a && !nopen && MAY_PREPARE(a) -> prep = me + 1 }
	:: atomic { conn[me] && sess[me] == FROZEN -> sess[me] = SENT; mine[me] = a; break }
	:: goto undo
	:: goto stop
	od;
	if
#ifdef OPEN_EARLY
	:: atomic { prep == me + 1 -> prep = 0; open_new(); goto stop }
#endif
	:: conn[me] && odec[a] -> known = 1; goto open
	:: atomic { !conn[me] -> drop(me) }
	:: goto stop
	fi;
look:
	if
	:: (odec[a] || ARRIVED(a)) -> known = 1; REACHED(R_YES); goto open
#ifdef UNCHECKED_UNDO
	:: !odec[a] -> goto undo
#else
	:: atomic { LOCK_FREE(me) -> TAKE_LOCK(me) };
		if
		:: odec[a] -> known = 1; goto open
		:: !odec[a] -> REACHED(R_UNDONE); goto undo
		:: goto stop
		fi
#endif
	:: goto stop
	fi;

resume:
	/* The number was seen before the lock was had: so the session of that
	 * attempt has ended, and a no about it is the last word. */
#ifdef STALE_RESUME
	a = MAX(oatt, natt);
#endif
	if
	:: MAX(oatt, natt) != a || a == 0 -> goto stop
	:: MAX(oatt, natt) == a && odec[a] -> known = 1
	:: MAX(oatt, natt) == a && a != 0 && !odec[a] -> goto undo
	:: goto stop
	fi;

open:
	if
	/* what was prepared, if it is still there */
	:: atomic { prep == me + 1 -> prep = 0; open_new(); REACHED(R_PREPARED) }
	:: atomic { NEW_TURN_FREE && natt == a && (nopen || ARRIVED(a) || (known && MAY_OPEN(a))) ->
		if
		:: nopen
		:: else -> open_new();
			if :: !ARRIVED(a) -> REACHED(R_OPENED) :: else fi;
			if :: role == RESUME -> REACHED(R_RESUMED) :: else fi
		fi }
	:: NEW_TURN_FREE && natt != a /* another attempt has the turn: nothing to do here */
	:: goto stop
	fi;
	goto stop;

undo:
	atomic {
		drop(me);
		if
		:: conn[me] && (sess[me] == LEASE || sess[me] == FROZEN) -> sess[me] = LOCK
		:: else
		fi
	}
#ifdef GUARD_FIRST
	if
	:: atomic { NEW_TURN_FREE && natt == a && !nopen -> armed = 0;
#ifdef SESSION_GUARD
		watch = 0
#endif
		}
	:: !(natt == a && !nopen)
	fi;
#endif
	/* the triggers, in one transaction that holds the turn's row */
	if
	:: atomic { TURN_FREE ->
#ifdef UNCHECKED_UNDO
		trig = 0
#else
		if
		:: oatt == a && !odec[a] -> trig = 0
		:: oatt != a
#ifdef STOP_AT_DECIDED
		:: oatt == a && odec[a] -> goto stop
#else
		:: oatt == a && odec[a]
#endif
		fi
#endif
		}
	:: goto stop
	fi;
	/* the guard, last */
	if
	:: atomic { NEW_TURN_FREE && natt == a && !nopen -> armed = 0;
#ifdef SESSION_GUARD
		watch = 0
#endif
		}
	:: !(natt == a && !nopen)
	:: goto stop
	fi;
	goto stop;

abort:
	if
	:: atomic { !closed && !nopen && !armed -> a = oatt }
	:: goto stop
	fi;
	/* the subscription on new */
	if
#ifdef DROP_ANYWAY
	:: dropped = 1
#else
	:: atomic { NEW_TURN_FREE && natt <= a && !armed && !nopen -> dropped = 1 }
#endif
	:: goto stop
	fi;
	if
	:: atomic { TURN_FREE && oatt == a && !odec[a] -> trig = 0 }
	:: goto stop
	fi;

stop:
	atomic {
#ifndef PREPARE_LASTS
		drop(me);
#endif
		conn[me] = 0; a = 0; known = 0; role = 0;
#ifdef NO_LEASE_LOCK
		if :: holder == me + 1 -> holder = 0 :: else fi
#endif
	}
}

init {
	atomic {
		run tool(0, CUTOVER);
#if SECOND != 0
		run tool(1, SECOND)
#endif
	}
}
