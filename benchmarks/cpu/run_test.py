#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rehearses run.sh in tiny sizes beside a peer that only prints, and checks what it makes of the figures.

usage: run_test.py BUILD"""
import json
import os
import stat
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import engines  # noqa: E402
import report  # noqa: E402
import sample  # noqa: E402
from gguf_info import Model  # noqa: E402

BUILD = os.path.abspath(sys.argv.pop(1) if len(sys.argv) > 1 else "build/release")
ROOT = os.path.dirname(os.path.dirname(HERE))

# What llama.cpp's programs print, by their options, with speeds of our own.
PEER = {
    "llama-bench": """
if "--version" in a: print("version: 1 (peer)"); sys.exit(0)
n = int(a[a.index("-p") + 1]) or int(a[a.index("-n") + 1])
print("a line of no JSON")
print(json.dumps([{"n_prompt": n, "samples_ts": [50.0, 100.0]}]))
""",
    "llama-batched-bench": """
if "--version" in a: sys.exit(0)
print("|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |")
print("|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|")
for b in a[a.index("-npl") + 1].split(","):
    print("|    16 |      2 | %4s |    192 |    0.100 |    10.00 |    0.200 | %8.2f |    0.300 |    20.00 |" % (b, 7.0 * int(b)))
""",
}


def write_peer(folder):
    for name, body in PEER.items():
        path = os.path.join(folder, name)
        with open(path, "w") as f:
            f.write("#!%s\nimport json, sys\na = sys.argv[1:]\n%s" % (sys.executable, body))
        os.chmod(path, stat.S_IRWXU)


def run(*args):
    return subprocess.run([os.path.join(HERE, "run.sh"), *args], capture_output=True, text=True, timeout=240)


class Rehearsal(unittest.TestCase):
    def test_whole(self):
        with tempfile.TemporaryDirectory() as folder:
            write_peer(folder)
            out = os.path.join(folder, "r.json")
            command = [folder, "--rehearse", "--build", BUILD, "--out", out, "--isa", "scalar=" + folder]
            done = run(*command, "--budget", "0.001")  # one sample at least, not all
            self.assertEqual(done.returncode, 75, done.stdout + done.stderr)
            done = run(*command, "--serve")
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            with open(out) as f:
                data = json.load(f)
            self.assertFalse([s for s in data["samples"] if "error" in s])
            have = {(s["section"], s["level"], s["engine"]) for s in data["samples"]}
            for section in "prefill", "decode", "batch", "context":
                for level in "best", "scalar":
                    for engine in "weir", "llama.cpp":
                        self.assertIn((section, level, engine), have)
            for section, engine in (("catch-up", "weir"), ("start", "weir"), ("serve-2", "weir"), ("serve-2", "weir nanomsg")):
                self.assertIn((section, "best", engine), have)
            with open(os.path.join(folder, "r.md")) as f:
                table = f.read()
            for title in ("Prefill", "Decode, one sequence", "Decode, many", "Decode behind", "Catch-up", "From start", "Serving", "Limits"):
                self.assertIn("## " + title, table)
            self.assertNotIn(folder, json.dumps(data) + table)
            # The peer's speed is known: best of its repeats, and the column of decode in its table.
            r = report.Results(data)
            self.assertEqual(r.value("decode", "weir-demo-small-Q8_0", "best", "llama.cpp", "tok_s"), 100.0)
            self.assertEqual(r.value("batch", "weir-demo-small-Q8_0", "best", "llama.cpp", "b2"), 14.0)
            ours = r.value("decode", "weir-demo-small-Q8_0", "best", "weir", "tok_s")
            self.assertIn("**%.2f**" % (ours / 100), r.ratio("decode", "weir-demo-small-Q8_0", "best", "llama.cpp", "tok_s"))
            before = {report_key(s): s["date"] for s in data["samples"]}
            done = run(*command, "--serve")  # nothing is taken twice
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn("0 of ", done.stdout)
            with open(out) as f:
                self.assertEqual(before, {report_key(s): s["date"] for s in json.load(f)["samples"]})

    def test_a_peer_that_fails(self):
        with tempfile.TemporaryDirectory() as folder:
            write_peer(folder)
            with open(os.path.join(folder, "llama-bench"), "w") as f:
                f.write("#!/bin/sh\necho it is broken >&2\nexit 3\n")
            out = os.path.join(folder, "r.json")
            done = run(folder, "--rehearse", "--build", BUILD, "--out", out, "--only", "decode")
            self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
            self.assertIn("it is broken", done.stdout)
            with open(out) as f:
                ok = [s["engine"] for s in json.load(f)["samples"] if "values" in s]
            self.assertEqual(ok, ["weir"])

    def test_told_to_end(self):
        """It ends what it started, keeps what it has, and says that something is left."""
        with tempfile.TemporaryDirectory() as folder:
            write_peer(folder)
            started = os.path.join(folder, "started")
            os.mkfifo(started)
            with open(os.path.join(folder, "llama-bench"), "w") as f:
                f.write("#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho $$ > %s\nexec sleep 100\n" % started)
            out = os.path.join(folder, "r.json")
            process = subprocess.Popen([os.path.join(HERE, "run.sh"), folder, "--rehearse", "--build", BUILD, "--out", out, "--only",
                                        "decode"], stdout=subprocess.DEVNULL)
            with open(started) as f:  # waits for the peer
                peer = int(f.read())
            process.terminate()
            self.assertEqual(process.wait(30), 75)
            with self.assertRaises(ProcessLookupError):
                os.kill(peer, 0)
            with open(out) as f:
                self.assertEqual([s["engine"] for s in json.load(f)["samples"]], ["weir"])

    def test_usage(self):
        self.assertEqual(run("--help").returncode, 0)
        for bad in ([], ["--nothing"], ["none", "--only", "nothing"], ["none", "--rounds", "0"]):
            done = run(*bad)
            self.assertEqual(done.returncode, 2, bad)
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "r.json")
            for bad in (["none", "--models", os.path.join(folder, "none.gguf")], [folder], ["none"], ["none", "--isa", "avx2"]):
                self.assertNotEqual(run(*bad, "--out", out).returncode, 0, bad)


def report_key(s):
    return "/".join(str(s[k]) for k in ("section", "model", "level", "engine", "round"))


class Parts(unittest.TestCase):
    def test_model(self):
        m = Model(os.path.join(ROOT, "models/weir-demo-large-Q8_0.gguf"))
        inspected = json.loads(subprocess.run([os.path.join(BUILD, "benchmarks/bench_step"), "-m",
                                               os.path.join(ROOT, "models/weir-demo-large-Q8_0.gguf"), "-t", "1", "--prefill", "0",
                                               "--decode", "1", "--batch", "1", "--catch-up", "0", "--repeats", "1", "--json"],
                                              capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()[0])
        # weir counts weights as it has them in memory, which is nearly as they are in the file.
        self.assertAlmostEqual(m.weight_bytes / inspected["weight_bytes"], 1, delta=0.05)
        self.assertEqual(m.kv_bytes, inspected["kv_bytes_per_token"])
        self.assertLessEqual(m.step_bytes(), m.weight_bytes)
        self.assertGreater(m.flops(512), 512 * m.flops(1) * 0.5)
        with self.assertRaises(ValueError):
            Model(os.path.join(ROOT, "models/tokenizer.json"))

    def test_sample(self):
        done = sample.run([sys.executable, "-c", "import sys, time; print(1, flush=True); time.sleep(30)"], limit=0.5)
        self.assertEqual(done.rc, 124)
        self.assertEqual(done.out, "1\n")
        self.assertLess(done.first_byte, done.seconds)
        done = sample.run([sys.executable, "-c", "x = bytearray(50000000); import sys; sys.exit('wrong')"], limit=20)
        self.assertEqual((done.rc, done.err.strip()), (1, "wrong"))
        self.assertGreater(done.rss_bytes, 50000000)
        self.assertGreaterEqual(done.others, 0)

    def test_servers_are_ours(self):
        """What a server uses for the command is not what others take."""
        with subprocess.Popen([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True)\n"
                               "time.sleep(100)"], stdout=subprocess.PIPE, start_new_session=True) as server:
            try:
                server.stdout.readline()
                self.assertGreater(sample.session_seconds([server.pid]), 0.25)
                self.assertEqual(sample.session_seconds([]), 0)
            finally:
                sample.end_group(server)

    def test_callgrind(self):
        done = sample.Done()
        done.rc, done.out, done.err = 0, "", "==7== Events    : Ir\n==7== Collected : 1234567\n"
        self.assertEqual(engines.instructions(done), 1234567)
        done.err = "nothing"
        with self.assertRaises(engines.Failed):
            engines.instructions(done)

    def test_medians(self):
        def s(engine, r, value):
            return {"section": "decode", "model": "m", "level": "best", "engine": engine, "round": r, "values": {"tok_s": value}}
        r = report.Results({"samples": [s("weir", 1, 20), s("weir", 2, 30), s("weir", 3, 90), s("llama.cpp", 1, 10), s("llama.cpp", 2, 20),
                                        s("llama.cpp", 3, 30)], "limits": []})
        self.assertEqual(r.ratio("decode", "m", "best", "llama.cpp", "tok_s"), "**1.50** (1.50-3.00)")
        self.assertEqual(r.ratio("decode", "m", "best", "ik_llama.cpp", "tok_s"), "-")


if __name__ == "__main__":
    unittest.main()
