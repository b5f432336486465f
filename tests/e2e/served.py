# SPDX-License-Identifier: Apache-2.0
"""`weir serve` for a test: on loopback, on a port that the system chooses, ended with the test."""
import contextlib
import subprocess
import sys


def skip(test, why):
    print(f"SKIP {test}: {why}", flush=True)
    sys.exit(77)


def help_of(program):
    """The text of `weir serve --help`, or None where there is no such command."""
    r = subprocess.run([program, "serve", "--help"], capture_output=True, text=True, timeout=30)
    return r.stdout if r.returncode == 0 and "usage: weir serve" in r.stdout else None


@contextlib.contextmanager
def at(program, url, test):
    """Yields the URL of the gateway, with a slash at the end."""
    if url:
        yield url.rstrip("/") + "/"
        return
    if not program or not help_of(program):
        skip(test, "this program has no `weir serve`")
    skip(test, "not written yet: how to start it")
