# SPDX-License-Identifier: Apache-2.0
"""Forward pass of all architectures that the engine knows, in float64 over the dequantised weights of a GGUF file.

Written to be read, and independent of the engine: numpy only, no code shared with it. gguf-py parses the
container; the dequantisation is our own, but for Q5_0 and the K types, which are gguf-py's. Shapes: n tokens, d = dim, h query heads, g key/value heads,
e = head_dim, f = feed-forward width, v = rows of the embedding (>= entries of the tokenizer).
"""
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize as gguf_dequantize

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
        rows = raw.reshape(int(np.prod(shape[:-1])), -1)
        x = gguf_dequantize(rows, GGMLQuantizationType[kind]).astype(np.float64)
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


FLOAT = ("F32", "F16", "BF16")
ARCHS = ("llama", "qwen2", "qwen3", "qwen3moe", "gemma2", "gemma3", "phi3")


def silu(x):
    return x / (1 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))


def yarn(theta, dims, factor, orig, beta_fast, beta_slow):
    """Frequencies of YaRN (arXiv 2309.00071, section 3.2, with the ramp's ends rounded outwards)."""
    freq = theta ** (-2.0 * np.arange(dims // 2) / dims)
    dim = lambda turns: dims * np.log(orig / (turns * 2 * np.pi)) / (2 * np.log(theta))
    low, high = max(np.floor(dim(beta_fast)), 0), min(np.ceil(dim(beta_slow)), dims - 1)
    ramp = np.clip((np.arange(dims // 2) - low) / max(high - low, 0.001), 0, 1)
    return freq / factor * ramp + freq * (1 - ramp)


class Model:
    """act_q8: quantise the input of every linear with quantised weights to 8 bits (as the engine does, to
    measure what that costs); kv_f16: keep keys and values in IEEE half. Both off: the golden reference.
    n_ctx: the context that is asked for, which chooses between LongRoPE's tables; the file's by default.
    wrong: an error to plant, for measuring how far it moves the logits (wrong.py)."""

    def __init__(self, path, act_q8=False, kv_f16=False, n_ctx=None, wrong=""):
        r = GGUFReader(path)
        self.key = {k: f.contents() for k, f in r.fields.items()}
        self.arch = self.key["general.architecture"]
        if self.arch not in ARCHS:
            raise ValueError(f"architecture {self.arch} is not handled")
        self.w, self.kind = {}, {}
        for t in r.tensors:
            shape = [int(n) for n in t.shape][::-1]
            self.kind[t.name] = t.tensor_type.name
            self.w[t.name] = dequantize(t.data, t.tensor_type.name, shape)
        self.act_q8, self.kv_f16, self.wrong = act_q8, kv_f16, wrong
        get = lambda name, default=None: self.key.get(f"{self.arch}.{name}", default)
        self.get = get
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
        self.gemma = self.arch.startswith("gemma")
        self.window = get("attention.sliding_window", 4096 if self.arch == "gemma2" else 0)
        every = {"gemma2": 2, "gemma3": 6}.get(self.arch, 0)
        self.windowed = [bool(self.window) and (not every or i % every < every - 1) for i in range(self.layers)]
        self.attn_cap = get("attn_logit_softcapping", 50.0 if self.arch == "gemma2" else 0.0)
        self.final_cap = get("final_logit_softcapping", 30.0 if self.arch == "gemma2" else 0.0)
        self.n_used = get("expert_used_count", 0)
        self.renorm = get("expert_weights_norm", True)
        self.freq, self.mscale = self.rope_of(n_ctx or self.ctx)
        self.freq_local, self.mscale_local = self.freq, self.mscale
        if self.arch == "gemma3" and wrong != "local theta":
            self.freq_local, self.mscale_local = 10000.0 ** (-2.0 * np.arange(self.rope_dims // 2) / self.rope_dims), 1
        self.reset()

    def rope_of(self, n_ctx):
        """Frequencies [rope_dims/2] and the factor of cos and sin."""
        freq = self.theta ** (-2.0 * np.arange(self.rope_dims // 2) / self.rope_dims)
        kind, factor = self.get("rope.scaling.type", "none"), self.get("rope.scaling.factor", 1.0)
        orig = self.get("rope.scaling.original_context_length", self.ctx)
        if self.wrong == "rope scaling":
            return freq, 1.0
        if "rope_freqs.weight" in self.w:
            return freq / self.w["rope_freqs.weight"], 1.0
        if "rope_factors_long.weight" in self.w:
            which = "long" if n_ctx > orig else "short"
            return freq / self.w[f"rope_factors_{which}.weight"], self.get("rope.scaling.attn_factor")
        if kind == "linear":
            return freq / factor, 1.0
        if kind == "yarn":
            m = 1.0 if self.wrong == "attention factor" else 0.1 * np.log(factor) + 1
            return yarn(self.theta, self.rope_dims, factor, orig, 32, 1), m
        assert kind == "none", kind
        return freq, 1.0

    def reset(self):
        self.k = [np.zeros((0, self.kv_heads, self.head_dim)) for _ in range(self.layers)]
        self.v = [np.zeros((0, self.kv_heads, self.head_dim)) for _ in range(self.layers)]

    def norm(self, x, name):
        w = self.w[name] - 1 if self.wrong == "plus one" else self.w[name]
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.eps) * w

    def product(self, x, w, name):
        return (round_blocks(x) if self.act_q8 and self.kind[name] not in FLOAT else x) @ w.T

    def linear(self, x, name):
        y = self.product(x, self.w[name + ".weight"], name + ".weight")
        return y + self.w[name + ".bias"] if name + ".bias" in self.w else y

    def rotate(self, x, pos, local):
        """x[n, heads, e]: rotates pair i by pos * freq[i]; pairs are (2i, 2i+1) or (i, i+half)."""
        half = self.rope_dims // 2
        freq, mscale = (self.freq_local, self.mscale_local) if local else (self.freq, self.mscale)
        angle = pos[:, None] * freq  # [n, half]
        c, s = mscale * np.cos(angle)[:, None, :], mscale * np.sin(angle)[:, None, :]
        at = (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if self.interleaved else \
             (slice(0, half), slice(half, 2 * half))
        y = x.copy()
        a, b = x[..., at[0]], x[..., at[1]]
        y[..., at[0]] = a * c - b * s
        y[..., at[1]] = a * s + b * c
        return y

    def qkv(self, x, p):
        if p + "attn_qkv.weight" not in self.w:
            return [self.linear(x, p + part) for part in ("attn_q", "attn_k", "attn_v")]
        n_q, n_kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return np.split(self.linear(x, p + "attn_qkv"), [n_q, n_q + n_kv], axis=-1)

    def attention(self, x, layer):
        p = f"blk.{layer}."
        n, past = x.shape[0], self.k[layer].shape[0]
        pos = np.arange(past, past + n)
        q, k, v = (y.reshape(n, -1, self.head_dim) for y in self.qkv(x, p))
        if p + "attn_q_norm.weight" in self.w:
            q = self.norm(q, p + "attn_q_norm.weight")
            k = self.norm(k, p + "attn_k_norm.weight")
        local = self.windowed[layer]
        q, k = self.rotate(q, pos, local), self.rotate(k, pos, local)
        if self.kv_f16:
            k, v = k.astype(np.float16).astype(np.float64), v.astype(np.float16).astype(np.float64)
        k = self.k[layer] = np.concatenate([self.k[layer], k])
        v = self.v[layer] = np.concatenate([self.v[layer], v])
        group = self.heads // self.kv_heads
        hidden = np.arange(past + n)[None, :] > pos[:, None]
        if local and self.wrong != "no window":
            hidden |= np.arange(past + n)[None, :] <= pos[:, None] - self.window - (self.wrong == "window + 1")
        out = np.empty((n, self.heads, self.head_dim))
        for h in range(self.heads):
            score = q[:, h] @ k[:, h // group].T / np.sqrt(self.head_dim)
            if self.attn_cap and self.wrong != "attention soft cap":
                score = self.attn_cap * np.tanh(score / self.attn_cap)
            score[hidden] = -np.inf
            out[:, h] = softmax(score) @ v[:, h // group]
        return self.linear(out.reshape(n, -1), p + "attn_output")

    def mlp(self, x, layer):
        p = f"blk.{layer}."
        if self.n_used:
            return self.experts(x, p)
        act = gelu_tanh if self.gemma and self.wrong != "silu" else silu
        if p + "ffn_gate.weight" in self.w:
            gate, up = self.linear(x, p + "ffn_gate"), self.linear(x, p + "ffn_up")
        else:
            gate, up = np.split(self.linear(x, p + "ffn_up"), 2, axis=-1)
        return self.linear(act(gate) * up, p + "ffn_down")

    def experts(self, x, p):
        prob = softmax(self.linear(x, p + "ffn_gate_inp"))  # [n, experts]
        out = np.zeros_like(x)
        for i in range(len(x)):
            chosen = np.argsort(-prob[i], kind="stable")[:self.n_used]
            weight = prob[i][chosen]
            if self.renorm != (self.wrong == "renormalise"):
                weight = weight / weight.sum()
            for e, w in zip(chosen, weight):
                part = lambda y, name: self.product(y, self.w[p + name][e], p + name)
                h = silu(part(x[i], "ffn_gate_exps.weight")) * part(x[i], "ffn_up_exps.weight")
                out[i] += w * part(h, "ffn_down_exps.weight")
        return out

    def post(self, x, name):
        return self.norm(x, name) if name in self.w and self.wrong != "post norms" else x

    def forward(self, ids):
        """Appends ids to the context; logits[n, v] after each of them."""
        x = self.w["token_embd.weight"][np.asarray(ids)]
        if self.gemma and self.wrong != "embedding scale":
            x = x * np.sqrt(self.dim)
        for i in range(self.layers):
            p = f"blk.{i}."
            x = x + self.post(self.attention(self.norm(x, p + "attn_norm.weight"), i), p + "post_attention_norm.weight")
            x = x + self.post(self.mlp(self.norm(x, p + "ffn_norm.weight"), i), p + "post_ffw_norm.weight")
        x = self.norm(x, "output_norm.weight")
        y = self.linear(x, "output" if "output.weight" in self.w else "token_embd")
        return self.final_cap * np.tanh(y / self.final_cap) if self.final_cap and self.wrong != "final soft cap" else y

    def logits(self, ids):
        """logits[n, v] of a whole sequence from an empty context."""
        self.reset()
        return self.forward(ids)
