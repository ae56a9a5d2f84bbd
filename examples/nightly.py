#!/usr/bin/env python3
"""Posts a batch file, waits until it is complete, prints its counts, and keeps the failed rows beside it.

Usage: python3 nightly.py FILE. See README.md for the variables.
"""

import datetime
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
import zlib

URL = os.environ.get("PROFILED_URL", "http://127.0.0.1:8750")
CLIENT = os.environ.get("PROFILED_CLIENT", "demo")
TOKEN = os.environ.get("PROFILED_TOKEN")
TRIES = 5


def call(path, body=None, **headers):
    """The answer's body. Tries again where the daemon is busy or away."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if TOKEN:
        headers["Authorization"] = f"Bearer {TOKEN}"
    for attempt in range(1, TRIES + 1):
        request = urllib.request.Request(URL + path, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503) or attempt == TRIES:
                sys.exit(f"refused with {error.code}: {error.read().decode(errors='replace')}")
            wait = int(error.headers.get("Retry-After") or 1)
        except urllib.error.URLError as error:
            if attempt == TRIES:
                sys.exit(f"{URL} does not answer: {error.reason}")
            wait = attempt
        time.sleep(wait)


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: python3 nightly.py FILE")
    file = sys.argv[1]
    with open(file, "rb") as source:
        rows = source.read()
    # The same file on the same day is the same batch, however often it is sent.
    today = datetime.datetime.now(datetime.timezone.utc).date()
    key = f"nightly-{today}-{zlib.crc32(rows)}-{len(rows)}"
    answer = call(f"/m2/{CLIENT}/v2/profile/batchUpdate", rows, Idempotency_Key=key, Content_Type="text/csv").decode()
    found = re.search(r"batchId=([^<]+)<", answer)
    if found is None:
        sys.exit(f"refused: {answer}")
    batch = f"/api/v1/batches/{found[1]}"
    while (state := json.loads(call(f"{batch}?client={CLIENT}")))["status"] == "incomplete":
        time.sleep(1)
    print(json.dumps(state, indent=2))
    if state["status"] != "complete":
        sys.exit(f"{found[1]} is {state['status']}")
    if state["counts"]["failed"] > 0:
        with open(file + ".failed", "wb") as out:
            out.write(call(f"{batch}/repair?client={CLIENT}"))
        sys.exit(f"the failed rows are in {file}.failed")


if __name__ == "__main__":
    main()
