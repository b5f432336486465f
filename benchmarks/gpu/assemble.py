#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Puts what the steps of run.sh wrote into one JSON file and prints a short table.

usage: assemble.py WORK OUT GPU COMMIT
Exit status 1 when a row says that it is out of bounds, or a line is no JSON."""
import datetime
import json
import os
import re
import sys


def lines(path):
    """Rows of a file of JSON lines, and how many lines were none."""
    rows, broken = [], 0
    with open(path) as f:
        for line in f:
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except ValueError:
                broken += 1
    return rows, broken


def fixed(x, form):
    return "-" if x is None else form % x


def ceiling(r, name, key):
    return next((c[key] for c in r["results"].get("ceilings", []) if c["name"] == name), None)


def floors(r):
    """The least time an operation's bytes and products take at this machine's own ceilings, and how far it is off."""
    read, rate = ceiling(r, "read", "gb_s"), ceiling(r, "matmul BF16", "tflop_s")
    for x in r["results"].get("ops", []) + r["results"].get("peers", []):
        if read and rate and "us" in x:
            x["floor_us"] = max(x.get("bytes", 0) / read / 1e3, x.get("flops", 0) / rate / 1e6)
            x["ratio"] = x["us"] / x["floor_us"] if x["floor_us"] > 0 else None


def table(r):
    read = ceiling(r, "read", "gb_s")
    for c in r["results"].get("ceilings", []):
        print("ceiling  %-24s %s" % (c["name"], " ".join("%s %.1f" % (k, v) for k, v in c.items() if k != "name")))
    for name, rows in r["results"].items():
        if name.startswith("step-"):
            for x in rows:
                # A step of decode reads every weight once and all KV there is.
                b = x["weight_bytes"] + x["kv_bytes_per_token"] * x["context"] * x["seqs"]
                part = b / x["us"] / 1e3 / read if read and x["what"] == "decode" else None
                print("%-8s %-14s %-5s %5d x %3d  %10.1f tok/s %10.1f us  %s of read bandwidth"
                      % (x["what"], x["model"], x["type"], x["rows"], x["seqs"], x["tok_s"], x["us"], fixed(part, "%.2f")))
        if name.startswith("cascade-"):
            for x in rows:
                print("cascade  batch %-4s %s tok/s, large only %s tok/s, speed-up %s, exact match %s"
                      % (x.get("batch"), fixed(x.get("cascade_tok_s"), "%.1f"), fixed(x.get("large_tok_s"), "%.1f"),
                         fixed(x.get("speedup"), "%.2f"), x.get("exact_match")))
    for kind in "ops", "peers":
        for x in r["results"].get(kind, []):
            if "14336x" in x["name"] or "x14336" in x["name"]:  # in the file; the table is to be short
                continue
            print("%-8s %-40s %10.1f us  %6s x its floor" % (kind, x["name"], x["us"], fixed(x.get("ratio"), "%.2f")))
    for x in r["results"].get("comm", []):
        print("comm     %-40s %10.1f us  a copy of as much %8.1f us" % (x["name"], x["us"], x["copy_us"]))


def main():
    work, out, gpu, commit = sys.argv[1:5]
    name = gpu.split(",")[0].strip()
    now = datetime.datetime.now(datetime.timezone.utc)
    r = {"schema": "weir.gpu.v1", "date": now.isoformat(timespec="seconds"), "gpu": gpu, "commit": commit,
         "steps": lines(os.path.join(work, "steps.jsonl"))[0], "results": {}}
    wrong = 0
    for f in sorted(os.listdir(work)):
        if f.endswith(".jsonl") and f != "steps.jsonl":
            rows, broken = lines(os.path.join(work, f))
            wrong += broken + sum(1 for x in rows if x.get("ok") is False)
            if broken:
                print("%s: %d lines are no JSON" % (f, broken))
            if rows:
                r["results"][f[: -len(".jsonl")]] = rows
    floors(r)
    print()
    table(r)
    print()
    for step, rows in r["results"].items():
        checked = [x for x in rows if "ok" in x]
        for x in checked:
            if not x["ok"]:
                print("OUT OF BOUNDS %s: %s" % (step, json.dumps(x)))
        if checked:
            print("%-10s %d checks, %d out of bounds" % (step, len(checked), sum(not x["ok"] for x in checked)))
    failed = [s["step"] for s in r["steps"] if s["status"] not in ("ok", "skipped")]
    r["failed"], r["out_of_bounds"] = failed, wrong
    path = os.path.join(out, "%s-%s.json" % (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"), now.strftime("%Y-%m-%d")))
    with open(path, "w") as f:
        json.dump(r, f, indent=1)
        f.write("\n")
    print("failed steps: %s; written: %s" % (", ".join(failed) or "none", path))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
