# SPDX-License-Identifier: Apache-2.0
"""The few lines of protobuf's encoding that seeds of messages need."""
import struct


def varint(n):
    n &= (1 << 64) - 1
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def u(field, n):
    return varint(field << 3) + varint(n)


def s(field, data):
    data = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | 2) + varint(len(data)) + data


def f32(field, x):
    return varint(field << 3 | 5) + struct.pack("<f", x)


def f64(field, x):
    return varint(field << 3 | 1) + struct.pack("<d", x)


def packed(field, numbers):
    return s(field, b"".join(varint(n) for n in numbers))
