#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A server that is asked for ten times what it can do: the rest is told 429 with Retry-After, those who were admitted
see their first token in bounded time, memory stays flat, and a moment later all is as before. Then SIGTERM in the midst
of a load: what was admitted finishes, and the server ends with 0.

usage: overload_test.py WEIR WEIR_BENCH
Exit status 77: SKIP, for want of one of the two.
"""
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import served  # noqa: E402

PROMPT = "Question: Convert 7 hours and 25 minutes to minutes.\nAnswer:"
ACTIVE, TAKEN = 4, 16  # under way at once; taken in all
TOKENS = 200
MANY_S = 6
MEMORY_SLACK_KB = 16 * 1024


def need(is_so, what):
    if not is_so:
        print(f"FAILED: {what}", flush=True)
        raise SystemExit(1)


def rss_kb(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(next(line for line in f if line.startswith("VmRSS")).split()[1])


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(p) for p in f.read().split()]


def memory(server):
    return rss_kb(server.process.pid) + sum(rss_kb(p) for p in children(server.process.pid))


def bench(program, server, *args):
    """A run of the load tester; its one point."""
    report = os.path.join(server.dir, "report.json")
    subprocess.run([program, "-u", server.url, "-i", "32", "-o", str(TOKENS), "--ignore-eos", "--warmup", "0", "--json", report,
                    "--drain", "20", *args], check=True, timeout=120, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(report) as f:
        return json.load(f)["points"][0]


def post(server, tokens=8):
    body = json.dumps({"prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True}).encode()
    q = urllib.request.Request(server.url + "v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(q, timeout=60) as r:
        return json.load(r)


def overload(server, program):
    base = bench(program, server, "-c", str(ACTIVE), "-n", "80")
    rate = base["throughput"]["rps"]
    alone_ms = base["latency_ms"]["e2e"]["p50"]
    calm = memory(server)
    most, stop = [calm], threading.Event()
    refused = []

    def watch():
        while not stop.wait(0.1):
            most[0] = max(most[0], memory(server))

    def knock():  # one more who comes in the midst of it
        while not stop.wait(0.05) and not refused:
            try:
                post(server)
            except urllib.error.HTTPError as e:
                if e.code == 429:
                    refused.append((e.headers.get("Retry-After"), json.load(e)["error"]))

    threads = [threading.Thread(target=f) for f in (watch, knock)]
    for t in threads:
        t.start()
    many = bench(program, server, "--rate", str(10 * rate), "-d", str(MANY_S), "-n", str(int(12 * rate * MANY_S) + 100), "--load",
                 "constant")
    stop.set()
    for t in threads:
        t.join()
    q = many["requests"]
    codes = {str(x.get("error", x.get("code", x))): x.get("n", x.get("count")) for x in q["by_error"]}
    print(f"capacity {rate:.1f} requests/s; asked for {10 * rate:.0f}: {q['ok']} answered, {q['errors']} refused {codes}; "
          f"first token of the admitted p99 {many['latency_ms']['ttft']['p99']:.0f} ms; memory {calm} kB, then {most[0]} kB at most",
          flush=True)
    need(q["ok"] >= 0.25 * rate * MANY_S, f"{q['ok']} answers in {MANY_S} s of overload; without it {rate:.1f} a second")
    need(q["errors"] > q["ok"], "most of ten times the capacity should have been refused")
    need(all("429" in c for c in codes), f"refusals other than 429: {codes}")
    need(refused, "429 was never seen from outside")
    after, error = refused[0]
    need(after and after.isdigit() and int(after) >= 1, f"Retry-After of a 429 is {after!r}")
    need(error["type"] == "rate_limit_error", f"type of a 429: {error}")
    # Whoever is admitted waits for those before it: the queue's length in batches, each as long as a request alone.
    bound = alone_ms * (TAKEN / ACTIVE + 1) * 6  # clients and gateway share the cores
    need(many["latency_ms"]["ttft"]["p99"] < bound, f"p99 of the first token {many['latency_ms']['ttft']['p99']:.0f} ms, bound {bound:.0f}")
    need(most[0] - calm < MEMORY_SLACK_KB, f"memory grew from {calm} to {most[0]} kB under overload")
    began = time.monotonic()
    text = post(server)["choices"][0]["text"]
    took = time.monotonic() - began
    need(text and took < 3, f"recovery took {took:.1f} s")
    need(memory(server) - calm < MEMORY_SLACK_KB, f"memory {memory(server)} kB after the overload, {calm} before")


def drain(server):
    """SIGTERM while requests are under way and others wait: each that was admitted has its whole answer."""
    count = ACTIVE + 4
    results = [None] * count

    def one(i):
        try:
            results[i] = post(server, 2 * TOKENS)["usage"]["completion_tokens"]
        except urllib.error.HTTPError as e:
            results[i] = f"HTTP {e.code}"
        except OSError as e:
            results[i] = repr(e)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for t in threads:
        t.start()
    until = time.monotonic() + 30
    while True:  # all of them are in
        with urllib.request.urlopen(server.url + "stats", timeout=10) as r:
            s = json.load(r)
        if s["running"] + s["waiting"] >= count or all(r is not None for r in results) or time.monotonic() > until:
            break
    server.process.terminate()
    for t in threads:
        t.join()
    status = server.process.wait(60)
    print(f"SIGTERM under load: {results}, exit status {status}", flush=True)
    need(all(r == 2 * TOKENS for r in results), "an admitted request did not finish")
    need(status == 0, f"exit status {status}: {server.said()}")


def main():
    weir, program = sys.argv[1:3]
    why = served.missing(weir) or (None if os.path.exists(program) else "weir-bench was not built")
    if why:
        served.skip("overload_test", why)
    server = served.Server(weir, ["--mode", "large", "--max-requests", str(TAKEN), "--max-active", str(ACTIVE), "--temperature", "0",
                                  "--drain-timeout", "30"])
    try:
        overload(server, program)
        drain(server)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
