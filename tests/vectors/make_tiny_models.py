# SPDX-License-Identifier: Apache-2.0
"""Writes the tiny random models of tests/vectors/models: every architecture, weight type and variation the
engine reads, small enough to live in the repository. Seeded: the same bytes each time (gguf-py 0.19).

usage: make_tiny_models.py [OUTDIR]
"""
import os
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize

HERE = os.path.dirname(os.path.abspath(__file__))
N_CTX = 256
PAIRS = """Ġ t|h e|Ġt he|i n|r e|Ġ a|o n|e r|Ġ s|a t|n d|e n|Ġ w|o r|i t|Ġa nd|e s|Ġ o|o u|in g|Ġ h|i s|Ġ b|a r|Ġ c|
Ġ f|a l|l l|Ġ m""".replace("\n", "").split("|")
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_letters():
    """The 256 printable stand-ins of bytes in the order of GPT-2's bytes_to_unicode."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(b) for b in plain]
    return letters + [chr(256 + i) for i in range(256 - len(letters))]


def add_tokenizer(w):
    tokens = byte_letters() + [p.replace(" ", "") for p in PAIRS]
    types = [TokenType.NORMAL] * len(tokens) + [TokenType.CONTROL] * len(CONTROL)
    tokens += CONTROL
    assert len(tokens) == len(set(tokens)) == N_TOKENS
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(PAIRS)
    w.add_bos_token_id(N_TOKENS - 3)
    w.add_eos_token_id(N_TOKENS - 3)
    w.add_eot_token_id(N_TOKENS - 1)
    w.add_add_bos_token(True)


N_TOKENS = 256 + len(PAIRS) + len(CONTROL)  # 288


class Shape:
    def __init__(self, arch, dim, layers, heads, kv_heads, head_dim, ff, tied, eps, theta, n_vocab=N_TOKENS):
        self.arch, self.dim, self.layers, self.heads, self.kv_heads = arch, dim, layers, heads, kv_heads
        self.head_dim, self.ff, self.tied, self.eps, self.theta, self.n_vocab = head_dim, ff, tied, eps, theta, n_vocab


def random_weights(s, seed, head_gain=3.0):
    """float32 weights as a checkpoint names them here (GGUF names), q and k rows in half-split order. Gains are
    such that attention is neither uniform nor a pointer and that entropies spread over some nats."""
    rng = np.random.default_rng(seed)
    w = {}

    def mat(name, rows, cols, gain):
        w[name + ".weight"] = (rng.standard_normal((rows, cols)) * gain / np.sqrt(cols)).astype(np.float32)

    def vec(name, n, mean, std):
        w[name] = (mean + std * rng.standard_normal(n)).astype(np.float32)

    def head(name):
        mat(name, s.n_vocab, s.dim, head_gain)
        loud = np.exp(0.35 * rng.standard_normal((s.n_vocab, 1)))
        loud[N_TOKENS:] = 2.0  # padding rows would win often: whoever forgets to mask them is found out
        w[name + ".weight"] = (w[name + ".weight"] * loud).astype(np.float32)

    if s.tied:
        head("token_embd")
    else:
        mat("token_embd", s.n_vocab, s.dim, np.sqrt(s.dim))
        head("output")
    for i in range(s.layers):
        p = f"blk.{i}."
        q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
        vec(p + "attn_norm.weight", s.dim, 1.0, 0.2)
        mat(p + "attn_q", q, s.dim, 1.4)
        mat(p + "attn_k", kv, s.dim, 1.4)
        mat(p + "attn_v", kv, s.dim, 1.0)
        mat(p + "attn_output", s.dim, q, 1.6)
        if s.arch == "qwen2":
            vec(p + "attn_q.bias", q, 0.0, 0.7)
            vec(p + "attn_k.bias", kv, 0.0, 0.7)
            vec(p + "attn_v.bias", kv, 0.0, 0.3)
        if s.arch == "qwen3":
            vec(p + "attn_q_norm.weight", s.head_dim, 1.3, 0.3)
            vec(p + "attn_k_norm.weight", s.head_dim, 1.1, 0.3)
        vec(p + "ffn_norm.weight", s.dim, 1.0, 0.2)
        mat(p + "ffn_gate", s.ff, s.dim, 1.5)
        mat(p + "ffn_up", s.ff, s.dim, 1.0)
        mat(p + "ffn_down", s.dim, s.ff, 1.5)
    vec("output_norm.weight", s.dim, 1.0, 0.2)
    return w


def interleave(x, heads):
    """Rows (or biases) of q or k from half-split pairs (i, i+e/2) to adjacent pairs (2i, 2i+1), as llama.cpp's
    converter stores the llama architecture."""
    return x.reshape(heads, 2, -1, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def write(path, s, w, kind, rope_keys=True):
    """kind: name of a weight type, or a function tensor name -> one. Vectors are always F32."""
    out = GGUFWriter(path, s.arch)
    out.add_name(os.path.basename(path)[:-len(".gguf")])
    out.add_context_length(N_CTX)
    out.add_embedding_length(s.dim)
    out.add_block_count(s.layers)
    out.add_feed_forward_length(s.ff)
    out.add_head_count(s.heads)
    out.add_head_count_kv(s.kv_heads)
    out.add_layer_norm_rms_eps(s.eps)
    out.add_vocab_size(s.n_vocab)
    if s.head_dim * s.heads != s.dim:
        out.add_key_length(s.head_dim)
        out.add_value_length(s.head_dim)
    if rope_keys:
        out.add_rope_freq_base(s.theta)
        if s.arch == "llama":
            out.add_rope_dimension_count(s.head_dim)
    add_tokenizer(out)
    for name, x in w.items():
        if s.arch == "llama" and ".attn_q." in name:
            x = interleave(x, s.heads)
        if s.arch == "llama" and ".attn_k." in name:
            x = interleave(x, s.kv_heads)
        if x.ndim == 1:
            out.add_tensor(name, x)
        else:
            t = GGMLQuantizationType[kind(name) if callable(kind) else kind]
            out.add_tensor(name, x if t.name == "F32" else quantize(x, t), raw_dtype=t)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    print(f"{os.path.basename(path)} {os.path.getsize(path)} bytes")


def mixed_kind(name):
    """Another type for each part that an engine may fuse (q|k|v, gate|up)."""
    kinds = {"attn_q": "Q4_0", "attn_k": "F16", "attn_v": "Q8_0", "attn_output": "BF16", "ffn_gate": "Q8_0",
             "ffn_up": "Q4_0", "ffn_down": "F32", "token_embd": "F16", "output": "Q8_0"}
    return kinds[name.removesuffix(".weight").split(".")[-1]]


def pair(seed):
    """Two models whose distributions are correlated: the large one is the small one with noise in its weights and
    one more layer that says little."""
    shape = dict(arch="llama", dim=64, heads=4, kv_heads=2, head_dim=16, ff=96, tied=False, eps=1e-5, theta=10000.0)
    small, large = Shape(layers=2, **shape), Shape(layers=3, **shape)
    ws, wl = random_weights(small, seed, 2.6), random_weights(large, seed + 1, 2.6)
    rng = np.random.default_rng(seed + 2)
    for name, x in wl.items():
        if name.startswith("blk.2."):
            if "attn_output" in name or "ffn_down" in name:
                wl[name] = x * np.float32(0.12)
        else:
            base = ws[name]
            wl[name] = (base + 0.07 * base.std() * rng.standard_normal(base.shape)).astype(np.float32)
    return small, ws, large, wl


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "models")
    os.makedirs(out, exist_ok=True)
    to = lambda name: os.path.join(out, name + ".gguf")
    llama = Shape("llama", 64, 2, 4, 2, 16, 96, False, 1e-5, 10000.0)
    w = random_weights(llama, 101)
    for kind in ("F32", "Q8_0", "Q4_0"):
        write(to(f"llama-{kind}"), llama, w, kind)
    write(to("llama-mixed"), llama, w, mixed_kind)
    tied = Shape("llama", 64, 2, 4, 1, 16, 96, True, 1e-5, 10000.0)  # one KV head; no rope keys: the defaults
    w = random_weights(tied, 102)
    for kind in ("F16", "BF16"):
        write(to(f"llama-tied-{kind}"), tied, w, kind, rope_keys=False)
    qwen2 = Shape("qwen2", 96, 2, 6, 2, 16, 64, True, 1e-6, 1e6, n_vocab=320)  # 32 padding rows
    w = random_weights(qwen2, 103)
    for kind in ("F32", "Q8_0"):
        write(to(f"qwen2-padded-{kind}"), qwen2, w, kind)
    qwen3 = Shape("qwen3", 64, 2, 4, 2, 32, 64, True, 5e-3, 1e6)  # an eps that cannot be overlooked
    w = random_weights(qwen3, 104)
    for kind in ("F32", "Q4_0"):
        write(to(f"qwen3-{kind}"), qwen3, w, kind)
    small, ws, large, wl = pair(105)
    write(to("pair-small"), small, ws, "Q8_0")
    write(to("pair-large"), large, wl, "Q8_0")


if __name__ == "__main__":
    main()
