#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""weir-gateway before two real engines: a stream says what the whole answer says, whoever hangs up has his request cancelled in
whatever state it is, an engine that dies ends its streams with an error and is used again when it is back, SIGTERM finishes what
is under way.

usage: gateway_test.py PROGRAM     weir; weir-gateway lies beside it. Exit status 77: SKIP.
"""
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import served  # noqa: E402

LIMIT_S = 60
PROMPT = "Question: Convert 7 hours and 25 minutes to minutes.\nAnswer:"
LONG = {"prompt": "Once upon a time", "max_tokens": 480, "ignore_eos": True, "weir": {"mode": "large"}}


def need(is_so, what):
    if not is_so:
        raise SystemExit(f"gateway_test: {what}")


def until(test, what):
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            got = test()
            if got:
                return got
        time.sleep(0.05)
    raise SystemExit(f"gateway_test: {what}")


class Place:
    def __init__(self, program):
        self.dir = tempfile.mkdtemp(prefix="weir-g-")
        self.program = os.path.abspath(program)
        self.engines = {}
        self.processes = []
        self.token = os.path.join(self.dir, "token")
        with open(self.token, "w") as f:
            f.write("sesame\n")

    def url_of(self, name):
        return f"ipc://{self.dir}/{name}.ipc"

    def start(self, name, *args):
        with open(os.path.join(self.dir, name + ".log"), "ab") as log:
            p = subprocess.Popen(args, cwd=served.ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.processes.append(p)
        return p

    def engine(self, name):
        self.engines[name] = self.start(name, self.program, "serve", "--no-http", "--rpc", self.url_of(name), "--runtime-dir", self.dir,
                                        "--max-active", "2", "--token-file", self.token)

    def gateway(self):
        p = self.start("gateway", os.path.join(os.path.dirname(self.program), "weir-gateway"), "--listen", "127.0.0.1:0",
                       "--engine-timeout", "2", "--token-file", self.token, *(w for name in self.engines for w in ("--engine", self.url_of(name))))
        self.port = int(until(lambda: re.search(r"port (\d+)", self.said("gateway")), "the gateway does not listen").group(1))
        return p

    def said(self, name):
        with open(os.path.join(self.dir, name + ".log"), errors="replace") as f:
            return f.read()

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=LIMIT_S) as r:
            return r.read().decode()

    def post(self, body):
        r = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/completions", json.dumps(body).encode())
        with urllib.request.urlopen(r, timeout=LIMIT_S) as a:
            return a.read().decode()

    def open(self, body):
        """A connection with the request sent."""
        s = socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT_S)
        data = json.dumps(body).encode()
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        return s

    def ready(self, n):
        return sum(e["ready"] for e in json.loads(self.get("/stats"))["engines"]) == n

    def cancelled(self):
        """Requests that engines cancelled because their client said so."""
        return sum(float(x) for x in re.findall(r'weir:requests_cancelled_total\{[^}]*reason="client"[^}]*\} (\S+)', self.get("/metrics")))

    def under_way(self):
        s = json.loads(self.get("/stats"))
        return s["running"] + s["waiting"]

    def idle(self):
        return self.under_way() == 0

    def end(self):
        for p in self.processes:
            if p.poll() is None:
                p.kill()
            p.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def events(text):
    return [json.loads(e[6:]) for e in text.split("\n\n") if e.startswith("data: {")]


def streams_say_the_same(place):
    for mode in ("small", "defer", "exact", "speculate"):
        body = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0.8, "seed": 7, "n": 2, "weir": {"mode": mode}}
        whole = [c["text"] for c in json.loads(place.post(body))["choices"]]
        text = place.post({**body, "stream": True})
        need(text.endswith("data: [DONE]\n\n"), "a stream without its end")
        told = ["", ""]
        for e in events(text):
            for c in e["choices"]:
                told[c["index"]] += c["text"]
        need(told == whole, f"{mode}: {told} is not {whole}")


def hang_ups_cancel(place):
    # two run at an engine (--max-active), the others wait: all of them go, streamed or not
    for stream in (False, True):
        before = place.cancelled()
        held = [place.open({**LONG, "prompt": f"{i} {LONG['prompt']}", "n": 4, "stream": stream}) for i in range(2)]
        until(lambda: place.under_way() >= 6, "6 of 8 requests are not under way at once")
        if stream:  # its beginning comes when all four are taken
            need(b"200 OK" in held[0].recv(4096), "a stream that does not begin")
        n = place.under_way()
        for s in held:
            s.close()
        until(place.idle, "requests go on without their clients")
        got = place.cancelled() - before
        need(got >= max(1, n - 2), f"{got} of {n} requests were cancelled")  # the two oldest may have been done
    log = place.said("gateway").splitlines()
    gone = [x for x in log if re.search(r" gone=(accepted|decode|stream) ", x)]
    need(gone and all(re.search(r" prompt_tokens=[1-9]", x) for x in gone), f"prompts of the gone are not told: {gone}")
    need(any(re.search(r" gone=stream .* completion_tokens=[1-9]", x) for x in gone), f"tokens of the gone are not told: {gone}")
    need(not any("GET /ready" in x or "GET /metrics" in x for x in log), "probes are in the log")


def engines_come_and_go(place):
    held = [place.open({**LONG, "prompt": str(i), "n": 8, "stream": True}) for i in range(4)]
    for s in held:
        need(b"200 OK" in s.recv(4096), "a stream that does not begin")
    # of these nothing is sent before all is there: what is lost with an engine is written by the other
    whole = [place.open({"prompt": str(i), "max_tokens": 8, "ignore_eos": True, "seed": i}) for i in range(8)]
    until(lambda: place.under_way() >= 4 * 8 + 8 // 2, "the requests are not taken")
    place.engines["b"].kill()
    place.engines["b"].wait()
    broken = 0
    for s in held:
        text = b"".join(iter(lambda: s.recv(65536), b"")).decode(errors="replace")
        broken += '"error"' in text
        need(("[DONE]" in text) != ('"error"' in text), "a stream must end with [DONE] or with an error")
        s.close()
    for s in whole:
        text = b"".join(iter(lambda: s.recv(65536), b"")).decode(errors="replace")
        need(" 200 OK" in text and '"completion_tokens":8' in text, f"a whole answer was lost: {text[:400]}")
        s.close()
    again = sum(map(float, re.findall(r"(?m)^weir:gateway_retries_total (\S+)", place.get("/metrics"))))
    need(again > 0, "nothing was tried again")
    until(lambda: place.ready(1), "a dead engine is not left out")
    for i in range(8):
        place.post({"prompt": f"{i}", "max_tokens": 2})
    place.engine("b")
    until(lambda: place.ready(2), "an engine that is back is not used again")
    print(f"engine killed: {broken} of 4 streams broke off with an error, {again:.0f} answers were written elsewhere", flush=True)


def ends_in_order(place, gateway):
    s = place.open({**LONG, "stream": True})
    need(b"200 OK" in s.recv(4096), "a stream that does not begin")
    gateway.send_signal(signal.SIGTERM)
    text = b"".join(iter(lambda: s.recv(65536), b""))
    need(b"[DONE]" in text, "SIGTERM broke a stream off")
    need(gateway.wait(LIMIT_S) == 0, f"exit status {gateway.returncode}")


def main():
    program = sys.argv[1]
    if served.missing(program):
        served.skip("gateway_test", served.missing(program))
    place = Place(program)
    try:
        place.engine("a")
        place.engine("b")
        gateway = place.gateway()
        until(lambda: place.ready(2), "the engines are not ready")
        for test in (streams_say_the_same, hang_ups_cancel, engines_come_and_go):
            test(place)
            print("ok    ", test.__name__, flush=True)
        ends_in_order(place, gateway)
        print("ok     ends_in_order", flush=True)
    except BaseException:
        print(place.said("gateway")[-3000:], flush=True)
        raise
    finally:
        place.end()


if __name__ == "__main__":
    main()
