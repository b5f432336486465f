#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compare an export with other readers of the same formats; wants `pip install gguf transformers`.

    check.py --export run/export --name weir-demo-small --text some.txt

- tokenizer.json read by the tokenizers library gives the ids of bpe.py
- the Hugging Face directory read by transformers gives the logits of decode.py
- the GGUF files read by the gguf package hold the tensors that gguf_file.py reads
"""
import argparse
import os

import numpy as np
import torch

import bpe
import decode
import gguf_file

ODD = ["", " ", "  two  spaces  ", "tabs\t\tand\r\nlines\n\n\n", "I'll we'VE he'd 'tis don'T", "x=1234567890.5e-10;",
       "caf\u00e9 na\u00efve \u00c5ngstr\u00f6m \u00df", "\u65e5\u672c\u8a9e \u3068 \u6f22\u5b57", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
       "\u00bd \u00b2 \u2167 \u0663\u0664", "e\u0301 \u0947 marks", "\U0001f600\U0001f44d\U0001f3fd", "a\u00a0b\u2003c\u3000d",
       "...!!!???\n\n  indented", "#include <stdio.h>\n\tint x;", "\x1c\x1f controls \x85 x"]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--export", required=True)
    ap.add_argument("--name", required=True)
    ap.add_argument("--text", required=True)
    ap.add_argument("--lines", type=int, default=200)
    a = ap.parse_args()
    import gguf
    import tokenizers
    import transformers
    torch.set_num_threads(1)
    base = os.path.join(a.export, a.name)

    tok, theirs = bpe.Tokenizer.load(base + "/tokenizer.json"), tokenizers.Tokenizer.from_file(base + "/tokenizer.json")
    with open(a.text, encoding="utf8") as f:
        lines = [l for l in f.read(4_000_000).split("\n") if len(l) > 20]
    lines = ODD + lines[::max(1, len(lines) // a.lines)]
    same = sum(theirs.encode(l, add_special_tokens=False).ids == tok.encode(l) for l in lines)
    print("tokenizers: %d of %d lines the same; with BOS %s, ours %s" % (
        same, len(lines), theirs.encode("Hello").ids, tok.encode("Hello", bos=True)))

    ids = torch.tensor([tok.encode("\n".join(lines[-40:]), bos=True)[:256]])
    with torch.no_grad():
        hf = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)(ids).logits
        m = decode.load(base + "-F16.gguf")
        ours = m.logits(m.hidden(ids))
    print("transformers: largest difference of a logit %.2g, of %.3g" % ((hf - ours).abs().max(), ours.abs().max()))

    for kind in ("F16", "Q8_0", "Q4_0"):
        path = "%s-%s.gguf" % (base, kind)
        meta, tensors = gguf_file.read(path)
        reader, worst = gguf.GGUFReader(path), 0.
        assert {t.name for t in reader.tensors} == set(tensors) and set(meta) <= set(reader.fields)
        for t in reader.tensors:
            w = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
            worst = max(worst, float(np.abs(w.reshape(tensors[t.name].shape) - tensors[t.name]).max()))
        print("gguf: %s, %d tensors, largest difference %.2g" % (path, len(tensors), worst))


if __name__ == "__main__":
    main()
