# SPDX-License-Identifier: Apache-2.0
"""What a GGUF file's header says about the work of a step: products, bytes of weights, bytes of KV."""
import os
import struct

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9


class Reader:
    def __init__(self, f):
        self.f = f

    def scalar(self, form):
        size = struct.calcsize(form)
        data = self.f.read(size)
        if len(data) != size:
            raise ValueError("the header ends early")
        return struct.unpack(form, data)[0]

    def string(self):
        n = self.scalar("<Q")
        if n > 1 << 20:
            raise ValueError("a string of %d bytes" % n)
        return self.f.read(n).decode("utf-8", "replace")

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            inner, n = self.scalar("<I"), self.scalar("<Q")
            if n > 1 << 24:
                raise ValueError("an array of %d elements" % n)
            if inner in SCALARS:  # numbers are not needed; the first one may be
                size = struct.calcsize(SCALARS[inner])
                first = self.scalar(SCALARS[inner]) if n else None
                self.f.seek(size * max(n - 1, 0), os.SEEK_CUR)
                return [first]
            for _ in range(n):
                self.value(inner)
            return None
        if kind not in SCALARS:
            raise ValueError("a value of type %d" % kind)
        return self.scalar(SCALARS[kind])


def product(dims):
    n = 1
    for d in dims:
        n *= d
    return n


class Model:
    """n_ctx; bytes of the file; params and bytes that one row meets in the layers, and those of the logits."""

    def __init__(self, path):
        self.file_bytes = os.path.getsize(path)
        with open(path, "rb") as f:
            r = Reader(f)
            if f.read(4) != b"GGUF" or r.scalar("<I") not in (2, 3):
                raise ValueError("%s is no GGUF file of version 2 or 3" % path)
            n_tensors, n_meta = r.scalar("<Q"), r.scalar("<Q")
            meta = {}
            for _ in range(n_meta):
                key = r.string()
                meta[key] = r.value(r.scalar("<I"))
            tensors = []
            for _ in range(n_tensors):
                name = r.string()
                dims = [r.scalar("<Q") for _ in range(r.scalar("<I"))]
                r.scalar("<I")
                tensors.append((r.scalar("<Q"), name, dims))
            align = meta.get("general.alignment", 32)
            start = (f.tell() + align - 1) // align * align
        tensors.sort()
        ends = [t[0] for t in tensors[1:]] + [self.file_bytes - start]
        arch = meta.get("general.architecture", "")

        def number(name, default):
            v = meta.get(arch + "." + name, default)
            v = v[0] if isinstance(v, list) else v
            return default if v is None else int(v)

        self.n_ctx = number("context_length", 512)
        self.n_layers = number("block_count", 1)
        self.n_heads = number("attention.head_count", 1)
        n_kv = number("attention.head_count_kv", self.n_heads)
        self.head_dim = number("attention.key_length", number("embedding_length", 64) // max(self.n_heads, 1))
        used, experts = number("expert_used_count", 0), number("expert_count", 0)
        self.kv_bytes = 2 * 2 * self.n_layers * n_kv * self.head_dim  # of a token, F16
        self.weight_bytes = self.layer_params = self.layer_bytes = self.out_params = self.out_bytes = 0
        embedding = (0, 0)
        for (offset, name, dims), end in zip(tensors, ends):
            params, size = product(dims), end - offset
            self.weight_bytes += size
            if name == "token_embd.weight":
                embedding = params, size
            elif name == "output.weight":
                self.out_params, self.out_bytes = params, size
            elif len(dims) > 1:
                share = used / experts if "_exps" in name and experts else 1
                self.layer_params += params * share
                self.layer_bytes += size * share
        if not self.out_params:  # tied
            self.out_params, self.out_bytes = embedding

    def flops(self, n, before=0):
        """Of n rows behind `before`, whose last one's logits are wanted; a multiply-add counts two."""
        attention = 4 * self.n_layers * self.n_heads * self.head_dim * (n * before + n * (n + 1) / 2)
        return 2 * n * self.layer_params + 2 * self.out_params + attention

    def step_bytes(self, context=0, seqs=1):
        """Read by a step of decode: every weight once (of experts those of one row) and the KV there is."""
        return self.layer_bytes + self.out_bytes + self.kv_bytes * context * seqs
