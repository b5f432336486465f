#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Byte-level BPE with the Qwen2 pre-tokeniser, in plain Python.

    bpe.py train --out tok/ --size 4096 text...    train and write tokenizer.json
    bpe.py encode tok/tokenizer.json < text        print token ids

The vocabulary is 256 byte tokens, then one token per merge (so id = 256 + rank
of the merge), then the special tokens. The result is what GGUF calls
tokenizer.ggml.model = "gpt2" with tokenizer.ggml.pre = "qwen2".
"""
import argparse, collections, heapq, json, os, re, sys, time, unicodedata

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
         r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def char_class(pred):
    """Ranges of all code points that satisfy pred, as the inside of a [...]."""
    out, start = [], None
    for c in range(0x110001):
        if c < 0x110000 and pred(chr(c)):
            start = c if start is None else start
        elif start is not None:
            out.append("\\U%08x" % start if c - start == 1 else "\\U%08x-\\U%08x" % (start, c - 1))
            start = None
    return "".join(out)


def pretokeniser():
    """Python's re has no \\p{..}, and its \\s and \\d differ: spell the classes out."""
    L = char_class(lambda c: unicodedata.category(c)[0] == "L")
    N = char_class(lambda c: unicodedata.category(c)[0] == "N")
    S = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"
    return re.compile(
        r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n%s%s]?[%s]+|[%s]|"
        r" ?[^%s%s%s]+[\r\n]*|[%s]*[\r\n]+|[%s]+(?![^%s])|[%s]+" % (L, N, L, N, S, L, N, S, S, S, S))


def byte_alphabet():
    """GPT-2's printable stand-in for each byte, in GPT-2's token order."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    return {b: chr(b) for b in keep} | {b: chr(256 + i) for i, b in enumerate(rest)}


BYTE = byte_alphabet()
UNBYTE = {c: b for b, c in BYTE.items()}


def visible(token):
    return "".join(BYTE[b] for b in token)


class Tokenizer:
    def __init__(self, merges, specials=SPECIALS):
        self.vocab = [bytes([b]) for b in BYTE] + [a + b for a, b in merges]
        self.merges, self.specials = merges, specials
        self.id = {t: i for i, t in enumerate(self.vocab)}
        assert len(self.id) == len(self.vocab), "two merges make the same token"
        self.special_id = {s: len(self.vocab) + i for i, s in enumerate(specials)}
        self.size = len(self.vocab) + len(specials)
        self.eot = self.special_id["<|endoftext|>"]
        self.rank = {p: i for i, p in enumerate(merges)}
        self.split, self.cache = pretokeniser(), {}

    def word(self, w):
        """Ids of one pre-token."""
        if w in self.cache:
            return self.cache[w]
        s = [bytes([b]) for b in w.encode()]
        while len(s) > 1:
            r, i = min((self.rank.get(p, 1 << 30), i) for i, p in enumerate(zip(s, s[1:])))
            if r == 1 << 30:
                break
            s[i:i + 2] = [s[i] + s[i + 1]]
        ids = [self.id[t] for t in s]
        if len(self.cache) < 2_000_000:
            self.cache[w] = ids
        return ids

    def encode(self, text, bos=False):
        """Special tokens in the text are treated as plain text."""
        ids = [self.eot] if bos else []
        for w in self.split.findall(text):
            ids += self.word(w)
        return ids

    def decode_bytes(self, ids):
        return b"".join(self.vocab[i] if i < len(self.vocab) else self.specials[i - len(self.vocab)].encode()
                        for i in ids)

    def decode(self, ids):
        return self.decode_bytes(ids).decode("utf8", "replace")

    def save(self, path):
        """tokenizer.json as Hugging Face tokenizers reads it."""
        eot, eid = "<|endoftext|>", self.eot
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        doc = {
            "version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [{"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False,
                              "normalized": False, "special": True} for s, i in self.special_id.items()],
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": False},
                byte_level]},
            "post_processor": {"type": "TemplateProcessing",
                               "single": [{"SpecialToken": {"id": eot, "type_id": 0}},
                                          {"Sequence": {"id": "A", "type_id": 0}}],
                               "pair": [{"SpecialToken": {"id": eot, "type_id": 0}},
                                        {"Sequence": {"id": "A", "type_id": 0}},
                                        {"Sequence": {"id": "B", "type_id": 1}}],
                               "special_tokens": {eot: {"id": eot, "ids": [eid], "tokens": [eot]}}},
            "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                      "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
                      "ignore_merges": False,
                      "vocab": {visible(t): i for i, t in enumerate(self.vocab)},
                      "merges": [visible(a) + " " + visible(b) for a, b in self.merges]},
        }
        with open(path, "w", encoding="utf8") as f:
            json.dump(doc, f, ensure_ascii=False, indent=1)

    @classmethod
    def load(cls, path):
        doc = json.load(open(path, encoding="utf8"))
        raw = lambda s: bytes(UNBYTE[c] for c in s)
        pairs = [m.split(" ") if isinstance(m, str) else m for m in doc["model"]["merges"]]
        return cls([(raw(a), raw(b)) for a, b in pairs], [t["content"] for t in doc["added_tokens"]])


def train(counts, nmerges):
    """counts: pre-token -> frequency. Greedy merges; ties go to the smaller pair."""
    words, freq = [], []
    for w, c in counts.items():
        words.append([bytes([b]) for b in w.encode()])
        freq.append(c)
    pairs, where = collections.Counter(), collections.defaultdict(set)
    for i, w in enumerate(words):
        for p in zip(w, w[1:]):
            pairs[p] += freq[i]
            where[p].add(i)
    heap = [(-c, p) for p, c in pairs.items()]
    heapq.heapify(heap)
    merges, tokens = [], {bytes([b]) for b in range(256)}
    while len(merges) < nmerges:
        c, p = heapq.heappop(heap)
        if pairs[p] != -c:                          # a stale entry: a newer one is in the heap
            continue
        new = p[0] + p[1]
        if new in tokens:                           # another route to a token we have: never merge it,
            continue                                # so that merges and tokens stay one to one
        tokens.add(new)
        merges.append(p)
        touched = set()
        for i in where.pop(p):
            w, k, out = words[i], 0, []
            while k < len(w):
                if k + 1 < len(w) and w[k] == p[0] and w[k + 1] == p[1]:
                    out.append(new)
                    k += 2
                else:
                    out.append(w[k])
                    k += 1
            if len(out) == len(w):
                continue
            for q in zip(w, w[1:]):
                pairs[q] -= freq[i]
                touched.add(q)
            for q in zip(out, out[1:]):
                pairs[q] += freq[i]
                where[q].add(i)
                touched.add(q)
            words[i] = out
        for q in touched:
            if pairs[q] > 0:
                heapq.heappush(heap, (-pairs[q], q))
    return merges


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(dest="cmd", required=True)
    t = sub.add_parser("train")
    t.add_argument("--out", required=True)
    t.add_argument("--size", type=int, default=4096)
    t.add_argument("text", nargs="+", help="file, or file:bytes to take a spread sample of that many bytes")
    e = sub.add_parser("encode")
    e.add_argument("tokenizer")
    a = ap.parse_args()
    if a.cmd == "encode":
        print(*Tokenizer.load(a.tokenizer).encode(sys.stdin.read()))
        return
    split, counts, total, t0 = pretokeniser(), collections.Counter(), 0, time.time()
    for spec in a.text:
        path, _, n = spec.partition(":")
        size = os.path.getsize(path)
        n, parts = min(int(n or size), size), 50
        with open(path, "rb") as f:
            for i in range(parts):                  # 50 slices from all over the file
                f.seek(size * i // parts)
                s = f.read(n // parts).decode("utf8", "ignore").replace("<|endoftext|>", "")
                counts.update(split.findall(s))
                total += n // parts
    print("%.1f MB, %d distinct pre-tokens, %.0f s" % (total / 1e6, len(counts), time.time() - t0))
    tok = Tokenizer(train(counts, a.size - 256 - len(SPECIALS)))
    os.makedirs(a.out, exist_ok=True)
    tok.save(os.path.join(a.out, "tokenizer.json"))
    print("%d tokens in %.0f s; last: %r" % (tok.size, time.time() - t0, tok.vocab[-8:]))


if __name__ == "__main__":
    main()
