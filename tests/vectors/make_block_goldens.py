# SPDX-License-Identifier: Apache-2.0
"""Stored blocks of every quantised type and what they mean: blocks/<type>.wblk, from gguf-py's dequantisation.

The bytes are random in every field; halves of scales are finite, of both signs, some of them subnormal, zero or
large. The format is described in README.md."""
import os
import struct

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize

# type, bytes of a block, elements of a block, byte offsets of its halves
TYPES = [
    (T.Q8_0, 34, 32, [0]),
    (T.Q4_0, 18, 32, [0]),
    (T.Q5_0, 22, 32, [0]),
    (T.Q4_K, 144, 256, [0, 2]),
    (T.Q5_K, 176, 256, [0, 2]),
    (T.Q6_K, 210, 256, [208]),
]
EXTREME = [0.0, -0.0, 6e-8, 6e-5, -1e-6, 65504.0, -60000.0]

out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "blocks")
os.makedirs(out, exist_ok=True)
rng = np.random.default_rng(20)
for t, n_bytes, n_elems, halves in TYPES:
    n = 12 if n_elems == 256 else 40
    b = rng.integers(0, 256, (n, n_bytes), dtype=np.uint8)
    for at in halves:
        d = (rng.normal(size=n) * 10.0 ** rng.uniform(-4, 1, n)).astype("<f2")
        d[: len(EXTREME)] = rng.permutation(np.array(EXTREME, "<f2"))
        b[:, at : at + 2] = d.view(np.uint8).reshape(n, 2)
    x = dequantize(b, t).astype("<f4")
    assert x.shape == (n, n_elems) and np.isfinite(x).all()
    with open(os.path.join(out, t.name + ".wblk"), "wb") as f:
        f.write(b"WBLK" + struct.pack("<III", 1, n * n_bytes, n * n_elems))
        f.write(b.tobytes())
        f.write(x.tobytes())
