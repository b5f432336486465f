# SPDX-License-Identifier: Apache-2.0
"""Greedy continuations and teacher-forced entropies of models by the float64 reference over their dequantised
weights: greedy/<model>.jsonl. To be run again whenever the shipped pair changes; takes seconds.

usage: make_pair_goldens.py MODEL.gguf...    by default the shipped pair, models/weir-demo-*-Q8_0.gguf
"""
import glob
import json
import os
import sys

import numpy as np

from bpe import Bpe
from reference import Model, entropy, log_softmax

HERE = os.path.dirname(os.path.abspath(__file__))
SHIPPED = os.path.join(HERE, "..", "..", "models")
STEPS = 48
MORE_PROMPTS = ["When the sun came up over the hills, the farmer", "Question: What is 47 + 36?\nAnswer:"]
TEXT = ('The miller had three sons. When he was old he called them and said: "I have little to give. The eldest '
        'shall have the mill, the second the donkey, and the youngest the cat." The youngest was sad at first, for '
        'what could he do with a cat?\n\nQuestion: Tom has 30 apples. Tom gives Mia 8 apples. How many apples does '
        'Tom have now?\nAnswer: 30 - 8 = 22. Tom has 22 apples.')


def rounded(x):
    return [round(float(v), 5) for v in x]


def greedy(m, bpe, prompt):
    ids = bpe.encode(prompt)
    m.reset()
    x = m.forward(ids)[-1, :m.n_tokens]
    out, gap, h = [], [], []
    while len(out) < STEPS:
        second, first = np.partition(x, -2)[-2:]
        out.append(int(x.argmax()))
        gap.append(first - second)
        h.append(entropy(x))
        if out[-1] in bpe.ends:
            break
        x = m.forward(out[-1:])[-1, :m.n_tokens]
    return {"kind": "greedy", "prompt": prompt, "ids": ids, "next": out, "gap": rounded(gap),
            "entropy": rounded(h)}, bpe.decode(out)


def forced(m, bpe, text):
    ids = bpe.encode(text)[:m.ctx]
    x = m.logits(ids)[:, :m.n_tokens]
    nll = -log_softmax(x)[np.arange(len(ids) - 1), ids[1:]]
    return {"kind": "forced", "text": text, "ids": ids, "entropy": rounded(entropy(x)), "nll": rounded(nll)}


def main():
    paths = sys.argv[1:] or sorted(glob.glob(os.path.join(SHIPPED, "weir-demo-*-Q8_0.gguf")))
    lines = open(os.path.join(SHIPPED, "prompts.txt"), encoding="utf-8").read().splitlines()
    prompts = [p.replace("\\n", "\n") for p in lines if p] + MORE_PROMPTS
    os.makedirs(os.path.join(HERE, "greedy"), exist_ok=True)
    for path in paths:
        name = os.path.basename(path)[:-len(".gguf")]
        m, as_engine = Model(path), Model(path, act_q8=True, kv_f16=True)
        bpe = Bpe(m.key)
        f = forced(m, bpe, TEXT)
        rows, said = [f], []
        off_logit, off_h, off_mean, moved = 0.0, 0.0, 0.0, 0.0
        for p in prompts:
            g, text = greedy(m, bpe, p)
            rows.append(g)
            said.append((min(g["gap"]), text))
        for r in rows:  # what 8-bit activations and KV in half precision do to the same tokens
            ids = r["ids"] + r.get("next", [])
            x, y = m.logits(ids)[:, :m.n_tokens], as_engine.logits(ids)[:, :m.n_tokens]
            off_logit = max(off_logit, np.abs(x - y).max())
            off_h = max(off_h, np.abs(entropy(x) - entropy(y)).max())
            off_mean = max(off_mean, abs(entropy(x).mean() - entropy(y).mean()))
            top2 = np.sort(x, axis=1)[:, -2:]
            gap = top2[:, 1] - top2[:, 0]
            flipped = x.argmax(1) != y.argmax(1)
            moved = max(moved, gap[flipped].max(initial=0.0))
        head = {"kind": "model", "name": name, "bytes": os.path.getsize(path), "steps": STEPS,
                "largest_gap_flipped": round(float(moved), 4), "max_logit_deviation": round(float(off_logit), 4),
                "max_entropy_deviation": round(float(off_h), 4),
                "mean_entropy_deviation": round(float(off_mean), 4)}
        with open(os.path.join(HERE, "greedy", name + ".jsonl"), "w", encoding="utf-8") as out:
            for r in [head, *rows]:
                out.write(json.dumps(r) + "\n")
        print(json.dumps(head))
        print(f"  forced text: {len(f['ids'])} tokens, entropy mean {np.mean(f['entropy']):.3f}, "
              f"nll mean {np.mean(f['nll']):.3f} nats")
        for gap, text in said:
            print(f"  smallest gap {gap:.4f} {text!r}")


if __name__ == "__main__":
    main()
