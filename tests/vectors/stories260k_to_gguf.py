# SPDX-License-Identifier: Apache-2.0
"""Converts stories260K (karpathy/tinyllamas, llama2.c's legacy checkpoint) to models/stories260k.gguf, F32, and
computes logits/stories260k.wvec: BOS or BOS and a few words, continued greedily by the float64 reference.

llama2.c rotates adjacent pairs, which is what the llama architecture means in GGUF: q and k rows go over as they
are. Checkpoint: seven int32 (dim, ff, layers, heads, kv heads, vocabulary, context), then float32 arrays.

Its SentencePiece vocabulary is spelled as byte-level BPE here so that the file is complete and text is
readable; only the token ids matter for the vectors. Each of the 256 byte letters must be one token: the
piece of that one character where there is one, else the byte token; byte tokens that are thus spare keep
their name <0x..>. Merges are all the splits of a piece into two pieces, in order of the pieces' scores;
pieces of several bytes in one character have none.

usage: stories260k_to_gguf.py stories260K.bin tok512.bin
"""
import os
import struct
import sys

import numpy as np
from gguf import GGUFWriter, TokenType

import wvec
from make_tiny_models import byte_letters
from reference import Model

HERE = os.path.dirname(os.path.abspath(__file__))
BOS = 1


def read_checkpoint(path):
    b = open(path, "rb").read()
    dim, ff, layers, heads, kv_heads, vocab, ctx = struct.unpack_from("<7i", b)
    tied, vocab = vocab > 0, abs(vocab)
    e = dim // heads
    at = 28

    def take(*shape):
        nonlocal at
        x = np.frombuffer(b, "<f4", int(np.prod(shape)), at).reshape(shape)
        at += x.nbytes
        return x

    w = {"token_embd.weight": take(vocab, dim)}
    parts = [("attn_norm", (dim,)), ("attn_q", (heads * e, dim)), ("attn_k", (kv_heads * e, dim)),
             ("attn_v", (kv_heads * e, dim)), ("attn_output", (dim, heads * e)), ("ffn_norm", (dim,)),
             ("ffn_gate", (ff, dim)), ("ffn_down", (dim, ff)), ("ffn_up", (ff, dim))]
    for name, shape in parts:
        x = take(layers, *shape)
        for i in range(layers):
            w[f"blk.{i}.{name}.weight"] = x[i]
    w["output_norm.weight"] = take(dim)
    take(2, ctx, e // 2)  # tables of cosines and sines
    if not tied:
        w["output.weight"] = take(vocab, dim)
    assert at == len(b), "size of the checkpoint"
    return dict(dim=dim, ff=ff, layers=layers, heads=heads, kv_heads=kv_heads, vocab=vocab, ctx=ctx), w


def read_pieces(path):
    b = open(path, "rb").read()
    at, pieces = 4, []
    while at < len(b):
        score, n = struct.unpack_from("<fi", b, at)
        pieces.append((b[at + 8:at + 8 + n], score))
        at += 8 + n
    return pieces


def spell(pieces):
    """(tokens, types, merges) of the placeholder tokenizer."""
    bytes_in_order = [*range(33, 127), *range(161, 173), *range(174, 256)]
    bytes_in_order += [b for b in range(256) if b not in bytes_in_order]
    letter = dict(zip(bytes_in_order, byte_letters()))
    tokens = ["<unk>", "<s>", "</s>"]
    types = [TokenType.CONTROL] * 3
    alone = {p[0] for p, _ in pieces[259:] if len(p) == 1}
    for b in range(256):
        tokens.append(f"<0x{b:02X}>" if b in alone else letter[b])
        types.append(TokenType.UNUSED if b in alone else TokenType.NORMAL)
    for p, _ in pieces[259:]:
        tokens.append("".join(letter[b] for b in p))
        types.append(TokenType.NORMAL)
    assert len(tokens) == len(set(tokens)) == len(pieces)
    known = set(tokens[259:])
    merges = []
    for i in sorted(range(259, len(pieces)), key=lambda i: -pieces[i][1]):
        t = tokens[i]
        merges += [f"{t[:k]} {t[k:]}" for k in range(1, len(t)) if t[:k] in known and t[k:] in known]
    return tokens, types, merges


def encode(text, pieces):
    """As llama2.c does: characters, then the adjacent two whose union has the highest score, again and again."""
    ids = {p: i for i, (p, _) in enumerate(pieces)}
    out = [ids[c.encode()] for c in " " + text]
    while True:
        best = None
        for i in range(len(out) - 1):
            j = ids.get(pieces[out[i]][0] + pieces[out[i + 1]][0])
            if j is not None and (best is None or pieces[j][1] > pieces[best[1]][1]):
                best = (i, j)
        if best is None:
            return out
        out[best[0]:best[0] + 2] = [best[1]]


def main():
    shape, w = read_checkpoint(sys.argv[1])
    pieces = read_pieces(sys.argv[2])
    path = os.path.join(HERE, "models", "stories260k.gguf")
    out = GGUFWriter(path, "llama")
    out.add_name("stories260K")
    out.add_license("mit")
    out.add_context_length(shape["ctx"])
    out.add_embedding_length(shape["dim"])
    out.add_block_count(shape["layers"])
    out.add_feed_forward_length(shape["ff"])
    out.add_head_count(shape["heads"])
    out.add_head_count_kv(shape["kv_heads"])
    out.add_rope_dimension_count(shape["dim"] // shape["heads"])
    out.add_rope_freq_base(10000.0)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(shape["vocab"])
    tokens, types, merges = spell(pieces)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list(tokens)
    out.add_token_types(types)
    out.add_token_merges(merges)
    out.add_bos_token_id(BOS)
    out.add_eos_token_id(2)
    out.add_add_bos_token(True)
    for name, x in w.items():
        out.add_tensor(name, x)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()

    m = Model(path)
    seqs = []
    for text in ("", "Tom and his dog went to the"):
        ids = [BOS] + (encode(text, pieces) if text else [])
        rows = list(m.logits(ids))
        while len(ids) < 64:
            ids.append(int(rows[-1].argmax()))
            rows += list(m.forward(ids[-1:]))
        seqs.append((ids, np.array(rows)))
        print(b"".join(pieces[i][0] for i in ids[1:]).decode())
    wvec.write(os.path.join(HERE, "logits", "stories260k.wvec"), m.n_vocab, seqs)


if __name__ == "__main__":
    main()
