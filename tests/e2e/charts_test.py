# SPDX-License-Identifier: Apache-2.0
"""The drawings of `weir eval`, read as what they are: XML that is whole, with a mark for every row of the table, and no
number missing. usage: charts_test.py WEIR"""
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET

WEIR = sys.argv[1]
SVG = "{http://www.w3.org/2000/svg}"
bad = []


def check(ok, what):
    if not ok:
        bad.append(what)
        print("charts_test:", what)


def run(*args):
    r = subprocess.run([WEIR, "eval", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if r.returncode != 0:
        sys.exit(f"charts_test: weir eval {' '.join(args)}: {r.stderr}")
    rows = [json.loads(x) for x in r.stdout.splitlines()]
    return [x for x in rows if x["schema"] == "weir.eval.row.v1"]


def look_at(path, n_marks, name):
    text = open(path, encoding="utf-8").read()
    root = ET.fromstring(text)
    check(root.tag == SVG + "svg", f"{name}: the root is {root.tag}")
    width, height = float(root.get("width")), float(root.get("height"))
    check(not re.search(r"[\"\s(,>](?:nan|-?inf)[\"\s),<]", text), f"{name}: a number is missing")
    check("http" not in text.replace("http://www.w3.org/2000/svg", ""), f"{name}: it wants something from elsewhere")
    check("prefers-color-scheme:dark" in text, f"{name}: it has no dark side")
    marks = [p for p in root.iter(SVG + "path") if p.find(SVG + "title") is not None and "exact match" in p.find(SVG + "title").text]
    check(len(marks) == n_marks, f"{name}: {len(marks)} marks, want {n_marks}")
    for m in marks:
        x, y = map(float, re.match(r"translate\(([-\d.]+) ([-\d.]+)\)", m.get("transform")).groups())
        check(0 <= x <= width and 0 <= y <= height, f"{name}: a mark at {x}, {y}")
    for t in root.iter(SVG + "text"):
        if t.get("x"):
            check(-1 <= float(t.get("x")) <= width and 0 <= float(t.get("y")) <= height, f"{name}: text {t.text} is outside")
    return root, marks


def overlaps(root):
    """The share of pairs of names of points that lie on each other."""
    boxes = []
    for t in root.iter(SVG + "text"):
        if t.get("class") == "label":
            x, y = float(t.get("x")), float(t.get("y"))
            boxes.append((x, y - 9, x + 5.5 * len(t.text), y + 2))
    n = hits = 0
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            n += 1
            hits += min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
    return hits / max(n, 1), n


def main():
    folder = tempfile.mkdtemp()
    try:
        tasks = os.path.join(folder, 'a&b<"c">.jsonl')  # what a name may hold
        shutil.copy("models/tasks-valid.jsonl", tasks)
        deferral, speed = os.path.join(folder, "d.svg"), os.path.join(folder, "s.svg")
        rows = run(tasks, "-q", "--json", "--limit", "12", "--batch", "1", "--mode", "defer,rollback,exact,speculate",
                   "--entropy", "0.3,0.5,1", "--accept", "v3,typical", "--accept-alpha", "0.1,0.3", "--window", "4,8",
                   "--random", "--svg", deferral, "--svg-speed", speed)
        cascades = [r for r in rows if r["mode"] not in ("small", "large")]
        # defer 3 and as many controls, rollback 3 x 2, exact 2, speculate (v3 2 + typical 1) x 2
        check(len(cascades) == 3 + 3 + 6 + 2 + 6, f"{len(cascades)} settings")
        look_at(deferral, len(cascades), "deferral")
        root, marks = look_at(speed, len(rows), "speed")
        at = {m.find(SVG + "title").text.split(":")[0].strip(): float(re.match(r"translate\(([-\d.]+)", m.get("transform")).group(1)) for m in marks}
        by_speed = sorted(rows, key=lambda r: r["speedup"])
        xs = [at[f"{r['mode']} {r['setting']}".strip()] for r in by_speed]
        check(all(b >= a - 0.11 for a, b in zip(xs, xs[1:])), f"faster is not further right: {xs}")
        share, n = overlaps(root)
        check(n > 50 and share < 0.02, f"{share:.3f} of {n} pairs of names lie on each other")
        # few rows, one model: still a drawing
        run("models/tasks-valid.jsonl", "-q", "--json", "--limit", "3", "--mode", "exact", "--svg-speed", speed)
        look_at(speed, 3, "three rows")
        # a mode that is slower and one batch: no interval of the speed-up is claimed
        rows = run("models/tasks-valid.jsonl", "-q", "--json", "--limit", "8", "--batch", "4", "--mode", "exact")
        check(all(r["speedup95"] is None for r in rows), "an interval of the speed-up of tasks that ran side by side")
        check(rows[2]["ahead95"] == [0, 0] and rows[2]["ahead"] == 0, "exact is not the large model's text")
        check(all(math.isfinite(r["exact_match"]) for r in rows), "exact match")
    finally:
        shutil.rmtree(folder)
    sys.exit(1 if bad else 0)


main()
