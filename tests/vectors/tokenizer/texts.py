# SPDX-License-Identifier: Apache-2.0
"""Texts that are hard on tokenizers: our own words and random mixtures, nothing from a corpus. Imported by
generate.py; and the way they are written in vector files."""
import random
import unicodedata

HAND = [
    "", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", " \n \n  x", "a", " a", "a ", "  a  ",
    "The weir holds the water back.", "It's, IT'S, it'S, we'Re, they'LL'd 'tis 'Twas y'all're",
    "don't can't I'm you've he'd she'll 'sup 'S 'sS", "''s 's' '''re \u2019s it\u2019s",
    "'\u017f \u017f's a'\u017fb (long s)", "\u212a kelvin K k", "x'k'm'l'll'v've",
    "1", "12", "123", "1234", "12345678", "3.14159", "1,234,567.89", "0x1F", "2^10", "v1.2.3-rc4", "4:30pm",
    "\u0661\u0662\u0663 \u0967\u0968 \u2460\u2461 \u00bd \u2167 \u00b2\u00b3 \u3007 \U0001d7d8\U0001d7d9",
    "caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m A\u030angstro\u0308m",
    "\u03a9\u03bc\u03ad\u03b3\u03b1 \u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
    "\u05e9\u05dc\u05d5\u05dd \u0639\u0631\u0628\u064a \u0639\u064e\u0631\u064e\u0628\u0650\u064a",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0ba4\u0bae\u0bbf\u0bb4\u0bcd \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\u4e2d\u6587\u5b57\u7b26\uff0c\u4f60\u597d\u3002 \u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8 \ud55c\uad6d\uc5b4",
    "\U0001f600", "\U0001f600\U0001f601", " \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "\U0001f44d\U0001f3fd!", "\u00a0\u2003\u2028\u2029\u202f\u205f\u3000\u1680\u180e\u200b\ufeff",
    "a\u00a0b\u3000c\u2028d\u180ee\u200bf", "\u0085x \u0085 y", "\x0b\x0c\x1c\x1d\x1e\x1f x\x00y\x7fz\x01",
    "\x1c\x1c \x1d\n", "def f(x):\n    return x + 1\n\n\nclass A:\n\tpass\n",
    "for (int i = 0; i < n; i++) { a[i] *= 2; }  // double", "{\"key\": [1, null, true], \"k2\": \"v\\n\"}\r\n\r\n",
    "<|endoftext|> <|im_start|>user\nhi<|im_end|>\n", "<|im_end|", "<| endoftext |>",
    "https://example.org/a?b=c&d=%20#e", "user@example.org", "~~~ --- === *** ### ```c\n```",
    "!!!??? ... \u2026 \u2014 \u00ab\u00bb \u201cquoted\u201d \u00bf\u00a1", "$100 \u20ac50 \u00a330 100%", "a_b-c.d/e\\f|g",
    "   leading", "trailing   ", "a   b    c     d", "a\n  b\n    c", "tab\tand\t\ttabs\t ", " \t \t ",
    "x\n\n\n\ny", "x \n \n \ny", "x\r\ry", "\r", "\r\n\r\n ", "end\n", "end \n", "end\n ",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "AbCdEfGh", "supercalifragilistic", "ZZZZzzzz9999!!!!",
    "e\u0301\u0302\u0303", "\u0301x", " \u0301", "\u0e33\u0e49", "\u1112\u1161\u11ab", "\uff21\uff22\uff11\uff12\uff01",
    "Question: Tom has 12 apples and buys 7 more. How many apples?\nAnswer:",
]

POOLS = [
    [chr(c) for c in range(97, 123)], [chr(c) for c in range(65, 91)], list("0123456789"), list("!?.,;:-_/\\|()[]{}<>@#$%^&*+=~`\"'"),
    [" "], [" "], ["\n"], ["\r\n", "\r", "\t", "  ", "   ", "\u00a0", "\u3000", "\u2028", "\u0085", "\u180e", "\u200b", "\u2003"],
    ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'Re", "'\u017f", "\u2019s"],
    [chr(c) for c in range(0xC0, 0x17F)], [chr(c) for c in range(0x391, 0x3CA) if c != 0x3A2], [chr(c) for c in range(0x410, 0x450)],
    [chr(c) for c in range(0x5D0, 0x5EB)], [chr(c) for c in range(0x627, 0x64B)], [chr(c) for c in range(0x905, 0x94E)],
    [chr(c) for c in range(0xE01, 0xE3B)], [chr(c) for c in range(0x4E00, 0x4E80)], [chr(c) for c in range(0x3041, 0x3097)],
    [chr(c) for c in range(0xAC00, 0xAC80)], [chr(c) for c in range(0x1F600, 0x1F640)], ["\u200d", "\ufe0f", "\U0001f3fd", "\u0301", "\u0308"],
    ["\u0661", "\u0967", "\u00b2", "\u00bd", "\u2167", "\u2460", "\U0001d7d8"], [chr(c) for c in range(1, 32)] + ["\x7f", "\x00"],
    [" the", "ing", " and", "er", " water", "Question", "Answer:", " = ", "12", "100"],
]


def random_texts(count, seed, longest=40):
    """Mixtures: a few pools each, so that runs of one kind happen."""
    rng = random.Random(seed)
    for _ in range(count):
        pools = rng.sample(POOLS, rng.randint(1, 5))
        text = ""
        for _ in range(rng.randint(1, longest)):
            text += rng.choice(rng.choice(pools))
            if rng.random() < 0.2:
                text += text[-1] * rng.randint(1, 6)
        yield text


def old(text):
    """No BMP character younger than Unicode 3.2 (the pools' others are emoji and digits older than Unicode 12): what
    a younger one is depends on the age of a library's tables."""
    return all(unicodedata.ucd_3_2_0.category(c) != "Cn" or ord(c) > 0xFFFF for c in text)


def write(raw):
    """Bytes as printable ASCII: backslash, tab and all that is not printable as \\xNN."""
    return "".join(chr(b) if 32 <= b < 127 and b != 92 else "\\x%02x" % b for b in raw)
