// Package warmup makes a freshly filled database fast before clients arrive:
// it gathers the planner's statistics, which neither a copy nor logical
// replication brings along, and reads the newest rows into the cache.
//
// [Analyze] gathers statistics in stages, so that every table soon has some: big
// ones poor ones first, small ones good ones at once, the most used first (see
// [ReadUsage]), and with partitioned tables, which neither vacuumdb before 19 nor
// autovacuum analyzes.
// [CarryStatistics] gives a server of 18 or later those that the source has.
// [AnalyzeTables] refreshes only what has none, poor ones or has changed since.
// [Holes] is the gate: the tables that have rows and lack statistics, those of
// CREATE STATISTICS included. [ReadStatistics] tells how old they are.
// [ReadHotSet] asks old what its clients use, [Warm] reads that and the newest
// rows into the cache of new, table by table, [ReadWarmth] looks how much of it
// is there, and [KeepWarm] does all three again and again.
//
// [ComparePlans] asks both servers for the plans of production's queries, and
// [RunQueries] runs the queries of a file as rehearsal traffic; neither writes.
//
// One table that cannot be worked on, because another session locks it or
// because it takes too long, never stops the others: it is reported by name
// with the reason. All work runs in sessions of its own, which end with the
// call, also when the caller's context is cancelled.
//
// Application tables are tables, partitioned tables and materialized views
// outside the system's schemas and pgcutover's own, without temporary ones and
// members of extensions.
package warmup
