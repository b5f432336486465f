# SPDX-License-Identifier: Apache-2.0
"""Writes what the tests of `weir quantize` need: a model whose rows are long enough for the K types, and hashes of
the tensors that an independent implementation (gguf-py 0.19, numpy) makes of the models' weights. Seeded: the same
bytes each time.

  models/quantize-256.gguf   BF16, llama, dim 256, 1 layer, 4 / 1 heads x 64, ff 288 (no multiple of 256), tied head
  quantize/goldens.txt       a line `MODEL TYPE TENSOR HASH` for every matrix: FNV-1a, 64 bits, of the stored bytes

usage: make_quantize_model.py [OUTDIR]
"""
import os
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize, quantize

from make_tiny_models import HERE, Shape, random_weights, write

TYPES = ("Q8_0", "Q4_0", "Q5_0", "F16", "BF16")
MODELS = ("llama-F32", "quantize-256")


def fnv1a(data):
    h = 0xcbf29ce484222325
    for b in data:
        h = (h ^ b) * 0x100000001b3 & 0xffffffffffffffff
    return h


def floats(t):
    if t.tensor_type.name == "F32":
        return np.asarray(t.data, dtype=np.float32)
    return dequantize(t.data, t.tensor_type).reshape([int(d) for d in reversed(t.shape)])


def goldens(models, path):
    lines = []
    for model in MODELS:
        for t in GGUFReader(os.path.join(models, model + ".gguf")).tensors:
            if len(t.shape) < 2:
                continue
            x = floats(t)
            for kind in TYPES:
                if kind == t.tensor_type.name:
                    continue
                stored = quantize(x, GGMLQuantizationType[kind])
                lines.append(f"{model} {kind} {t.name} {fnv1a(stored.tobytes()):016x}\n")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.writelines(lines)
    print(f"{path}: {len(lines)} lines")


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else HERE
    models = os.path.join(out, "models")
    os.makedirs(models, exist_ok=True)
    shape = Shape("llama", 256, 1, 4, 1, 64, 288, True, 1e-5, 10000.0)
    write(os.path.join(models, "quantize-256.gguf"), shape, random_weights(shape, 201), "BF16")
    goldens(models, os.path.join(out, "quantize", "goldens.txt"))


if __name__ == "__main__":
    main()
