"""Writes through psycopg2 (Debian: python3-psycopg2), one connection.

It connects again only when the connection is closed: an error alone does not
move it. Arguments and output: see other_test.go.
"""

import sys
import threading
import time

import psycopg2

name, conninfo = sys.argv[1:3]
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()

conn = None
n = 0
while not ended.is_set():
    n += 1
    try:
        if conn is None or conn.closed:
            conn = None
            conn = psycopg2.connect(conninfo)
            conn.autocommit = True
        with conn.cursor() as cursor:
            cursor.execute("insert into ledger (client, n) values (%s, %s) returning port", (name, n))
            print("ack", n, cursor.fetchone()[0], flush=True)
    except psycopg2.Error as error:
        if conn is None:
            print("refused", n, "connecting", flush=True)
        elif error.pgcode == "25006":
            print("refused", n, error.pgcode, flush=True)
        else:
            print("doubt", n, error.pgcode or type(error).__name__, flush=True)
    time.sleep(0.02)
