# SPDX-License-Identifier: Apache-2.0
"""How two models of a cascade agree, over free-running text of the large one and of the small one.

usage: measure_pair.py SMALL.gguf LARGE.gguf
"""
import sys

import numpy as np

from reference import Model, entropy, softmax


def main():
    small, large = Model(sys.argv[1]), Model(sys.argv[2])
    valid = min(small.n_tokens, large.n_tokens)
    rng = np.random.default_rng(1)
    for writer, who in ((large, "large"), (small, "small")):
        for temperature in (0, 1):
            same, overlap, hs, hl, distinct = [], [], [], [], []
            for _ in range(8):
                ids = list(rng.integers(0, valid, 8))
                start = len(ids)
                writer.reset()
                x = writer.forward(ids)[-1, :valid]
                while len(ids) < 128:
                    ids.append(int(x.argmax()) if temperature == 0 else int(rng.choice(valid, p=softmax(x))))
                    x = writer.forward(ids[-1:])[-1, :valid]
                a = small.logits(ids)[start - 1:-1, :valid]
                b = large.logits(ids)[start - 1:-1, :valid]
                same.append((a.argmax(1) == b.argmax(1)).mean())
                overlap.append(np.minimum(softmax(a), softmax(b)).sum(1).mean())
                hs.append(entropy(a))
                hl.append(entropy(b))
                distinct.append(len(set(ids[start:])))
            hs = np.concatenate(hs)
            q = np.quantile(hs, (0.1, 0.25, 0.5, 0.75, 0.9))
            print(f"text of {who} at temperature {temperature}: arg-max agreement {np.mean(same):.3f}, overlap of "
                  f"distributions {np.mean(overlap):.3f}, entropy small {hs.mean():.2f} (10..90 % {np.round(q, 2)}) "
                  f"large {np.concatenate(hl).mean():.2f} nats, distinct tokens of 120: {np.mean(distinct):.0f}")


if __name__ == "__main__":
    main()
