# SPDX-License-Identifier: Apache-2.0
"""Writes tests/vectors/models/llama-K-mixed.gguf: quantize-256.gguf with another type for each part that an engine may
fuse, among them the K types, quantised by llama.cpp's own llama-quantize (of commit 0c1e57098, October 2026).

usage: make_k_model.py LLAMA_QUANTIZE [OUTDIR]
"""
import os
import subprocess
import sys

from make_tiny_models import HERE

TYPES = {"attn_q": "q4_K", "attn_k": "q5_K", "attn_v": "q6_K", "attn_output": "q5_K", "ffn_gate": "q4_K",
         "ffn_up": "q6_K", "ffn_down": "q5_0"}


def main():
    out = sys.argv[2] if len(sys.argv) > 2 else os.path.join(HERE, "models")
    args = ["--token-embedding-type", "q6_K"]
    for name, kind in TYPES.items():
        args += ["--tensor-type", f"{name}={kind}"]
    subprocess.run([sys.argv[1], *args, os.path.join(HERE, "models", "quantize-256.gguf"),
                    os.path.join(out, "llama-K-mixed.gguf"), "Q4_K_M"], check=True)


if __name__ == "__main__":
    main()
