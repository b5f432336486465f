#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Takes the samples of run.sh, which says what the options mean. One JSON file holds them all; report.py makes a table
of it."""
import argparse
import datetime
import glob
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time

import engines
import report
import sample
from gguf_info import Model
from serve import Servers

SECTIONS = ["prefill", "decode", "batch", "catch-up", "context", "start", "instructions"]
WEIR_ALONE = {"catch-up"}
BEST_ONLY = {"start", "instructions", "serve"}
LEFT = 75
TRIES, QUIET_S = 3, 10  # for a sample without others; how long the next try waits for them to leave
LIMITS_KEEP_S = 40
SMALL = 300e6  # bytes of weights: a sample of such a model would be a few milliseconds


class Size:
    """How much of everything."""
    prefill, decode, context, context_decode = 512, 32, 8192, 16
    repeats, small_repeats = 1, 3  # the best of so many, after one to warm up; of models below SMALL
    batch, catch_up = [8, 16, 32], [1, 4, 8, 16]
    flash, small_flash = "0", "0,1"  # flash attention of llama.cpp in the section context
    clients, requests, input, output = [8, 16], 4, 55, 32
    limits = ["--seconds", "0.04"]
    limit_s = 300


class Tiny(Size):
    prefill, decode, context, context_decode = 8, 2, 16, 2
    batch, catch_up = [1, 2], [1, 2]
    clients, requests, input, output = [2], 2, 8, 4
    limits = ["--quick"]
    limit_s = 60


def parse(argv):
    p = argparse.ArgumentParser(prog="run.sh", add_help=False, allow_abbrev=False)
    p.add_argument("peer", nargs="?")
    p.add_argument("--models", action="append", default=[])
    p.add_argument("--build", default="build/release")
    p.add_argument("--ik")
    p.add_argument("--isa", action="append", default=[])
    p.add_argument("--only", default="")
    p.add_argument("--level", default="")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--context", type=int, default=Size.context)
    p.add_argument("--out")
    p.add_argument("--budget", type=float)
    p.add_argument("--max-load", type=float, default=0.05)
    for flag in "--serve", "--fresh", "--table", "--rehearse":
        p.add_argument(flag, action="store_true")
    a = p.parse_args(argv)
    if a.rehearse:
        a.models = a.models or ["models/weir-demo-small-Q8_0.gguf"]
        a.rounds, a.max_load = 1, 1.0
    elif not a.peer:
        p.error("the folder of the peer's programs is missing; \"none\" for weir alone")
    a.sections = [s for s in a.only.split(",") if s] or SECTIONS
    if a.serve and "serve" not in a.sections:
        a.sections = (a.sections if a.only else SECTIONS) + ["serve"]
    for s in a.sections:
        if s not in SECTIONS + ["serve"]:
            p.error("no section %s; there are %s, serve" % (s, ", ".join(SECTIONS)))
    if a.rounds < 1 or a.threads < 1 or a.context < 1:
        p.error("--rounds, --threads and --context want 1 or more")
    return a


def model_paths(wanted):
    paths = []
    for w in wanted:
        found = sorted(glob.glob(os.path.join(w, "*.gguf"))) if os.path.isdir(w) else [w]
        if not found or not all(os.path.isfile(f) for f in found):
            sys.exit("run.sh: no GGUF file: %s" % w)
        paths += found
    if not paths:
        sys.exit("run.sh: no models: --models FILE or FOLDER (benchmarks/README.md says where files come from)")
    return paths


def first_line(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        return (done.stdout.strip() or done.stderr.strip()).splitlines()[0] if done.returncode == 0 else None
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return None


def compiler(build):
    """How weir was built, where the build folder says it."""
    try:
        with open(os.path.join(build, "CMakeCache.txt")) as f:
            cache = dict(line.rstrip("\n").split("=", 1) for line in f if "=" in line and not line.startswith(("//", "#")))
    except OSError:
        return ""
    version = first_line([cache.get("CMAKE_C_COMPILER:FILEPATH") or cache.get("CMAKE_C_COMPILER:STRING") or "cc", "--version"])
    return ", %s, %s" % (cache.get("CMAKE_BUILD_TYPE:STRING") or "no build type", version or "unknown compiler")


def program_id(paths):
    h = hashlib.sha256()
    for p in paths:
        with open(p, "rb") as f:
            h.update(f.read())
    return h.hexdigest()[:12]


class Lineup:
    """A level, weir at it, and who it is held against."""

    def __init__(self, level, weir, peers):
        self.level, self.weir, self.peers = level, weir, peers


def lineups(a):
    def llama(name, folder, ik=False):
        e = engines.Llama(name, os.path.abspath(folder), a.threads, ik)
        for program in "llama-bench", "llama-batched-bench":
            if not e.has(program):
                sys.exit("run.sh: no %s in %s" % (program, folder))
        return e

    peers = []
    if a.peer and a.peer != "none":
        peers.append(llama("llama.cpp", a.peer))
    if a.ik:
        peers.append(llama("ik_llama.cpp", a.ik, True))
    out = [Lineup("best", engines.Weir(a.build, "auto", a.threads), peers)]
    for isa in a.isa:
        level, equals, folder = isa.partition("=")
        if not equals:
            sys.exit("run.sh: --isa wants LEVEL=PATH, not %s" % isa)
        out.append(Lineup(level, engines.Weir(a.build, level, a.threads), [llama("llama.cpp", folder)]))
    wanted = [x for x in a.level.split(",") if x]
    for w in wanted:
        if w not in [x.level for x in out]:
            sys.exit("run.sh: no level %s" % w)
    return [x for x in out if not wanted or x.level in wanted]


class Store:
    """The file of results: samples by what they are of."""

    def __init__(self, path):
        self.path = path
        self.data = {"schema": "weir.cpu.v1", "samples": [], "limits": []}
        if os.path.exists(path):
            with open(path) as f:
                self.data = json.load(f)
            if self.data.get("schema") != "weir.cpu.v1":
                sys.exit("run.sh: %s is something else" % path)

    @staticmethod
    def key(s):
        return s["section"], s["model"], s["level"], s["engine"], s["round"]

    def find(self, key):
        return next((s for s in self.data["samples"] if self.key(s) == key), None)

    def drop(self, unwanted):
        before = len(self.data["samples"])
        self.data["samples"] = [s for s in self.data["samples"] if not unwanted(s)]
        return before - len(self.data["samples"])

    def put(self, s):
        self.drop(lambda x: self.key(x) == self.key(s))
        self.data["samples"].append(s)
        self.save()

    def save(self):
        part = self.path + ".part"
        with open(part, "w") as f:
            json.dump(self.data, f, indent=1, sort_keys=True)
            f.write("\n")
        os.replace(part, self.path)


def shown(command, folder_of):
    """A command without the folders of this machine."""
    return " ".join(os.path.basename(x) if os.sep in x and (os.path.exists(x) or x.startswith(folder_of)) else x for x in command)


class Run:
    def __init__(self, a, size):
        self.a, self.size = a, size
        self.began = time.monotonic()
        self.store = Store(a.out)
        self.limits_at, self.weir_id = None, ""
        self.failed = self.left = self.taken = 0

    def base(self, section, line, path, r, engine):
        return {"section": section, "model": label(path), "level": line.level, "engine": engine.name, "round": r,
                "weir": self.weir_id}

    # ---- limits and what a sample costs ----

    def limits(self):
        """The index of the machine's limits, measured less than a minute ago."""
        if self.limits_at is None or time.monotonic() - self.limits_at > LIMITS_KEEP_S:
            done = sample.run([os.path.join(self.a.build, "benchmarks/limits"), "--json", "-t", str(self.a.threads),
                               *self.size.limits], limit=60)
            engines.check(done)
            row = json.loads(done.out)
            row["date"], row["others"] = now(), round(done.others, 4)
            self.store.data["limits"].append(row)
            self.limits_at = time.monotonic()
        return len(self.store.data["limits"]) - 1

    def guess(self, section, model, level, engine, info):
        """Seconds that a sample will take: those of an earlier one, else something by the bytes of the weights."""
        same = [s["seconds"] * (1 if s["level"] == level else 2) for s in self.store.data["samples"]
                if s["section"] == section and s["engine"] == engine and s["model"] == model and "seconds" in s]
        if same:
            return max(same)
        gb = info.weight_bytes / 1e9
        if section == "context" and engine != "weir":
            return 1 + gb * self.size_of(info).context / 60
        return 1 + gb * {"prefill": 12, "decode": 8, "batch": 20, "catch-up": 6, "context": 8, "start": 2}.get(section, 30)

    def fits(self, seconds, first):
        return first or self.a.budget is None or time.monotonic() - self.began + 1.2 * seconds + 3 <= self.a.budget

    # ---- one sample ----

    def take(self, base, figures):
        """figures() -> (values, command, seconds, others); kept however it went. The least disturbed try stays."""
        old = self.store.find(Store.key(base))
        s = dict(base, date=now(), tries=(old or {}).get("tries", 0) + 1)
        try:
            if not s["section"].startswith("instructions"):
                s["limits"] = self.limits()
            values, command, s["seconds"], s["others"] = figures()
            s["command"] = command
            s["values"] = {k: round(v, 6) for k, v in values.items()}
            s["disturbed"] = s["others"] > self.a.max_load
        except (engines.Failed, OSError, ValueError, KeyError) as e:
            s["error"] = str(e)
        worse = old and "values" in old and ("error" in s or s["others"] > old["others"])
        self.store.put(dict(old, tries=s["tries"]) if worse else s)
        return s

    def wanted(self, base):
        s = self.store.find(Store.key(base))
        return s is None or ("error" in s and s["tries"] < 2) or (s.get("disturbed") and s["tries"] < TRIES)

    def until_quiet(self, base, seconds, figures, place):
        first = True
        while self.wanted(base):
            if not self.fits(seconds, self.store.find(Store.key(base)) is None and self.taken == 0):
                return False
            if not first:
                sample.wait_for_quiet(self.a.max_load, QUIET_S)
            s = self.take(base, figures)
            self.taken += 1
            what = s.get("error") or "  ".join("%s %.4g" % kv for kv in s["values"].items())
            print("%s %-9s %-16s %-11s %-12s round %d: %s%s" %
                  (place, s["section"], s["model"], s["level"], s["engine"], s["round"], what,
                   "" if "error" in s else "  (%.1f s, others %.1f %%%s)" %
                   (s["seconds"], 100 * s["others"], ", disturbed" if s["disturbed"] else "")), flush=True)
            if "error" in s:
                self.failed += 1
                if not first:
                    break
            first = False
        return True

    # ---- sections ----

    def engines_of(self, section, line):
        if section == "start":
            return [line.weir] + [p for p in line.peers if p.command("start", "", self.size)]
        return [line.weir] + ([] if section in WEIR_ALONE else line.peers)

    def plan(self, sections, models, lines):
        """(section, line, path, info, round, engine): engines in turn."""
        for path in models:
            info = Model(path)
            for line in lines:
                for section in sections:
                    if section in ("instructions", "serve") or (section in BEST_ONLY and line.level != "best"):
                        continue
                    for r in range(1, self.a.rounds + 1):
                        for e in self.engines_of(section, line):
                            if e.command(section, path, self.size_of(info)):
                                yield section, line, path, info, r, e

    def size_of(self, info):
        """The context is as long as the model and the option let it be; small models do more."""
        s = type("Of", (self.size,), {})
        if info.weight_bytes < SMALL and self.size is Size:
            s.repeats, s.flash, s.decode = s.small_repeats, s.small_flash, 2 * s.decode
        s.context = max(1, min(self.a.context if self.size is Size else self.size.context, info.n_ctx - 2 * s.context_decode))
        return s

    def steps(self, sections, models, lines):
        todo = list(self.plan(sections, models, lines))
        missing = [t for t in todo if self.wanted(self.base(*t[:3], t[4], t[5]))]
        estimate = sum(self.guess(t[0], label(t[2]), t[1].level, t[5].name, t[3]) for t in missing)
        print("%d of %d samples to take, about %d s" % (len(missing), len(todo), estimate), flush=True)
        for i, (section, line, path, info, r, e) in enumerate(todo, 1):
            size = self.size_of(info)

            def figures(e=e, section=section, path=path, size=size):
                command = e.command(section, path, size)
                done = sample.run(command, e.library_path, size.limit_s)
                values = e.figures(section, done, size)
                if section == "context":
                    values["context"] = size.context
                return values, shown(command, os.getcwd()), round(done.seconds, 3), round(done.others, 4)
            seconds = self.guess(section, label(path), line.level, e.name, info)
            if not self.until_quiet(self.base(section, line, path, r, e), seconds, figures, "%d/%d" % (i, len(todo))):
                self.left += 1
                return
            at = "%s (%s)" % (e.name, line.level)
            if self.store.data["versions"].get(at) == "unknown" and e.commit:
                self.store.data["versions"][at] = "commit " + e.commit

    def instructions(self, lines):
        """Counted once: nothing else on the machine changes them. weir at avx2, which callgrind knows."""
        path = "models/weir-demo-large-Q8_0.gguf"
        if not shutil.which("valgrind") or not os.path.exists(path):
            print("instructions: skipped, no valgrind or no %s" % path)
            return
        known = [p for x in lines if x.level == "avx2" for p in x.peers]
        line = Lineup("avx2", engines.Weir(self.a.build, "avx2", 1), [engines.Llama(p.name, p.folder, 1, p.ik) for p in known])
        for e in [line.weir] + line.peers:
            for what, (less, more, tokens) in engines.count_commands(e, path).items():
                def figures(e=e, less=less, more=more, tokens=tokens, what=what):
                    began = time.monotonic()
                    runs = [sample.run(engines.counted(c), e.library_path, 280) for c in (less, more)]
                    n = [engines.instructions(r) for r in runs]
                    return ({what: (n[1] - n[0]) / tokens}, shown(engines.counted(more), os.getcwd()),
                            round(time.monotonic() - began, 3), 0.0)
                base = self.base("instructions", line, path, 1, e)
                base["section"] = "instructions-" + what
                if not self.until_quiet(base, 20, figures, "-"):
                    self.left += 1
                    return

    def serve(self, models, line):
        llama = next((p for p in line.peers if not p.ik), None)
        for path in models:
            info = Model(path)
            names = ["weir"] + ([llama.name] if llama else []) + ["weir nanomsg"]
            bases = []
            for r in range(1, self.a.rounds + 1):
                for clients in self.size.clients:
                    for who in names:
                        b = self.base("serve", line, path, r, line.weir)
                        b.update(engine=who, section="serve-%d" % clients)
                        bases.append((b, clients, who, r))
            if not any(self.wanted(b) for b, *_ in bases):
                continue
            try:
                servers = Servers(self.a.build, line.weir, llama, path, max(self.size.clients))
            except (engines.Failed, OSError) as e:
                print("serve %s: %s" % (label(path), e))
                self.failed += 1
                continue
            try:
                for b, clients, who, r in bases:
                    if who not in servers.urls:
                        continue

                    def figures(clients=clients, who=who, r=r, servers=servers):
                        # Other prompts in every round, so that no cache has seen them.
                        command = servers.command(who, clients, self.size, 1000 * r + clients)
                        done = sample.run(command, None, 120, servers.leaders())
                        engines.check(done)
                        return servers.figures(clients), shown(command, os.getcwd()), round(done.seconds, 3), round(done.others, 4)
                    seconds = self.guess(b["section"], label(path), line.level, who, info)
                    if not self.until_quiet(b, seconds, figures, "-"):
                        self.left += 1
                        return
            finally:
                servers.close()

    def machine(self, models, lines):
        """What was measured with: of programs their versions, of this machine no names of folders."""
        d = self.store.data
        d["machine"] = {"system": platform.platform(), "cores": os.cpu_count(),
                        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "threads": self.a.threads}
        d["rounds"] = self.a.rounds
        version = d.setdefault("versions", {})
        for line in lines:
            for p in line.peers:
                at = "%s (%s)" % (p.name, line.level)
                if at not in version:
                    with_path = ["env", "LD_LIBRARY_PATH=" + p.library_path, os.path.join(p.folder, "llama-bench"), "--version"]
                    version[at] = first_line(with_path) or "unknown"
        version["weir"] = "%s%s" % (first_line(["git", "describe", "--always", "--dirty"]) or "unknown", compiler(self.a.build))
        for m in models:
            d.setdefault("models", {})[label(m)] = facts(m)

    def go(self, models, lines):
        for program in "benchmarks/bench_step", "benchmarks/limits", "engine/programs/weir":
            if not os.access(os.path.join(self.a.build, program), os.X_OK):
                sys.exit("run.sh: %s is not built in %s" % (program, self.a.build))
        sections = set(self.a.sections)
        self.weir_id = program_id([lines[0].weir.step, lines[0].weir.weir])
        here = {label(m) for m in models}
        levels = {x.level for x in lines}

        def mine(s):
            return s["section"].split("-")[0] in {x.split("-")[0] for x in sections} and (
                s["level"] in levels and s["model"] in here or s["section"].startswith("instructions"))
        if self.a.fresh:
            print("%d samples forgotten" % self.store.drop(mine))
        n = self.store.drop(lambda s: mine(s) and s.get("weir") != self.weir_id)
        if n:
            print("%d samples were taken with another build of weir: they are taken anew" % n)
        self.machine(models, lines)
        self.store.save()
        self.steps([s for s in self.a.sections if s in SECTIONS], models, lines)
        best = next((x for x in lines if x.level == "best"), None)
        if "instructions" in sections and not self.left and self.size is Size:
            self.instructions(lines)
        if "serve" in sections and not self.left and best:
            self.serve(models, best)
        self.store.save()


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def label(path):
    return os.path.basename(path)[: -len(".gguf")] if path.endswith(".gguf") else os.path.basename(path)


def facts(path):
    m = Model(path)
    return {"file_bytes": m.file_bytes, "weight_bytes": m.weight_bytes, "step_bytes": m.step_bytes(), "kv_bytes_per_token": m.kv_bytes,
            "n_ctx": m.n_ctx, "flops_prefill": m.flops(Size.prefill),
            "flops_rows": {str(n): m.flops(n, 256) for n in (1, 2, 4, 8, 16, 32)}}


def default_out():
    """benchmarks/results/cpu-DATE.json; with -2 where somebody wrote a table of that name by hand."""
    stem = "benchmarks/results/cpu-" + datetime.date.today().isoformat()
    return stem + ("-2.json" if os.path.exists(stem + ".md") and not os.path.exists(stem + ".json") else ".json")


def main():
    a = parse(sys.argv[1:])
    sample.on_signals()
    a.out = a.out or default_out()
    os.makedirs(os.path.dirname(a.out) or ".", exist_ok=True)
    run = Run(a, Tiny if a.rehearse else Size)
    if not a.table:
        try:
            run.go(model_paths(a.models), lineups(a))
        except sample.Ended:
            run.left += 1
    table = os.path.splitext(a.out)[0] + ".md"
    with open(table, "w") as f:
        f.write(report.table(run.store.data))
    if run.left:
        print("not everything is measured yet: the same command goes on")
    print("%s and %s are written%s" % (a.out, table, "; %d samples failed" % run.failed if run.failed else ""))
    return LEFT if run.left else 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
