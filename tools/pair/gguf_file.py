# SPDX-License-Identifier: Apache-2.0
"""GGUF version 3, as far as this pair needs it: write, read, Q8_0 and Q4_0.

Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md. Block layouts of Q8_0 (a half
scale, 32 int8) and Q4_0 (a half scale, 16 bytes with two 4-bit values, offset 8): ggml's
ggml-common.h. Tensors are numpy arrays with rows first; GGUF lists dimensions innermost first.
"""
import struct

import numpy as np

ALIGN = 32
U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<?", U64: "<Q", 11: "<q", 12: "<d"}


def pack_q8_0(w):
    x = w.astype(np.float32).reshape(-1, 32)
    d = np.abs(x).max(1, keepdims=True) / 127
    q = np.rint(np.divide(x, d, out=np.zeros_like(x), where=d > 0)).astype(np.int8)
    return np.concatenate([d.astype(np.float16).view(np.int8), q], 1).tobytes()


def unpack_q8_0(raw, shape):
    b = np.frombuffer(raw, np.int8).reshape(-1, 34)
    return (b[:, :2].copy().view(np.float16).astype(np.float32) * b[:, 2:]).reshape(shape)


def pack_q4_0(w):
    x = w.astype(np.float32).reshape(-1, 32)
    top = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], 1)        # the value of largest size, with its sign
    d = top / -8
    q = np.divide(x, d, out=np.zeros_like(x), where=d != 0)
    q = np.clip((q + 8.5).astype(np.int32), 0, 15).astype(np.uint8)
    return np.concatenate([d.astype(np.float16).view(np.uint8), q[:, :16] | q[:, 16:] << 4], 1).tobytes()


def unpack_q4_0(raw, shape):
    b = np.frombuffer(raw, np.uint8).reshape(-1, 18)
    q = np.concatenate([b[:, 2:] & 15, b[:, 2:] >> 4], 1).astype(np.float32) - 8
    return (b[:, :2].copy().view(np.float16).astype(np.float32) * q).reshape(shape)


# type -> (id in the file, bytes a value, pack, unpack)
TYPES = {
    "F32": (0, 4, lambda w: w.astype("<f4").tobytes(), lambda raw, s: np.frombuffer(raw, "<f4").reshape(s)),
    "F16": (1, 2, lambda w: w.astype("<f2").tobytes(), lambda raw, s: np.frombuffer(raw, "<f2").reshape(s)),
    "Q4_0": (2, 18 / 32, pack_q4_0, unpack_q4_0),
    "Q8_0": (8, 34 / 32, pack_q8_0, unpack_q8_0),
}
BY_ID = {t[0]: t for t in TYPES.values()}


def _string(s):
    b = s.encode()
    return struct.pack("<Q", len(b)) + b


def _value(kind, v):
    if kind == STRING:
        return _string(v)
    if kind == ARRAY:
        inner, values = v
        return struct.pack("<IQ", inner, len(values)) + b"".join(_value(inner, x) for x in values)
    return struct.pack(SCALARS[kind], v)


def write(path, meta, tensors):
    """meta: [(key, kind, value)], an array's value being (kind, list); tensors: [(name, array, type name)]."""
    head = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(meta))]
    head += [_string(k) + struct.pack("<I", kind) + _value(kind, v) for k, kind, v in meta]
    blobs, at = [], 0
    for name, w, kind in tensors:
        assert kind in ("F32", "F16") or w.shape[-1] % 32 == 0, name
        blob = TYPES[kind][2](np.ascontiguousarray(w))
        head.append(_string(name) + struct.pack("<I%dQIQ" % w.ndim, w.ndim, *w.shape[::-1], TYPES[kind][0], at))
        blobs.append(blob + b"\0" * (-len(blob) % ALIGN))
        at += len(blobs[-1])
    head = b"".join(head)
    with open(path, "wb") as f:
        f.write(head + b"\0" * (-len(head) % ALIGN))
        f.writelines(blobs)


def read(path):
    """-> (meta: key -> value, tensors: name -> float32 array)."""
    with open(path, "rb") as f:
        raw = f.read()
    at = 0

    def take(form):
        nonlocal at
        v = struct.unpack_from(form, raw, at)
        at += struct.calcsize(form)
        return v if len(v) > 1 else v[0]

    def value(kind):
        nonlocal at
        if kind == STRING:
            n = take("<Q")
            at += n
            return raw[at - n:at].decode()
        if kind == ARRAY:
            inner, n = take("<IQ")
            return [value(inner) for _ in range(n)]
        return take(SCALARS[kind])

    magic, version, n_tensors, n_meta = take("<4sIQQ")
    assert magic == b"GGUF" and version == 3, "not GGUF version 3"
    meta, infos, tensors = {}, [], {}
    for _ in range(n_meta):
        key = value(STRING)
        meta[key] = value(take("<I"))
    for _ in range(n_tensors):
        name, n = value(STRING), take("<I")
        shape = [take("<Q") for _ in range(n)][::-1]
        infos.append((name, shape, *take("<IQ")))
    align = meta.get("general.alignment", ALIGN)
    start = -(-at // align) * align
    for name, shape, kind, offset in infos:
        _, size, _, unpack = BY_ID[kind]
        raw_size = round(int(np.prod(shape)) * size)
        tensors[name] = unpack(raw[start + offset:start + offset + raw_size], shape).astype(np.float32)
    return meta, tensors
