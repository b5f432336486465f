# SPDX-License-Identifier: Apache-2.0
"""Runs one command and says how long it took, what memory it needed, and what other programs took meanwhile."""
import os
import resource
import selectors
import signal
import subprocess
import tempfile
import time


class Ended(Exception):
    """The run itself was told to end."""


def on_signals():
    def end(number, _frame):
        raise Ended(number)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def busy():
    """Seconds that all cores together were not idle, those taken by other machines on the host included."""
    with open("/proc/stat") as f:
        user, nice, system, _idle, _wait, irq, soft, steal = (int(x) for x in f.readline().split()[1:9])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def own():
    r = resource.getrusage(resource.RUSAGE_SELF)
    return r.ru_utime + r.ru_stime


def end_group(process, number=signal.SIGKILL):
    """Of a command that was started with a session of its own: it and what it started."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def session_seconds(leaders):
    """What processes of these sessions have used that are still there."""
    used = 0
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open("/proc/%s/stat" % name) as f:
                fields = f.read().rpartition(")")[2].split()  # from the third field on
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[3]) in leaders:
            used += int(fields[11]) + int(fields[12])
    return used / os.sysconf("SC_CLK_TCK")


class Load:
    """What others take from here to `others()`, as a share of all cores; `children` are seconds of ours."""

    def __init__(self):
        self.busy, self.own, self.began = busy(), own(), time.monotonic()

    def others(self, children):
        took = time.monotonic() - self.began
        foreign = busy() - self.busy - (own() - self.own) - children
        return max(0.0, foreign / (os.cpu_count() * max(took, 0.05)))


def wait_for_quiet(max_load, seconds):
    """Until others have left the machine alone for half a second, or the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        load = Load()
        time.sleep(0.5)
        if load.others(0) <= max_load:
            return


class Done:
    """rc, out, err, seconds, first_byte (seconds, of standard output; None), rss_bytes, others"""


def read_until(process, limit, began, done):
    """Standard output until it ends or the time is over."""
    out = b""
    with selectors.DefaultSelector() as s:
        s.register(process.stdout, selectors.EVENT_READ)
        while True:
            left = limit - (time.monotonic() - began)
            if left <= 0:
                return out, True
            if not s.select(min(left, 1)):
                continue
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                return out, False
            if done.first_byte is None:
                done.first_byte = time.monotonic() - began
            out += data


def reap(process, until):
    """Its status and what it used; one that is still there when the time is over is ended."""
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            return status, usage
        if time.monotonic() >= until:
            end_group(process)
            _pid, status, usage = os.wait4(process.pid, 0)
            return status, usage
        time.sleep(0.001)


def run(command, library_path=None, limit=300, servers=()):
    """`servers` are leaders of sessions that work for the command."""
    done = Done()
    done.first_byte = None
    env = dict(os.environ)
    if library_path:
        env["LD_LIBRARY_PATH"] = library_path
    with tempfile.TemporaryFile() as err:
        before = session_seconds(servers) if servers else 0
        load, began = Load(), time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, env=env,
                                   start_new_session=True)
        try:
            out, late = read_until(process, limit, began, done)
            status, usage = reap(process, began + limit)
        except BaseException:
            end_group(process)
            process.wait()
            raise
        finally:
            process.stdout.close()
        done.seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        done.rss_bytes = usage.ru_maxrss * 1024
        served = session_seconds(servers) - before if servers else 0
        done.others = load.others(usage.ru_utime + usage.ru_stime + served)
        err.seek(0)
        done.err = err.read().decode("utf-8", "replace")
    done.out = out.decode("utf-8", "replace")
    done.rc = 124 if late else process.returncode
    return done
