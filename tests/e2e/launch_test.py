#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""deploy/slurm/weir.sbatch and deploy/mpi/run.sh, run with stand-ins for srun and mpirun that start as many processes here as those
would on as many machines, with the variables that they set: the server answers, a worker that is killed comes back, the end is clean.

usage: launch_test.py PROGRAM
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
import urllib.request

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import served  # noqa: E402

LIMIT_S = 60
MODEL = ["--large-tp", "2", "--threads", "1", "--rank-timeout", "1", "-m", "large"]

# What follows the options is the command; options that this does not know are a fault of the script.
SRUN = r"""#!/bin/bash
while :; do case $1 in --kill-on-bad-exit=0 | --wait=60) shift ;; -*) echo "srun: what is $1?" >&2; exit 64 ;; *) break ;; esac; done
kids=
trap 'kill -TERM $kids' TERM
for i in $(seq 0 $((SLURM_NTASKS - 1))); do
  SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=$SLURM_NTASKS SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NODEID=0 \
    SLURM_STEP_TASKS_PER_NODE=$SLURM_NTASKS SLURM_STEP_NODELIST=$SLURM_JOB_NODELIST setsid "$@" &
  kids="$kids -$!"
done
status=0
for k in $kids; do while :; do wait ${k#-}; s=$?; kill -0 ${k#-} 2> /dev/null || break; done; [ $s -gt $status ] && status=$s; done
exit $status
"""
MPIRUN = r"""#!/bin/bash
[ "$1" = --version ] && { echo "%(version)s"; exit; }
n=0
while :; do case $1 in
  -np) n=$2; shift 2 ;;
  %(options)s) shift 2 ;;
  -*) echo "mpirun: what is $1?" >&2; exit 64 ;;
  *) break ;;
esac; done
kids=
trap 'kill -TERM $kids' TERM
for i in $(seq 0 $((n - 1))); do
  %(rank)s=$i %(size)s=$n %(local)s=$i %(locals)s=$n "$@" &
  kids="$kids $!"
done
status=0
for k in $kids; do while :; do wait $k; s=$?; kill -0 $k 2> /dev/null || break; done; [ $s -gt $status ] && status=$s; done
exit $status
"""
OPEN_MPI = {"version": "mpirun (Open MPI) 4.1.4", "options": "--host | --map-by | --bind-to", "rank": "OMPI_COMM_WORLD_RANK",
            "size": "OMPI_COMM_WORLD_SIZE", "local": "OMPI_COMM_WORLD_LOCAL_RANK", "locals": "OMPI_COMM_WORLD_LOCAL_SIZE"}
MPICH = {"version": "HYDRA build details:", "options": "-hosts | -ppn | -bind-to", "rank": "PMI_RANK", "size": "PMI_SIZE",
         "local": "MPI_LOCALRANKID", "locals": "MPI_LOCALNRANKS"}


def check(is_so, what):
    if not is_so:
        raise AssertionError(what)


class Job:
    """A script of deploy/ with one stand-in on its PATH. url: of the gateway."""

    def __init__(self, program, command, tool, text, env):
        self.dir = tempfile.mkdtemp(prefix="weir-l-")
        shim = os.path.join(self.dir, tool)
        with open(shim, "w") as f:
            f.write(text)
        os.chmod(shim, 0o755)
        self.log, ready = os.path.join(self.dir, "log"), os.path.join(self.dir, "ready")
        command = [c.replace("@", self.dir) for c in command]
        serve = ["--listen", "127.0.0.1:0", "--runtime-dir", self.dir, "--ready-file", ready, *MODEL]
        # Nothing of a job that this may itself run in.
        mine = {k: v for k, v in os.environ.items() if not re.match(r"SLURM_|OMPI_|PMI_|PMIX_|MPI_|WEIR_", k)}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*command, *serve], cwd=served.ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**mine, "PATH": self.dir + ":" + os.environ["PATH"], "WEIR": program, "AGAIN": "0.1", **{k: v.replace("@", self.dir) for k, v in env.items()}})
        try:
            self.ready = json.loads(self.until(lambda: os.path.exists(ready) and open(ready).read(), "it is not ready"))
        except BaseException:
            self.close()
            raise
        self.url = self.ready["http"] + "/"

    def said(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def until(self, true, what):
        end = time.monotonic() + LIMIT_S
        while not (x := true()):
            check(self.process.poll() is None, f"ended with {self.process.returncode}: {self.said()}")
            check(time.monotonic() < end, f"{what}: {self.said()}")
            time.sleep(0.02)
        return x

    def ask(self):
        body = json.dumps({"prompt": "Question: What is 17 times 3?\nAnswer:", "max_tokens": 20, "temperature": 0}).encode()
        r = urllib.request.Request(self.url + "v1/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(r, timeout=LIMIT_S) as a:
            return json.load(a)["choices"][0]["text"]

    def workers(self):
        return [int(pid) for pid in re.findall(r"worker: process 1 of 2, pid (\d+)", self.said())]

    def end(self):
        self.process.terminate()
        return self.process.wait(LIMIT_S)

    def close(self):
        for pid in [self.process.pid, *self.workers(), *([self.ready["pid"]] if hasattr(self, "ready") else [])]:
            with contextlib.suppress(OSError):
                if self.process.poll() is None or pid != self.process.pid:
                    with open(f"/proc/{pid}/cmdline", "rb") as f: # still what was started
                        if b"weir" in f.read():
                            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        shutil.rmtree(self.dir, ignore_errors=True)


@contextlib.contextmanager
def job(*args):
    j = Job(*args)
    try:
        yield j
    finally:
        j.close()


def free_port():
    with contextlib.closing(socket.socket()) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def slurm(program, want):
    script = os.path.join(served.ROOT, "deploy/slurm/weir.sbatch")
    port_from = 20000 + os.getpid() % 10000
    env = {"SLURM_JOB_ID": str(port_from - 20000), "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "localhost", "SLURM_SUBMIT_DIR": "@"}
    with job(program, ["bash", script], "srun", SRUN, env) as j:
        said = j.said()
        for i in (0, 1):
            check(f"slurm: process {i} of 2 (SLURM_PROCID, SLURM_STEP_NUM_TASKS), {i} of 2 on this machine (SLURM_LOCALID), "
                  f"leader localhost:{port_from} (SLURM_STEP_NODELIST, SLURM_JOB_ID)" in said, f"slurm: {said}")
        tokens = [f for f in os.listdir(j.dir) if f.endswith(".token")]
        check(len(tokens) == 1 and os.stat(os.path.join(j.dir, tokens[0])).st_mode & 0o777 == 0o600, f"the token's file: {tokens}")
        check(j.ask() == want, "slurm: another text")
        os.kill(j.workers()[0], signal.SIGKILL)
        began = time.monotonic()
        j.until(lambda: "it is back after" in j.said(), "the worker does not come back")
        print(f"slurm: a worker was killed and back after {time.monotonic() - began:.1f} s")
        check(len(j.workers()) == 2, f"workers: {j.workers()}")
        check(j.ask() == want, "slurm: another text after the worker came back")
        os.killpg(j.ready["pid"] and os.getpgid(j.ready["pid"]), signal.SIGTERM)  # as scancel does, every task
        os.killpg(os.getpgid(j.workers()[1]), signal.SIGTERM)
        status = j.process.wait(LIMIT_S)
        check(status == 0, f"slurm: ended with {status}: {j.said()}")
        check(not [f for f in os.listdir(j.dir) if f.endswith(".token")], "the token is left")


def wrong_option(program):
    """A wrong option ends the job instead of being tried for ever."""
    d = tempfile.mkdtemp(prefix="weir-l-")
    try:
        with open(os.path.join(d, "srun"), "w") as f:
            f.write(SRUN)
        os.chmod(os.path.join(d, "srun"), 0o755)
        env = {**os.environ, "PATH": d + ":" + os.environ["PATH"], "WEIR": program, "AGAIN": "0.1", "SLURM_JOB_ID": "1", "SLURM_NTASKS": "1",
               "SLURM_JOB_NODELIST": "localhost", "SLURM_SUBMIT_DIR": d}
        r = subprocess.run(["bash", os.path.join(served.ROOT, "deploy/slurm/weir.sbatch"), "--larg-tp", "2"], capture_output=True, text=True, env=env, timeout=LIMIT_S)
        check(r.returncode == 2 and "did you mean" in r.stderr, f"a wrong option: {r.returncode}: {r.stderr}")
    finally:
        shutil.rmtree(d, ignore_errors=True)


def mpi(program, want, name, tool):
    script = os.path.join(served.ROOT, "deploy/mpi/run.sh")
    port = free_port()
    with job(program, ["sh", script, "localhost,localhost"], "mpirun", MPIRUN % tool, {"PORT": str(port)}) as j:
        check(f"{name}: process 1 of 2" in j.said(), j.said())
        check(f"for the leader at localhost:{port}" in j.said(), j.said())
        check(j.ask() == want, f"{name}: another text")
        status = j.end()
        check(status == 0, f"{name}: ended with {status}: {j.said()}")
    r = subprocess.run(["sh", script], capture_output=True, text=True, timeout=LIMIT_S)
    check(r.returncode == 2 and "usage:" in r.stderr, "run.sh without hosts")


def main():
    program = os.path.abspath(sys.argv[1])
    why = served.missing(program) or next((f"{t} is not installed" for t in ("bash", "setsid", "seq") if not shutil.which(t)), None)
    if why:
        served.skip("launch_test", why)
    r = subprocess.run([program, "run", "-p", "Question: What is 17 times 3?\\nAnswer:", "-n", "20", "-t", "0", "-q", "-m", "large"], capture_output=True,
                       text=True, timeout=LIMIT_S, check=True, cwd=served.ROOT)
    want = r.stdout[:-1] if r.stdout.endswith("\n") else r.stdout
    slurm(program, want)
    wrong_option(program)
    mpi(program, want, "openmpi", OPEN_MPI)
    mpi(program, want, "pmi", MPICH)
    print("launch_test: passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
