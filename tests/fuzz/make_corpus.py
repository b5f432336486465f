#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seed inputs of the fuzz targets: corpus/gguf, corpus/tokenize. Only needed to change them; files found
by fuzzing are added beside them by hand (crash-*, slow-*)."""
import os
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "vectors", "tokenizer"))
from texts import HAND, random_texts  # noqa: E402

U32, I32, F32, BOOL, STR, ARRAY, U64, F64 = 4, 5, 6, 7, 8, 9, 10, 12


def string(s):
    raw = s.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(kind, v):
    if isinstance(v, list):
        return struct.pack("<IIQ", ARRAY, kind, len(v)) + b"".join(scalar(kind, x) for x in v)
    return struct.pack("<I", kind) + scalar(kind, v)


def scalar(kind, v):
    return string(v) if kind == STR else struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<B", U64: "<Q", F64: "<d"}[kind], v)


def gguf(keys, tensors=(), version=3, alignment=32):
    """tensors: (name, dims, type, bytes)"""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    head += b"".join(string(k) + value(kind, v) for k, kind, v in keys)
    data = b""
    for name, dims, kind, size in tensors:
        data += bytes(-len(data) % alignment)
        head += string(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims)
        head += struct.pack("<IQ", kind, len(data))
        data += bytes(size)
    return head + bytes(-len(head) % alignment) + data if tensors else head


def byte_tokens():
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = iter(range(256, 512))
    return [chr(b) if b in keep else chr(next(moved)) for b in range(256)]


def model(arch, pre, extra=(), version=3, alignment=32):
    merges = ["a b", "ab c", "t h", "th e"]
    tokens = byte_tokens() + [m.replace(" ", "") for m in merges] + ["<|endoftext|>", "<|im_end|>", "<user>"]
    types = [1] * 260 + [3, 3, 4]
    keys = [("general.architecture", STR, arch), ("general.name", STR, "seed"), (arch + ".block_count", U32, 1),
            (arch + ".embedding_length", U32, 2), (arch + ".feed_forward_length", U32, 4), (arch + ".context_length", U32, 16),
            (arch + ".attention.head_count", U32, 1), (arch + ".attention.layer_norm_rms_epsilon", F32, 1e-5),
            (arch + ".rope.freq_base", F32, 10000.0), ("tokenizer.ggml.model", STR, "gpt2"),
            ("tokenizer.ggml.pre", STR, pre), ("tokenizer.ggml.tokens", STR, tokens), ("tokenizer.ggml.token_type", I32, types),
            ("tokenizer.ggml.merges", STR, merges), ("tokenizer.ggml.bos_token_id", U32, 260), *extra]
    if alignment != 32:
        keys.insert(0, ("general.alignment", U32, alignment))
    return gguf(keys, [("token_embd.weight", [2, len(tokens)], 1, 4 * len(tokens)), ("output_norm.weight", [2], 0, 8)],
                version, alignment)


def write(folder, name, raw):
    folder = os.path.join(HERE, "corpus", folder)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as f:
        f.write(raw)


def main():
    write("gguf", "empty", b"")
    write("gguf", "no-keys", gguf([]))
    write("gguf", "kinds", gguf([("a", U32, 1), ("b", F32, 0.5), ("c", BOOL, 1), ("d", STR, "text"), ("e", I32, [1, -2, 3]),
                                 ("f", STR, ["x", "", "yz"]), ("g", U64, 2 ** 63), ("h", F64, 1e300), ("i", BOOL, [0, 1])]))
    nested = gguf([("n", U32, 0)])[:-8] + struct.pack("<IIQIQIQ", ARRAY, ARRAY, 1, ARRAY, 1, U32, 1) + struct.pack("<I", 7)
    write("gguf", "nested", nested)
    write("gguf", "tensors", gguf([], [("a", [3], 0, 12), ("b", [64, 2], 8, 136), ("c", [32, 1, 2], 2, 36), ("d", [5], 30, 10)]))
    write("gguf", "llama", model("llama", "llama-bpe"))
    write("gguf", "qwen2-v2", model("qwen2", "qwen2", version=2))
    write("gguf", "qwen3-aligned", model("qwen3", "gpt-2", [("qwen3.attention.key_length", U32, 4)], alignment=8))
    write("gguf", "deepseek", model("llama", "deepseek-llm", [("llama.rope.scaling.type", STR, "none")]))
    write("gguf", "cut", model("llama", "qwen2")[:3000])
    texts = [t.encode() for t in HAND + list(random_texts(40, seed=2))]
    texts += [b"\xff\xfe", b"a\xc3", b"\xed\xa0\x80 \xf4\x90\x80\x80", b"a" * 300, b" " * 300, b"\n" * 300, bytes(range(256))]
    for i, text in enumerate(texts):
        write("tokenize", "text-%03d" % i, bytes([i % 14]) + text)


if __name__ == "__main__":
    main()
