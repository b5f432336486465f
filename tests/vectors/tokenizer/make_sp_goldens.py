#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Golden segmentations of small random vocabularies: sp_goldens.txt beside this script.

What sentencepiece (BPE and unigram) and the tokenizers library (Unigram) make of texts over an alphabet of a
few letters, with vocabularies full of ties, unknown letters, byte tokens, user-defined and unused pieces.

    pip install sentencepiece==0.2.3 tokenizers==0.23.3 && python3 make_sp_goldens.py [--check]

Lines of the file; bytes outside 0x21..0x7e and the backslash are \\xNN:
    m <bpe|unigram|json> <unk id> <byte_fallback 0|1> <pieces>
    p <type as SentencePiece numbers it> <score> <piece>      (as many as the m line says)
    t <text> <id> <id> ...
"""
import pathlib
import random
import struct
import sys

import sentencepiece
import tokenizers

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
LETTERS = ["a", "b", "c", "\u00e9", "\u4e2d", "\u2581", "\U0001f600"]


def varint(n):
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    """One field of a protocol buffer: an int as a varint, a float as 32 bits, bytes with their length."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def model_proto(kind, pieces, byte_fallback):
    out = b""
    for text, score, type_ in pieces:
        out += field(1, field(1, text.encode()) + field(2, score) + field(3, type_))
    out += field(2, field(3, {"unigram": 1, "bpe": 2}[kind]) + field(4, len(pieces)) + field(35, byte_fallback))
    # no character map, no dummy prefix, extra spaces stay, spaces are not escaped
    return out + field(3, field(1, b"identity") + field(3, 0) + field(4, 0) + field(5, 0))


def escape(text):
    return "".join(chr(b) if 0x21 <= b <= 0x7E and b != 0x5C else f"\\x{b:02x}" for b in text.encode())


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def random_pieces(rng, kind, byte_fallback, scale):
    """Special tokens first, then bytes, then letters (not all), then longer pieces."""
    pieces = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    if kind == "json":
        pieces = [("<unk>", rng.choice([0.0, -2.5]), UNKNOWN), ("</s>", -1.0, NORMAL)]
    if byte_fallback:
        pieces += [(f"<0x{b:02X}>", 0.0, BYTE) for b in range(256)]
    known = set()
    letters = LETTERS if rng.random() < 0.3 else rng.sample(LETTERS, 5)
    grid = rng.random() < 0.5

    def score():
        return scale * float(-rng.randrange(0, 6)) if grid else f32(scale * rng.uniform(-12, -0.5))

    def type_():
        x = rng.random()
        return NORMAL if x < 0.8 or kind == "json" else USER if x < 0.86 else UNUSED

    for c in letters:
        known.add(c)
        pieces.append((c, score(), NORMAL))
    use = letters if rng.random() < 0.5 else letters[:2]
    for _ in range(rng.randrange(10, 60)):
        text = "".join(rng.choice(use if rng.random() < 0.9 else LETTERS) for _ in range(rng.randrange(2, 7)))
        if rng.random() < 0.7:  # of two that are there: what merges can reach
            text = rng.choice(sorted(known)) + rng.choice(sorted(known))
        if text in known or len(text) > 8:
            continue
        known.add(text)
        pieces.append((text, rng.uniform(-12, -0.5) if kind == "json" and not grid else score(), type_()))
    return pieces, use


def random_text(rng, use):
    n = rng.choice([1, 2, 3, 5, 8, 13, 30])
    if rng.random() < 0.2:
        return rng.choice(use) * n
    return "".join(rng.choice(use if rng.random() < 0.85 else LETTERS + ["z", "\u0416"]) for _ in range(n))


def encoder(kind, pieces, byte_fallback):
    if kind == "json":
        vocab = [(text, score) for text, score, _ in pieces]
        model = tokenizers.Tokenizer(tokenizers.models.Unigram(vocab, 0, bool(byte_fallback)))
        model = tokenizers.Tokenizer.from_str(model.to_str())  # as a file is read: scores lose a bit there
        return lambda text: model.encode(text).ids
    sp = sentencepiece.SentencePieceProcessor(model_proto=model_proto(kind, pieces, byte_fallback))
    return lambda text: sp.encode(text)


def make():
    rng = random.Random(20240611)
    lines = ["# made by make_sp_goldens.py"]
    for i in range(30):
        kind = ("bpe", "unigram", "json")[i % 3]
        byte_fallback = int(i % 15 >= 12)
        scale = 1e4 if i in (10, 19) else 1.0  # sums beyond 1e5: sentencepiece takes them back
        pieces, use = random_pieces(rng, kind, byte_fallback, scale)
        encode = encoder(kind, pieces, byte_fallback)
        lines.append(f"m {kind} 0 {byte_fallback} {len(pieces)}")
        lines += [f"p {type_} {score!r} {escape(text)}" for text, score, type_ in pieces]
        texts = dict.fromkeys(random_text(rng, use) for _ in range(60))
        lines += [" ".join(["t", escape(text)] + [str(x) for x in encode(text)]) for text in texts]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    path = pathlib.Path(__file__).with_name("sp_goldens.txt")
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if path.read_text() == make() else f"{path} is not what the libraries give now")
    path.write_text(make())
