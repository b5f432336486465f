# SPDX-License-Identifier: Apache-2.0
"""`weir serve --calibration`: no alarm on tasks like those of the calibration, one on other traffic, within a window and a
quarter of it, told once in the log and in the metrics; files that are broken or of another pair are refused with a
reason. usage: drift_test.py WEIR"""
import concurrent.futures
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse

import served

WEIR = sys.argv[1]
WINDOW = 256
bad = []


def check(ok, what):
    if not ok:
        bad.append(what)
        print("drift_test:", what)


def ask(url, prompts, **fields):
    """All of them over a few connections that are kept."""
    host = urllib.parse.urlparse(url).netloc

    def some(mine):
        c = http.client.HTTPConnection(host, timeout=60)
        for p in mine:
            body = json.dumps({"model": "weir-demo", "prompt": p, "max_tokens": 40, "temperature": 0, **fields})
            c.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            r = c.getresponse()
            text = r.read()
            if r.status != 200:
                return f"{r.status}: {text[:200]}"
        c.close()
        return None

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        wrong = [x for x in pool.map(some, [prompts[i::4] for i in range(4)]) if x]
    if wrong:
        sys.exit(f"drift_test: {wrong[0]}")


def metric(url, name, labels=""):
    c = http.client.HTTPConnection(urllib.parse.urlparse(url).netloc, timeout=60)
    c.request("GET", "/metrics")
    text = c.getresponse().read().decode()
    c.close()
    m = re.search(r"^" + re.escape(name) + r"\{[^}]*" + labels + r"[^}]*\} (\S+)$", text, re.M)
    return float(m.group(1)) if m else None


def tasks(path):
    with open(os.path.join(served.ROOT, path)) as f:
        return [json.loads(line)["prompt"] for line in f]


def refused(folder, calibration, want, *args):
    path = os.path.join(folder, "wrong.json")
    with open(path, "w") as f:
        f.write(calibration if isinstance(calibration, str) else json.dumps(calibration))
    r = subprocess.run([WEIR, "serve", "--no-http", "--rpc", f"ipc://{folder}/rpc", "--calibration", path, *args],
                       capture_output=True, text=True, timeout=60)
    check(r.returncode != 0 and want in r.stderr, f"want a refusal with \"{want}\", got {r.returncode}: {r.stderr[-400:]}")


def log_of(server):
    """All of it: the gateway's lines are many."""
    with open(server.log, errors="replace") as f:
        return f.read()


def main():
    if served.missing(WEIR):
        served.skip("drift_test", served.missing(WEIR))
    with tempfile.TemporaryDirectory(prefix="weir-d-") as folder:
        calibration = os.path.join(folder, "c.json")
        r = subprocess.run([WEIR, "calibrate", "models/tasks-valid.jsonl", "-q", "--no-curves", "--limit", "160", "--max-tokens", "40",
                            "--level", "0.05", "--calibration", calibration], cwd=served.ROOT, capture_output=True, text=True)
        if r.returncode != 0:
            sys.exit(f"drift_test: weir calibrate: {r.stderr}")
        with open(calibration) as f:
            good = json.load(f)
        check(good["requests"]["n"] == 80, f"a profile of {good['requests']['n']} requests, want the half that confirms")
        server = served.Server(WEIR, ["--calibration", calibration, "--entropy", str(good["threshold"]), "--max-active", "8"])
        try:
            url = server.url
            usual = tasks("models/tasks-test.jsonl")
            ask(url, usual[:WINDOW + WINDOW // 2])
            score = metric(url, "weir:calibration_drift")
            check(score is not None and 0 < score < 1, f"the score of usual traffic is {score}")
            check(metric(url, "weir:calibration_drift_alarm") == 0, "an alarm on usual traffic")
            check(metric(url, "weir:calibration_requests_total") == WINDOW + WINDOW // 2, "requests compared")
            expected = metric(url, "weir:calibration_deferral_rate", 'source="calibration"')
            observed = metric(url, "weir:calibration_deferral_rate", 'source="traffic"')
            check(abs(expected - observed) < 0.06, f"deferral rate {observed}, calibrated {expected}")
            # what runs otherwise than a request that asks for nothing is not compared
            ask(url, usual[:8], weir={"mode": "exact"})
            ask(url, usual[:8], weir={"entropy": 1.5})
            check(metric(url, "weir:calibration_requests_total") == WINDOW + WINDOW // 2, "others were compared too")
            # texts of another kind: half a window of them is plenty
            other = [f"The history of {w} in the {n}th century began when" for n in range(11, 20)
                     for w in ("Rome", "salt", "sailing", "opera", "glass", "bread", "law", "maps", "silk", "tea", "iron", "wool")]
            sent = 0
            while sent < WINDOW + WINDOW // 4 and metric(url, "weir:calibration_drift_alarm") == 0:
                ask(url, (other * 4)[sent:sent + 32])
                sent += 32
            print(f"  usual traffic: score {score:.2f}; an alarm after {sent} other requests, score "
                  f"{metric(url, 'weir:calibration_drift'):.2f}")
            check(metric(url, "weir:calibration_drift_alarm") == 1, f"no alarm after {sent} other requests")
            check(log_of(server).count("has drifted from what") == 1, "one line of log when it begins")
            # and back
            ask(url, usual[:WINDOW + WINDOW // 4])
            check(metric(url, "weir:calibration_drift_alarm") == 0, "the alarm does not end")
            check(log_of(server).count("like the calibration again") == 1, "one line of log when it ends")
        finally:
            server.stop()
        # what cannot be
        refused(folder, "{", "calibration")
        refused(folder, '{"schema": "weir.gate.v1"}', "weir.calibration.v1")
        refused(folder, {**good, "requests": {**good["requests"], "cdf": good["requests"]["cdf"][:63]}}, "cdf: want 64 numbers")
        refused(folder, {**good, "requests": {**good["requests"], "cdf": good["requests"]["cdf"][::-1]}}, "distribution function")
        refused(folder, {**good, "requests": {**good["requests"], "n": 3}}, "3 requests")
        refused(folder, {**good, "fingerprints": None}, "without the models")
        refused(folder, {**good, "fingerprints": [good["fingerprints"][0], "0" * 16]}, "another large model")
        refused(folder, {**good, "fingerprints": good["fingerprints"][::-1]}, "another small model")
        refused(folder, {**good, "mode": "sideways"}, "mode, gate")
        refused(folder, good, "no small model", "--large", "models/weir-demo-large-Q8_0.gguf")
    sys.exit(1 if bad else 0)


main()
