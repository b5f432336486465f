#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes pretok.txt and demo_tokens.txt beside this file, computed by the Hugging Face `tokenizers` library.

  generate.py TOKENIZER_JSON [FOLDER COUNT SEED]

TOKENIZER_JSON is that of the demo pair. With FOLDER the files go there, COUNT random texts of another SEED in them;
`test_tok_vectors FOLDER` (run from the repository root) then checks those instead.

pretok.txt       pattern, text, lengths in bytes of the pieces that the published pre-tokenizer cuts it into
demo_tokens.txt  text, ids that the demo models' tokenizer gives it (special tokens parsed, no BOS)

Fields are separated by tabs; bytes that are not printable ASCII are \\xNN, and so is the backslash.
"""
import os
import sys

import tokenizers
from tokenizers import Regex, Tokenizer
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

from texts import HAND, old, random_texts, write

CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# The pre_tokenizer of each tokenizer.json, less the byte alphabet (which hides the pieces' bytes).
PATTERNS = {
    "gpt-2": Split(Regex(GPT2), "isolated"),
    "llama-bpe": Split(Regex(CL100K % "{1,3}"), "isolated"),
    "qwen2": Split(Regex(CL100K % ""), "isolated"),
    "starcoder": Sequence([Digits(individual_digits=True), Split(Regex(GPT2), "isolated")]),
}


def same_as_byte_level(texts):
    """GPT-2's pattern above is what ByteLevel has built in: their cuts agree on every text."""
    built_in = ByteLevel(add_prefix_space=False, use_regex=True)
    for text in texts:
        want = [span for _, span in built_in.pre_tokenize_str(text)]
        got = [span for _, span in PATTERNS["gpt-2"].pre_tokenize_str(text)]
        # A combining sequence's span may be reported otherwise by ByteLevel; the counts must agree.
        assert len(want) == len(got), text


def main():
    here, count, seed, longest = os.path.dirname(os.path.abspath(__file__)), 250, 1, 24
    if len(sys.argv) > 2:
        here, count, seed, longest = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), 60
    texts = HAND + [t for t in random_texts(count, seed, longest) if old(t)]
    same_as_byte_level(texts)
    with open(os.path.join(here, "pretok.txt"), "w") as f:
        f.write("# generate.py, tokenizers %s\n" % tokenizers.__version__)
        for name, pre in PATTERNS.items():
            for text in texts:
                pieces = [p.encode() for p, _ in pre.pre_tokenize_str(text)]
                assert b"".join(pieces) == text.encode(), (name, text)
                f.write("%s\t%s\t%s\n" % (name, write(text.encode()), " ".join(str(len(p)) for p in pieces)))
    demo = Tokenizer.from_file(sys.argv[1])
    with open(os.path.join(here, "demo_tokens.txt"), "w") as f:
        f.write("# generate.py, tokenizers %s\n" % tokenizers.__version__)
        for text in texts:
            ids = demo.encode(text, add_special_tokens=False).ids
            f.write("%s\t%s\n" % (write(text.encode()), " ".join(map(str, ids))))


if __name__ == "__main__":
    main()
