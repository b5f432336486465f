#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Seeds of fuzz_sp_model: corpus/sp_model beside this script. Needs what vectors/tokenizer/make_sp_goldens.py needs."""
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
TOKENIZER = HERE.parent / "vectors" / "tokenizer"
sys.path.insert(0, str(TOKENIZER))
from make_sp_goldens import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER, field, model_proto  # noqa: E402

PIECES = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("\u2581", -3.0, NORMAL), ("a", -1.0, NORMAL),
          ("b", -2.0, NORMAL), ("ab", -1.5, NORMAL), ("abab", -4.0, UNUSED), ("\u2581ab", -2.0, NORMAL), ("[x]", 0.0, USER),
          ("\u00e9", -5.0, NORMAL), ("aa", -1.0, UNUSED), ("aaaa", -1.0, NORMAL)]
ALL_BYTES = [(f"<0x{b:02X}>", 0.0, BYTE) for b in range(256)]


def main():
    out = HERE / "corpus" / "sp_model"
    out.mkdir(parents=True, exist_ok=True)
    charsmap = (TOKENIZER / "charsmap_small.bin").read_bytes()
    seeds = {"bpe": model_proto("bpe", PIECES, 0), "unigram": model_proto("unigram", PIECES, 0),
             "bpe-bytes": model_proto("bpe", PIECES[:3] + ALL_BYTES + PIECES[3:], 1),
             "unigram-bytes": model_proto("unigram", ALL_BYTES + PIECES, 1),
             "charsmap": model_proto("unigram", PIECES, 0) + field(3, field(2, charsmap)),
             "denormalizer": model_proto("bpe", PIECES, 0) + field(5, field(2, charsmap[:8])),
             "empty": b"", "word": model_proto("bpe", PIECES, 0) + field(2, field(3, 3)), "cut": model_proto("bpe", PIECES, 0)[:100]}
    for name, data in seeds.items():
        (out / name).write_bytes(data)


if __name__ == "__main__":
    main()
