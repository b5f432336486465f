#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write a checkpoint as a Hugging Face directory and as GGUF files.

    export.py --ckpt run/large/ckpt.pt --name weir-demo-large --out run/export

gives OUT/NAME/{config,generation_config,tokenizer,tokenizer_config}.json and
model.safetensors (F16), and OUT/NAME-{F16,Q8_0,Q4_0}.gguf. All come from the same F16
weights. In the Q4_0 file the embedding, which is also the output matrix, is Q8_0.
"""
import argparse
import json
import os
import shutil
import struct

import numpy as np
import torch

import bpe
import gguf_file as gguf

CHAT = ("{% for m in messages %}{% if m['role'] == 'user' %}Question: {{ m['content'] }}\nAnswer:"
        "{% elif m['role'] == 'assistant' %} {{ m['content'] }}<|endoftext|>{% endif %}{% endfor %}")

PARTS = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}

FILE_TYPE = {"F16": 1, "Q4_0": 2, "Q8_0": 7}        # general.file_type


def interleave(w, heads):
    """Rows of Q or K from half-split RoPE pairs (i, i + d/2) to the adjacent pairs of GGUF's llama."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def deinterleave(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def write_safetensors(path, tensors):
    """Length of the header, JSON header, data: that is all the format is."""
    head, at = {"__metadata__": {"format": "pt"}}, 0
    for name, t in tensors.items():
        head[name] = {"dtype": "F16", "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for t in tensors.values():
            f.write(np.ascontiguousarray(t).tobytes())


def write_json(path, doc):
    with open(path, "w", encoding="utf8") as f:
        json.dump(doc, f, indent=2)
        f.write("\n")


def write_hf(out, c, tensors, tok, tok_path):
    os.makedirs(out, exist_ok=True)
    write_safetensors(os.path.join(out, "model.safetensors"), tensors)
    write_json(os.path.join(out, "config.json"), {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float16",
        "vocab_size": c["vocab"], "hidden_size": c["dim"], "intermediate_size": c["ff"],
        "num_hidden_layers": c["layers"], "num_attention_heads": c["heads"],
        "num_key_value_heads": c["kv_heads"], "head_dim": c["head_dim"],
        "max_position_embeddings": c["context"], "rope_theta": c["theta"], "rope_scaling": None,
        "rms_norm_eps": c["eps"], "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
        "tie_word_embeddings": True, "bos_token_id": tok.eot, "eos_token_id": tok.eot, "use_cache": True})
    write_json(os.path.join(out, "generation_config.json"), {
        "bos_token_id": tok.eot, "eos_token_id": tok.eot, "pad_token_id": tok.eot, "do_sample": False})
    eot = tok.specials[0]
    write_json(os.path.join(out, "tokenizer_config.json"), {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": eot, "eos_token": eot, "pad_token": eot,
        "add_bos_token": True, "clean_up_tokenization_spaces": False, "model_max_length": c["context"],
        "chat_template": CHAT, "added_tokens_decoder": {
            str(i): {"content": s, "lstrip": False, "normalized": False, "rstrip": False,
                     "single_word": False, "special": True} for s, i in tok.special_id.items()}})
    shutil.copyfile(tok_path, os.path.join(out, "tokenizer.json"))


def metadata(name, c, tok, kind):
    normal, control = 1, 3                          # tokenizer.ggml.token_type
    numbers = {"vocab_size": c["vocab"], "context_length": c["context"], "embedding_length": c["dim"],
               "block_count": c["layers"], "feed_forward_length": c["ff"], "attention.head_count": c["heads"],
               "attention.head_count_kv": c["kv_heads"], "attention.key_length": c["head_dim"],
               "attention.value_length": c["head_dim"], "rope.dimension_count": c["head_dim"]}
    return [("general.architecture", gguf.STRING, "llama"), ("general.name", gguf.STRING, name),
            ("general.license", gguf.STRING, "apache-2.0"), ("general.file_type", gguf.U32, FILE_TYPE[kind]),
            *(("llama." + k, gguf.U32, v) for k, v in numbers.items()),
            ("llama.rope.freq_base", gguf.F32, c["theta"]),
            ("llama.attention.layer_norm_rms_epsilon", gguf.F32, c["eps"]),
            ("tokenizer.ggml.model", gguf.STRING, "gpt2"), ("tokenizer.ggml.pre", gguf.STRING, "qwen2"),
            ("tokenizer.ggml.tokens", gguf.ARRAY, (gguf.STRING, [bpe.visible(t) for t in tok.vocab] + tok.specials)),
            ("tokenizer.ggml.token_type", gguf.ARRAY,
             (gguf.I32, [normal] * len(tok.vocab) + [control] * len(tok.specials))),
            ("tokenizer.ggml.merges", gguf.ARRAY,
             (gguf.STRING, [bpe.visible(a) + " " + bpe.visible(b) for a, b in tok.merges])),
            ("tokenizer.ggml.bos_token_id", gguf.U32, tok.eot), ("tokenizer.ggml.eos_token_id", gguf.U32, tok.eot),
            ("tokenizer.ggml.padding_token_id", gguf.U32, tok.eot), ("tokenizer.ggml.add_bos_token", gguf.BOOL, True),
            ("tokenizer.chat_template", gguf.STRING, CHAT)]


def write_gguf(path, name, c, tensors, tok, kind):
    out = []
    for key, t in tensors.items():
        key = key[len("model."):-len(".weight")]
        if key.startswith("layers."):
            _, i, part = key.split(".", 2)
            key = "blk.%s.%s" % (i, PARTS[part])
            if part.endswith(("q_proj", "k_proj")):
                t = interleave(t, c["heads" if part.endswith("q_proj") else "kv_heads"])
        else:
            key = {"embed_tokens": "token_embd", "norm": "output_norm"}[key]
        embedding = key == "token_embd" and kind == "Q4_0"
        out.append((key + ".weight", t, "F32" if t.ndim == 1 else "Q8_0" if embedding else kind))
    gguf.write(path, metadata(name, c, tok, kind), out)


def read_gguf(path):
    """The inverse: (config as a dictionary, state under Hugging Face's names), dequantised."""
    meta, tensors = gguf.read(path)
    get = lambda k: meta["llama." + k]
    c = {"vocab": get("vocab_size"), "dim": get("embedding_length"), "layers": get("block_count"),
         "heads": get("attention.head_count"), "kv_heads": get("attention.head_count_kv"),
         "head_dim": get("attention.key_length"), "ff": get("feed_forward_length"), "context": get("context_length"),
         "theta": get("rope.freq_base"), "eps": get("attention.layer_norm_rms_epsilon"),
         "eot": meta["tokenizer.ggml.bos_token_id"]}
    names, state = {v: k for k, v in PARTS.items()}, {}
    for name, w in tensors.items():
        parts = name.split(".")
        if parts[0] == "blk":
            key = "layers.%s.%s" % (parts[1], names[parts[2]])
            if parts[2] in ("attn_q", "attn_k"):
                w = deinterleave(w, w.shape[0] // c["head_dim"])
        else:
            key = {"token_embd": "embed_tokens", "output_norm": "norm"}[parts[0]]
        state["model.%s.weight" % key] = torch.from_numpy(np.array(w))
    return c, state


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--ckpt", required=True)
    ap.add_argument("--name", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--tok", default="models/tokenizer.json")
    a = ap.parse_args()
    s = torch.load(a.ckpt, map_location="cpu")
    c, tok = s["config"], bpe.Tokenizer.load(a.tok)
    assert tok.size == c["vocab"] and tok.eot == c["eot"]
    tensors = {k: v.to(torch.float16).numpy() for k, v in s["model"].items()}
    base = os.path.join(a.out, a.name)
    write_hf(base, c, tensors, tok, a.tok)
    for kind in FILE_TYPE:
        write_gguf("%s-%s.gguf" % (base, kind), a.name, c, tensors, tok, kind)
    print("%s: step %d, %.3fM parameters" % (base, s["step"], sum(t.size for t in tensors.values()) / 1e6))


if __name__ == "__main__":
    main()
