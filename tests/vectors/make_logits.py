# SPDX-License-Identifier: Apache-2.0
"""Computes the golden logits tests/vectors/logits/*.wvec of the models in tests/vectors/models, one file for an
architecture of arch_models.py in all its forms of the same weights, and says how the
models behave: entropies, and how far the deviations an engine is entitled to (8-bit activations, KV in half
precision) move the logits. For models with quantised weights also logits-q8/*.wvec: the same sequences with every
input of a quantised linear rounded to 8 bits by blocks of 32, in float64 otherwise, KV included.

usage: make_logits.py [--check]    --check: compare with the files instead of writing them
"""
import os
import sys
import tempfile

import numpy as np

import wvec
from arch_models import ARCHS, is_stored, weights
from make_arch_models import gguf_name, write_gguf
from reference import FLOAT, Model, entropy

HERE = os.path.dirname(os.path.abspath(__file__))
LONG = {"llama-F32", "qwen2-padded-F32", "qwen3-F32"}


def sequences(name, model, lengths=None):
    """Seeded ids over the tokenizer's entries (never padding): lengths around page and tile edges."""
    rng = np.random.default_rng([ord(c) for c in name])
    bos = model.key["tokenizer.ggml.bos_token_id"]
    seqs = []
    for n in lengths or ((1, 17, 64, 90 if model.n_vocab < 300 else 72) if name in LONG else (1, 17, 64)):
        ids = rng.integers(0, model.n_tokens, n)
        ids[0] = bos
        again = rng.random(n) < 0.3  # repeated tokens: attention to equal keys at other positions
        for i in range(1, n):
            if again[i]:
                ids[i] = ids[rng.integers(0, i)]
        seqs.append(ids)
    return seqs


def store(path, n_vocab, seqs, check):
    if not check:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        wvec.write(path, n_vocab, seqs)
        return
    for (ids, want), (got_ids, got) in zip(seqs, wvec.read(path)[1], strict=True):
        assert (ids == got_ids).all() and np.allclose(want, got, rtol=1e-6, atol=1e-6), path


def is_quantised(m):
    return not set(m.kind.values()) <= set(FLOAT)


def report(name, path, exact, seqs, as_engine):
    """seqs: [(ids, logits)]."""
    valid = exact.n_tokens
    h = np.concatenate([entropy(x[:, :valid]) for _, x in seqs])
    x = np.concatenate([x for _, x in seqs])
    y = np.concatenate([as_engine.logits(ids) for ids, _ in seqs])
    print(f"{name:18} {os.path.getsize(path):7} bytes, logit std {x.std():.2f}, entropy (nats) "
          f"min {h.min():.2f} median {np.median(h):.2f} max {h.max():.2f}; q8 activations + f16 KV: "
          f"logits rms {np.sqrt(((y - x) ** 2).mean()):.2e} max {np.abs(y - x).max():.2e}, arg-max same "
          f"{(y[:, :valid].argmax(1) == x[:, :valid].argmax(1)).mean():.3f}")


def tiny(name, check):
    """A GGUF file with goldens of its own."""
    path, out = os.path.join(HERE, "models", name + ".gguf"), os.path.join(HERE, "logits", name + ".wvec")
    exact = Model(path)
    seqs = [(ids, exact.logits(ids)) for ids in sequences(name, exact)]
    store(out, exact.n_vocab, seqs, check)
    if is_quantised(exact):
        rounded = Model(path, act_q8=True)
        store(os.path.join(HERE, "logits-q8", name + ".wvec"), exact.n_vocab,
              [(ids, rounded.logits(ids)) for ids, _ in seqs], check)
    report(name, out, exact, seqs, Model(path, act_q8=True, kv_f16=True))


def arch(a, check, temp):
    """logits/<name>.wvec of the bfloat16 weights, logits-q8/<name>-<kind>.wvec of the quantised files."""
    path = os.path.join(temp, a.name + ".gguf")
    write_gguf(path, a, "F32" if a.quant else "BF16")
    for name, n_ctx, lengths in [(a.name, None, (1, 17, 40))] + ([("phi3-short", 32, (1, 17, 32))] * (a.name == "phi3")):
        out, exact = os.path.join(HERE, "logits", name + ".wvec"), Model(path, n_ctx=n_ctx)
        seqs = [(ids, exact.logits(ids)) for ids in sequences(name, exact, lengths)]
        store(out, exact.n_vocab, seqs, check)
        report(name, out, exact, seqs, Model(path, act_q8=True, kv_f16=True, n_ctx=n_ctx))
    if a.quant in ("gptq", "awq"):  # int4 meets quantised activations
        rounded = Model(path, act_q8=True)
        rounded.kind.update({to: "int4" for to in (gguf_name(a, n)[0] for n in weights(a) if is_stored(a, n))})
        store(os.path.join(HERE, "logits-q8", f"hf-{a.name}.wvec"), rounded.n_vocab,
              [(ids, rounded.logits(ids)) for ids, _ in seqs], check)
    for kind in a.kinds:
        if kind not in FLOAT:
            rounded = Model(os.path.join(HERE, "models", f"{a.name}-{kind}.gguf"), act_q8=True)
            store(os.path.join(HERE, "logits-q8", f"{a.name}-{kind}.wvec"), rounded.n_vocab,
                  [(ids, rounded.logits(ids)) for ids in sequences(a.name, rounded, (1, 17, 40))], check)


def main():
    check = "--check" in sys.argv[1:]
    of_archs = {f"{a.name}-{kind}" for a in ARCHS for kind in a.kinds}
    for file in sorted(os.listdir(os.path.join(HERE, "models"))):
        name, ending = os.path.splitext(file)
        if ending == ".gguf" and not name.startswith(("stories", "quantize")) and name not in of_archs:
            tiny(name, check)
    with tempfile.TemporaryDirectory() as temp:
        for a in ARCHS:
            arch(a, check, temp)


if __name__ == "__main__":
    main()
