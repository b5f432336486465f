#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Seeds for fuzz_receipts: files of receipts as `weir run` writes them, short ones of several modes.
usage: make_receipts_corpus.py WEIR OUTDIR   (from the source root, whose models are used)"""
import os
import subprocess
import sys

MODES = {
    "defer": ["-m", "defer", "--entropy", "0.2"],
    "rollback": ["-m", "rollback", "--entropy", "0.2", "--window", "3"],
    "exact": ["-m", "exact", "--window", "3"],
    "rate": ["-m", "defer", "--defer-rate", "0.3"],
    "route": ["-m", "route", "--route-after", "4"],
}

weir, out = sys.argv[1:3]
os.makedirs(out, exist_ok=True)
for name, options in MODES.items():
    path = os.path.join(out, name + ".jsonl")
    subprocess.run([weir, "run", "-q", "-n", "8", "-p", "Question: 2 + 3?\\nAnswer:", "--receipts", path] + options,
                   check=True, stdout=subprocess.DEVNULL)
with open(os.path.join(out, "defer.jsonl")) as f:
    lines = f.readlines()
with open(os.path.join(out, "cut.jsonl"), "w") as f:
    f.write("".join(lines[:3])[:-40])
