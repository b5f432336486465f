# SPDX-License-Identifier: Apache-2.0
"""How far errors move the logits: plants one at a time in the reference and compares with the golden logits. A test
sees an error that moves them by much more than its bound.

usage: wrong.py
"""
import os
import tempfile

import numpy as np

import wvec
from arch_models import BY_NAME
from make_arch_models import write_gguf
from make_tiny_models import HERE
from reference import Model

ERRORS = {"llama3": ["rope scaling"], "llama-linear": ["rope scaling"], "qwen2-yarn": ["rope scaling", "attention factor"],
          "mistral": ["no window", "window + 1"], "phi3-window": ["no window", "window + 1"], "phi3": ["rope scaling"],
          "gemma2": ["no window", "window + 1", "attention soft cap", "final soft cap", "plus one", "post norms",
                     "embedding scale", "silu"],
          "gemma3": ["no window", "window + 1", "local theta", "rope scaling", "plus one", "post norms", "embedding scale",
                     "silu"],
          "mixtral": ["renormalise"], "qwen3moe": ["renormalise"], "qwen3moe-plain": ["renormalise"]}


def main():
    print(f"{'':15} {'error':20} {'rms':>8} {'worst row, relative':>20} {'same arg-max':>13}")
    with tempfile.TemporaryDirectory() as temp:
        for name, errors in ERRORS.items():
            path = os.path.join(temp, name + ".gguf")
            write_gguf(path, BY_NAME[name], "BF16")
            seqs = wvec.read(os.path.join(HERE, "logits", name + ".wvec"))[1]
            x = np.concatenate([logits for _, logits in seqs])
            for wrong in [""] + errors:
                m = Model(path, wrong=wrong)
                y = np.concatenate([m.logits(ids) for ids, _ in seqs])
                worst = (np.abs(x - y).max(1) / np.abs(x).max(1)).max()
                print(f"{name:15} {wrong or '(none)':20} {np.sqrt(((x - y) ** 2).mean()):8.1e} {worst:20.1e} "
                      f"{(x.argmax(1) == y.argmax(1)).mean():13.2f}")


if __name__ == "__main__":
    main()
