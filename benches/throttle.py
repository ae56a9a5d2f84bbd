#!/usr/bin/env python3
"""Applying batches inside and outside the window of [ingest] (R10): rows per second, and the times of lookups and site calls meanwhile.

    cargo build --release && python3 benches/throttle.py [ROWS] [ROWS_PER_SECOND]

Starts its own daemon; needs only the standard library. One connection looks up visitors without a pause; in the second part
another makes site calls. The times include a client in Python, so compare them with the idle times only.
"""
import http.client, random, re, signal, subprocess, sys, tempfile, threading, time

ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
RATE = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
VISITORS = 100_000
IN, OUT = "Mon-Sun 00:00-24:00 Europe/Paris", None


def settings(inside):
    day = time.gmtime().tm_wday
    other = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"][(day + 3) % 7]
    window = IN if inside else f"{other} 00:00-24:00 Europe/Paris"
    return f'[ingest]\nmax_rows_per_second = {RATE}\nwindow = "{window}"\n[clients.demo]\nv2_creates_profiles = true\n'


def batch(rows):
    names = ",".join(f"attribute{n}" for n in range(5))
    lines = [f"batch=thirdPartyId,{names}"]
    for row in range(rows):
        visitor = row % VISITORS
        lines.append(f"visitor{visitor}," + ",".join(f"v{row}x{n}" for n in range(5)))
    return ("\n".join(lines) + "\n").encode()


class Timed(threading.Thread):
    """Repeats a call and records the time of each."""

    def __init__(self, call):
        super().__init__(daemon=True)
        self.call, self.took, self.over = call, [], threading.Event()
        self.start()

    def run(self):
        connection = http.client.HTTPConnection(HOST)
        while not self.over.is_set():
            method, path = self.call()
            began = time.perf_counter()
            connection.request(method, path)
            assert connection.getresponse().read()
            self.took.append((time.perf_counter() - began) * 1000)

    def end(self):
        self.over.set()
        self.join()
        took = sorted(self.took)
        at = lambda share: took[min(len(took) - 1, int(len(took) * share))]
        return f"p50 {at(.5):.2f}  p99 {at(.99):.2f}  p99.9 {at(.999):.2f} ms of {len(took)}"


def lookup():
    return "GET", f"/rest/v1/profiles/thirdPartyId/visitor{random.randrange(VISITORS)}?client=demo"


def site_call():
    return "POST", f"/m2/demo/mbox/json?mbox=m&mbox3rdPartyId=visitor{random.randrange(VISITORS)}&profile.seen=1"


def post(file):
    connection = http.client.HTTPConnection(HOST)
    connection.request("POST", "/m2/demo/v2/profile/batchUpdate", file)
    return re.search(r"batchId=([^<]*)", connection.getresponse().read().decode()).group(1)


def wait(batch):
    connection = http.client.HTTPConnection(HOST)
    while True:
        connection.request("GET", f"/m2/demo/profile/batchStatus?batchId={batch}")
        if b">complete<" in connection.getresponse().read():
            return
        time.sleep(0.02)


folder = tempfile.mkdtemp()
config = f"{folder}/profiled.toml"
open(config, "w").write(settings(False))
daemon = subprocess.Popen(
    ["target/release/profiled", "serve", "--listen", "127.0.0.1:0", "--data", f"{folder}/data", "--config", config],
    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
try:
    HOST = daemon.stdout.readline().strip().removeprefix("listening on http://")
    wait(post(batch(VISITORS)))
    idle = Timed(lookup)
    time.sleep(3)
    print(f"{ROWS} rows, {VISITORS} visitors, {RATE} rows/s in the window")
    print(f"{'idle':24} lookups {idle.end()}")
    file = batch(ROWS)
    for busy in (False, True):
        for inside in (False, True):
            open(config, "w").write(settings(inside))
            daemon.send_signal(signal.SIGHUP)
            time.sleep(0.5)
            posted = post(file)
            began = time.perf_counter()
            # Started only now, because the work of this process before would add to their times.
            lookups = Timed(lookup)
            calls = Timed(site_call) if busy else None
            wait(posted)
            rate = ROWS / (time.perf_counter() - began)
            name = ("inside" if inside else "outside") + (", site calls" if busy else "")
            print(f"{name:24} {rate:9.0f} rows/s  lookups {lookups.end()}" + (f"  site calls {calls.end()}" if busy else ""))
finally:
    daemon.terminate()
    daemon.wait()
