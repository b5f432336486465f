#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a step of a tensor-parallel model costs on GPUs that are not here: arithmetic, not a measurement.

    benchmarks/tp/cost_model.py [--rows 1,8,64] [--markdown]

A step of n rows on p ranks takes

    t = max(weight bytes / p / bandwidth, 2 * parameters * n / p / flops)      the linears
      + KV bytes read / p / bandwidth                                          attention
      + launches * gap                                                         kernels that follow each other
      + (2 * layers + 1) * all_reduce(n * dim * 4 bytes, p)                    weir reduces in F32
      + all_gather(n * chunks * 32 bytes, p)                                   sampling from shards

with all_reduce(b, p) the cheapest of the algorithms the wire has. The constants, and where they are from, stand below.
"""
import argparse
import math

# Bandwidth: 0.85 of the 4.3 TB/s of a copy measured on one H200, the share large linears reach. Arithmetic: 0.6 of
# the 790 TFLOP/s of a dense bf16 product measured there.
BANDWIDTH = 0.85 * 4.3e12
FLOPS = 0.6 * 790e12
LAUNCHES_PER_LAYER, GAP = 7, 1.3e-6  # inside a CUDA graph


class Model:
    def __init__(self, name, layers, dim, params, head, kv_heads, head_dim, vocab):
        self.name, self.layers, self.dim, self.vocab = name, layers, dim, vocab
        self.params, self.head = params, head  # head: parameters read once a step besides the layers'
        self.kv_token = 2 * layers * kv_heads * head_dim * 2  # bytes, F16

    def bytes(self, bits):
        return self.params * bits / 8 + self.head * bits / 8


MODELS = [  # from the models' config.json; params: of the layers, head: vocabulary times width
    Model("Llama-3.1-8B", 32, 4096, 6.98e9, 128256 * 4096, 8, 128, 128256),
    Model("Qwen3-32B", 64, 5120, 31.2e9, 151936 * 5120, 8, 128, 151936),
    Model("Llama-3.1-70B", 80, 8192, 68.5e9, 128256 * 8192, 8, 128, 128256),
]

# One-shot all-reduce over NVLink on H100, CUDA events, 2/4/8 GPUs: 512 B in 3.7/4.8/5.9 us, 1 MiB in 19.9/31.1/33.8 us
# (sgl-project/sglang pull request 2904). Larger messages: the switch adds (multimem), 2 MiB in 21 us, 4 MiB in 31 us
# (vllm-project/vllm pull request 24111, H100, 6 GPUs).
ONE_SHOT = {2: (3.7e-6, 16.2e-6), 4: (4.8e-6, 26.3e-6), 8: (5.9e-6, 27.9e-6)}  # s, s/MiB
SWITCH = (11e-6, 5e-6)
# Two machines, one GPU and one InfiniBand adapter each: 8 B in 19 us (NVIDIA/nccl-tests issue 150, 200 Gb/s; latency
# is not of the rate). 400 Gb/s carries 46 GB/s (the same, issue 290). More machines: a tree, so log2(p) times the
# latency: an assumption. The bytes of a ring: 2 (p-1)/p.
NETWORK_LATENCY, NETWORK_BANDWIDTH = 19e-6, 46e9


def nvlink(b, p):
    mib = b / 2**20
    a, k = ONE_SHOT[p]
    return min(a + k * mib, SWITCH[0] + SWITCH[1] * mib)


def network(b, p):
    return NETWORK_LATENCY * math.log2(p) + 2 * (p - 1) / p * b / NETWORK_BANDWIDTH


def step(m, bits, p, n, wire, context):
    chunks = math.ceil(m.vocab / 4096)
    linears = max(m.bytes(bits) / p / BANDWIDTH, 2 * (m.params + m.head) * n / p / FLOPS)
    attention = m.kv_token * context * n / p / BANDWIDTH
    launches = m.layers * LAUNCHES_PER_LAYER * GAP
    talk = 0.0
    if p > 1:
        talk = (2 * m.layers + 1) * wire(n * m.dim * 4, p) + wire(n * chunks * 32, p)
    return linears + attention + launches + talk, talk


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--rows", default="1,8,64", help="rows of a step, with commas (default: 1,8,64)")
    ap.add_argument("--context", type=int, default=2048, help="positions each row attends to (default: 2048)")
    ap.add_argument("--markdown", action="store_true", help="a table for docs/tensor-parallel.md")
    a = ap.parse_args()
    rows = [int(n) for n in a.rows.split(",")]
    head = ["model", "weights", "wire", "ranks"] + [f"{n} rows: ms (speed-up, wire)" for n in rows]
    lines = []
    for m in MODELS:
        for bits, label in ((16, "bf16"), (4.5, "Q4_0")):
            one = [step(m, bits, 1, n, nvlink, a.context)[0] for n in rows]
            lines.append([m.name, label, "", "1"] + [f"{1e3 * t:.2f}" for t in one])
            for wire, name in ((nvlink, "NVLink"), (network, "400 Gb/s")):
                for p in (2, 4, 8):
                    cells = []
                    for n, alone in zip(rows, one):
                        t, talk = step(m, bits, p, n, wire, a.context)
                        cells.append(f"{1e3 * t:.2f} ({alone / t:.2f}x, {100 * talk / t:.0f} %)")
                    lines.append([m.name, label, name, str(p)] + cells)
    if a.markdown:
        print("| " + " | ".join(head) + " |")
        print("|" + "---|" * len(head))
        for line in lines:
            print("| " + " | ".join(line) + " |")
        return
    width = [max(len(line[i]) for line in [head] + lines) for i in range(len(head))]
    for line in [head] + lines:
        print("  ".join(cell.ljust(w) for cell, w in zip(line, width)).rstrip())


if __name__ == "__main__":
    main()
