#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seed inputs of the fuzz targets: corpus/gguf, corpus/tokenize, corpus/safetensors, corpus/hf. Only needed to change them; files found
by fuzzing are added beside them by hand (crash-*, slow-*)."""
import json
import os
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "vectors", "tokenizer"))
from texts import HAND, random_texts  # noqa: E402

U32, I32, F32, BOOL, STR, ARRAY, U64, F64 = 4, 5, 6, 7, 8, 9, 10, 12


def string(s):
    raw = s.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(kind, v):
    if isinstance(v, list):
        return struct.pack("<IIQ", ARRAY, kind, len(v)) + b"".join(scalar(kind, x) for x in v)
    return struct.pack("<I", kind) + scalar(kind, v)


def scalar(kind, v):
    return string(v) if kind == STR else struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<B", U64: "<Q", F64: "<d"}[kind], v)


def gguf(keys, tensors=(), version=3, alignment=32):
    """tensors: (name, dims, type, bytes)"""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    head += b"".join(string(k) + value(kind, v) for k, kind, v in keys)
    data = b""
    for name, dims, kind, size in tensors:
        data += bytes(-len(data) % alignment)
        head += string(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims)
        head += struct.pack("<IQ", kind, len(data))
        data += bytes(size)
    return head + bytes(-len(head) % alignment) + data if tensors else head


def byte_tokens():
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = iter(range(256, 512))
    return [chr(b) if b in keep else chr(next(moved)) for b in range(256)]


def model(arch, pre, extra=(), version=3, alignment=32):
    merges = ["a b", "ab c", "t h", "th e"]
    tokens = byte_tokens() + [m.replace(" ", "") for m in merges] + ["<|endoftext|>", "<|im_end|>", "<user>"]
    types = [1] * 260 + [3, 3, 4]
    keys = [("general.architecture", STR, arch), ("general.name", STR, "seed"), (arch + ".block_count", U32, 1),
            (arch + ".embedding_length", U32, 2), (arch + ".feed_forward_length", U32, 4), (arch + ".context_length", U32, 16),
            (arch + ".attention.head_count", U32, 1), (arch + ".attention.layer_norm_rms_epsilon", F32, 1e-5),
            (arch + ".rope.freq_base", F32, 10000.0), ("tokenizer.ggml.model", STR, "gpt2"),
            ("tokenizer.ggml.pre", STR, pre), ("tokenizer.ggml.tokens", STR, tokens), ("tokenizer.ggml.token_type", I32, types),
            ("tokenizer.ggml.merges", STR, merges), ("tokenizer.ggml.bos_token_id", U32, 260), *extra]
    if alignment != 32:
        keys.insert(0, ("general.alignment", U32, alignment))
    return gguf(keys, [("token_embd.weight", [2, len(tokens)], 1, 4 * len(tokens)), ("output_norm.weight", [2], 0, 8)],
                version, alignment)


def safetensors(tensors, metadata=None):
    """tensors: (name, dtype, shape, bytes)"""
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, dtype, shape, size in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += bytes(range(1, size + 1)) if size < 255 else bytes(size)
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw + data


# as fuzz_hf.c numbers them
HF_NAMES = ["config.json", "model.safetensors", "model.safetensors.index.json", "a.safetensors", "b.safetensors",
            "generation_config.json", "tokenizer_config.json", "tokenizer.json"]


def directory(**files):
    raw = b""
    for name, content in files.items():
        content = content if isinstance(content, bytes) else json.dumps(content, separators=(",", ":")).encode()
        raw += bytes([HF_NAMES.index(name.replace("_json", ".json").replace("_st", ".safetensors"))])
        raw += len(content).to_bytes(3, "little") + content
    return raw


def all_safetensors():
    write("safetensors", "empty", safetensors([]))
    write("safetensors", "kinds", safetensors([("a", "F32", [2, 3], 24), ("b", "BF16", [4], 8), ("c", "I64", [], 8),
                                               ("d", "F8_E4M3", [3, 1], 3), ("e", "F4", [2], 1), ("f", "U8", [0, 7], 0)],
                                              {"format": "pt"}))
    write("safetensors", "hole", safetensors([("a", "F32", [1], 4), ("b", "F32", [1], 4)]).replace(b"[4,8]", b"[5,9]"))
    write("safetensors", "cut", safetensors([("a", "F32", [1], 4)])[:40])


def all_hf():
    norm = ("model.norm.weight", "F32", [4], 16)
    base = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": 4, "max_position_embeddings": 64}
    kinds = {
        "llama": {"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
                                   "original_max_position_embeddings": 16}, "rope_theta": 5e5},
        "mistral": {"sliding_window": 16}, "mixtral": {"num_local_experts": 3, "num_experts_per_tok": 2},
        "qwen2": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1, "rope_scaling": {
            "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
        "qwen3": {"head_dim": 8}, "qwen3_moe": {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 4},
        "gemma2": {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8},
        "gemma3_text": {"sliding_window": 8, "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}},
        "phi3": {"original_max_position_embeddings": 16, "rope_scaling": {
            "type": "longrope", "short_factor": [1, 1.5], "long_factor": [2, 3.5]}},
    }
    for kind, more in kinds.items():
        config = {"model_type": kind, **base, **more}
        layer = "model.layers.1."
        w = [norm, (layer + "post_attention_layernorm.weight", "BF16", [8], 16),
             (layer + "self_attn.qkv_proj.weight" if kind == "phi3" else layer + "self_attn.q_proj.weight", "F16", [2, 4], 16)]
        if kind == "mixtral":
            w += [("model.layers.0.block_sparse_moe.experts.%d.w%d.weight" % (i, k), "F16", [2, 2], 8) for i in (0, 1) for k in (1, 2, 3)]
        if kind == "qwen3_moe":
            w += [("model.layers.0.mlp.experts.gate_up_proj", "F32", [3, 4, 2], 96), ("model.layers.0.mlp.experts.down_proj", "F32", [3, 2, 2], 48)]
        write("hf", kind, directory(config_json=config, model_st=safetensors(w)))
    write("hf", "gemma3", directory(config_json={"model_type": "gemma3", "text_config": {**base, "rope_scaling": {
        "factor": 8.0, "rope_type": "linear"}}}, model_st=safetensors([("language_model.model.norm.weight", "F32", [4], 16)]),
        generation_config_json={"eos_token_id": [1, 106]}, tokenizer_config_json={"bos_token": "<s>"}))
    write("hf", "shards", directory(config_json={"model_type": "llama", **base, "tie_word_embeddings": True}, **{
        "model_st.index_json": {"metadata": {}, "weight_map": {"model.norm.weight": "a.safetensors", "lm_head.weight": "b.safetensors"}},
        "a_st": safetensors([norm]), "b_st": safetensors([("lm_head.weight", "F32", [1, 2], 8)])}))
    convert = os.path.join(HERE, "..", "vectors", "convert")
    for case in ("gptq-sym", "gptq-act-order", "gptq-asym-v2", "awq-asym", "packed-odd", "packed-groups", "packed-asym", "fp8-tensor", "fp8-rows",
                 "fp8-blocks-exact", "fp8-blocks-e8m0"):
        with open(os.path.join(convert, case + ".json")) as c, open(os.path.join(convert, case + ".safetensors"), "rb") as w:
            write("hf", case, directory(config_json=json.load(c), model_st=w.read()))


def all_chat():
    """Templates with the marks that are looked for, and conversations."""
    talks = [[b"\0be kind", b"\1hello", b"\2hi", b"\1again"], [b"\1a", b"\1b"], [b"\2a"], [b"\1", b"\2", b"\1"], [b"\0s", b"\0t", b"\1u"],
             [b"\1 x ", b"\2<think>\na\n</think>\n\nb</think>c", b"\1<tool_response>y</tool_response>"], [b"\0\xc2\xa0 \xe3\x80\x80", b"\1\xe2\x80\xa8"]]
    templates = [
        b"", b"<|im_start|><|im_end|>{% if add_generation_prompt %}", b"{{'<|im_start|>system\\nBe good.<|im_end|>'}}<|im_start|>add_generation_prompt",
        b"'<|im_start|>system\n<|im_end|>'<|im_start|>system\\n{{", b"System role not supported<start_of_turn><end_of_turn>| trim",
        b"bos_token + '[INST] ' + content.strip() + ' [/INST]''<<SYS>>' '  + content.strip() + ' ' + eos_token", b"Question: {{ x }}\nAnswer:",
        b"<|user|>'<|user|>'<|system|>'<|assistant|>message['content'] + eos_token loop.last and add_generation_prompt"]
    for i, talk in enumerate(talks):
        for k, template in enumerate(templates if i == 0 else templates[i:i + 1]):
            write("chat", "talk-%d-%d" % (i, k), bytes([i % 2]) + template + b"\xff" + b"\xfe".join(talk))


def write(folder, name, raw):
    folder = os.path.join(HERE, "corpus", folder)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as f:
        f.write(raw)


def main():
    write("gguf", "empty", b"")
    write("gguf", "no-keys", gguf([]))
    write("gguf", "kinds", gguf([("a", U32, 1), ("b", F32, 0.5), ("c", BOOL, 1), ("d", STR, "text"), ("e", I32, [1, -2, 3]),
                                 ("f", STR, ["x", "", "yz"]), ("g", U64, 2 ** 63), ("h", F64, 1e300), ("i", BOOL, [0, 1])]))
    nested = gguf([("n", U32, 0)])[:-8] + struct.pack("<IIQIQIQ", ARRAY, ARRAY, 1, ARRAY, 1, U32, 1) + struct.pack("<I", 7)
    write("gguf", "nested", nested)
    write("gguf", "tensors", gguf([], [("a", [3], 0, 12), ("b", [64, 2], 8, 136), ("c", [32, 1, 2], 2, 36), ("d", [5], 30, 10)]))
    write("gguf", "llama", model("llama", "llama-bpe"))
    write("gguf", "qwen2-v2", model("qwen2", "qwen2", version=2))
    write("gguf", "qwen3-aligned", model("qwen3", "gpt-2", [("qwen3.attention.key_length", U32, 4)], alignment=8))
    write("gguf", "deepseek", model("llama", "deepseek-llm", [("llama.rope.scaling.type", STR, "none")]))
    write("gguf", "cut", model("llama", "qwen2")[:3000])
    texts = [t.encode() for t in HAND + list(random_texts(40, seed=2))]
    texts += [b"\xff\xfe", b"a\xc3", b"\xed\xa0\x80 \xf4\x90\x80\x80", b"a" * 300, b" " * 300, b"\n" * 300, bytes(range(256))]
    for i, text in enumerate(texts):
        write("tokenize", "text-%03d" % i, bytes([i % 14]) + text)
    all_safetensors()
    all_hf()
    all_chat()


if __name__ == "__main__":
    main()
