# SPDX-License-Identifier: Apache-2.0
"""Sets weir beside llama.cpp on the same GGUF file: greedy text of twenty prompts, token by token, and perplexity of a
text. Makes nothing; standard library only; talks to a llama-server of its own on loopback.

usage: crosscheck_llama_cpp.py WEIR LLAMA_BIN_DIR MODEL.gguf [--text FILE] [--limit BYTES] [--tokens N] [--port P]

WEIR is the program, LLAMA_BIN_DIR a folder with llama-server and llama-perplexity. Both keep keys and values in F32.
Exit status 1 when a text differs at a token where llama.cpp's own margin is 0.1 nats or more, or the perplexities
differ by more than 0.1 %. A text that parts at a smaller margin is counted and shown: there the two sum in another
order.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

QUESTIONS = [
    "Convert 7 hours and 25 minutes to minutes.", "Sort these numbers in ascending order: 14, 3, 27, 9, 41",
    "Ann has 12 coins. Ben gives Ann 7 more coins. How many coins does Ann have now?",
    "Convert 3 hours and 48 minutes to minutes.", "Sort these numbers in descending order: 5, 62, 18, 33",
    "Tom has 30 apples. Tom gives Mia 8 apples. How many apples does Tom have now?", "What is 47 + 36?",
    "What is 90 - 27?", "What is 6 * 14?", "Convert 5 metres to centimetres."]
OPENINGS = [
    "Once upon a time there was a little girl who", "The old man looked at the sea, and",
    "In the middle of the forest stood a small house with", '"Where are you going?" said the fox to',
    "When the sun came up over the hills, the farmer", "The king called his three sons and said,",
    "It was a cold night in winter, and the snow", "A boat came slowly down the river, and in it",
    "My grandmother used to tell us that", "The dog ran after the cat until"]
PROMPTS = [f"Question: {q}\nAnswer:" for q in QUESTIONS] + OPENINGS
MARGIN = 0.1
CONTEXT = 512


def post(port, path, body):
    r = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(),
                               {"Content-Type": "application/json"})
    return json.loads(urllib.request.urlopen(r, timeout=300).read())


def llama_greedy(bin_dir, model, port, n):
    """[(ids, margins)] of the prompts."""
    cmd = [os.path.join(bin_dir, "llama-server"), "-m", model, "--host", "127.0.0.1", "--port", str(port), "-t", "2",
           "-c", str(CONTEXT), "-np", "1", "-fa", "off", "-ctk", "f32", "-ctv", "f32", "--no-warmup", "--no-webui"]
    server = subprocess.Popen(cmd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            if server.poll() is not None:
                raise SystemExit("llama-server ended")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                time.sleep(0.2)
        out = []
        for p in PROMPTS:
            ids = post(port, "/tokenize", {"content": p, "add_special": True, "parse_special": False})["tokens"]
            r = post(port, "/completion", {"prompt": ids, "n_predict": n, "temperature": 0, "top_k": 1, "n_probs": 2,
                                           "repeat_penalty": 1.0, "samplers": ["top_k"], "cache_prompt": False})
            steps = r["completion_probabilities"]
            out.append(([s["id"] for s in steps],
                        [s["top_logprobs"][0]["logprob"] - s["top_logprobs"][1]["logprob"] for s in steps]))
        return out
    finally:
        server.terminate()
        server.wait()


def weir_greedy(weir, model, n):
    with tempfile.TemporaryDirectory() as d:
        prompts, receipts = os.path.join(d, "prompts"), os.path.join(d, "receipts")
        with open(prompts, "w") as f:
            f.writelines(p.replace("\\", "\\\\").replace("\n", "\\n") + "\n" for p in PROMPTS)
        subprocess.run([weir, "run", "--small", model, "--mode", "small", "-f", prompts, "--kv", "f32", "-t", "0",
                        "-n", str(n), "-q", "--receipts", receipts], stdout=subprocess.DEVNULL, check=True)
        out = [[] for _ in PROMPTS]
        for line in open(receipts):
            r = json.loads(line)
            if "schema" not in r:  # a token
                out[r["request"]].append(r["id"])
        return out


def compare_greedy(a):
    same = parted = 0
    for prompt, (theirs, margin), ours in zip(PROMPTS, llama_greedy(a.llama, a.model, a.port, a.tokens),
                                              weir_greedy(a.weir, a.model, a.tokens)):
        n = min(len(theirs), len(ours))
        at = next((i for i in range(n) if theirs[i] != ours[i]), None)
        if at is None and abs(len(theirs) - len(ours)) <= 1:  # one of them may list the end token
            same += 1
            continue
        at = n if at is None else at
        gap = margin[at] if at < len(margin) else float("inf")
        print(f"  parts at token {at}, margin {gap:.4f}: {prompt!r}")
        parted += gap >= MARGIN
    print(f"greedy: {same} of {len(PROMPTS)} texts the same, {parted} part at a margin of {MARGIN} or more")
    return parted == 0


def compare_perplexity(a):
    with tempfile.NamedTemporaryFile("wb", suffix=".txt") as f:
        f.write(open(a.text, "rb").read(a.limit))
        f.flush()
        r = subprocess.run([os.path.join(a.llama, "llama-perplexity"), "-m", a.model, "-f", f.name, "-c", str(CONTEXT),
                            "-t", "2", "-fa", "off", "-ctk", "f32", "-ctv", "f32", "--no-warmup"],
                           capture_output=True, text=True, check=True)
        theirs = float(re.search(r"PPL = ([0-9.]+)", r.stdout + r.stderr)[1])
        r = subprocess.run([a.weir, "perplexity", "--small", a.model, "--ctx", str(CONTEXT), "--kv", "f32", "--json",
                            f.name], capture_output=True, text=True, check=True)
    ours = json.loads(r.stdout.splitlines()[-1])["models"]["small"]["perplexity"]
    off = ours / theirs - 1
    print(f"perplexity: weir {ours:.4f}, llama.cpp {theirs:.4f}, {100 * off:+.4f} %")
    return abs(off) <= 1e-3


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("weir")
    p.add_argument("llama")
    p.add_argument("model")
    p.add_argument("--text", help="measure perplexity of it too")
    p.add_argument("--limit", type=int, default=300000)
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--port", type=int, default=18431)
    a = p.parse_args()
    print(os.path.basename(a.model))
    ok = compare_greedy(a)
    if a.text:
        ok = compare_perplexity(a) and ok
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
