#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Golden normalisations by compiled character maps, beside this script.

    make_charsmap_goldens.py test_sentencepiece.model [--check]     (that of ../shared/data/tokenizers; its map is nmt_nfkc)

    charsmap_small.bin  a small map (the one of hf/xlm-roberta/tokenizer.json)
    charsmap.bin        little-endian uint32, FNV-1a of the UTF-8 of the normalised strings of hf/strings.txt: the first
                        3000 by the small map as sentencepiece has it, the same as the tokenizers library has it; then
                        all 10,000 by nmt_nfkc, in both ways
"""
import base64
import json
import pathlib
import struct
import sys

import sentencepiece
from tokenizers import normalizers

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from make_sp_goldens import field  # noqa: E402
from make_tokenizer_vectors import fnv1a, make_strings, protobuf_field  # noqa: E402


def by_sentencepiece(blob, strings):
    pieces = b"".join(field(1, field(1, t.encode()) + field(2, 0.0) + field(3, k)) for t, k in (("<unk>", 2), ("a", 1)))
    spec = field(1, b"own") + field(2, blob) + field(3, 0) + field(4, 0) + field(5, 0)
    sp = sentencepiece.SentencePieceProcessor(model_proto=pieces + field(2, field(3, 1)) + field(3, spec))
    return [sp.normalize(s) for s in strings]


def by_tokenizers(blob, strings):
    n = normalizers.Precompiled(blob)
    return [n.normalize_str(s) for s in strings]


def main():
    small = json.loads((HERE / "hf" / "xlm-roberta" / "tokenizer.json").read_text())
    small = base64.b64decode(small["normalizer"]["normalizers"][0]["precompiled_charsmap"])
    nfkc = protobuf_field(protobuf_field(pathlib.Path(sys.argv[1]).read_bytes(), 3), 2)
    strings = make_strings()
    hashes = []
    for blob, texts in ((small, strings[:3000]), (nfkc, strings)):
        ways = by_sentencepiece(blob, texts), by_tokenizers(blob, texts)
        print(sum(a != b for a, b in zip(*ways)), "differ between the two libraries,",
              sum(a != b for a, b in zip(ways[0], texts)), "change")
        hashes += [fnv1a(s.encode()) for way in ways for s in way]
    data = struct.pack(f"<{len(hashes)}I", *hashes)
    if "--check" in sys.argv:
        sys.exit(0 if (HERE / "charsmap.bin").read_bytes() == data else "charsmap.bin differs")
    (HERE / "charsmap_small.bin").write_bytes(small)
    (HERE / "charsmap.bin").write_bytes(data)


if __name__ == "__main__":
    main()
