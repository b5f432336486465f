# SPDX-License-Identifier: Apache-2.0
"""What `weir perplexity` should print for the shipped pair: perplexity.json, by the float64 reference over the
dequantised weights. To be run again whenever the pair changes; takes seconds.

Windows are taken as llama.cpp's llama-perplexity does with stride 0 (chunks, the second half of each scored, the
begin-of-text token in the place of the first), else as transformers' documentation does ("Perplexity of fixed-length
models": overlapping windows that score what is new in them).
"""
import json
import os

import numpy as np

from bpe import Bpe
from reference import Model, entropy, log_softmax

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
TEXT = "models/tasks-test.jsonl"
SETTINGS = [(64, 0, 450), (100, 0, 450), (64, 16, 300), (64, 64, 300), (256, 100, 450), (512, 7, 200)]  # ctx, stride, limit
TAU = 1.5


def windows(ids, bos, ctx, stride):
    """(tokens to feed, first scored, of these) of each window."""
    if stride == 0:
        for start in range(0, len(ids) - ctx + 1, ctx):
            yield [bos] + ids[start + 1:start + ctx], ctx // 2 + 1
        return
    end = 0
    for start in range(0, len(ids), stride):
        before, end = end, min(start + ctx, len(ids))
        yield ids[start:end], max(before - start, 1)
        if end == len(ids):
            return


def rows(m, ids, bos, ctx, stride):
    """-log p, entropy and the likeliest token at every scored position."""
    nll, h, top = [], [], []
    for fed, first in windows(ids, bos, ctx, stride):
        x = m.logits(fed)[first - 1:-1, :m.n_tokens]
        nll += list(-log_softmax(x)[np.arange(len(fed) - first), fed[first:]])
        h += list(entropy(x))
        top += list(x.argmax(axis=-1))
    return np.array(nll), np.array(h), np.array(top)


def main():
    paths = [os.path.join(ROOT, "models", f"weir-demo-{name}-Q8_0.gguf") for name in ("small", "large")]
    small, large = (Model(p) for p in paths)
    bpe = Bpe(small.key)
    text = open(os.path.join(ROOT, TEXT), encoding="utf-8").read()
    ids = bpe.encode(text[:6000])
    out = []
    for ctx, stride, limit in SETTINGS:
        s, l = (rows(m, ids[:limit], ids[0], ctx, stride) for m in (small, large))
        low = s[1] <= TAU
        out.append({"ctx": ctx, "stride": stride, "limit": limit, "tau": TAU, "scored": len(s[0]),
                    "nll": [s[0].mean(), l[0].mean()], "entropy": [s[1].mean(), l[1].mean()],
                    "same_top1": float((s[2] == l[2]).mean()), "above_tau": [float((~low).mean()), float((l[1] > TAU).mean())],
                    "cascade_nll": float(np.where(low, s[0], l[0]).mean())})
    with open(os.path.join(HERE, "perplexity.json"), "w", encoding="utf-8") as f:
        json.dump({"text": TEXT, "settings": out}, f, indent=1)
        f.write("\n")


main()
