#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What sentencepiece makes of the first 3000 strings of hf/strings.txt with published vocabularies.

    make_sp_published.py FOLDER [--check]       (FOLDER: vectors.tar.xz of ../shared/data/tokenizers, unpacked)

Writes sp_published.bin beside this script: little-endian uint32, FNV-1a over the ids as little-endian int32, for the files
in the order of FILES. First all of them with the models' own normalisers taken out and spaces as U+2581, which is segmentation
alone; then all of them as they are. Prints what sentencepiece says of each file.
"""
import pathlib
import struct
import sys

import sentencepiece

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from make_sp_goldens import field  # noqa: E402
from make_tokenizer_vectors import fnv1a, make_strings  # noqa: E402

FILES = ["llama2.c/tokenizer.model", "transformers-fixtures/spiece.model", "transformers-fixtures/test_sentencepiece.model",
         "transformers-fixtures/test_sentencepiece_no_bos.model", "transformers-fixtures/test_sentencepiece_bpe.model",
         "transformers-fixtures/test_sentencepiece_with_bytefallback.model"]


def main():
    bare_ids, whole_ids = [], []
    for name in FILES:
        data = (pathlib.Path(sys.argv[1]) / name).read_bytes()
        whole = sentencepiece.SentencePieceProcessor(model_proto=data)
        print(name, whole.vocab_size(), "unk", whole.unk_id(), "bos", whole.bos_id(), "eos", whole.eos_id(), "pad", whole.pad_id())
        # A later field overrides an earlier one, so the file's own normalizer_spec need not be found.
        bare = data + field(3, field(2, b"") + field(3, 0) + field(4, 0) + field(5, 0))
        sp = sentencepiece.SentencePieceProcessor(model_proto=bare)
        for s in make_strings()[:3000]:
            bare_ids.append(sp.encode(s.replace(" ", "\u2581")))
            whole_ids.append(whole.encode(s))
    hashes = [fnv1a(struct.pack(f"<{len(ids)}i", *ids)) for ids in bare_ids + whole_ids]
    packed = struct.pack(f"<{len(hashes)}I", *hashes)
    path = HERE / "sp_published.bin"
    if "--check" in sys.argv:
        sys.exit(0 if path.read_bytes() == packed else f"{path} differs")
    path.write_bytes(packed)


if __name__ == "__main__":
    main()
