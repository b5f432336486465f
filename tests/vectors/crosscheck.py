# SPDX-License-Identifier: Apache-2.0
"""Holds the golden logits against transformers' own models in float64 (whose norms and rotation angles compute in
float32 all the same, which bounds the agreement): for the plain ones built from a config and given the dequantised
weights of the GGUF file, for those of arch_models.py read from their directories by AutoModelForCausalLM. Also holds
our dequantisation against gguf-py's.

usage: crosscheck.py [NAME...]    names of logits/<name>.wvec; all by default
"""
import os
import sys
import tempfile

import numpy as np
import torch
import transformers as tf
from gguf import GGUFReader
from gguf.quants import dequantize as gguf_dequantize

import wvec
from arch_models import BY_NAME
from make_arch_models import write_hf
from reference import Model

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
         "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
         "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def their_name(name):
    """(name in transformers) of a GGUF tensor."""
    top = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
           "output.weight": "lm_head.weight"}
    if name in top:
        return top[name]
    _, i, part, kind = name.split(".")
    return f"model.layers.{i}.{NAMES[part]}.{kind}"


def half_split(x, heads):
    """Inverse of the converter's permutation: adjacent pairs back to pairs (i, i+e/2)."""
    return x.reshape(heads, -1, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def build(m):
    config, cls = {"llama": (tf.LlamaConfig, tf.LlamaForCausalLM), "qwen2": (tf.Qwen2Config, tf.Qwen2ForCausalLM),
                   "qwen3": (tf.Qwen3Config, tf.Qwen3ForCausalLM)}[m.arch]
    args = dict(vocab_size=m.n_vocab, hidden_size=m.dim, intermediate_size=m.w["blk.0.ffn_up.weight"].shape[0],
                num_hidden_layers=m.layers, num_attention_heads=m.heads, num_key_value_heads=m.kv_heads,
                max_position_embeddings=m.ctx, rms_norm_eps=m.eps, hidden_act="silu",
                tie_word_embeddings="output.weight" not in m.w, attn_implementation="eager",
                rope_parameters={"rope_type": "default", "rope_theta": m.theta}, pad_token_id=None)
    if m.arch != "qwen2":
        args["head_dim"] = m.head_dim
    model = cls(config(**args)).double().eval()
    state = {}
    for name, x in m.w.items():
        if m.arch == "llama" and ".attn_q." in name:
            x = half_split(x, m.heads)
        if m.arch == "llama" and ".attn_k." in name:
            x = half_split(x, m.kv_heads)
        state[their_name(name)] = torch.from_numpy(np.ascontiguousarray(x))
    if "output.weight" not in m.w:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    return model


def from_directory(a):
    """transformers' model of hf-<name>, or of what that directory would be."""
    path = os.path.join(HERE, "models", "hf-" + a.name)
    with tempfile.TemporaryDirectory() as temp:
        if not a.shards or a.quant:  # the quantised kinds want a GPU
            path = temp
            write_hf(path, a, plain=True)
        model, said = tf.AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float64, attn_implementation="eager", output_loading_info=True,
            **({"experts_implementation": "eager"} if a.experts else {}))
    wrong = [k for k, v in said.items() if v]
    assert not wrong, (a.name, said)
    return model.eval()


def from_gguf(name):
    path = os.path.join(HERE, "models", name + ".gguf")
    m = Model(path)
    for t in GGUFReader(path).tensors:
        theirs = gguf_dequantize(t.data, t.tensor_type).astype(np.float64).reshape(-1)
        assert np.allclose(m.w[t.name].reshape(-1), theirs, rtol=1e-6, atol=0), t.name
    return build(m)


def main():
    names = sys.argv[1:] or sorted(f[:-5] for f in os.listdir(os.path.join(HERE, "logits")) if f.endswith(".wvec"))
    print("transformers", tf.__version__, "torch", torch.__version__)
    worst = 0.0
    for name in names:
        a = BY_NAME.get(name.removesuffix("-short"))
        model = from_directory(a) if a else from_gguf(name)
        worst_of_model = 0.0
        for ids, logits in wvec.read(os.path.join(HERE, "logits", name + ".wvec"))[1]:
            if name == "phi3" and len(ids) <= a.config["original_max_position_embeddings"]:
                continue  # transformers takes the short factors; phi3-short has those
            with torch.no_grad():
                theirs = model(torch.tensor(np.array(ids, dtype=np.int64))[None]).logits[0].numpy()
            # relative to the largest logit of the position: a logit near zero has no scale of its own
            worst_of_model = max(worst_of_model, (np.abs(theirs - logits).max(1) / np.abs(logits).max(1)).max())
        print(f"{name:18} {type(model).__name__:20} worst relative difference {worst_of_model:.2e}")
        worst = max(worst, worst_of_model)
    print(f"worst of all {worst:.2e}")
    sys.exit(1 if worst > 1e-5 else 0)


if __name__ == "__main__":
    main()
