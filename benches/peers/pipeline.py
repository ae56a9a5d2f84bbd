"""The script that many people have: it sends the file row by row as pipelined HSETs, a thousand rows at a time.

`pipeline.py PORT FILE` prints the seconds it took, without starting Python and connecting.
"""

import csv
import sys
import time

import redis

ROWS_OF_A_PIPELINE = 1000

port, file = sys.argv[1:]
client = redis.Redis(port=int(port))
client.ping()
began = time.perf_counter()
with open(file, newline="") as lines:
    rows = csv.reader(lines)
    names = next(rows)[1:]
    pipeline = client.pipeline(transaction=False)
    for number, row in enumerate(rows, 1):
        pipeline.hset(row[0], mapping=dict(zip(names, row[1:])))
        if number % ROWS_OF_A_PIPELINE == 0:
            pipeline.execute()
    pipeline.execute()
print(time.perf_counter() - began)
