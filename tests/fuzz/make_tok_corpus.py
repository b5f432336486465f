#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seed inputs of fuzz_tok_json, corpus/tok_json: small tokenizer.json files of every kind of step, each with a
text behind the byte 0xFF, and tok_json.dict. Files found by fuzzing are added beside them by hand."""
import json
import os

HERE = os.path.dirname(os.path.abspath(__file__))
MARK = "\u2581"
TEXTS = ["ab  a<s>b <x> 12", "A\u0301\ufb01 \u00b2\u4e2d\U0001f600 don't\r\n", "", "b\u2581a cab\xa0 "]


def added():
    base = {"lstrip": False, "rstrip": False, "single_word": False}
    return [{"content": "<s>", "special": True, "normalized": False, **base},
            {"content": "<x>", "special": False, "normalized": False, **base, "lstrip": True, "rstrip": True},
            {"content": "cab", "special": False, "normalized": True, **base, "single_word": True}]


def bpe(**more):
    vocab = ["<unk>", "a", "b", "c", "ab", MARK, MARK + "a", "<0x41>", "\u0120", "1", "\u00c3", "\u00a9", "\u00c3\u00a9"]
    return {"type": "BPE", "unk_token": "<unk>", "vocab": {t: i for i, t in enumerate(vocab)},
            "merges": ["a b", [MARK, "a"], "\u00c3 \u00a9"], **more}


def unigram(**more):
    return {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.5], ["b", -2], ["ab", -2.5], [MARK, -1],
                                                      [MARK + "a", -1.25], ["<0x41>", -9]], **more}


def norm(*steps):
    return {"type": "Sequence", "normalizers": list(steps)}


def pre(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def split(pattern, behavior, invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def meta(scheme, **more):
    return {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, **more}


LLAMA = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"},
                                          {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
BYTES = {"type": "ByteLevel"}
BYTE_PRE = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
POST = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [13], "tokens": ["<s>"]}}}

SEEDS = {
    "gpt2": dict(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True}, decoder=BYTES, model=bpe()),
    "llama3": dict(pre_tokenizer=pre(split(r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|\s+(?!\S)|\s+", "Isolated"), BYTE_PRE),
                   decoder=BYTES, model=bpe(ignore_merges=True), post_processor=POST),
    "falcon": dict(pre_tokenizer=pre({"type": "Punctuation", "behavior": "Contiguous"}, BYTES,
                                     {"type": "Digits", "individual_digits": False}), decoder=BYTES, model=bpe()),
    "llama2": dict(normalizer=norm({"type": "Prepend", "prepend": MARK}, {"type": "Replace", "pattern": {"String": " "}, "content": MARK}),
                   decoder=LLAMA, model=bpe(byte_fallback=True, fuse_unk=True)),
    "mistral": dict(pre_tokenizer=meta("first", split=False), decoder=LLAMA, model=bpe(byte_fallback=True, fuse_unk=True)),
    "t5": dict(normalizer=norm({"type": "Nmt"}, {"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}),
               pre_tokenizer=pre({"type": "WhitespaceSplit"}, meta("always")), decoder=meta("always"), model=unigram()),
    "unigram": dict(normalizer=norm({"type": "Lowercase"}, {"type": "NFD"}, {"type": "StripAccents"},
                                    {"type": "Strip", "strip_left": True, "strip_right": True}),
                    pre_tokenizer=meta("never"), decoder=meta("never"), model=unigram(byte_fallback=True)),
    "splits": dict(normalizer={"type": "NFKD"}, pre_tokenizer=pre(split(r"\w+", "Removed", True), split("a", "MergedWithNext", kind="String"),
                   split(r"\b|\s+$", "Contiguous"), {"type": "CharDelimiterSplit", "delimiter": "b"}, {"type": "Whitespace"},
                   split(r"[^\s\p{Han}]++(?<!x)", "MergedWithPrevious")), decoder=LLAMA, model=bpe()),
    "byte_words": dict(normalizer={"type": "NFC"}, pre_tokenizer=pre({"type": "Whitespace"}, {"type": "Digits", "individual_digits": True},
                       BYTE_PRE), decoder=BYTES, model=bpe()),
    "refused": dict(normalizer={"type": "BertNormalizer"}, decoder=BYTES, model=bpe()),
    "word_piece": dict(decoder={"type": "WordPiece", "prefix": "##"}, model={"type": "WordPiece", "vocab": {"a": 0}}),
}


def main():
    folder = os.path.join(HERE, "corpus", "tok_json")
    os.makedirs(folder, exist_ok=True)
    words = set()
    for i, (name, seed) in enumerate(SEEDS.items()):
        file = {"version": "1.0", "added_tokens": added(), "normalizer": None, "pre_tokenizer": None, "post_processor": None, **seed}
        text = json.dumps(file, ensure_ascii=False, separators=(",", ":"))
        with open(os.path.join(folder, name), "wb") as f:
            f.write(text.encode() + b"\xff" + TEXTS[i % len(TEXTS)].encode())
        words.update(w for w in json.dumps(file).replace("\\", " ").split('"') if w.isidentifier())
    with open(os.path.join(HERE, "tok_json.dict"), "w") as f:
        for w in sorted(words | {"BertNormalizer", "dropout", "Precompiled", "end_of_word_suffix"}):
            f.write('"\\"%s\\""\n' % w)


if __name__ == "__main__":
    main()
