#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Quantised Hugging Face modules and what they mean: convert/<case>.{json,safetensors,f32}.

Each case is a model of one matrix, model.layers.0.mlp.down_proj: its config.json, its weights, and the matrix in
float32, [rows, cols]. The matrix is made of numbers drawn here and packed here, never unpacked again; where a
product has to be rounded, numpy rounds it once, in float32. Layouts: AutoGPTQ's and AutoAWQ's packing, the
compressed-tensors format, DeepSeek's FP8 blocks."""
import json
import os

import numpy as np
from safetensors import safe_open

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "convert")
MODULE = "model.layers.0.mlp.down_proj."
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble k of a word, from the lowest, belongs to column AWQ_ORDER[k] of eight
rng = np.random.default_rng(21)


def e4m3(codes):
    """Value of each code: sign, four bits of exponent (bias 7), three of mantissa; 0x7f and 0xff are NaN."""
    c = codes.astype(np.int64)
    e, m = c >> 3 & 15, c & 7
    v = np.where(e > 0, (8 + m) * 2.0 ** (e - 10), m * 2.0**-9)
    v = np.where((e == 15) & (m == 7), np.nan, v)
    return np.where(c & 128, -v, v).astype(np.float32)


def bf16(x):
    """float32 cut to bfloat16: (bits, value)."""
    bits = (np.asarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)


def save(path, tensors, start=0):
    """tensors: name -> (dtype, array). The data begins `start` bytes behind a multiple of 8."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, a) in tensors.items():
        header[MODULE + name] = {"dtype": dtype, "shape": list(a.shape), "data_offsets": [len(data), len(data) + a.nbytes]}
        data += np.ascontiguousarray(a).tobytes()
    raw = json.dumps(header).encode()
    raw += b" " * ((start - len(raw)) % 8)
    with open(path, "wb") as f:
        f.write(len(raw).to_bytes(8, "little") + raw + data)
    with safe_open(path, "np") as f:  # the format's own reader takes it
        assert sorted(f.keys()) == sorted(MODULE + n for n in tensors)


def case(name, quant, tensors, want, start=0):
    rows, cols = want.shape
    config = {"model_type": "llama", "hidden_size": rows, "intermediate_size": cols, "num_hidden_layers": 1,
              "num_attention_heads": 1, "vocab_size": 8, "quantization_config": quant}
    os.makedirs(OUT, exist_ok=True)
    with open(os.path.join(OUT, name + ".json"), "w") as f:
        json.dump(config, f, indent=1)
        f.write("\n")
    save(os.path.join(OUT, name + ".safetensors"), tensors, start)
    want.astype("<f4").tofile(os.path.join(OUT, name + ".f32"))


# ---- FP8 ----

def fp8(name, quant, rows, cols, scale, spread, param, dtype="F32", stored=None, start=0):
    """scale as stored; spread: the same for each element."""
    codes = rng.integers(0, 256, (rows, cols), dtype=np.uint8)
    codes.flat[:256] = np.arange(256)  # each code at least once, also NaN
    case(name, quant, {"weight": ("F8_E4M3", codes), param: (dtype, scale if stored is None else stored)},
         e4m3(codes) * spread.astype(np.float32), start)


def blocks(s, rows, cols, br, bc):
    return np.repeat(np.repeat(s, br, 0), bc, 1)[:rows, :cols]


def all_fp8():
    block = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"}
    s = np.array([0.0123], np.float32)
    fp8("fp8-tensor", {"quant_method": "fp8"}, 12, 40, s, np.full((12, 40), s[0]), "weight_scale", start=3)
    s = np.float32(2.0**-9).reshape(())
    fp8("fp8-scalar", {"quant_method": "fp8"}, 12, 40, s, np.full((12, 40), s), "weight_scale_inv")
    bits, s = bf16(rng.uniform(0.001, 0.1, (12, 1)))
    fp8("fp8-rows", {"quant_method": "compressed-tensors", "format": "float-quantized"}, 12, 40, s,
        np.repeat(s, 40, 1), "weight_scale", "BF16", bits)
    s = rng.uniform(0.001, 0.1, (3, 5)).astype(np.float32)
    fp8("fp8-blocks", {**block, "weight_block_size": [16, 8]}, 40, 36, s, blocks(s, 40, 36, 16, 8), "weight_scale_inv")
    s = (2.0 ** rng.integers(-12, 3, (3, 5))).astype(np.float32)
    fp8("fp8-blocks-exact", {**block, "weight_block_size": [16, 8]}, 40, 36, s, blocks(s, 40, 36, 16, 8), "weight_scale_inv")
    s = rng.uniform(0.001, 0.1, (2, 2)).astype(np.float32)
    fp8("fp8-blocks-128", block, 130, 136, s, blocks(s, 130, 136, 128, 128), "weight_scale_inv")


# ---- four bits ----

def words(nibbles, axis):
    """Eight nibbles along an axis into one word, the first lowest."""
    n = np.moveaxis(nibbles.astype(np.uint32), axis, -1)
    n = n.reshape(*n.shape[:-1], -1, 8)
    w = np.zeros(n.shape[:-1], np.uint32)
    for k in range(8):
        w |= n[..., k] << np.uint32(4 * k)
    return np.moveaxis(w, -1, axis).view(np.int32)


def awq_words(nibbles):
    n = nibbles.reshape(nibbles.shape[0], -1, 8)[..., AWQ_ORDER]
    return words(n.reshape(nibbles.shape), 1)


def draw(rows, cols, group, zero):
    n = -(-cols // group)
    q = rng.integers(0, 16, (rows, cols))
    z = np.full((n, rows), zero) if zero is not None else rng.integers(0, 16, (n, rows))
    s = (rng.uniform(0.0005, 0.05, (n, rows))).astype(np.float16)
    s.flat[0] = np.float16(3e-7)  # a subnormal half
    return q, z, s


def want(q, z, s, g):
    """z, s: [groups, rows]; g: [cols]"""
    return (q - z.T[:, g]).astype(np.float32) * s.T[:, g].astype(np.float32)


def gptq(name, rows, cols, group, zero, version=1, order=False, scales="F16", said=None):
    q, z, s = draw(rows, cols, group, zero)
    g = np.arange(cols) // group
    if order:
        g = rng.permutation(g)
    stored = s
    if scales == "F32":
        stored = s = rng.uniform(0.0005, 0.05, s.shape).astype(np.float32)
    quant = {"quant_method": "gptq", "bits": 4, "group_size": said or group, "desc_act": order, "sym": zero == 8}
    if version == 2:
        quant["checkpoint_format"] = "gptq_v2"
    case(name, quant, {"qweight": ("I32", words(q.T, 0)), "qzeros": ("I32", words((z - (version == 1)) & 15, 1)),
                       "scales": (scales, stored), "g_idx": ("I32", g.astype(np.int32))}, want(q, z, s, g))


def awq(name, rows, cols, group, zero):
    q, z, s = draw(rows, cols, group, zero)
    quant = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}
    case(name, quant, {"qweight": ("I32", awq_words(q.T)), "qzeros": ("I32", awq_words(z)), "scales": ("F16", s)},
         want(q, z, s, np.arange(cols) // group))


def packed(name, rows, cols, group, start=0, zero=8):
    q, z, _ = draw(rows, cols, group, zero)
    bits, s = bf16(rng.uniform(0.0005, 0.05, z.T.shape))
    pad = np.zeros((rows, -cols % 8), q.dtype)
    quant = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {"weights": {
        "num_bits": 4, "type": "int", "symmetric": True, "group_size": group, "strategy": "group"}}}}
    tensors = {"weight_packed": ("I32", words(np.concatenate([q, pad], 1), 1)), "weight_scale": ("BF16", bits),
               "weight_shape": ("I64", np.array([rows, cols], np.int64))}
    if zero is None:  # [rows/8, groups]; z is [groups, rows]
        tensors["weight_zero_point"] = ("I32", words(np.concatenate([z.T, np.zeros((-rows % 8, z.shape[0]), z.dtype)]), 0))
    case(name, quant, tensors, want(q, z, s.T, np.arange(cols) // group), start)


def fp8_e8m0():
    b = rng.integers(100, 140, (3, 5)).astype(np.uint8)
    s = (2.0 ** (b.astype(np.int64) - 127)).astype(np.float32)
    fp8("fp8-blocks-e8m0", {"quant_method": "fp8", "weight_block_size": [16, 8], "scale_fmt": "ue8m0"}, 40, 36, s,
        blocks(s, 40, 36, 16, 8), "weight_scale_inv", "F8_E8M0", b)


def all_int4():
    gptq("gptq-sym", 16, 128, 32, 8)
    gptq("gptq-asym", 16, 128, 64, None)
    gptq("gptq-asym-v2", 16, 128, 64, None, version=2)
    gptq("gptq-channel", 24, 64, 64, 8, said=-1)
    gptq("gptq-act-order", 16, 128, 32, None, order=True)
    gptq("gptq-small-groups", 16, 64, 16, 8)
    gptq("gptq-last-group-short", 16, 96, 64, None)
    gptq("gptq-float-scales", 16, 64, 32, 8, scales="F32")
    awq("awq-asym", 24, 96, 32, None)
    awq("awq-sym", 16, 128, 64, 8)
    packed("packed-groups", 10, 128, 32)
    packed("packed-rows", 10, 64, 64, start=1)
    packed("packed-odd", 6, 44, 22)
    packed("packed-asym", 12, 96, 32, zero=None)


all_fp8()
all_int4()
fp8_e8m0()
