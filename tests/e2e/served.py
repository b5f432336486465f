# SPDX-License-Identifier: Apache-2.0
"""`weir serve` for a test: on loopback, on a port that the system chooses, ended with the test."""
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # the demo pair lies there
START_LIMIT_S, STOP_LIMIT_S = 60, 60


def skip(test, why):
    print(f"SKIP {test}: {why}", flush=True)
    sys.exit(77)


def help_of(program, command="serve"):
    """The text of `weir serve --help`, or None where there is no such command."""
    r = subprocess.run([program, command, "--help"], capture_output=True, text=True, timeout=30)
    return r.stdout if r.returncode == 0 and f"usage: weir {command}" in r.stdout else None


def missing(program):
    """Why nothing can be served with this program, or None."""
    if not program or not help_of(program):
        return "this program has no `weir serve`"
    if not os.path.exists(os.path.join(os.path.dirname(program), "weir-gateway")):
        return "weir-gateway was not built beside weir"
    return None


class Server:
    """url: of the gateway, with a slash at the end. log: path of what it says."""

    def __init__(self, program, args=(), env=None):
        self.dir = tempfile.mkdtemp(prefix="weir-s-")  # short: a socket's path has at most 107 bytes
        self.log = os.path.join(self.dir, "log")
        ready = os.path.join(self.dir, "ready")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [os.path.abspath(program), "serve", "--listen", "127.0.0.1:0", "--runtime-dir", self.dir, "--ready-file", ready, "--drain-timeout", "5", *args],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(env or {})})
        until = time.monotonic() + START_LIMIT_S
        while True:
            with contextlib.suppress(OSError, ValueError):
                with open(ready) as f:
                    self.ready = json.load(f)
                break
            if self.process.poll() is not None or time.monotonic() > until:
                said = self.said()
                self.stop()
                raise RuntimeError(f"weir serve is not ready, status {self.process.returncode}:\n{said}")
            time.sleep(0.02)
        http = self.ready["http"]
        self.url = (http if http.startswith("http") else "http://" + http).rstrip("/") + "/"

    def said(self):
        with open(self.log, errors="replace") as f:
            return f.read()[-4000:]

    def stop(self):
        """SIGTERM, then its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)
        return self.process.returncode


@contextlib.contextmanager
def at(program, url, test):
    """Yields the URL of the gateway: that of a server there already, or of one that is started."""
    if url:
        yield url.rstrip("/") + "/"
        return
    if missing(program):
        skip(test, missing(program))
    server = Server(program)
    try:
        yield server.url
    finally:
        server.stop()
