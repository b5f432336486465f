# SPDX-License-Identifier: Apache-2.0
"""Tiny random models of the architectures beyond plain llama, qwen2 and qwen3: each is a config.json as the hub has
them and weights under Hugging Face's names, from which make_arch_models.py writes directories and GGUF files and
crosscheck.py builds transformers' own models. Every weight is exact in bfloat16, but for those stored otherwise.

Windows, original contexts and caps are small, so that sequences of 64 tokens feel them.
"""
import numpy as np

import stored
from make_tiny_models import N_CTX, N_TOKENS

BOS = EOS = N_TOKENS - 3


def bf16(x):
    """float32 rounded to bfloat16 (nearest even), as float32."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7fff + ((u >> 16) & 1)) & 0xffff0000).astype(np.uint32).view(np.float32)


class Arch:
    """config: config.json; kinds: types of the GGUF files to write; hf: write a directory, of so many shards;
    seed of the weights; quant: how the directory holds the matrices of layers (stored.py)."""

    def __init__(self, name, seed, kinds=("BF16",), hf=0, quant=None, **config):
        self.name, self.seed, self.kinds, self.shards, self.quant = name, seed, kinds, hf, quant
        base = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, vocab_size=N_TOKENS, max_position_embeddings=N_CTX, rms_norm_eps=1e-5,
                    hidden_act="silu", tie_word_embeddings=True, bos_token_id=BOS, eos_token_id=EOS,
                    torch_dtype="bfloat16")
        self.config = {**base, **config}
        for key in [k for k, v in self.config.items() if v is ...]:
            del self.config[key]
        self.config["architectures"] = [CLASSES[self.type]]

    type = property(lambda self: self.config["model_type"])
    gemma = property(lambda self: self.type.startswith("gemma"))
    head_dim = property(lambda self: self.config.get("head_dim", self.config["hidden_size"] // self.heads))
    heads = property(lambda self: self.config["num_attention_heads"])
    kv_heads = property(lambda self: self.config["num_key_value_heads"])
    experts = property(lambda self: self.config.get("num_local_experts") or self.config.get("num_experts") or 0)


CLASSES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "mixtral": "MixtralForCausalLM",
           "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM",
           "gemma2": "Gemma2ForCausalLM", "gemma3_text": "Gemma3ForCausalLM", "phi3": "Phi3ForCausalLM"}

GEMMA = dict(hidden_act=..., hidden_activation="gelu_pytorch_tanh", rms_norm_eps=1e-6, sliding_window=8)
LONG = [1.0, 1.1, 1.5, 2.0, 3.5, 6.0]  # LongRoPE: one a rotated pair
SHORT = [1.0, 1.0, 1.05, 1.1, 1.2, 1.3]

ARCHS = [
    Arch("llama3", 301, hf=2, model_type="llama", tie_word_embeddings=False, intermediate_size=96, rope_theta=10000.0,
         rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                       "original_max_position_embeddings": 64}),
    Arch("llama-linear", 302, model_type="llama", num_hidden_layers=1, rope_theta=10000.0,
         rope_scaling={"type": "linear", "factor": 4.0}),
    Arch("smollm", 303, kinds=(), hf=1, model_type="llama", hidden_size=48, num_attention_heads=3,
         num_key_value_heads=1, rope_theta=100000.0),
    Arch("mistral", 304, kinds=("Q8_0",), hf=1, model_type="mistral", num_attention_heads=2, num_key_value_heads=1,
         head_dim=48, sliding_window=8, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
    Arch("mixtral", 305, kinds=("BF16", "Q4_0"), hf=1, model_type="mixtral", intermediate_size=32,
         num_local_experts=4, num_experts_per_tok=2, rope_theta=1e6, sliding_window=None),
    Arch("qwen2-yarn", 306, hf=1, model_type="qwen2", rope_theta=1e6, rms_norm_eps=1e-6, use_sliding_window=False,
         rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}),
    Arch("qwen3", 307, kinds=(), hf=1, model_type="qwen3", num_hidden_layers=1, head_dim=32, rope_theta=1e6, rms_norm_eps=1e-6),
    Arch("qwen3moe", 308, kinds=("Q8_0",), hf=1, model_type="qwen3_moe", head_dim=16, rope_theta=1e6,
         rms_norm_eps=1e-6, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True,
         decoder_sparse_step=1, mlp_only_layers=[]),
    Arch("qwen3moe-plain", 309, kinds=(), hf=1, model_type="qwen3_moe", head_dim=16, num_hidden_layers=1, rope_theta=1e6,
         rms_norm_eps=1e-6, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=False,
         decoder_sparse_step=1, mlp_only_layers=[]),
    Arch("gemma2", 310, kinds=("BF16", "Q8_0"), hf=1, model_type="gemma2", head_dim=48, num_hidden_layers=3,
         num_attention_heads=2, num_key_value_heads=1, query_pre_attn_scalar=48, attn_logit_softcapping=3.0, final_logit_softcapping=6.0, rope_theta=10000.0, **GEMMA),
    Arch("gemma3", 311, kinds=("BF16", "Q4_0"), hf=1, model_type="gemma3_text", head_dim=32, num_hidden_layers=7,
         num_attention_heads=2, num_key_value_heads=1, query_pre_attn_scalar=32, rope_theta=1e6,
         rope_local_base_freq=10000.0, rope_scaling={"rope_type": "linear", "factor": 8.0},
         **{**GEMMA, "intermediate_size": 32}),
    Arch("phi3", 312, kinds=("BF16", "Q8_0"), hf=1, model_type="phi3", partial_rotary_factor=0.75, rope_theta=10000.0,
         original_max_position_embeddings=32, sliding_window=None, pad_token_id=EOS,
         rope_scaling={"type": "longrope", "long_factor": LONG, "short_factor": SHORT}),
    Arch("phi3-window", 313, model_type="phi3", num_hidden_layers=1, num_key_value_heads=4, rope_theta=10000.0,
         original_max_position_embeddings=N_CTX, sliding_window=8, pad_token_id=EOS),
    Arch("llama3-gptq", 314, kinds=(), hf=1, quant="gptq", model_type="llama", rope_theta=10000.0,
         rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                       "original_max_position_embeddings": 64}),
    Arch("qwen2-awq", 315, kinds=(), hf=1, quant="awq", model_type="qwen2", rope_theta=1e6, rms_norm_eps=1e-6),
    Arch("qwen3moe-fp8", 316, kinds=(), hf=1, quant="fp8", model_type="qwen3_moe", head_dim=16, rope_theta=1e6,
         rms_norm_eps=1e-6, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True,
         decoder_sparse_step=1, mlp_only_layers=[]),
]
BY_NAME = {a.name: a for a in ARCHS}


def is_stored(a, name):
    """Whether the directory holds this matrix in the model's quantised way: those of layers, routers aside."""
    return bool(a.quant) and ".layers." in name and name.endswith("_proj.weight")


def weights(a):
    """{Hugging Face's name: float32 array} of what the files mean."""
    return {name: stored.KINDS[a.quant](x)[1] if is_stored(a, name) else x for name, x in drawn(a).items()}


def tensors(a):
    """{name: (safetensors type, array)} as a directory holds them."""
    out = {}
    for name, x in drawn(a).items():
        if is_stored(a, name):
            parts = stored.KINDS[a.quant](x)[0]
            out.update({name.removesuffix("weight") + part: t for part, t in parts.items()})
        else:
            out[name] = ("BF16", (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16))
    return out


def drawn(a):
    """{Hugging Face's name: float32 array}, each exact in bfloat16. Gains as in make_tiny_models.py."""
    rng = np.random.default_rng(a.seed)
    c, w = a.config, {}
    dim, ff, q, kv = c["hidden_size"], c["intermediate_size"], a.heads * a.head_dim, a.kv_heads * a.head_dim
    mid = c.get("moe_intermediate_size", ff)

    def mat(name, rows, cols, gain):
        w[name + ".weight"] = bf16(rng.standard_normal((rows, cols)) * gain / np.sqrt(cols))

    def vec(name, n, mean=1.0, std=0.2):
        mean -= a.gemma and name.endswith("norm.weight")  # Gemma stores its norms without their 1
        w[name] = bf16(mean + std * rng.standard_normal(n))

    def gated(p, names, width):
        gate, up, down = names
        mat(p + gate, width, dim, 1.5)
        mat(p + up, width, dim, 1.0)
        mat(p + down, dim, width, 1.5)

    tied = c["tie_word_embeddings"]
    loud = np.exp(0.35 * rng.standard_normal((c["vocab_size"], 1)))  # so that entropies spread over some nats
    w["model.embed_tokens.weight"] = bf16(rng.standard_normal((c["vocab_size"], dim)) *
                                          (3.0 * loud / np.sqrt(dim) if tied else 1.0))
    if not tied:
        w["lm_head.weight"] = bf16(rng.standard_normal((c["vocab_size"], dim)) * 3.0 * loud / np.sqrt(dim))
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        vec(p + "input_layernorm.weight", dim)
        if a.type == "phi3":
            w[p + "self_attn.qkv_proj.weight"] = bf16(
                rng.standard_normal((q + 2 * kv, dim)) * np.repeat([1.4, 1.0], [q + kv, kv])[:, None] / np.sqrt(dim))
        else:
            mat(p + "self_attn.q_proj", q, dim, 1.4)
            mat(p + "self_attn.k_proj", kv, dim, 1.4)
            mat(p + "self_attn.v_proj", kv, dim, 1.0)
        mat(p + "self_attn.o_proj", dim, q, 1.6)
        if a.type == "qwen2":
            vec(p + "self_attn.q_proj.bias", q, 0.0, 0.7)
            vec(p + "self_attn.k_proj.bias", kv, 0.0, 0.7)
            vec(p + "self_attn.v_proj.bias", kv, 0.0, 0.3)
        if a.type in ("qwen3", "qwen3_moe", "gemma3_text"):
            vec(p + "self_attn.q_norm.weight", a.head_dim, 1.3, 0.3)
            vec(p + "self_attn.k_norm.weight", a.head_dim, 1.1, 0.3)
        vec(p + "post_attention_layernorm.weight", dim)
        if a.gemma:
            vec(p + "pre_feedforward_layernorm.weight", dim)
            vec(p + "post_feedforward_layernorm.weight", dim)
        if a.type == "mixtral":
            mat(p + "block_sparse_moe.gate", a.experts, dim, 1.5)
            for e in range(a.experts):
                gated(f"{p}block_sparse_moe.experts.{e}.", ("w1", "w3", "w2"), mid)
        elif a.type == "qwen3_moe":
            mat(p + "mlp.gate", a.experts, dim, 1.5)
            for e in range(a.experts):
                gated(f"{p}mlp.experts.{e}.", ("gate_proj", "up_proj", "down_proj"), mid)
        elif a.type == "phi3":
            w[p + "mlp.gate_up_proj.weight"] = bf16(
                rng.standard_normal((2 * ff, dim)) * np.repeat([1.5, 1.0], ff)[:, None] / np.sqrt(dim))
            mat(p + "mlp.down_proj", dim, ff, 1.5)
        else:
            gated(p + "mlp.", ("gate_proj", "up_proj", "down_proj"), ff)
    vec("model.norm.weight", dim)
    return w
