/*
 * A pooler that can be paused, the tools that pause and turn it, and the child
 * of each, its watchdog, which outlives it. A pause, unlike a lock, does not
 * end with the tool, and a pooler cannot be told "only if it is still my turn":
 * whoever was held up turns it late.
 *
 * The servers are reduced to who is open, whether the COMMIT of an attempt is
 * on its way or made, and whether its decision has arrived (cutover.pml and
 * turns.pml check how they come there). Old may be out of reach for some time,
 * or for good. There are one cutover, one rollback after it, RESUMES resumes,
 * and OTHERS commands that take the one-tool lock and leave poolers alone.
 *
 * Checked where nothing can move any more:
 *   (c) the pooler is not paused, and leads to the server that takes writes,
 *       if there is one within reach
 *
 * A switch that is defined takes one precaution away; see README.md.
 */

#ifndef ROLLBACK
#define ROLLBACK 1
#endif
#ifndef RESUMES
#define RESUMES 1
#endif
#ifndef OTHERS
#define OTHERS 1
#endif

#ifndef OUTAGES
#define OUTAGES 1
#endif

#define OLD 0
#define NEW 1
#define TOOLS (2 + RESUMES + OTHERS)

bit  open[2] = {1, 0};
byte outage;        /* of old: 1 now, 2 is over, 3 for good */
byte att;           /* the newest attempt: 1 forward, 2 back */
bit  finished;      /* all steps of the first are done */
byte com[3];        /* the COMMIT of an attempt: 1 on its way, 2 made */
bit  arrived[3];    /* its decision is on the target */
byte holder[2];     /* tool + 1 whose session holds the one-tool lock there */
bit  conn[TOOLS];   /* the tool has that session */

bit  paused;
bit  target;

bit  dead[TOOLS];   /* the tool has ended without a word */
bit  done[TOOLS];   /* it has told its watchdog to end */
bit  over[2];       /* cutover and rollback have ended, in whatever way */

#define UP          (outage == 0 || outage == 2)
#define REACHABLE(s) (s == NEW || UP)
#define SOURCE(n)   (n == 1 -> OLD : NEW)
#define GOAL(n)     (n == 1 -> NEW : OLD)
/* A yes: the decision's row on either server, or the target open by it. */
#ifdef ROW_ONLY
#define OPENED(n)   0
#else
#define OPENED(n)   (att == n && open[GOAL(n)] && REACHABLE(GOAL(n)))
#endif
#define MADE(n)     (com[n] == 2 && REACHABLE(SOURCE(n)) || arrived[n] && REACHABLE(GOAL(n)) || OPENED(n))

/* Constants, false, that name what is violated. */
bit no_pause_for_ever;
bit leads_to_the_writer;

#ifdef REACH
#define REACHED(n) assert(REACH != n)
#else
#define REACHED(n) skip
#endif
#define R_TURNED   1 /* a watchdog turns the pooler to new */
#define R_RESUMED  2 /* a watchdog ends a pause, knowing that nothing was decided */
#define R_UNKNOWN  3 /* a watchdog ends a pause without knowing */
#define R_MENDED   4 /* somebody turned it wrongly, looked again and mended it */

inline lose(x) {
	if
	:: holder[x] != 0 -> conn[holder[x] - 1] = 0; holder[x] = 0
	:: else
	fi
}

/* What becomes of the COMMIT of attempt x, sent by tool x - 1. */
inline commit(x) {
	if
	:: atomic { com[x] == 1 && REACHABLE(SOURCE(x)) -> com[x] = 2; open[SOURCE(x)] = 0;
		if :: !conn[x - 1] -> holder[SOURCE(x)] = 0 :: else fi }
	:: atomic { com[x] == 1 -> com[x] = 0; conn[x - 1] = 0; holder[SOURCE(x)] = 0 }
	:: atomic { com[x] == 1 && conn[x - 1] -> conn[x - 1] = 0 } /* the answer will be lost */
	:: atomic { com[x] == 2 && !arrived[x] && UP -> arrived[x] = 1;
		if :: att == x -> open[GOAL(x)] = 1 :: else fi }
	fi
}

active proctype world() {
end:
	do
	:: commit(1)
	:: commit(2)
	:: atomic { holder[OLD] != 0 && com[1] != 1 -> lose(OLD) }
	:: atomic { holder[NEW] != 0 && com[2] != 1 -> lose(NEW) }
	:: atomic { OUTAGES && outage == 0 && com[1] != 1 -> outage = 1; lose(OLD) }
	:: atomic { outage == 1 -> outage = 2 }
	:: atomic { outage == 1 -> outage = 3 }
	od
}

active proctype monitor() {
end:
	if
	:: atomic { timeout ->
		if
		:: paused -> assert(no_pause_for_ever)
		:: open[NEW] && target != NEW -> assert(leads_to_the_writer)
		:: open[OLD] && UP && target != OLD -> assert(leads_to_the_writer)
		:: else
		fi }
	fi
}

/* A tool ends without a word: its watchdog sees that, unless the host is gone. */
#ifdef HOST_LOST
#define DIE atomic { done[me] = 1; goto gone }
#else
#define DIE atomic { dead[me] = 1; goto gone }
#endif

/* Who serves, as whoever turns the pooler finds out. */
#ifdef TURN_ANYWAY
#define SERVES(x) (GOAL(n) == x)
#else
#define SERVES(x) (open[x] && REACHABLE(x))
#endif
#if defined(TURN_ANYWAY) || defined(LOOK_ONCE)
#define LOOK_AGAIN(x) 1
#else
#define LOOK_AGAIN(x) (open[x] && REACHABLE(x))
#endif

inline turn_pooler() {
	atomic { target = x; paused = 0 };
	if
	:: LOOK_AGAIN(x)
	:: !LOOK_AGAIN(x) -> REACHED(R_MENDED); goto follow
	fi
}

/* It is started before its tool pauses. */
proctype watchdog(byte me; byte n) {
	bit x;

	if
	:: atomic { done[me] -> done[me] = 0; goto gone }
	:: atomic { dead[me] -> dead[me] = 0 }
	fi;
#ifdef NAIVE_WATCHDOG
	/* What the source says now is believed, and a no leads to the source. */
	if
	:: atomic { REACHABLE(SOURCE(n)) -> x = (com[n] == 2 -> GOAL(n) : SOURCE(n)) }
	fi;
	atomic { target = x; paused = 0; goto gone };
#endif
end_look:
	if
	:: MADE(n)
	:: atomic { REACHABLE(SOURCE(n)) && holder[SOURCE(n)] == 0 && com[n] == 0 -> /* under the lock */
		paused = 0; REACHED(R_RESUMED); goto gone }
#ifdef EXIT_ON_HOLDER
	:: holder[SOURCE(n)] != 0 && holder[SOURCE(n)] != me + 1 -> goto gone
#endif
#ifndef NO_TIMEOUT
	:: atomic { paused -> paused = 0; REACHED(R_UNKNOWN); goto end_look }
#endif
	fi;
end_follow:
follow:
	if
	:: atomic { SERVES(NEW) -> x = NEW }
	:: atomic { SERVES(OLD) -> x = OLD }
#ifndef NO_TIMEOUT
	:: atomic { paused -> paused = 0; goto follow }
#endif
	fi;
	if :: x == NEW -> REACHED(R_TURNED) :: else fi;
	turn_pooler();
gone:
	x = 0
}

/* A cutover (n = 1) or a rollback (n = 2). */
proctype tool(byte me; byte n) {
	bit x;

	if
	:: atomic { holder[SOURCE(n)] == 0 && REACHABLE(SOURCE(n)) && (n == 1 && att == 0 || finished && open[NEW]) ->
		holder[SOURCE(n)] = me + 1; conn[me] = 1; att = n }
	:: goto gone
	fi;
	run watchdog(me, n);
	if
	:: paused = 1
	:: goto undo
	:: DIE
	fi;
	if
	:: atomic { conn[me] -> com[n] = 1 }
	:: goto undo
	:: DIE
	fi;
	if
	:: MADE(n)
	:: atomic { !conn[me] && com[n] == 0 && holder[SOURCE(n)] == 0 && REACHABLE(SOURCE(n)) -> goto undo }
	:: DIE
	fi;
	/* open */
	if
	:: atomic { att == n -> open[GOAL(n)] = 1 }
	:: att != n
	:: DIE
	fi;
follow:
	if
	:: atomic { SERVES(NEW) -> x = NEW }
	:: atomic { SERVES(OLD) -> x = OLD }
	:: DIE
	fi;
	if
	:: skip
	:: DIE
	fi;
	turn_pooler();
	if
	:: n == 1 -> finished = 1
	:: n == 2
	:: DIE
	fi;
	goto said;
undo:
	if
	:: paused = 0
	:: DIE
	fi;
said:
	done[me] = 1;
gone:
	atomic { conn[me] = 0; x = 0; over[me] = 1 }
}

/* It ends what the newest attempt has left. With SURE_RESUME it is run after
 * the others, and comes to its end. */
#ifdef SURE_RESUME
#define AFTER  (over[0] && over[1])
#define LEAVES 0
#else
#define AFTER  1
#define LEAVES 1
#endif

proctype resume(byte me) {
	byte n;
	bit x;

	if
	:: atomic { AFTER && att != 0 -> n = att }
	:: AFTER && att == 0 -> goto gone
	:: LEAVES -> goto gone
	fi;
	if
	:: atomic { holder[SOURCE(n)] == 0 && REACHABLE(SOURCE(n)) && att == n && com[n] != 1 ->
		holder[SOURCE(n)] = me + 1; conn[me] = 1 }
	:: LEAVES -> goto gone
	fi;
	run watchdog(me, n);
	if
	:: MADE(n)
	:: com[n] == 0 -> paused = 0; goto said
	:: LEAVES -> DIE
	fi;
	if
	:: atomic { att == n -> open[GOAL(n)] = 1 }
	:: att != n
	:: LEAVES -> DIE
	fi;
follow:
	if
	:: atomic { SERVES(NEW) -> x = NEW }
	:: atomic { SERVES(OLD) -> x = OLD }
	:: LEAVES -> DIE
	fi;
	if
	:: skip
	:: LEAVES -> DIE
	fi;
	turn_pooler();
	if
	:: n == 1 -> finished = 1
	:: n == 2
	:: LEAVES -> DIE
	fi;
said:
	done[me] = 1;
gone:
	atomic { conn[me] = 0; n = 0; x = 0 }
}

/* Some other command. */
proctype other(byte me) {
	if
	:: atomic { holder[OLD] == 0 && UP -> holder[OLD] = me + 1; conn[me] = 1 }
	:: skip
	fi;
	conn[me] = 0
}

init {
	atomic {
		run tool(0, 1);
#if ROLLBACK
		run tool(1, 2);
#else
		over[1] = 1;
#endif
#if RESUMES
		run resume(2);
#endif
#if RESUMES > 1
		run resume(3);
#endif
#if OTHERS
		run other(TOOLS - 1)
#endif
	}
}
