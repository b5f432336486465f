#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Does the quality level of `weir calibrate` hold? Fresh tasks for every seed, a threshold chosen on one half,
its loss realised end to end on the other. The promise is one in expectation, over the choice of the data too: it
is the mean over seeds that must not lie above the level, and single seeds may.

    conformal.py [--weir build/engine/programs/weir] [--seeds 20] [--level 0.01] [--loss wrong] > table.md

Prints a table in Markdown; exit status 1 when the mean lies above the level by more than two standard errors of it.
Needs Python's standard library alone.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools/pair"))
import gen_tasks  # noqa: E402


def fresh_tasks(path, seed, n):
    """The first n of the generator's endless tasks: exchangeable, and of prompts that no training has seen. (Its
    command fills a table by kind and level instead, where the rarest take a minute.)"""
    items = gen_tasks.generate(seed, "test")
    with open(path, "w", encoding="utf8") as f:
        for _ in range(n):
            e = next(items)
            f.write(json.dumps({"prompt": e.prompt, "answer": e.answer, "match": gen_tasks.MATCH[e.task]}) + "\n")


def calibrate(a, path, seed):
    command = [a.weir, "calibrate", path, "--json", "--quiet", "--no-curves", "--level", str(a.level), "--loss", a.loss,
               "--gate", a.gate, "--seed", str(seed), "--temperature", str(a.temperature), "--batch", str(a.batch)]
    for option in ("small", "large"):
        if getattr(a, option):
            command += ["--" + option, getattr(a, option)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT)
    if ran.returncode != 0:
        sys.exit("conformal.py: %s: exit status %d" % (" ".join(command), ran.returncode))
    found = [json.loads(line) for line in ran.stdout.decode().splitlines()]
    return next(x for x in found if x["schema"] == "weir.calibrate.v1")


def mean_and_error(x):
    mean = sum(x) / len(x)
    if len(x) < 2:
        return mean, math.inf
    return mean, math.sqrt(sum((v - mean) ** 2 for v in x) / (len(x) - 1) / len(x))


def cell(x, form="%.4f"):
    return "-" if x is None else form % x


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--weir", default=os.path.join(ROOT, "build/engine/programs/weir"))
    p.add_argument("--seeds", type=int, default=20)
    p.add_argument("--first-seed", type=int, default=1000)
    p.add_argument("--tasks", type=int, default=480, help="of a seed: half choose, half confirm")
    p.add_argument("--level", type=float, default=0.01)
    p.add_argument("--loss", default="wrong", choices=["wrong", "tokens"])
    p.add_argument("--gate", default="entropy", choices=["entropy", "top-prob", "margin", "isotonic", "head"])
    p.add_argument("--temperature", type=float, default=0)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--small")
    p.add_argument("--large")
    a = p.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tasks.jsonl")
        for seed in range(a.first_seed, a.first_seed + a.seeds):
            fresh_tasks(path, seed, a.tasks)
            rows.append((seed, calibrate(a, path, seed)))
            print("seed %d: loss %.5f" % (seed, rows[-1][1]["confirm"]["loss"]), file=sys.stderr)
    print("Level %g, loss `%s`, gate `%s`, temperature %g; %d fresh tasks a seed, half to choose and half to confirm.\n"
          % (a.level, a.loss, a.gate, a.temperature, rows[0][1]["requests"]))
    print("| seed | threshold | risk seen | loss realised | deferred | exact match | large alone | speed-up |")
    print("|---|---|---|---|---|---|---|---|")
    for seed, r in rows:
        c, k = r["choice"], r["confirm"]
        print("| %d | %s | %.5f | %.5f | %.3f | %s | %s | %.2f |"
              % (seed, cell(c["threshold"]), c["risk"], k["loss"], k["chosen"]["deferral_rate"],
                 cell(k["chosen"]["exact_match"], "%.3f"), cell(k["large"]["exact_match"], "%.3f"),
                 k["chosen"]["speedup"]))
    mean, error = mean_and_error([r["confirm"]["loss"] for _, r in rows])
    holds = mean <= a.level + 2 * error
    print("\nMean realised loss over %d seeds: %.5f +- %.5f (standard error); level %g: %s."
          % (len(rows), mean, error, a.level, "holds" if holds else "DOES NOT HOLD"))
    rates, _ = mean_and_error([r["confirm"]["chosen"]["deferral_rate"] for _, r in rows])
    print("Mean deferral rate %.3f; a threshold was found for %d of %d seeds."
          % (rates, sum(r["choice"]["found"] for _, r in rows), len(rows)))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
