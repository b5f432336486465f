# SPDX-License-Identifier: Apache-2.0
"""Writes tests/vectors/rope.txt: frequencies and attention factors that transformers 5.23 computes for the scalings of
published models. A line: kind, n_ctx (for LongRoPE: the sequence asked for), dims, theta, factor, original_ctx,
low_freq, high_freq, beta_fast, beta_slow, n, then n short and n long factors (LongRoPE), attention factor, dims/2
frequencies (float32).

usage: make_rope_goldens.py
"""
import os

import numpy as np
from transformers import LlamaConfig, Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from make_tiny_models import HERE

# name, head_dim, theta, max_position_embeddings, rope parameters
CASES = [
    ("linear", 128, 1e4, 16384, dict(rope_type="linear", factor=4.0)),
    ("llama3", 128, 5e5, 131072, dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                      original_max_position_embeddings=8192)),  # Llama 3.1
    ("llama3", 64, 5e5, 131072, dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                     original_max_position_embeddings=8192)),  # Llama 3.2 1B
    ("yarn", 128, 1e6, 131072, dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768)),  # Qwen2.5
    ("yarn", 64, 1e4, 65536, dict(rope_type="yarn", factor=16.0, original_max_position_embeddings=4096,
                                  beta_fast=16.0, beta_slow=2.0)),
]


def line(kind, n_ctx, dims, theta, p, short, long, mscale, freq):
    num = lambda x: repr(float(np.float32(x)))
    head = [kind, str(n_ctx), str(dims), num(theta), num(p.get("factor", 1)),
            str(p.get("original_max_position_embeddings", 0)), num(p.get("low_freq_factor", 0)),
            num(p.get("high_freq_factor", 0)), num(p.get("beta_fast", 32)), num(p.get("beta_slow", 1)), str(len(short))]
    return " ".join(head + [num(x) for x in [*short, *long, mscale, *freq]]) + "\n"


def main():
    out = []
    for kind, dims, theta, n_ctx, p in CASES:
        c = LlamaConfig(hidden_size=dims * 2, num_attention_heads=2, head_dim=dims, max_position_embeddings=n_ctx,
                        rope_parameters={"rope_theta": theta, **p})
        freq, mscale = ROPE_INIT_FUNCTIONS[kind](c, "cpu")
        out.append(line(kind, n_ctx, dims, theta, p, [], [], mscale, freq.numpy()))
    rng = np.random.default_rng(7)
    short = [float(np.float32(x)) for x in np.sort(1 + 0.3 * rng.random(48))]
    long = [float(np.float32(x)) for x in np.sort(1 + 60 * rng.random(48) ** 3)]
    p = dict(rope_type="longrope", factor=32.0, original_max_position_embeddings=4096, short_factor=short, long_factor=long)
    c = Phi3Config(hidden_size=192, num_attention_heads=2, max_position_embeddings=131072,
                   original_max_position_embeddings=4096, rope_parameters={"rope_theta": 1e4, **p})
    for n_ctx in (4096, 4097):
        freq, mscale = ROPE_INIT_FUNCTIONS["longrope"](c, "cpu", seq_len=n_ctx)
        out.append(line("longrope", n_ctx, 96, 1e4, p, short, long, mscale, freq.numpy()))
    with open(os.path.join(HERE, "rope.txt"), "w") as f:
        f.writelines(out)
    print(len(out), "lines")


if __name__ == "__main__":
    main()
