# SPDX-License-Identifier: Apache-2.0
"""Speed of the modes by batch, and where each stops paying: see batch.sh, which is how this is called."""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LEFT = 75  # exit status: the budget is spent


def key(row):
    return row["mode"] + (" " + row["setting"] if row["setting"] else "")


def break_even(speedups):
    """The batches from which on a mode is slower than the large model alone: speedups is [(batch, speed-up)] in order
    of batch. None: at no batch measured; else the first one of a run that goes to the end."""
    first = None
    for batch, x in speedups:
        if x >= 1:
            first = None
        elif first is None:
            first = batch
    return first


def verdict(speedups):
    at = break_even(speedups)
    if at is None:
        return f"pays at every batch up to {speedups[-1][0]}"
    if at == speedups[0][0]:
        return f"does not pay from batch {at} on"
    last = max(b for b, _ in speedups if b < at)
    return f"stops paying between batch {last} and {at}"


def self_check():
    assert break_even([(1, 2.0), (2, 1.0), (4, 1.5)]) is None
    assert break_even([(1, 2.0), (2, 0.9), (4, 0.8)]) == 2
    assert break_even([(1, 2.0), (2, 0.9), (4, 1.1), (8, 0.5)]) == 8, "a dip is not the end"
    assert break_even([(1, 0.9)]) == 1
    assert "between batch 2 and 4" in verdict([(1, 2.0), (2, 1.0), (4, 0.99)])


class Store:
    """What was measured: by batch and setting the fastest seconds, and how many rounds each batch had."""

    def __init__(self, path, what, fresh):
        self.path = path
        self.data = {"what": what, "rounds": {}, "rows": {}, "took": {}}
        if os.path.exists(path) and not fresh:
            with open(path) as f:
                old = json.load(f)
            if old.get("what") == what:
                self.data = old
            else:
                sys.exit(f"batch: {path} is of another build or other options; --fresh forgets it")

    def add(self, batch, rows, seconds):
        mine = self.data["rows"].setdefault(str(batch), {})
        for row in rows:
            k = key(row)
            if k in mine and mine[k]["exact_match"] != row["exact_match"]:
                sys.exit(f"batch: {k} at batch {batch}: exact match was {mine[k]['exact_match']}, now {row['exact_match']}")
            if k not in mine or row["seconds"] < mine[k]["seconds"]:
                mine[k] = row
        self.data["rounds"][str(batch)] = self.data["rounds"].get(str(batch), 0) + 1
        self.data["took"][str(batch)] = seconds
        with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(self.path) or ".", delete=False) as f:
            json.dump(self.data, f, indent=1)
        os.replace(f.name, self.path)


def measure(args, batch, limit_s):
    command = [os.path.join(args.build, "engine/programs/weir"), "eval", args.tasks, "-q", "--json", "--limit",
               str(args.limit), "--batch", str(batch), "--mode", args.modes, *args.more]
    start = time.monotonic()
    try:
        r = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return None, None, 0
    if r.returncode != 0:
        sys.exit(f"batch: {' '.join(command)} ended with {r.returncode}")
    lines = [json.loads(line) for line in r.stdout.splitlines()]
    rows = [x for x in lines if x["schema"] == "weir.eval.row.v1"]
    summary = [x for x in lines if x["schema"] == "weir.eval.summary.v1"]
    return rows, summary[-1], time.monotonic() - start


def table(store, args):
    rows, batches = store.data["rows"], sorted(int(b) for b in store.data["rows"])
    names = list(rows[str(batches[0])])
    large = {b: rows[str(b)]["large"]["tok_s"] for b in batches}
    out = ["# Speed by batch", "",
           f"{store.data['device']}; {os.path.basename(args.tasks)}, "
           f"{rows[str(batches[0])][names[0]]['tasks']} tasks; the fastest of {min(store.data['rounds'].values())} rounds; "
           f"{time.strftime('%Y-%m-%d', time.gmtime())}.", "",
           f"`benchmarks/cascade/batch.sh --tasks {args.tasks} --limit {args.limit} --batches {args.batches} --modes {args.modes}"
           + (" -- " + " ".join(args.more) if args.more else "") + "`", "",
           "Tokens a second, and over those of the large model alone at the same batch:", "",
           "| | exact match | " + " | ".join(f"batch {b}" for b in batches) + " |",
           "|---|--:|" + "--:|" * len(batches)]
    for n in names:
        cells = []
        for b in batches:
            r = rows[str(b)].get(n)
            cells.append("-" if r is None else f"{r['tok_s']:.0f}" + ("" if n == "large" else f" ({r['tok_s'] / large[b]:.2f}×)"))
        out.append(f"| {n} | {rows[str(batches[0])][n]['exact_match']:.3f} | " + " | ".join(cells) + " |")
    out.append("")
    for n in names:
        if n in ("small", "large"):
            continue
        out.append(f"- {n}: {verdict([(b, rows[str(b)][n]['tok_s'] / large[b]) for b in batches if n in rows[str(b)]])}")
    moved = [n for n in names if len({rows[str(b)][n]["exact_match"] for b in batches if n in rows[str(b)]}) > 1]
    if moved:
        out += ["", "Exact match is not the same at every batch: " + ", ".join(moved)]
    with open(args.out, "w") as f:
        f.write("\n".join(out) + "\n")
    return "\n".join(out)


def main():
    argv, more = sys.argv[1:], []
    if "--" in argv:
        more = argv[argv.index("--") + 1:]
        argv = argv[:argv.index("--")]
    p = argparse.ArgumentParser(prog="batch.sh", add_help=False)
    p.add_argument("--build", default="build/release")
    p.add_argument("--tasks", default="models/tasks-test.jsonl")
    p.add_argument("--limit", type=int, default=64)
    p.add_argument("--batches", default="1,2,4,8,16,32")
    p.add_argument("--modes", default="defer,exact,speculate")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--budget", type=float, default=600)
    p.add_argument("--out", default="batch.md")
    p.add_argument("--fresh", action="store_true")
    p.add_argument("--rehearse", action="store_true")
    args = p.parse_args(argv)
    args.more = more or ["--entropy", "0.5"]
    if args.rehearse:
        self_check()
        args.limit, args.batches, args.rounds = 6, "1,3", 2
    batches = [int(b) for b in args.batches.split(",")]
    args.build = os.path.join(ROOT, args.build)
    program = os.path.join(args.build, "engine/programs/weir")
    if not os.path.exists(program):
        sys.exit(f"batch: {program} is not there: cmake --preset release && cmake --build build/release --target weir")
    version = subprocess.run([program, "--version"], stdout=subprocess.PIPE, text=True).stdout.strip()
    what = [version, args.tasks, args.limit, args.modes, args.more]
    store = Store(os.path.splitext(args.out)[0] + ".json", what, args.fresh)
    end = time.monotonic() + args.budget
    for k in range(args.rounds):
        for b in batches:
            if store.data["rounds"].get(str(b), 0) > k:
                continue
            left = end - time.monotonic()
            if left < 1.2 * store.data["took"].get(str(b), 1):
                print(f"batch: the budget is spent before batch {b}, round {k + 1}", file=sys.stderr)
                sys.exit(LEFT)
            rows, summary, seconds = measure(args, b, left)
            if rows is None:
                print(f"batch: batch {b} did not end in time", file=sys.stderr)
                sys.exit(LEFT)
            store.data["device"] = summary["device"]
            store.add(b, rows, seconds)
            print(f"round {k + 1}, batch {b}: {seconds:.1f} s", file=sys.stderr)
    print(table(store, args))


main()
