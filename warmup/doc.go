// Package warmup makes a freshly filled database fast before clients arrive:
// it gathers the planner's statistics, which neither a copy nor logical
// replication brings along, and reads the newest rows into the cache.
//
// [Analyze] gathers statistics in stages, so that every table soon has poor
// ones and later good ones, the way vacuumdb --analyze-in-stages does, but with
// partitioned tables, which neither vacuumdb before 19 nor autovacuum analyzes.
// [AnalyzeTables] refreshes only what has none or has changed since.
// [WithoutStatistics] is the gate: the tables that have rows and no statistics.
// [Warm] reads, table by table, what clients will ask for first.
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
