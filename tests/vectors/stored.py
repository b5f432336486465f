# SPDX-License-Identifier: Apache-2.0
"""The ways in which Hugging Face directories hold quantised matrices, for whole models: each function takes a matrix
[out, in] and gives ({parameter: (safetensors type, array)}, the matrix that these mean, float32). Layouts as in
make_convert_vectors.py, which has them in all their variants, one matrix each."""
import numpy as np

GROUP = 32
BLOCK = 32  # rows and columns of a scale of FP8
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble k of a word, from the lowest, belongs to column AWQ_ORDER[k] of eight


def e4m3_values():
    """Of the codes 0..126, ascending."""
    c = np.arange(127)
    e, m = c >> 3, c & 7
    return np.where(e > 0, (8 + m) * 2.0 ** (e - 10), m * 2.0 ** -9)


def fp8(x):
    rows, cols = x.shape
    value, nb = e4m3_values(), lambda n: -(-n // BLOCK)
    scale = np.zeros((nb(rows), nb(cols)), np.float32)
    code, means = np.zeros(x.shape, np.uint8), np.zeros(x.shape, np.float32)
    for i in range(nb(rows)):
        for j in range(nb(cols)):
            at = np.s_[i * BLOCK:(i + 1) * BLOCK, j * BLOCK:(j + 1) * BLOCK]
            scale[i, j] = np.float32(np.abs(x[at]).max() / 448)
            u = np.abs(x[at]) / scale[i, j]
            c = np.abs(u[..., None] - value).argmin(-1).astype(np.uint8)
            code[at] = c | np.where(x[at] < 0, 128, 0).astype(np.uint8)
            means[at] = np.where(x[at] < 0, -1, 1) * value[c].astype(np.float32) * scale[i, j]
    return {"weight": ("F8_E4M3", code), "weight_scale_inv": ("F32", scale)}, means


def groups(x, symmetric):
    """q[out, in] of 0..15, scale[groups, out] in half precision, zero[groups, out], the matrix they mean."""
    rows, cols = x.shape
    g = x.reshape(rows, cols // GROUP, GROUP)
    low, high = np.minimum(g.min(-1), 0), np.maximum(g.max(-1), 0)
    scale = (np.abs(g).max(-1) / 7 if symmetric else (high - low) / 15).astype(np.float16)
    zero = np.full(scale.shape, 8) if symmetric else np.clip(np.round(-low / scale.astype(np.float64)), 0, 15).astype(int)
    q = np.clip(np.round(g / scale[..., None].astype(np.float64)) + zero[..., None], 0, 15).astype(np.uint32)
    means = (scale[..., None].astype(np.float32) * (q.astype(np.int32) - zero[..., None]).astype(np.float32))
    return q.reshape(rows, cols), scale.T.copy(), zero.T, means.reshape(rows, cols)


def pack(nibbles, axis):
    """Eight along the axis to a word, the first lowest."""
    n = np.moveaxis(nibbles.astype(np.uint32), axis, -1)
    n = n.reshape(*n.shape[:-1], -1, 8)
    word = sum(n[..., k] << np.uint32(4 * k) for k in range(8))
    return np.ascontiguousarray(np.moveaxis(word, -1, axis)).view(np.int32)


def gptq(x):
    q, scale, zero, means = groups(x, True)
    return {"qweight": ("I32", pack(q.T, 0)), "qzeros": ("I32", pack(zero - 1, 1)), "scales": ("F16", scale),
            "g_idx": ("I32", (np.arange(x.shape[1]) // GROUP).astype(np.int32))}, means


def awq(x):
    q, scale, zero, means = groups(x, False)
    order = lambda n: n.reshape(len(n), -1, 8)[..., AWQ_ORDER].reshape(n.shape)
    return {"qweight": ("I32", pack(order(np.ascontiguousarray(q.T)), 1)), "qzeros": ("I32", pack(order(zero), 1)),
            "scales": ("F16", scale)}, means


KINDS = {"fp8": fp8, "gptq": gptq, "awq": awq}
CONFIG = {"fp8": {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
                  "weight_block_size": [BLOCK, BLOCK]},
          "gptq": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True},
          "awq": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}}
