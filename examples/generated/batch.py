#!/usr/bin/env python3
"""Posts rows as NDJSON with a generated client, waits until they are applied, and prints what became of them and of a visitor.

Usage: PYTHONPATH=FOLDER python3 batch.py ROWS.ndjson THIRD_PARTY_ID. README.md says how the client is made.
"""

import csv
import io
import os
import sys
import time

from profiled_client import AuthenticatedClient, Client
from profiled_client.api.batches import get_batch, get_batch_outcomes, post_batch
from profiled_client.api.profiles import get_profile
from profiled_client.models import BatchStatus, Problem
from profiled_client.types import File

URL = os.environ.get("PROFILED_URL", "http://127.0.0.1:8750")
CLIENT = os.environ.get("PROFILED_CLIENT", "demo")
TOKEN = os.environ.get("PROFILED_TOKEN")


def right(answer):
    """The answer, unless it is a problem."""
    if answer is None:
        sys.exit("the answer is none that the document describes")
    if isinstance(answer, Problem):
        sys.exit(f"{answer.status} {answer.title}: {answer.detail}")
    return answer


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: python3 batch.py ROWS.ndjson THIRD_PARTY_ID")
    rows, visitor = sys.argv[1:]
    daemon = AuthenticatedClient(base_url=URL, token=TOKEN) if TOKEN else Client(base_url=URL)
    with open(rows, "rb") as source:
        batch = right(post_batch.sync(client=daemon, client_query=CLIENT, body=File(payload=source)))
    print(f"{batch.rows} rows were accepted")
    while batch.status == BatchStatus.INCOMPLETE:
        time.sleep(0.1)
        batch = right(get_batch.sync(batch.batch_id, client=daemon))
    for row in csv.DictReader(io.StringIO(right(get_batch_outcomes.sync(batch.batch_id, client=daemon)))):
        print(f"line {row['line']}: {row['outcome']} {row['reason']}".rstrip())
    profile = right(get_profile.sync(visitor, client=daemon, client_query=CLIENT))
    for name, attribute in sorted(profile.attributes.additional_properties.items()):
        print(f"{visitor}: {name} is {attribute.value}")
    print(f"{batch.counts.failed} rows failed")


if __name__ == "__main__":
    main()
