# SPDX-License-Identifier: Apache-2.0
"""The programs of each engine: commands of a section, and the figures that they print."""
import json
import os


class Failed(Exception):
    pass


def check(done):
    if done.rc != 0:
        last = (done.err.strip() or done.out.strip() or "no message").splitlines()[-1]
        raise Failed("exit status %d: %s" % (done.rc, last[:200]))


class Weir:
    name = "weir"

    def __init__(self, build, isa, threads):
        self.step = os.path.join(build, "benchmarks/bench_step")
        self.weir = os.path.join(build, "engine/programs/weir")
        self.isa, self.threads, self.library_path, self.commit = isa, threads, None, None

    def bench(self, path, *args):
        return [self.step, "-m", path, "-t", str(self.threads), "--isa", self.isa, "--json", *args]

    def command(self, section, path, size):
        nothing = {"--prefill": "0", "--decode": "0", "--catch-up": "0", "--batch": "1"}
        own = {
            # The first repeat is the warm-up that llama-bench has too; llama-batched-bench warms up by a few rows.
            "prefill": {"--prefill": size.prefill, "--repeats": size.repeats + 1},
            "decode": {"--decode": size.decode, "--repeats": size.repeats + 1},
            "batch": {"--prefill": 16, "--decode": size.decode, "--context": 16, "--repeats": 1,
                      "--batch": ",".join(str(n) for n in size.batch)},
            "catch-up": {"--catch-up": ",".join(str(n) for n in size.catch_up), "--repeats": 1},
            "context": {"--decode": size.context_decode, "--context": size.context, "--repeats": 2},
        }
        if section in own:
            args = {**nothing, **own[section]}
            return self.bench(path, *(str(x) for pair in args.items() for x in pair))
        if section == "start":
            return [self.weir, "run", "--mode", "large", "--large", path, "--threads", str(self.threads), "--isa", self.isa,
                    "--temperature", "0", "--max-tokens", "1", "-p", "The first thing to say is"]
        return None

    def figures(self, section, done, size):
        check(done)
        if section == "start":
            return {"first_token_s": min(done.first_byte or done.seconds, done.seconds), "rss_bytes": done.rss_bytes}
        rows = [json.loads(line) for line in done.out.splitlines() if line.startswith("{")]
        what = {"prefill": "prefill", "catch-up": "catch-up"}.get(section, "decode")
        rows = [r for r in rows if r["what"] == what]
        if not rows:
            raise Failed("no line of the section in its output")
        if section == "batch":
            return {"b%d" % r["seqs"]: r["tok_s"] for r in rows}
        if section == "catch-up":
            return {"rows%d_us" % r["rows"]: r["us"] for r in rows}
        return {"tok_s": rows[0]["tok_s"]}


class Llama:
    """llama.cpp, and ik_llama.cpp with its run-time repacking."""

    def __init__(self, name, folder, threads, ik=False):
        self.name, self.folder, self.threads, self.ik = name, folder, threads, ik
        self.library_path, self.commit = folder, None  # as its own output names it

    def has(self, program):
        return os.access(os.path.join(self.folder, program), os.X_OK)

    def bench(self, path, *args):
        return [os.path.join(self.folder, "llama-bench"), "-m", path, "-t", str(self.threads), "-o", "json",
                *(str(x) for x in args), *(["-rtr", "1"] if self.ik else [])]

    def command(self, section, path, size):
        if section == "prefill":
            return self.bench(path, "-p", size.prefill, "-n", 0, "-r", size.repeats)
        if section == "decode":
            return self.bench(path, "-p", 0, "-n", size.decode, "-r", size.repeats + 1)
        if section == "context" and not self.ik:
            # With flash attention llama.cpp is faster near the beginning and slower far behind it: of small models the better
            # of both, else without, for each takes the whole prompt again.
            return self.bench(path, "-p", 0, "-n", size.context_decode, "-d", size.context, "-r", 1, "-fa", size.flash)
        if section == "batch":
            room = (16 + size.decode) * max(size.batch)
            return [os.path.join(self.folder, "llama-batched-bench"), "-m", path, "-c", str(max(room, 512)), "-b", "2048", "-ub",
                    "512", "-t", str(self.threads), "-tb", str(self.threads), "-npp", "16", "-ntg", str(size.decode), "-npl",
                    ",".join(str(n) for n in size.batch), *(["-rtr"] if self.ik else [])]
        if section == "start" and self.has("llama-completion"):
            return [os.path.join(self.folder, "llama-completion"), "-m", path, "-t", str(self.threads), "-n", "1", "--temp", "0",
                    "-no-cnv", "--no-display-prompt", "--no-warmup", "-c", "512", "-p", "The first thing to say is"]
        return None

    def figures(self, section, done, size):
        check(done)
        if section == "start":
            return {"first_token_s": min(done.first_byte or done.seconds, done.seconds), "rss_bytes": done.rss_bytes}
        if section == "batch":
            out = {}
            for line in (done.out + "\n" + done.err).splitlines():
                cells = [c.strip() for c in line.split("|")]
                if line.startswith("|") and len(cells) > 9 and cells[1].isdigit() and cells[3].isdigit():
                    out["b" + cells[3]] = float(cells[8])
            if len(out) != len(size.batch):
                raise Failed("no table of llama-batched-bench in its output")
            return out
        if "[" not in done.out:
            raise Failed("no JSON in its output")
        rows = json.loads(done.out[done.out.index("["):])
        self.commit = rows[0].get("build_commit")
        return {"tok_s": max(x for r in rows for x in r["samples_ts"])}


# ---- instructions, counted by callgrind, one thread, AVX2 ----

def counted(command):
    return ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *command]


def instructions(done):
    check(done)
    for line in done.err.splitlines():
        if "Collected :" in line:
            return int(line.split(":")[1].split()[0])
    raise Failed("callgrind counted nothing")


def count_commands(engine, path):
    """Two runs each that differ in so many tokens: what both do once falls out. {what: (less, more, tokens)}"""
    less, more, rows = 4, 12, 32
    if isinstance(engine, Weir):
        def bench(prefill, decode, repeats):
            return engine.bench(path, "--prefill", str(prefill), "--decode", str(decode), "--catch-up", "0", "--batch", "1",
                                "--repeats", str(repeats))
        return {"decode": (bench(0, less, 1), bench(0, more, 1), more - less),
                "prefill": (bench(rows, 0, 1), bench(rows, 0, 3), 2 * rows)}

    def bench(prefill, decode, repeats):
        return engine.bench(path, "-p", prefill, "-n", decode, "-r", repeats, "--no-warmup")
    return {"decode": (bench(0, less, 1), bench(0, more, 1), more - less),
            "prefill": (bench(rows, 0, 1), bench(rows, 0, 3), 2 * rows)}
