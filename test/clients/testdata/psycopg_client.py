"""Writes through psycopg 3 and its pool (Debian: python3-psycopg,
python3-psycopg-pool).

Arguments and output: see other_test.go.
"""

import sys
import threading
import time

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

name, conninfo = sys.argv[1:3]
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()

n = 0
with ConnectionPool(conninfo, min_size=2, max_size=4, timeout=10) as pool:
    while not ended.is_set():
        n += 1
        try:
            with pool.connection() as conn:
                port = conn.execute(
                    "insert into ledger (client, n) values (%s, %s) returning port", (name, n)
                ).fetchone()[0]
            print("ack", n, port, flush=True)
        except PoolTimeout:
            print("refused", n, "no connection from the pool", flush=True)
        except psycopg.Error as error:
            if error.sqlstate == "25006":
                print("refused", n, error.sqlstate, flush=True)
            else:
                print("doubt", n, error.sqlstate or type(error).__name__, flush=True)
        time.sleep(0.02)
