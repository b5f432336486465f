#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Replays deploy/Dockerfile without a container engine: each stage in a copy of a bare Debian root (bare_root.sh makes it, of the
commit HEAD), RUN lines by chroot, COPY by hand; then the program as an engine would start it: as its user, as process 1 of its
own process namespace, alone on its network, with a read-only root; asks its health check, and ends it by its STOPSIGNAL.

usage: replay_dockerfile.py [--dockerfile FILE] [--dir DIR] [--keep] [--kept DIR]
   --dir DIR    where the roots are made (default: the temporary folder; about 2 GB)
   --keep       leaves them there; --kept DIR goes on from bare/ of such a folder
Needs root, debootstrap, unshare; says SKIP (exit 77) where it has not. Not part of the normal run: it downloads and builds.
"""
import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
INSIDE = ('mount -t proc proc "$0/proc" 2> /dev/null || mount --rbind /proc "$0/proc"; mount --rbind /dev "$0/dev"; mount -t tmpfs -o mode=1777 tmpfs "$0/tmp"; '
          'exec chroot "$0" /bin/sh -c "$1"')
# As a container: read-only root, /tmp in memory, a network of its own with nothing but loopback, 8000 among its ports.
SERVE = """
set -e
ip link set lo up 2> /dev/null || python3 -c 'import fcntl, socket, struct
s = socket.socket(); fcntl.ioctl(s, 0x8914, struct.pack("16sH14s", b"lo", 0x41, b""))'
mount --bind "$ROOT" "$ROOT"
mount --rbind /dev "$ROOT/dev"
mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp"
mount -o remount,bind,ro "$ROOT"
unshare --pid --fork --kill-child=SIGKILL sh -c 'mount -t proc proc "$ROOT/proc" 2> /dev/null || true; exec chroot --userspec="$AS" "$ROOT" env -i $VARS "$@"' sh "$@" &
shell=$!
healthy=no
for i in $(seq 300); do
  if env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot --userspec="$AS" "$ROOT" /bin/bash -c "$CHECK" 2> /dev/null; then healthy=yes; break; fi
  kill -0 $shell 2> /dev/null || break
  sleep 0.2
done
echo "healthy: $healthy after $i tries"
one=$(cat /proc/$shell/task/$shell/children | tr -d ' ')
echo "process 1: $(tr '\\0' ' ' < /proc/$one/cmdline), user $(awk '/^Uid/ {print $2}' /proc/$one/status), children $(cat /proc/$one/task/$one/children | wc -w)"
$EXTRA
kill -$SIGNAL $one
rc=0
wait $shell || rc=$?
echo "ended with $rc on $SIGNAL"
[ $healthy = yes ] && [ $rc = 0 ]
"""


def say(*what):
    print("== replay:", *what, flush=True)


def skip(why):
    print("SKIP replay_dockerfile:", why)
    sys.exit(77)


def instructions(path):
    """[(word, rest)], continuation lines joined, comments gone."""
    with open(path) as f:
        lines = [line.rstrip("\n") for line in f if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n", " ", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in text.split("\n") if line.strip()]


class Stage:
    def __init__(self, root, env):
        self.root, self.env = root, {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **env}
        self.cwd, self.user, self.args, self.image_env = "/", "0:0", {}, {}

    def at(self, path):
        return os.path.join(self.root, os.path.join(self.cwd, path).lstrip("/"))

    def run(self, line):
        line = f"cd {shlex.quote(self.cwd)} && {line}"
        env = {**self.env, **self.image_env, **self.args}
        subprocess.run(["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", INSIDE, self.root, line], env=env, stdin=subprocess.DEVNULL, check=True)


def copy(stage, source, words):
    files, to = words[:-1], words[-1]
    goal = stage.at(to)
    if to.endswith("/") or len(files) > 1 or files == ["."]:
        os.makedirs(goal, exist_ok=True)
    for f in files:
        where = os.path.join(source, f.lstrip("/"))
        if os.path.isdir(where):
            shutil.copytree(where, goal, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(where, goal)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--dockerfile", default=os.path.join(ROOT, "deploy", "Dockerfile"))
    p.add_argument("--dir", default=tempfile.gettempdir())
    p.add_argument("--keep", action="store_true")
    p.add_argument("--kept")
    o = p.parse_args()
    if os.geteuid() != 0:
        skip("must be root")
    for tool in ("debootstrap", "unshare", "chroot"):
        if not shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
            skip(tool + " is not installed")

    made = o.kept
    if not made:
        r = subprocess.run([os.path.join(HERE, "bare_root.sh"), "--run", "true", "--keep", "--dir", o.dir], capture_output=True, text=True)
        m = re.search(r"kept (\S+)", r.stdout)
        if r.returncode == 77:
            skip(r.stdout.strip())
        if r.returncode != 0 or not m:
            sys.exit(f"bare_root.sh: {r.stdout}{r.stderr}")
        made = m[1]
        shutil.rmtree(os.path.join(made, "root1"), ignore_errors=True)
        shutil.move(os.path.join(made, "bare", "weir"), os.path.join(made, "context"))
        for line in open(o.dockerfile + ".dockerignore"):
            line = line.strip()
            if line and not line.startswith("#") and "*" not in line:
                where = os.path.join(made, "context", line)
                shutil.rmtree(where, ignore_errors=True)
    say("roots in", made)
    try:
        return serve(*build(o.dockerfile, made))
    except subprocess.CalledProcessError as e:
        say("FAILED:", e.cmd[-1], "-", e.returncode)
        return 1
    finally:
        if not o.keep and not o.kept:
            subprocess.run(["rm", "-rf", "--one-file-system", made])


def build(dockerfile, made):
    """The last stage, and what its image says of running it."""
    context = os.path.join(made, "context")
    proxies = {v: os.environ[v] for v in ("http_proxy", "https_proxy", "no_proxy") if os.environ.get(v)}
    stages, stage, spec = {}, None, {}
    for word, rest in instructions(dockerfile):
        started = time.monotonic()
        if word == "FROM":
            m = re.fullmatch(r"(\S+)(?: AS (\S+))?", rest)
            root = os.path.join(made, f"stage{len(stages)}")
            subprocess.run(["rm", "-rf", "--one-file-system", root])
            subprocess.run(["cp", "-a", "--reflink=auto", stages[m[1]].root if m[1] in stages else os.path.join(made, "bare"), root], check=True)
            stage = stages[m[2] or ""] = Stage(root, proxies)
        elif word == "RUN":
            say("RUN", rest[:140])
            stage.run(rest)
            say(f"  {time.monotonic() - started:.0f} s")
        elif word == "COPY":
            words = rest.split()
            from_stage = re.fullmatch(r"--from=(\S+)", words[0])
            copy(stage, stages[from_stage[1]].root if from_stage else context, words[1:] if from_stage else words)
        elif word == "WORKDIR":
            stage.cwd = rest
            os.makedirs(stage.at("."), exist_ok=True)
        elif word == "ENV":
            stage.image_env.update(kv.split("=", 1) for kv in shlex.split(rest))
        elif word == "USER":
            stage.user = rest
        elif word in ("ENTRYPOINT", "CMD"):
            spec[word] = json.loads(rest)
        elif word == "HEALTHCHECK":
            spec[word] = json.loads(re.search(r"CMD (\[.*\])", rest)[1])
        elif word == "STOPSIGNAL":
            spec[word] = rest
        elif word in ("ARG", "EXPOSE"):
            pass
        else:
            sys.exit(f"replay: {word} is not understood")

    return stage, spec


def serve(stage, spec):
    say("size of the last stage, MB:", subprocess.run(["du", "-smx", stage.root], capture_output=True, text=True).stdout.split()[0])
    key = "key-of-the-replay"
    os.makedirs(os.path.join(stage.root, "run", "secrets"), exist_ok=True)
    with open(os.path.join(stage.root, "run", "secrets", "weir_keys"), "w") as f:
        f.write(key + "\n")
    variables = {"PATH": stage.env["PATH"], **stage.image_env, "WEIR_API_KEY_FILE": "/run/secrets/weir_keys"}
    assert spec["HEALTHCHECK"][:2] == ["/bin/bash", "-c"]
    ask = (f"env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot --userspec={stage.user} \"$ROOT\" /bin/bash -c 'exec 3<>/dev/tcp/127.0.0.1/8000; "
           "b=\"{\\\"prompt\\\": \\\"Once upon a time\\\", \\\"max_tokens\\\": 8}\"; "
           f"printf \"POST /v1/completions HTTP/1.1\\r\\nHost: x\\r\\nAuthorization: Bearer {key}\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n%s\" ${{#b}} \"$b\" >&3; cat <&3' | tail -c 600; echo")
    env = {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "ROOT": stage.root, "AS": stage.user, "VARS": " ".join(f"{k}={v}" for k, v in variables.items()),
           "CHECK": spec["HEALTHCHECK"][2], "SIGNAL": spec["STOPSIGNAL"].removeprefix("SIG")}
    say("starting", *spec["ENTRYPOINT"], *spec["CMD"], "as", stage.user)
    r = subprocess.run(["unshare", "--mount", "--propagation", "private", "--net", "/bin/bash", "-c", SERVE.replace("$EXTRA", ask), "serve", *spec["ENTRYPOINT"], *spec["CMD"]],
                       env=env, stdin=subprocess.DEVNULL, timeout=180)
    say("passed" if r.returncode == 0 else "FAILED")
    return 1 if r.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
