#!/bin/bash
# Writes the users' file from the environment and becomes PgBouncer. PgBouncer
# needs passwords in plain text to log in to servers with SCRAM.
set -euo pipefail

readonly users=/run/pgbouncer/userlist.txt

# entry prints one line of the file; a double quote in a value is doubled.
entry() {
  printf '"%s" "%s"\n' "${1//\"/\"\"}" "${2//\"/\"\"}"
}

umask 077
{
  entry shop "${SHOP_PASSWORD:?set SHOP_PASSWORD}"
  entry pgbouncer "${PGBOUNCER_PASSWORD:?set PGBOUNCER_PASSWORD}"
} >"$users"
umask 022

exec pgbouncer /etc/pgbouncer/pgbouncer.ini
