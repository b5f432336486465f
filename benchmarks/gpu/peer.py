#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What PyTorch takes for the operations that check_ops times, at the same shapes: attention over KV of one length
(scaled_dot_product_attention) and matmul in BF16. Lines of JSON; exit status 77 without torch. --small: on the CPU,
tiny, to see that it runs."""
import json
import statistics
import sys
import time

try:
    import torch
except ImportError:
    print("SKIP: no torch", file=sys.stderr)
    sys.exit(77)

small = "--small" in sys.argv
if not small and not torch.cuda.is_available():
    print("SKIP: torch has no CUDA device", file=sys.stderr)
    sys.exit(77)
dev = "cpu" if small else "cuda"


def timed(name, calls, **more):
    """Median over repeats of the mean of one pass over `calls`, which work on buffers of their own: together more than
    the L2 holds, so that nothing is found there."""
    def sync():
        if dev == "cuda":
            torch.cuda.synchronize()
    calls[0]()
    us = []
    for _ in range(3 if small else 15):
        sync()
        t = time.perf_counter()
        for c in calls:
            c()
        sync()
        us.append(1e6 * (time.perf_counter() - t) / len(calls))
    print(json.dumps({"name": name, "us": statistics.median(us), **more}), flush=True)


def matmul(n, rows, cols):
    copies = 2 if small else max(2, (256 << 20) // (2 * rows * cols))
    x = torch.randn(n, cols, device=dev, dtype=torch.bfloat16)
    w = [torch.randn(rows, cols, device=dev, dtype=torch.bfloat16) for _ in range(copies)]
    timed("torch matmul BF16 %dx%d n=%d" % (rows, cols, n), [lambda w=w_: x @ w.T for w_ in w], flops=2 * n * rows * cols)


def attend(name, seqs, q_len, kv_len, heads, kv_heads, dim):
    copies = 2
    q = torch.randn(seqs, heads, q_len, dim, device=dev, dtype=torch.float16)
    kv = [[torch.randn(seqs, kv_heads, kv_len, dim, device=dev, dtype=torch.float16) for _ in range(2)] for _ in range(copies)]
    sdpa = torch.nn.functional.scaled_dot_product_attention
    timed("torch attend %s seqs=%d q=%d kv=%d" % (name, seqs, q_len, kv_len),
          [lambda p=p: sdpa(q, p[0], p[1], is_causal=q_len > 1, enable_gqa=True) for p in kv],
          bytes=4 * seqs * kv_heads * kv_len * dim)


try:
    for n in (1, 8) if small else (1, 8, 64, 128, 512, 2048):
        for rows, cols in ((64, 64),) if small else ((4096, 4096), (14336, 4096), (4096, 14336)):
            matmul(n, rows, cols)
    for s in (1, 2) if small else (1, 8, 32, 64, 128):
        attend("decode", s, 1, 32 if small else 1024, 4 if small else 32, 2 if small else 8, 16 if small else 128)
    for n in (16,) if small else (512, 2048):
        attend("prefill", 1, n, n, 4 if small else 32, 2 if small else 8, 16 if small else 128)
except (RuntimeError, TypeError) as e:  # too little memory, or a torch without enable_gqa: what is there stays
    print(e, file=sys.stderr)
    sys.exit(1)
