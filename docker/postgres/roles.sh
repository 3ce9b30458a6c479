#!/bin/bash
# Runs once, when a server of the playground is initialised: the application's
# role, which owns the application's database.
set -euo pipefail

psql -v ON_ERROR_STOP=1 -v password="$SHOP_PASSWORD" -U "$POSTGRES_USER" -d "$POSTGRES_DB" <<'SQL'
CREATE ROLE shop LOGIN PASSWORD :'password';
ALTER DATABASE shop OWNER TO shop;
ALTER SCHEMA public OWNER TO shop;
SQL
