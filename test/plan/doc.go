// Package plan proves the printed plan: its runbook is followed by hand, so to
// speak, by psql on fresh servers, and must lead to where the tool itself leads;
// and whatever the tool sends to a server must stand in it. The package holds
// tests only.
package plan
