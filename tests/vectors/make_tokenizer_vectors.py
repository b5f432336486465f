#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Small tokenizer.json files of every kind that weir reads, and what the `tokenizers` library makes of 10,000
strings with each: the folder tokenizer/hf beside this script.

    pip install tokenizers==0.23.3 sentencepiece==0.2.3
    python3 make_tokenizer_vectors.py [--train] [--check]

--train makes the tokenizer.json files anew, from ../shared/data/corpora (not byte for byte the same: the
library's trainers break ties as their hash tables lie); without it those that are there are taken. --check
compares what would be written with what is there.

    strings.txt             one string a line, UTF-8; control characters and the backslash are \\xNN
    invalid.txt             the same for strings that are no UTF-8, every byte above 0x7e as \\xNN
    <name>/tokenizer.json
    <name>/expected.bin     little-endian uint32: FNV-1a (32 bits, over the ids as little-endian int32) of
                            encode(string, add_special_tokens=False).ids for every string; then FNV-1a of the
                            UTF-8 of decode(ids, skip_special_tokens=False) for the first 500
    <name>/first.txt        of the first 100 strings: ids with spaces between, a tab, the decoded text written
                            as in strings.txt

A tokenizer gives the bytes of an invalid string back where its vocabulary has all bytes: that is all that is
promised of those, because the library takes no such string.
"""
import argparse
import functools
import io
import json
import lzma
import pathlib
import random
import re
import string
import struct
import sys
import tempfile
import unicodedata

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "tokenizer" / "hf"
CORPORA = HERE.parents[2] / "shared" / "data" / "corpora"
sys.path.insert(0, str(HERE / "tokenizer"))
from texts import HAND, POOLS  # noqa: E402

N_STRINGS, N_DECODED, N_SHOWN = 10000, 500, 100

# ---- the published patterns -------------------------------------------------------------------------------

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK_V3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
               r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
CJK_LLM = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+".replace("\ud7ff", "\ud7a3")

SENTENCES = """The quick brown fox jumps over the lazy dog; it's 3.14 o'clock, isn't it?
Voix ambigu\u00eb d'un c\u0153ur qui, au z\u00e9phyr, pr\u00e9f\u00e8re les jattes de kiwis. \u00ab C'est \u00e7a ! \u00bb
Zw\u00f6lf Boxk\u00e4mpfer jagen Viktor quer \u00fcber den gro\u00dfen Sylter Deich.
El ping\u00fcino Wenceslao hizo kil\u00f3metros bajo exhaustiva lluvia y fr\u00edo, \u00bfa\u00f1oraba?
\u0421\u044a\u0435\u0448\u044c \u0436\u0435 \u0435\u0449\u0451 \u044d\u0442\u0438\u0445 \u043c\u044f\u0433\u043a\u0438\u0445 \u0444\u0440\u0430\u043d\u0446\u0443\u0437\u0441\u043a\u0438\u0445 \u0431\u0443\u043b\u043e\u043a, \u0434\u0430 \u0432\u044b\u043f\u0435\u0439 \u0447\u0430\u044e.
\u039e\u03b5\u03c3\u03ba\u03b5\u03c0\u03ac\u03b6\u03c9 \u03c4\u03b7\u03bd \u03c8\u03c5\u03c7\u03bf\u03c6\u03b8\u03cc\u03c1\u03b1 \u03b2\u03b4\u03b5\u03bb\u03c5\u03b3\u03bc\u03af\u03b1.
\u0646\u0635 \u062d\u0643\u064a\u0645 \u0644\u0647 \u0633\u0631 \u0642\u0627\u0637\u0639 \u0648\u0630\u0648 \u0634\u0623\u0646 \u0639\u0638\u064a\u0645 \u0645\u0643\u062a\u0648\u0628 \u0639\u0644\u0649 \u062b\u0648\u0628 \u0623\u062e\u0636\u0631\u060c \u0661\u0662\u0663.
\u05d3\u05d2 \u05e1\u05e7\u05e8\u05df \u05e9\u05d8 \u05d1\u05d9\u05dd \u05de\u05d0\u05d5\u05db\u05d6\u05d1 \u05d5\u05dc\u05e4\u05ea\u05e2 \u05de\u05e6\u05d0 \u05d7\u05d1\u05e8\u05d4.
\u090b\u0937\u093f\u092f\u094b\u0902 \u0915\u094b \u0938\u0924\u093e\u0928\u0947 \u0935\u093e\u0932\u0947 \u0926\u0941\u0937\u094d\u091f \u0930\u093e\u0915\u094d\u0937\u0938\u094b\u0902 \u0915\u0947 \u0930\u093e\u091c\u093e\u0964 \u0967\u0968\u0969
\u0e40\u0e1b\u0e47\u0e19\u0e21\u0e19\u0e38\u0e29\u0e22\u0e4c\u0e2a\u0e38\u0e14\u0e1b\u0e23\u0e30\u0e40\u0e2a\u0e23\u0e34\u0e10\u0e40\u0e25\u0e34\u0e28\u0e04\u0e38\u0e13\u0e04\u0e48\u0e32
\u5929\u5730\u7384\u9ec4\uff0c\u5b87\u5b99\u6d2a\u8352\u3002\u65e5\u6708\u76c8\u6603\uff0c\u8fb0\u5bbf\u5217\u5f20\u30022024\u5e745\u670810\u65e5
\u3044\u308d\u306f\u306b\u307b\u3078\u3068 \u3061\u308a\u306c\u308b\u3092\u3001\u30c8\u30fc\u30af\u30f3\u5206\u5272\u306e\u30c6\u30b9\u30c8\u3067\u3059\u3002
\ub2e4\ub78c\uc950 \ud5cc \uccc7\ubc14\ud034\uc5d0 \ud0c0\uace0\ud30c. \ud0a4\uc2a4\uc758 \uace0\uc720\uc870\uac74\uc740
Ph\u00e1p lu\u1eadt Vi\u1ec7t Nam ng\u00e0y nay \u0111\u01b0\u1ee3c vi\u1ebft b\u1eb1ng ch\u1eef qu\u1ed1c ng\u1eef.
Pijamal\u0131 hasta ya\u011f\u0131z \u015fof\u00f6re \u00e7abucak g\u00fcvendi. \u0130STANBUL'da
\u10d0\u10da\u10d1\u10d0\u10d7 \u10f0\u10dd, \u053f\u0580\u0576\u0561\u0574 \u0561\u057a\u0561\u056f\u056b, \u1230\u120b\u121d \u1208\u12d3\u1208\u121d, \u0b85\u0bae\u0bcd\u0bae\u0bbe, \u1019\u103c\u1014\u103a\u1019\u102c
def gcd(a: int, b: int) -> int:\\n    while b:\\n        a, b = b, a % b\\n    return a  # Euclid's
for (size_t i = 0; i < n; ++i) {\\n\\tsum += x[i] * 0x1F;\\n}\\n\\n// done
SELECT id, COUNT(*) FROM t WHERE x >= 10 AND name LIKE '%a_b%' GROUP BY 1;
{"name": "w\u00e9ir", "n": [1, 2.5e-3, null, true], "nested": {"a\\tb": "\\u00e9"}}
<div class="a b" id='c'>Hello &amp; goodbye</div><!-- x --> https://example.org/p?q=1&r=%20#f
I'm sure they've said we'll go; you'd DON'T it's y'all're 'twas I\u2019m O'Brien's
\U0001f600\U0001f602 ok \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1eb\U0001f1f7\U0001f1ef\U0001f1f5 \U0001f44d\U0001f3fd \u2764\ufe0f 1\ufe0f\u20e3 \U0001f3f4\U000e0067\U000e0062\U000e007f
x\u00b2 + y\u00b3 = z\u2074, \u222b\u2080\u00b9 f(x)dx \u2248 \u00bd \u2260 \u2167 \ufb01ne \u2126 \uff21\uff22\uff11\uff01 \u3392 \u2460
a  b   c    d\\t\\te\\n\\n\\nf \\n g\\nh    \\n""".split("\n")

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>", "<s>", "</s>", "<unk>",
            "<pad>", "<tool_call>", "</tool_call>", "[INST]", "[/INST]", "<mask>", "<0x0A>", "<0x41>", "\u2581", "<|im",
            "<|endoftext", "|>", "<start_of_turn>", "new\nline", "Hello", "hello", "HELLO", "caf\u00e9", "cafe\u0301", "word",
            "<fim_prefix>", "  ", "\u2581\u2581", "\u211d", "a b", "@@"]

# ---- strings ----------------------------------------------------------------------------------------------

SPACES = [" ", " ", " ", "  ", "   ", "\n", "\n", "\n\n", "\t", "\r\n", "\r", "\u00a0", "\u1680", "\u180e", "\u2000", "\u2003",
          "\u2009", "\u200a", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\ufeff", "\x0b", "\x0c", "\u0085", "\x1c",
          "\x1f"]
EMOJI = ["\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "\U0001f1e9\U0001f1ea",
         "1\ufe0f\u20e3", "\U0001f3f4\u200d\u2620\ufe0f", "\U0001f9d1\u200d\U0001f4bb", "\U0001f926\U0001f3fb\u200d\u2642\ufe0f",
         "\U0001f1e9", "\u200d", "\ufe0f", "\U0001f3ff"]
MARKS = ["\u0301", "\u0308", "\u0327", "\u0323", "\u0345", "\u05b0", "\u064b", "\u0651", "\u093c", "\u094d", "\u09bc", "\u0e31", "\u0f71",
         "\u1161", "\u11a8", "\u3099", "\u309a", "\ufe0f", "\u20dd", "\U0001d165", "\u0315", "\u0338"]
DIGITS = list("0123456789") + ["\u0660", "\u0967", "\u00b2", "\u00bd", "\u2167", "\u2460", "\uff11", "\U0001d7d8", "\u3007", "\u4e09",
                               "1,000", "3.14", "0x1f", "1e-9", "2024-05-10", "12345678", "000"]
CASED = ["\u01c5", "\u01f2", "\u00df", "\u1e9e", "\u0130", "\u0131", "\u03c2", "\u03a3", "\u017f", "\u212a", "\u212b", "\ufb03", "\u2160",
         "\u24b6", "\u02b0", "\u1d2c", "\u00aa", "Abc", "ABC", "aBC", "HTTPServer", "iPhone", "McDonald"]
CODE = ["def ", "return ", "(x)", "[i]", "{\n", "}\n", "\n    ", "\n\t", " += ", "->", "::", "//", "/*", "*/", "#include <", "==", "!=", "&&",
        "||", ";\n", "self.", "0x", "\"", "'", "`", "$", "@", "\\", "\\n", "%d", "<T>", "=>", "...", "?:", "__init__", "camelCase",
        "snake_case", "'s", "n't", "'LL", "I'm"]


def assigned(first, last):
    """Characters of a range that Python 3.11 (Unicode 14) knows: what a younger one is depends on a library's age."""
    return [chr(c) for c in range(first, last + 1) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]


def scripts():
    ranges = [(0x20, 0x7E), (0xA0, 0x24F), (0x250, 0x36F), (0x370, 0x52F), (0x530, 0x5FF), (0x600, 0x7FF), (0x900, 0xDFF),
              (0xE00, 0x109F), (0x10A0, 0x13FF), (0x1400, 0x18AF), (0x1900, 0x1DFF), (0x1E00, 0x1FFF), (0x2000, 0x20FF),
              (0x2100, 0x218F), (0x2190, 0x2BFF), (0x2C00, 0x2DFF), (0x2E80, 0x30FF), (0x3100, 0x33FF), (0x4E00, 0x9FA5),
              (0xA000, 0xABFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFB00, 0xFDFF), (0xFE00, 0xFFEF), (0x10000, 0x10FFF),
              (0x11000, 0x12FFF), (0x1D000, 0x1D7FF), (0x1F000, 0x1FAFF), (0x20000, 0x20200), (0x2F800, 0x2FA1D),
              (0xE000, 0xE0FF), (0x10FF00, 0x10FFFD)]
    return [chars for chars in (assigned(*r) for r in ranges) if chars]


FORMS = {name: getattr(normalizers, name)() for name in ("NFC", "NFD", "NFKC", "NFKD")}


@functools.lru_cache(None)
def is_punctuation_alike(c):
    split = len(pre_tokenizers.Punctuation("isolated").pre_tokenize_str(f"a{c}a")) == 3
    return split == (unicodedata.category(c)[0] == "P" or c in string.punctuation)


def has_no_age(text):
    """The library's tables of normal forms and of punctuation are older than Unicode 12; what is otherwise there now is
    left out."""
    return all(form.normalize_str(text) == unicodedata.normalize(name, text) for name, form in FORMS.items()) and all(
        is_punctuation_alike(c) for c in set(text))


def make_strings():
    rng = random.Random(0x77656972)
    blocks = scripts()
    words = sorted({w for s in SENTENCES for w in re.findall(r"\w+", s)})

    def slice_of_sentence():
        s = rng.choice(SENTENCES).replace("\\n", "\n").replace("\\t", "\t")
        i = rng.randrange(len(s))
        return s[i:i + rng.randrange(1, 40)]

    def one_script():
        return "".join(rng.choice(block) for block in [rng.choice(blocks)] for _ in range(rng.randrange(1, 12)))

    def any_scripts():
        return "".join(rng.choice(rng.choice(blocks)) for _ in range(rng.randrange(1, 8)))

    def few(pool, most):
        return lambda: "".join(rng.choice(pool) for _ in range(rng.randrange(1, most)))

    def marked():
        return "".join(rng.choice(rng.choice(blocks[:9] + blocks[20:21])) + rng.choice(MARKS) * rng.choice([0, 1, 1, 2, 3])
                       for _ in range(rng.randrange(1, 6)))

    def around_special():
        space = ["", "", " ", "  ", "\n", "\t", "\u00a0", "x", ".", "\u00e9"]
        return rng.choice(space) + rng.choice(SPECIALS) + rng.choice(space)

    def repeated():
        return rng.choice(rng.choice(POOLS + [SPACES, EMOJI, SPECIALS])) * rng.randrange(2, 12)

    def pool():
        chars = rng.choice(POOLS)
        return "".join(rng.choice(chars) for _ in range(rng.randrange(1, 10)))

    def spaced_words():
        return "".join(rng.choice(words) + rng.choice(SPACES[:12] + [", ", ". ", "-", "'"]) for _ in range(rng.randrange(1, 5)))

    makers = [slice_of_sentence] * 4 + [spaced_words] * 4 + [pool] * 3 + [
        one_script, any_scripts, few(SPACES, 5), few(EMOJI, 4), few(DIGITS, 6), few(CASED, 5), few(CODE, 6), marked,
        around_special, around_special, repeated]
    seen, out = set(), []

    def keep(s):
        if s not in seen and len(s.encode()) <= 400 and has_no_age(s):
            seen.add(s)
            out.append(s)

    for s in HAND + SPECIALS + SENTENCES:
        keep(s)
    while len(out) < N_STRINGS:
        parts = rng.choice([1, 1, 1, 2, 2, 3]) if rng.random() < 0.97 else 16
        keep("".join(rng.choice(makers)() for _ in range(parts)))
    rng.shuffle(out)
    return out


def make_invalid():
    rng = random.Random(0xBAD)
    bad = [b"\x80", b"\xbf", b"\xff", b"\xfe", b"\xc0\xaf", b"\xc3", b"\xe2\x96", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
           b"\xe0\x80\xaf", b"\xf8\x88\x80\x80\x80", b"\xc1", b"\xf5"]
    good = [s.encode() for s in HAND + SPECIALS + SENTENCES if s]
    out = list(bad)
    while len(out) < 300:
        out.append(b"".join(rng.choice(bad) if rng.random() < 0.4 else rng.choice(good)[:rng.randrange(1, 20)]
                            for _ in range(rng.randrange(1, 6))))
    return out


# ---- tokenizers -------------------------------------------------------------------------------------------


def corpus():
    text = []
    for name, n in (("code", 60000), ("docs", 120000), ("kids-valid", 60000)):
        with lzma.open(CORPORA / f"{name}.txt.xz", "rt", encoding="utf-8") as f:
            text += f.read(n).split("\n")
    return [line + "\n" for line in text] + [s + "\n" for s in SENTENCES] * 8


def trained_bpe(vocab_size, pre_tokenizer, normalizer=None, alphabet=()):
    """(vocabulary, merges) as lists; no special tokens."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizer
    if normalizer:
        t.normalizer = normalizer
    t.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=sorted(alphabet),
                                                        limit_alphabet=max(200, len(alphabet)), show_progress=False))
    model = json.loads(t.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [tuple(m) for m in model["merges"]]


def byte_level(vocab_size, split, special, normalizer=None, extra=(), **options):
    """Byte-level BPE: `split` are the pre-tokenizers before the byte alphabet. Special tokens come last."""
    pre = pre_tokenizers.Sequence(split + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    vocab, merges = trained_bpe(vocab_size, pre, normalizer, pre_tokenizers.ByteLevel.alphabet())
    t = Tokenizer(models.BPE({p: i for i, p in enumerate(vocab)}, merges, **options))
    t.pre_tokenizer = pre
    if normalizer:
        t.normalizer = normalizer
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([s if isinstance(s, AddedToken) else AddedToken(s, special=True, normalized=False) for s in special])
    t.add_tokens(list(extra))
    return t


def isolated(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def gpt2():
    t = byte_level(1000, [isolated(GPT2)], ["<|endoftext|>"])
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return t


def gpt2_prefix_space():
    """RoBERTa's way: a space goes before the text."""
    t = byte_level(900, [isolated(GPT2)], ["<s>", "<pad>", "</s>", "<unk>",
                                           AddedToken("<mask>", lstrip=True, special=True, normalized=False)])
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    return t


def llama3():
    t = byte_level(1000, [isolated(LLAMA3)], ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], ignore_merges=True)
    bos = t.token_to_id("<|begin_of_text|>")
    t.post_processor = processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)])
    return t


def qwen2():
    return byte_level(1000, [isolated(QWEN2)], ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], normalizers.NFC(),
                      [AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False)])


def o200k():
    return byte_level(1000, [isolated(O200K)], ["<|endoftext|>", "<|start|>", "<|end|>"])


def starcoder():
    """SmolLM's and StarCoder's: single digits, then GPT-2's pattern."""
    t = byte_level(900, [pre_tokenizers.Digits(True), isolated(GPT2)], ["<|endoftext|>", "<fim_prefix>", "<|im_start|>", "<|im_end|>"])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    return t


def deepseek_llm():
    return byte_level(900, [isolated("[\r\n]"), isolated(r"\s?\p{L}+"), isolated(r"\s?\p{P}+"), isolated(CJK_LLM),
                            pre_tokenizers.Digits(individual_digits=True)],
                      ["<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"])


def deepseek_v3():
    return byte_level(1000, [isolated(r"\p{N}{1,3}"), isolated(CJK), isolated(DEEPSEEK_V3)],
                      ["<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<pad>"])


def falcon():
    t = byte_level(900, [pre_tokenizers.Punctuation("contiguous"), isolated(GPT2), pre_tokenizers.Digits(False),
                            isolated("[0-9][0-9][0-9]")], ["<|endoftext|>"])
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        pre_tokenizers.Digits(False), isolated("[0-9][0-9][0-9]")])
    return t


def added():
    """Every flag of an added token."""
    flags = [AddedToken("<mask>", lstrip=True), AddedToken("<pad>", rstrip=True), AddedToken("<s>", lstrip=True, rstrip=True),
             AddedToken("word", single_word=True), AddedToken("Hello", single_word=True, lstrip=True), AddedToken("caf\u00e9"),
             AddedToken("[INST]", normalized=False), AddedToken("\u211d", normalized=True), AddedToken("a b"),
             AddedToken("new\nline", normalized=False, rstrip=True), AddedToken("@@", single_word=True, normalized=False),
             AddedToken("  ", normalized=False), AddedToken("<|im", normalized=False)]
    return byte_level(800, [isolated(GPT2)], ["<|endoftext|>", "<|im_start|>", AddedToken("<|im_end|>", special=True, rstrip=True)],
                      normalizers.NFKC(), flags)


BYTES = [f"<0x{b:02X}>" for b in range(256)]


def spaced_bpe(vocab_size, special, **options):
    """BPE over characters with U+2581 for spaces and byte tokens for what it lacks, as converted from SentencePiece.
    """
    vocab, merges = trained_bpe(vocab_size, pre_tokenizers.Metaspace(prepend_scheme="always"))
    pieces = list(special) + BYTES + [p for p in vocab if p not in special]
    t = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True,
                             **options))
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    return t


def fused(*after):
    return decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *after])


def llama2():
    t = spaced_bpe(900, ["<unk>", "<s>", "</s>"])
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    t.decoder = fused(decoders.Strip(" ", 1, 0))
    bos = t.token_to_id("<s>")
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    return t


def llama2_normalized_added():
    """The same with added tokens that are looked for in the normalised text."""
    t = llama2()
    t.add_tokens([AddedToken("[INST]", normalized=True), AddedToken("a b", normalized=True), AddedToken("word", single_word=True),
                  AddedToken("<mask>", lstrip=True, normalized=True), AddedToken("<pad>", rstrip=True, normalized=False)])
    return t


def gemma():
    t = spaced_bpe(900, ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>"])
    t.normalizer = normalizers.Replace(" ", "\u2581")
    t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    t.decoder = fused()
    t.add_tokens([AddedToken("\u2581\u2581", normalized=False), AddedToken("\n\n", normalized=False)])
    return t


def mistral():
    t = spaced_bpe(900, ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    t.decoder = fused(decoders.Strip(" ", 1, 0))
    return t


def metaspace_never():
    t = spaced_bpe(700, ["<unk>", "<s>", "</s>"])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    t.decoder = decoders.Metaspace(prepend_scheme="never")
    return t


def trained_unigram(vocab_size, special, byte_fallback, normalizer):
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    t.train_from_iterator(corpus(), trainers.UnigramTrainer(vocab_size=vocab_size, special_tokens=special, unk_token="<unk>",
                                                            show_progress=False))
    vocab = [tuple(p) for p in json.loads(t.to_str())["model"]["vocab"]]
    if byte_fallback:
        vocab = vocab[:len(special)] + [(b, 0.0) for b in BYTES] + vocab[len(special):]
    new = Tokenizer(models.Unigram(vocab, special.index("<unk>"), byte_fallback))
    new.normalizer, new.pre_tokenizer = normalizer, pre_tokenizers.Metaspace(prepend_scheme="always")
    new.decoder = decoders.Metaspace(prepend_scheme="always")
    new.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    return new


def t5():
    return trained_unigram(1000, ["<pad>", "</s>", "<unk>"], False,
                           normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]))


def unigram_bytes():
    t = trained_unigram(900, ["<unk>", "<s>", "</s>"], True, normalizers.Sequence([normalizers.NFC(), normalizers.Strip()]))
    t.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    return t


def charsmap():
    """A small character map in SentencePiece's compiled form, made by its trainer from rules of our own."""
    rules = {"\u00a0": " ", "\u3000": " ", "\t": " ", "\n": " ", "\u200b": "", "\ufb01": "fi", "\u2126": "\u03a9", "e\u0301": "\u00e9", "\uff21": "A",
             "\uff22": "B", "\u2460": "1", "\u2026": "...", "\u01c4": "D\u017d", "a\u0308": "\u00e4", "o\u0308\u0304": "\u022b", "\u1112\u1161": "\ud558",
             "\u1112\u1161\u11ab": "\ud55c", "\U0001f600": ":)", "\x00": "", "\u0085": " "}
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as f:
        for source, target in rules.items():
            hexed = [" ".join(f"{ord(c):04X}" for c in s) for s in (source, target)]
            if source != "\x00":
                f.write("\t".join(hexed) + "\n")
        f.flush()
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["abc def ghi"] * 10), model_writer=model, vocab_size=16, model_type="char",
            normalization_rule_tsv=f.name, minloglevel=2)
    data = model.getvalue()
    spec = protobuf_field(data, 3)
    return protobuf_field(spec, 2)


def protobuf_field(data, wanted):
    """The last length-delimited field of this number."""
    at, found = 0, None

    def varint():
        nonlocal at
        n = shift = 0
        while True:
            b = data[at]
            at += 1
            n |= (b & 0x7F) << shift
            shift += 7
            if b < 0x80:
                return n

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            varint()
        elif key & 7 == 2:
            n = varint()
            if key >> 3 == wanted:
                found = data[at:at + n]
            at += n
        else:
            at += {1: 8, 5: 4}[key & 7]
    return found


def xlm_roberta():
    """Unigram behind a compiled character map, as converted from SentencePiece."""
    normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap()), normalizers.Strip(left=False, right=True),
                                       normalizers.Replace(Regex(" {2,}"), "\u2581")])
    t = trained_unigram(900, ["<s>", "<pad>", "</s>", "<unk>"], False, normalizer)
    t.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True, normalized=False)])
    return t


def words():
    """BPE over letters behind Whitespace and Digits, without bytes: unknown letters become [UNK], one each."""
    pre = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=False)])
    vocab, merges = trained_bpe(900, pre, normalizers.NFD())
    t = Tokenizer(models.BPE({p: i for i, p in enumerate(["[UNK]"] + vocab)}, merges, unk_token="[UNK]"))
    t.normalizer, t.pre_tokenizer, t.decoder = normalizers.NFD(), pre, decoders.Fuse()
    t.add_special_tokens(["[UNK]"])
    return t


def punctuation():
    """WhitespaceSplit and Punctuation in its five behaviours' commonest, lower case, a run of unknown letters one."""
    pre = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")])
    normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.Lowercase()])
    vocab, merges = trained_bpe(700, pre, normalizer)
    t = Tokenizer(models.BPE({p: i for i, p in enumerate(["<unk>"] + vocab)}, merges, unk_token="<unk>", fuse_unk=True))
    t.normalizer, t.pre_tokenizer, t.decoder = normalizer, pre, decoders.Fuse()
    return t


TOKENIZERS = {"gpt2": gpt2, "roberta": gpt2_prefix_space, "llama3": llama3, "qwen2": qwen2, "o200k": o200k, "starcoder": starcoder,
              "deepseek-llm": deepseek_llm, "deepseek-v3": deepseek_v3, "falcon": falcon, "added": added, "llama2": llama2,
              "llama2-added": llama2_normalized_added, "gemma": gemma, "mistral": mistral, "metaspace-never": metaspace_never,
              "t5": t5, "unigram-bytes": unigram_bytes, "xlm-roberta": xlm_roberta, "words": words, "punctuation": punctuation}

# ---- files ------------------------------------------------------------------------------------------------


def fnv1a(data):
    h = 2166136261
    for b in data:
        h = (h ^ b) * 16777619 & 0xFFFFFFFF
    return h


def write_line(raw, ascii_only=False):
    """Bytes as they stand in strings.txt."""
    out = bytearray()
    for b in raw:
        if b < 0x20 or b in (0x5C, 0x7F) or (ascii_only and b > 0x7E):
            out += b"\\x%02x" % b
        else:
            out.append(b)
    return bytes(out)


def expected(tokenizer, strings):
    hashes, shown = [], []
    all_ids = [tokenizer.encode(s, add_special_tokens=False).ids for s in strings]
    for ids in all_ids:
        hashes.append(fnv1a(struct.pack(f"<{len(ids)}i", *ids)))
    for i, ids in enumerate(all_ids[:N_DECODED]):
        text = tokenizer.decode(ids, skip_special_tokens=False)
        hashes.append(fnv1a(text.encode()))
        if i < N_SHOWN:
            shown.append(" ".join(map(str, ids)).encode() + b"\t" + write_line(text.encode()))
    return struct.pack(f"<{len(hashes)}I", *hashes), b"\n".join(shown) + b"\n"


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--train", action="store_true")
    args.add_argument("--check", action="store_true")
    args.add_argument("--only", help="one tokenizer")
    args = args.parse_args()
    stale = []

    def put(path, data):
        if args.check:
            if not path.exists() or path.read_bytes() != data:
                stale.append(str(path))
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    strings = make_strings()
    put(OUT / "strings.txt", b"".join(write_line(s.encode()) + b"\n" for s in strings))
    put(OUT / "invalid.txt", b"".join(write_line(s, True) + b"\n" for s in make_invalid()))
    for name, make in TOKENIZERS.items():
        if args.only and name != args.only:
            continue
        path = OUT / name / "tokenizer.json"
        if args.train:
            put(path, make().to_str(pretty=False).encode() + b"\n")
        tokenizer = Tokenizer.from_file(str(path))
        hashes, shown = expected(tokenizer, strings)
        put(OUT / name / "expected.bin", hashes)
        put(OUT / name / "first.txt", shown)
        print(name, tokenizer.get_vocab_size(), "tokens,", path.stat().st_size, "bytes")
    if stale:
        sys.exit("differs: " + " ".join(stale))


if __name__ == "__main__":
    main()
