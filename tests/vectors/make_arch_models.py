# SPDX-License-Identifier: Apache-2.0
"""Writes the models of arch_models.py into tests/vectors/models: hf-<name>/ as Hugging Face publishes them, and
<name>-<type>.gguf with the keys and tensor names that llama.cpp's converter writes. Seeded: the same bytes each time
(gguf-py 0.19).

usage: make_arch_models.py [OUTDIR]
"""
import json
import os
import struct
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, RopeScalingType
from gguf.quants import quantize

from arch_models import ARCHS, BOS, EOS, tensors, weights
from make_tiny_models import CONTROL, HERE, N_TOKENS, PAIRS, add_tokenizer, byte_letters, interleave
from stored import CONFIG

GGUF_ARCH = {"llama": "llama", "mistral": "llama", "mixtral": "llama", "qwen2": "qwen2", "qwen3": "qwen3",
             "qwen3_moe": "qwen3moe", "gemma2": "gemma2", "gemma3_text": "gemma3", "phi3": "phi3"}
PARTS = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output",
         "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
         "block_sparse_moe.gate": "ffn_gate_inp", "w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps",
         "gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}
TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
       "lm_head.weight": "output.weight"}


def gguf_name(a, name):
    """(GGUF's name, number of the expert or None)."""
    if name in TOP:
        return TOP[name], None
    _, _, layer, *part, kind = name.split(".")
    if "experts" in part:
        return f"blk.{layer}.{PARTS[part[3]]}.{kind}", int(part[2])
    module = ".".join(part)
    gemma = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
             "post_feedforward_layernorm": "post_ffw_norm"}
    plain = {"post_attention_layernorm": "ffn_norm"}
    return f"blk.{layer}.{PARTS.get(module) or (gemma if a.gemma else plain)[module]}.{kind}", None


def llama3_factors(a):
    """What the converter makes of Llama 3.1's scaling: one divisor a frequency (transformers'
    _compute_llama3_parameters says the rule)."""
    r = a.config["rope_scaling"]
    freq = a.config["rope_theta"] ** (-np.arange(0, a.head_dim, 2) / a.head_dim)
    wave, orig = 2 * np.pi / freq, r["original_max_position_embeddings"]
    smooth = (orig / wave - r["low_freq_factor"]) / (r["high_freq_factor"] - r["low_freq_factor"])
    factor = np.where(wave > orig / r["low_freq_factor"], r["factor"], 1 / ((1 - smooth) / r["factor"] + smooth))
    return np.where(wave < orig / r["high_freq_factor"], 1.0, factor).astype(np.float32)


def gguf_tensors(a):
    """{GGUF's name: float32 array} as the converter stores them."""
    out, stacks = {}, {}
    for name, x in weights(a).items():
        to, expert = gguf_name(a, name)
        if GGUF_ARCH[a.type] == "llama" and ".attn_q." in to:
            x = interleave(x, a.heads)
        if GGUF_ARCH[a.type] == "llama" and ".attn_k." in to:
            x = interleave(x, a.kv_heads)
        if a.gemma and to.endswith("norm.weight"):
            x = x + np.float32(1)
        if expert is None:
            out[to] = x
        else:
            stacks.setdefault(to, []).append(x)
    out.update({to: np.stack(x) for to, x in stacks.items()})
    rope = a.config.get("rope_scaling", {})
    if rope.get("rope_type") == "llama3":
        out["rope_freqs.weight"] = llama3_factors(a)
    if "long_factor" in rope:
        out["rope_factors_long.weight"] = np.array(rope["long_factor"], np.float32)
        out["rope_factors_short.weight"] = np.array(rope["short_factor"], np.float32)
    return out


def add_keys(out, a):
    c, arch = a.config, GGUF_ARCH[a.type]
    out.add_context_length(c["max_position_embeddings"])
    out.add_embedding_length(c["hidden_size"])
    out.add_block_count(c["num_hidden_layers"])
    out.add_feed_forward_length(c["intermediate_size"])
    out.add_head_count(a.heads)
    out.add_head_count_kv(a.kv_heads)
    out.add_layer_norm_rms_eps(c["rms_norm_eps"])
    if a.head_dim * a.heads != c["hidden_size"] or a.gemma or "head_dim" in c:
        out.add_key_length(a.head_dim)
        out.add_value_length(a.head_dim)
    if arch == "llama":
        out.add_vocab_size(c["vocab_size"])
        out.add_rope_dimension_count(a.head_dim)
    if arch == "phi3":
        out.add_rope_dimension_count(int(c.get("partial_rotary_factor", 1) * c["hidden_size"]) // a.heads)
        out.add_rope_scaling_orig_ctx_len(c["original_max_position_embeddings"])
    if arch != "gemma2":  # the converter leaves its theta to the default
        out.add_rope_freq_base(c["rope_theta"] if "rope_theta" in c else c["rope_parameters"]["rope_theta"])
    rope = c.get("rope_scaling", {})
    kind = rope.get("rope_type", rope.get("type"))
    if kind in ("linear", "yarn"):
        out.add_rope_scaling_type(RopeScalingType.LINEAR if kind == "linear" else RopeScalingType.YARN)
        out.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        out.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if kind == "longrope":
        orig = c["original_max_position_embeddings"]
        out.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(c["max_position_embeddings"] / orig) / np.log(orig))))
    if c.get("sliding_window"):
        out.add_sliding_window(c["sliding_window"])
    if a.type == "gemma2":
        out.add_attn_logit_softcapping(c["attn_logit_softcapping"])
        out.add_final_logit_softcapping(c["final_logit_softcapping"])
    if a.experts:
        out.add_expert_count(a.experts)
        out.add_expert_used_count(c["num_experts_per_tok"])
    if a.type == "qwen3_moe":
        out.add_expert_feed_forward_length(c["moe_intermediate_size"])
        if not c["norm_topk_prob"]:
            out.add_expert_weights_norm(False)


def write_gguf(path, a, kind):
    out = GGUFWriter(path, GGUF_ARCH[a.type])
    out.add_name(os.path.basename(path)[:-len(".gguf")])
    add_keys(out, a)
    add_tokenizer(out)
    for name, x in gguf_tensors(a).items():
        # as llama.cpp does it: the router is small and decides much
        t = GGMLQuantizationType["F32" if x.ndim == 1 or "ffn_gate_inp" in name else kind]
        out.add_tensor(name, x if t.name == "F32" else quantize(x, t), raw_dtype=t)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    print(f"{os.path.basename(path)} {os.path.getsize(path)} bytes")


def write_safetensors(path, tensors):
    """{name: (type, array)}; the format is a length, a JSON header, the bytes."""
    header, blobs, at = {}, [], 0
    for name, (kind, x) in tensors.items():
        b = np.ascontiguousarray(x, x.dtype.newbyteorder("<")).tobytes()
        header[name] = {"dtype": kind, "shape": list(x.shape), "data_offsets": [at, at + len(b)]}
        blobs.append(b)
        at += len(b)
    head = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head + b"".join(blobs))
    return at


def dump(path, x):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(x, f, indent=2, ensure_ascii=False)
        f.write("\n")


def tokenizer_json():
    """The vocabulary of all tiny models, as the tokenizers library writes byte-level BPE: split as Qwen does,
    <|endoftext|> put first as Llama 3 does."""
    tokens = byte_letters() + [p.replace(" ", "") for p in PAIRS]
    split = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|" \
            r"\s+(?!\S)|\s+"
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    added = [{"id": len(tokens) + i, "content": c, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i, c in enumerate(CONTROL)]
    part = lambda kind, name: {kind: {"id": name, "type_id": 0}}
    first = {"type": "TemplateProcessing",
             "single": [part("SpecialToken", CONTROL[0]), part("Sequence", "A")],
             "pair": [part("SpecialToken", CONTROL[0]), part("Sequence", "A"), part("Sequence", "B")],
             "special_tokens": {CONTROL[0]: {"id": CONTROL[0], "ids": [BOS], "tokens": [CONTROL[0]]}}}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}, level]},
            "post_processor": {"type": "Sequence", "processors": [level, first]}, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                      "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {t: i for i, t in enumerate(tokens)}, "merges": PAIRS}}


def write_hf(path, a, plain=False):
    """plain: what a quantised directory means, in F32."""
    os.makedirs(path, exist_ok=True)
    quant = {"quantization_config": CONFIG[a.quant]} if a.quant and not plain else {}
    dump(os.path.join(path, "config.json"), {**a.config, **quant})
    with open(os.path.join(path, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(tokenizer_json(), f, ensure_ascii=False, separators=(",", ":"))
    dump(os.path.join(path, "tokenizer_config.json"),
         {"bos_token": CONTROL[0], "eos_token": CONTROL[0], "tokenizer_class": "PreTrainedTokenizerFast"})
    dump(os.path.join(path, "generation_config.json"), {"bos_token_id": BOS, "eos_token_id": [EOS, N_TOKENS - 1]})
    w = {name: ("F32", x) for name, x in weights(a).items()} if plain else tensors(a)
    if a.shards <= 1:
        total = write_safetensors(os.path.join(path, "model.safetensors"), w)
    else:
        total, where, names = 0, {}, list(w)
        for i in range(a.shards):
            part = names[len(names) * i // a.shards:len(names) * (i + 1) // a.shards]
            file = f"model-{i + 1:05}-of-{a.shards:05}.safetensors"
            total += write_safetensors(os.path.join(path, file), {n: w[n] for n in part})
            where.update({n: file for n in part})
        dump(os.path.join(path, "model.safetensors.index.json"), {"metadata": {"total_size": total}, "weight_map": where})
    print(f"{os.path.basename(path)} {total} bytes of weights")


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "models")
    os.makedirs(out, exist_ok=True)
    for a in ARCHS:
        for kind in a.kinds:
            write_gguf(os.path.join(out, f"{a.name}-{kind}.gguf"), a, kind)
        if a.shards:
            write_hf(os.path.join(out, f"hf-{a.name}"), a)


if __name__ == "__main__":
    main()
