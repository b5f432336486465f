# SPDX-License-Identifier: Apache-2.0
"""Forward pass of llama, qwen2 and qwen3 models in float64 over the dequantised weights of a GGUF file.

Written to be read, and independent of the engine: numpy only, no code shared with it. gguf-py parses the
container; the dequantisation is our own. Shapes: n tokens, d = dim, h query heads, g key/value heads,
e = head_dim, f = feed-forward width, v = rows of the embedding (>= entries of the tokenizer).
"""
import numpy as np
from gguf import GGUFReader

QK = 32  # elements of a Q8_0 or Q4_0 block


def dequantize(raw, kind, shape):
    """Stored bytes of a tensor -> float64 array of `shape` (rows first). Formats: ggml's gguf.md, ggml-quants."""
    raw = np.ascontiguousarray(raw).view(np.uint8).reshape(-1)
    if kind == "F32":
        x = raw.view("<f4").astype(np.float64)
    elif kind == "F16":
        x = raw.view("<f2").astype(np.float64)
    elif kind == "BF16":
        x = (raw.view("<u2").astype(np.uint32) << 16).view("<f4").astype(np.float64)
    elif kind == "Q8_0":
        block = raw.reshape(-1, 2 + QK)
        scale = block[:, :2].copy().view("<f2").astype(np.float64)
        x = scale * block[:, 2:].view(np.int8)
    elif kind == "Q4_0":
        block = raw.reshape(-1, 2 + QK // 2)
        scale = block[:, :2].copy().view("<f2").astype(np.float64)
        q = block[:, 2:]
        x = scale * (np.concatenate([q & 15, q >> 4], axis=1).astype(np.float64) - 8)
    else:
        raise ValueError(f"tensor type {kind} is not handled")
    return x.reshape(shape)


def softmax(x):
    p = np.exp(x - x.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def entropy(x):
    """Nats, of the softmax of logits x[..., v]."""
    lp = log_softmax(x)
    return -(np.exp(lp) * lp).sum(axis=-1)


def round_blocks(x):
    """x as an engine sees it that quantises the input of a linear to 8 bits by blocks of 32."""
    b = x.reshape(*x.shape[:-1], -1, QK)
    d = np.abs(b).max(axis=-1, keepdims=True) / 127
    q = np.divide(b, d, out=np.zeros_like(b), where=d > 0)
    return (np.round(q) * d).reshape(x.shape)


class Model:
    """act_q8: quantise the input of every linear with quantised weights to 8 bits (as the engine does, to
    measure what that costs); kv_f16: keep keys and values in IEEE half. Both off: the golden reference."""

    def __init__(self, path, act_q8=False, kv_f16=False):
        r = GGUFReader(path)
        self.key = {k: f.contents() for k, f in r.fields.items()}
        self.arch = self.key["general.architecture"]
        if self.arch not in ("llama", "qwen2", "qwen3"):
            raise ValueError(f"architecture {self.arch} is not handled")
        self.w, self.kind = {}, {}
        for t in r.tensors:
            shape = [int(n) for n in t.shape][::-1]
            self.kind[t.name] = t.tensor_type.name
            self.w[t.name] = dequantize(t.data, t.tensor_type.name, shape)
        self.act_q8, self.kv_f16 = act_q8, kv_f16
        get = lambda name, default=None: self.key.get(f"{self.arch}.{name}", default)
        self.layers = get("block_count")
        self.dim = get("embedding_length")
        self.heads = get("attention.head_count")
        self.kv_heads = get("attention.head_count_kv", self.heads)
        self.head_dim = get("attention.key_length", self.dim // self.heads)
        self.rope_dims = get("rope.dimension_count", self.head_dim)
        self.theta = get("rope.freq_base", 10000.0)
        self.eps = get("attention.layer_norm_rms_epsilon")
        self.ctx = get("context_length")
        self.n_tokens = len(self.key["tokenizer.ggml.tokens"])
        self.n_vocab = self.w["token_embd.weight"].shape[0]
        self.interleaved = self.arch == "llama"  # how the file's q and k rows are ordered
        self.reset()

    def reset(self):
        self.k = [np.zeros((0, self.kv_heads, self.head_dim)) for _ in range(self.layers)]
        self.v = [np.zeros((0, self.kv_heads, self.head_dim)) for _ in range(self.layers)]

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.eps) * self.w[name]

    def linear(self, x, name):
        if self.act_q8 and self.kind[name + ".weight"] in ("Q8_0", "Q4_0"):
            x = round_blocks(x)
        y = x @ self.w[name + ".weight"].T
        return y + self.w[name + ".bias"] if name + ".bias" in self.w else y

    def rotate(self, x, pos):
        """x[n, heads, e]: rotates pair i by pos * theta^(-2i/rope_dims); pairs are (2i, 2i+1) or (i, i+half)."""
        half = self.rope_dims // 2
        angle = pos[:, None] * self.theta ** (-2.0 * np.arange(half) / self.rope_dims)  # [n, half]
        c, s = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
        at = (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if self.interleaved else \
             (slice(0, half), slice(half, 2 * half))
        y = x.copy()
        a, b = x[..., at[0]], x[..., at[1]]
        y[..., at[0]] = a * c - b * s
        y[..., at[1]] = a * s + b * c
        return y

    def attention(self, x, layer):
        p = f"blk.{layer}."
        n, past = x.shape[0], self.k[layer].shape[0]
        pos = np.arange(past, past + n)
        q = self.linear(x, p + "attn_q").reshape(n, self.heads, self.head_dim)
        k = self.linear(x, p + "attn_k").reshape(n, self.kv_heads, self.head_dim)
        v = self.linear(x, p + "attn_v").reshape(n, self.kv_heads, self.head_dim)
        if p + "attn_q_norm.weight" in self.w:
            q = self.norm(q, p + "attn_q_norm.weight")
            k = self.norm(k, p + "attn_k_norm.weight")
        q, k = self.rotate(q, pos), self.rotate(k, pos)
        if self.kv_f16:
            k, v = k.astype(np.float16).astype(np.float64), v.astype(np.float16).astype(np.float64)
        k = self.k[layer] = np.concatenate([self.k[layer], k])
        v = self.v[layer] = np.concatenate([self.v[layer], v])
        group = self.heads // self.kv_heads
        future = np.arange(past + n)[None, :] > pos[:, None]
        out = np.empty((n, self.heads, self.head_dim))
        for h in range(self.heads):
            score = q[:, h] @ k[:, h // group].T / np.sqrt(self.head_dim)
            score[future] = -np.inf
            out[:, h] = softmax(score) @ v[:, h // group]
        return self.linear(out.reshape(n, -1), p + "attn_output")

    def mlp(self, x, layer):
        p = f"blk.{layer}."
        gate = self.linear(x, p + "ffn_gate")
        return self.linear(gate / (1 + np.exp(-gate)) * self.linear(x, p + "ffn_up"), p + "ffn_down")

    def forward(self, ids):
        """Appends ids to the context; logits[n, v] after each of them."""
        x = self.w["token_embd.weight"][np.asarray(ids)]
        for i in range(self.layers):
            x = x + self.attention(self.norm(x, f"blk.{i}.attn_norm.weight"), i)
            x = x + self.mlp(self.norm(x, f"blk.{i}.ffn_norm.weight"), i)
        x = self.norm(x, "output_norm.weight")
        return self.linear(x, "output" if "output.weight" in self.w else "token_embd")

    def logits(self, ids):
        """logits[n, v] of a whole sequence from an empty context."""
        self.reset()
        return self.forward(ids)
