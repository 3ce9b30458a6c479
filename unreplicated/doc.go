// Package unreplicated moves what logical replication does not carry: the rows of
// unlogged tables, and large objects.
//
// Both are copied while their writers wait, so that the copy is exact: the gate
// holds the writers of tables, publisher.ObjectHold those of large objects. All
// that can be found out beforehand is: Look takes the inventory and says how
// long moving it takes, Prepare opens the sessions and reads the columns. Move
// is what is left for the pause.
//
// Every transaction on the target asks a guard first and keeps the turn as it is
// until its end: a tool that slept must not put yesterday's rows over those of
// clients.
//
// Unlogged tables are emptied and filled in one transaction, in which the
// table's triggers, the fence's among them, are disabled: nobody sees them so,
// since the transaction has the table to itself. Tables that are tied by foreign
// keys go together, those that are referred to first.
//
// Large objects keep their OIDs, owners, rights and comments; those that the
// source does not have go away. They are moved range by range of OIDs, each in
// a transaction of its own, because every object that is removed or changed
// takes a place in the lock table until the transaction ends. Undone half way,
// the next Move begins anew.
//
// Postgres manual: 34 (Large Objects), CREATE TABLE (UNLOGGED), COPY.
package unreplicated
