/*
 * There and back again: forward, rollback, forward again, with tools that may
 * be held up at any step until all the others are done.
 *
 * Both servers are alike here. Each has the turn's row, a fence, and rows that
 * it holds of those acknowledged so far. Every attempt leaves a stream for the
 * way back, whose slot remembers the next row to send. A cutover has a source
 * and a target; the one-tool lock is on the source. A tool may prepare the
 * opening of its target before it decides. Servers do not crash (see cutover.pml
 * for that), tools and sessions end at any moment.
 *
 * Checked in every state:
 *   (a) never two servers that take writes
 *   (b) the server that takes a write holds every row acknowledged before; no
 *       stream sends a row that is there, nor leaves one out
 *   (c) where nothing can move any more, exactly one server takes writes, and if
 *       that is new, the way back is there
 *
 * Bounds are ROWS, and the tools: FORWARD, BACK and RESUME count them,
 * COMPLETE is 0 or 1. With PREPARE=0 no tool prepares an opening. A switch that is defined takes one precaution away; see
 * README.md.
 */

#ifndef ROWS
#define ROWS 2
#endif
#ifndef FORWARD
#define FORWARD 2
#endif
#ifndef BACK
#define BACK 1
#endif
#ifndef RESUME
#define RESUME 0
#endif
#ifndef COMPLETE
#define COMPLETE 0
#endif
#ifndef PREPARE
#define PREPARE 1
#endif
#define TOOLS    (FORWARD + BACK + RESUME + COMPLETE)
#define ATTEMPTS (FORWARD + BACK + 1) /* their numbers, and 0 */

#define OLD 0
#define NEW 1

/* A server. */
byte att[2];    /* turn.attempt */
bit  armed[2];  /* turn.armed */
bit  open[2] = {1, 0}; /* turn.open: check() passes */
bit  trig[2] = {0, 1}; /* the fence triggers stand */
byte prep[2];   /* tool + 1 whose opening is prepared there, not committed */
byte has[2];    /* the first rows that it holds of those acknowledged */
byte rows;      /* rows acknowledged, on whichever server */

/* A lease session, see cutover.pml. */
#define NONE    0
#define LOCK    1
#define LEASE   2
#define FROZEN  3
#define SENT    4
byte sess[TOOLS];
bit  conn[TOOLS];
bit  at[TOOLS];   /* the server it is on */
byte mine[TOOLS];

/* An attempt. */
bit  source[ATTEMPTS];
byte mark[ATTEMPTS];  /* 1: committed on the source, 2: arrived on the target */
byte markrow[ATTEMPTS];
byte dec[ATTEMPTS];   /* the same for the decision */
byte via[ATTEMPTS];   /* the stream that both travel by */

/* The stream that an attempt leaves for the way back; 0 is that of start. */
#define SLOT    1 /* the slot is there, nobody reads it */
#define ENABLED 2
#define GONE    3
byte stream[ATTEMPTS];
bit  from[ATTEMPTS];
byte next[ATTEMPTS];  /* the row to be sent next */

bit  completed;

/* Constants, false, that name what is violated. */
bit never_two_writers;
bit nothing_missing;
bit exactly_one_writer;
bit way_back_kept;

#define FROZE(s)     (froze[s] != 0)
byte froze[2];  /* sessions that hold the gate */
byte leased[2]; /* sessions that hold the turn's row */
#define WRITES(s)    (!FROZE(s) && (open[s] || !trig[s]))
#define MAX(a, b)    ((a) > (b) -> (a) : (b))
#define TARGET(a)    (1 - source[a])

/* A prepared opening holds the turn's row: whatever else takes it there waits. */
#ifdef PREPARE_UNLOCKED
#define UNPREPARED(s) 1
#else
#define UNPREPARED(s) (prep[s] == 0)
#endif
#define TURN_FREE(s)  (leased[s] == 0 && UNPREPARED(s))

#ifdef REACH
#define REACHED(n) assert(REACH != n)
#else
#define REACHED(n) skip
#endif
#define R_BACK      1 /* a rollback is decided */
#define R_AGAIN     2 /* and a second cutover forward after it */
#define R_GUARD     3 /* the guard on old opens it */
#define R_STALE     4 /* a tool finds another attempt where it would open */
#define R_UNDO      5 /* and where it would undo */
#define R_RETURNED  6 /* a row travels back to old */
#define R_COMPLETED 7
#define R_RESUMED   8 /* a resume opens a server */
#define R_PREPARED  9 /* a rollback opens old by what it has prepared */
#define R_LATE     10 /* a tool finds what it has prepared ended, and the turn gone */

#ifdef NO_ATTEMPTS
#define OPEN_ANY
#define UNDO_ANY
#endif
#ifdef OPEN_ANY
#define OPENS(s, a) 1
#else
#define OPENS(s, a) (att[s] == a)
#endif
#ifdef UNDO_ANY
#define UNDOES(s, a) 1
#else
#define UNDOES(s, a) (att[s] == a)
#endif
#ifdef TAKE_ANYWAY
#define TAKES(s) 1
#else
#define TAKES(s) (open[s])
#endif

inline open_now(so) {
	open[so] = 1; armed[so] = 0
}

/* What a tool has prepared ends with it; the server may notice later, which only
 * holds up who waits for it. */
inline drop(t, so) {
	if
	:: prep[so] == t + 1 -> prep[so] = 0
	:: else
	fi
}

inline end_session(ts) {
	if
	:: sess[ts] >= FROZEN -> froze[at[ts]]--
	:: else
	fi;
	if
	:: sess[ts] >= LEASE -> leased[at[ts]]--
	:: else
	fi;
	sess[ts] = NONE; at[ts] = 0; mine[ts] = 0
}

inline gone(st) {
	stream[st] = GONE; from[st] = 0; next[st] = 0
}

inline session(t) {
	if
	:: atomic { sess[t] != NONE && (sess[t] < SENT || !conn[t]) -> end_session(t); conn[t] = 0 }
	:: atomic { sess[t] == SENT && conn[t] -> conn[t] = 0 }
	:: atomic { sess[t] == SENT -> dec[mine[t]] = 1; open[at[t]] = 0;
		if
		:: at[t] == NEW -> REACHED(R_BACK)
		:: at[t] == OLD && mine[t] > 2 && dec[2] == 2 -> REACHED(R_AGAIN)
		:: else
		fi;
		if
		:: conn[t] -> leased[at[t]]--; froze[at[t]]--; sess[t] = LOCK; mine[t] = 0
		:: else -> end_session(t)
		fi }
	fi
}

#define PENDING(a, j) (mark[a] == 1 && via[a] == j && markrow[a] == next[j])

/* What arrives of attempt a. */
inline arrivals(a) {
	if
	:: atomic { mark[a] == 1 && stream[via[a]] == ENABLED && next[via[a]] == markrow[a] -> mark[a] = 2; markrow[a] = 0 }
	:: atomic { dec[a] == 1 && mark[a] == 2 && stream[via[a]] == ENABLED && UNPREPARED(TARGET(a)) -> dec[a] = 2;
		if
		:: OPENS(TARGET(a), a) && armed[TARGET(a)] && !open[TARGET(a)] -> open_now(TARGET(a));
			if :: TARGET(a) == OLD -> REACHED(R_GUARD) :: else fi
		:: else
		fi }
	fi
}

#if ATTEMPTS > 4
#define PENDINGS(j) (PENDING(1, j) || PENDING(2, j) || PENDING(3, j) || PENDING(4, j))
#elif ATTEMPTS > 3
#define PENDINGS(j) (PENDING(1, j) || PENDING(2, j) || PENDING(3, j))
#else
#define PENDINGS(j) (PENDING(1, j) || PENDING(2, j))
#endif

inline row(j) {
	atomic { stream[j] == ENABLED && next[j] < has[from[j]] && !PENDINGS(j) ->
		if :: next[j] != has[1 - from[j]] -> assert(nothing_missing) :: else fi;
		if :: from[j] == NEW -> REACHED(R_RETURNED) :: else fi;
		next[j]++; has[1 - from[j]]++ }
}

inline write(s) {
	atomic { rows < ROWS && WRITES(s) && !(completed && s == OLD) ->
		if :: has[s] != rows -> assert(nothing_missing) :: else fi;
		rows++; has[s]++ }
}

active proctype world() {
end:
	do
	:: write(OLD)
	:: write(NEW)
	/* idle for too long, or the connection is lost */
	:: atomic { prep[OLD] != 0 -> prep[OLD] = 0 }
	:: atomic { prep[NEW] != 0 -> prep[NEW] = 0 }
	:: session(0)
	:: session(1)
#if TOOLS > 2
	:: session(2)
#endif
#if TOOLS > 3
	:: session(3)
#endif
#if TOOLS > 4
	:: session(4)
#endif
	:: arrivals(1)
	:: arrivals(2)
#if ATTEMPTS > 3
	:: arrivals(3)
#endif
#if ATTEMPTS > 4
	:: arrivals(4)
#endif
	:: row(0)
	:: row(1)
	:: row(2)
#if ATTEMPTS > 3
	:: row(3)
#endif
#if ATTEMPTS > 4
	:: row(4)
#endif
	od
}

/* The stream that the attempt left which new serves by. */
#define LEFT(a) (dec[a] != 0 && source[a] == OLD && (stream[a] == SLOT || stream[a] == ENABLED))
#if ATTEMPTS > 4
#define WAY_BACK (LEFT(1) || LEFT(2) || LEFT(3) || LEFT(4))
#elif ATTEMPTS > 3
#define WAY_BACK (LEFT(1) || LEFT(2) || LEFT(3))
#else
#define WAY_BACK (LEFT(1) || LEFT(2))
#endif

active proctype monitor() {
end:
	if
	:: atomic { !completed && WRITES(OLD) && WRITES(NEW) -> assert(never_two_writers) }
	:: atomic { completed && !open[NEW] && trig[NEW] -> assert(exactly_one_writer) } /* old is a server of its own then */
	:: atomic { timeout ->
		if
		:: !WRITES(NEW) && (completed || !WRITES(OLD)) -> assert(exactly_one_writer)
		:: COMPLETE == 0 && WRITES(NEW) && !WAY_BACK -> assert(way_back_kept)
		:: else
		fi }
	fi
}

#define HELD(o, s) (sess[o] != NONE && at[o] == s)
#if TOOLS > 4
#define free(t, s) (sess[t] == NONE && !HELD(0, s) && !HELD(1, s) && !HELD(2, s) && !HELD(3, s) && !HELD(4, s))
#elif TOOLS > 3
#define free(t, s) (sess[t] == NONE && !HELD(0, s) && !HELD(1, s) && !HELD(2, s) && !HELD(3, s))
#elif TOOLS > 2
#define free(t, s) (sess[t] == NONE && !HELD(0, s) && !HELD(1, s) && !HELD(2, s))
#else
#define free(t, s) (sess[t] == NONE && !HELD(0, s) && !HELD(1, s))
#endif

/* lock takes the one-tool lock for a tool on a server, or gives up. */
inline lock(tl, sl) {
	if
	:: atomic { free(tl, sl) -> sess[tl] = LOCK; conn[tl] = 1; at[tl] = sl }
	:: goto stop
	fi
}

/* Only those with a smaller number: a tool that was held up must not drop what a
 * newer attempt has made. */
#ifdef CLEAN_ANYWAY
#define STALE(k) (k != a)
#else
#define STALE(k) (k < a)
#endif
#ifdef ADOPT_SLOT
inline clean(k) {
	skip
}
#else
inline clean(k) {
	if
	:: STALE(k) && from[k] == 1 - s && (stream[k] == SLOT || stream[k] == ENABLED) -> gone(k)
	:: else
	fi
}
#endif

/* A cutover whose source is s, or a resume. */
proctype tool(byte me; bit s; bit resume) {
	byte a;
	byte j;     /* the stream that this attempt drains, then drops */
	bit known;
#if REACH == R_LATE
	bit prepared;
#endif

	if
	:: resume ->
		atomic { a = MAX(att[OLD], att[NEW]); s = source[a]; j = via[a] };
		if
		:: a == 0 -> goto stop
		:: else
		fi
	:: else
	fi;
	lock(me, s);
	if
	:: atomic { resume && conn[me] && MAX(att[OLD], att[NEW]) == a && dec[a] != 0 -> known = 1; goto opening }
	:: atomic { resume && conn[me] && MAX(att[OLD], att[NEW]) == a && dec[a] == 0 -> goto undo }
	:: resume -> goto stop
	:: !resume
	fi;
	/* gates: this server serves, and the stream to the other one runs */
	if
	:: atomic { open[s] && !open[1 - s] && stream[0] == ENABLED && from[0] == s -> j = 0 }
	:: atomic { open[s] && !open[1 - s] && stream[1] == ENABLED && from[1] == s -> j = 1 }
	:: atomic { open[s] && !open[1 - s] && stream[2] == ENABLED && from[2] == s -> j = 2 }
	:: goto stop
	fi;
	if
	:: atomic { TURN_FREE(s) && TAKES(s) ->
		a = MAX(att[OLD], att[NEW]) + 1; att[s] = a; source[a] = s; via[a] = j }
	:: goto stop
	fi;
	/* ahead */
	if
	:: atomic { TURN_FREE(s) || trig[s] -> trig[s] = 1 }
	:: goto undo
	:: goto stop
	fi;
	/* what earlier attempts have left for this way back */
	if
	:: atomic { clean(1); clean(2);
#if ATTEMPTS > 3
		clean(3);
#endif
#if ATTEMPTS > 4
		clean(4)
#endif
		}
	:: goto undo
	:: goto stop
	fi;
#ifdef EARLY_SLOT
	if
	:: atomic { stream[a] = SLOT; from[a] = 1 - s; next[a] = has[1 - s] }
	:: goto undo
	:: goto stop
	fi;
#endif
	/* guard */
	if
	:: atomic { UNPREPARED(1 - s) && att[1 - s] <= a && !open[1 - s] -> att[1 - s] = a; armed[1 - s] = 1 }
	:: goto undo
	:: goto stop
	fi;
	/* lease and freeze */
	if
	:: atomic { conn[me] && sess[me] == LOCK && TURN_FREE(s) && att[s] == a && open[s] ->
		sess[me] = FROZEN; leased[s]++; froze[s]++; trig[s] = 1 }
	:: goto undo
	:: goto stop
	fi;
	/* drain */
	if
	:: atomic { mark[a] = 1; markrow[a] = has[s] }
	:: goto undo
	:: goto stop
	fi;
	if
	:: mark[a] == 2
	:: goto undo
	:: goto stop
	fi;
	/* reverse */
#ifndef EARLY_SLOT
	if
#ifdef ADOPT_SLOT
	:: atomic { a > 1 && stream[a - 1] == SLOT && from[a - 1] == 1 - s ->
		stream[a] = SLOT; from[a] = 1 - s; next[a] = next[a - 1]; gone(a - 1) }
#endif
	:: atomic { stream[a] = SLOT; from[a] = 1 - s; next[a] = has[1 - s] }
	:: goto undo
	:: goto stop
	fi;
#endif
	/* decide; the opening of the target may be prepared before */
	do
	:: atomic { PREPARE && TURN_FREE(1 - s) && prep[1 - s] != me + 1 && OPENS(1 - s, a) && !open[1 - s] && mark[a] == 2 ->
		prep[1 - s] = me + 1;
#if REACH == R_LATE
		prepared = 1
#endif
		}
	:: atomic { conn[me] && sess[me] == FROZEN -> sess[me] = SENT; mine[me] = a; break }
	:: goto undo
	:: goto stop
	od;
	if
	:: conn[me] && dec[a] != 0 -> known = 1
	:: atomic { !conn[me] -> drop(me, 1 - s) };
		if
		:: dec[a] != 0 -> known = 1
		:: dec[a] == 0 -> lock(me, s);
			if
			:: dec[a] != 0 -> known = 1
			:: dec[a] == 0 -> goto undo
			fi
		:: goto stop
		fi
	:: goto stop
	fi;

opening:
	if
	/* what was prepared, if it is still there */
	:: atomic { prep[1 - s] == me + 1 -> prep[1 - s] = 0; open_now(1 - s);
		if :: s == NEW -> REACHED(R_PREPARED) :: else fi }
	:: atomic { UNPREPARED(1 - s) && OPENS(1 - s, a) && (open[1 - s] || dec[a] == 2 || (known && mark[a] == 2)) ->
		if
		:: !open[1 - s] -> open_now(1 - s);
			if :: resume -> REACHED(R_RESUMED) :: else fi
		:: else
		fi }
	:: atomic { UNPREPARED(1 - s) && !OPENS(1 - s, a) -> REACHED(R_STALE);
#if REACH == R_LATE
		if :: prepared -> REACHED(R_LATE) :: else fi;
#endif
		goto stop }
	:: goto stop
	fi;
	/* follow: the stream of this direction, then the way back, then the fence */
	if
	:: atomic { (dec[a] == 2 || stream[j] == GONE) -> gone(j) }
	:: goto stop
	fi;
	if
	:: atomic { stream[a] == SLOT -> stream[a] = ENABLED }
	:: stream[a] != SLOT
	:: goto stop
	fi;
	if
#ifdef DETACH_ANYWAY
	:: atomic { TURN_FREE(1 - s) -> trig[1 - s] = 0 }
#else
	:: atomic { TURN_FREE(1 - s) && att[1 - s] == a && open[1 - s] -> trig[1 - s] = 0 }
	:: TURN_FREE(1 - s) && !(att[1 - s] == a && open[1 - s])
#endif
	:: goto stop
	fi;
	goto stop;

undo:
	atomic {
		drop(me, 1 - s);
		if
		:: conn[me] && sess[me] == FROZEN -> leased[s]--; froze[s]--; sess[me] = LOCK
		:: else
		fi
	}
	if
	:: atomic { stream[a] == SLOT -> gone(a) }
	:: stream[a] != SLOT
	:: goto stop /* and leaves a slot behind */
	fi;
	if
	:: atomic { TURN_FREE(s) ->
		if
		:: UNDOES(s, a) && dec[a] == 0 -> trig[s] = 0
		:: !(UNDOES(s, a) && dec[a] == 0) -> REACHED(R_UNDO)
		fi }
	:: goto stop
	fi;
	if
	:: atomic { UNPREPARED(1 - s) && UNDOES(1 - s, a) && !open[1 - s] -> armed[1 - s] = 0 }
	:: !(UNDOES(1 - s, a) && !open[1 - s])
	:: goto stop
	fi;

stop:
	atomic { drop(me, OLD); drop(me, NEW); conn[me] = 0; a = 0; j = 0; known = 0 }
}

#if COMPLETE
/* It ends the way back; afterwards old is a server of its own. */
proctype complete(byte me) {
	byte a;

	lock(me, OLD);
	if
	:: atomic { open[NEW] && !open[OLD] && att[NEW] != 0 && source[att[NEW]] == OLD && stream[att[NEW]] == ENABLED -> a = att[NEW] }
	:: goto stop
	fi;
	/* the subscription on old, in one transaction with the turn's row */
	if
#ifdef COMPLETE_ANYWAY
	:: atomic { gone(a) }
#else
	:: atomic { TURN_FREE(OLD) && att[OLD] <= a && !armed[OLD] && !open[OLD] -> gone(a) }
#endif
	:: goto stop
	fi;
	if
#ifdef COMPLETE_ANYWAY
	:: atomic { TURN_FREE(NEW) -> trig[NEW] = 0 }
#else
	:: atomic { TURN_FREE(NEW) && att[NEW] == a && open[NEW] -> trig[NEW] = 0 }
#endif
	:: goto stop
	fi;
	if
	:: atomic { trig[OLD] = 0; completed = 1; REACHED(R_COMPLETED) }
	:: goto stop
	fi;

stop:
	atomic { conn[me] = 0; a = 0 }
}
#endif

init {
	atomic {
		stream[0] = ENABLED;
		run tool(0, OLD, 0); run tool(1, NEW, 0);
#if FORWARD > 1
		run tool(2, OLD, 0);
#endif
#if RESUME
		run tool(FORWARD + BACK, OLD, 1);
#endif
#if RESUME > 1
		run tool(FORWARD + BACK + 1, OLD, 1);
#endif
#if COMPLETE
		run complete(TOOLS - 1)
#endif
	}
}
