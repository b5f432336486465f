# SPDX-License-Identifier: Apache-2.0
"""Byte-level BPE read from a GGUF file, independent of the engine's (pre-tokenisers gpt-2 and qwen2)."""
import regex

from make_tiny_models import byte_letters

PRE = {
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
             r"|\s+(?!\S)|\s+",
}


class Bpe:
    def __init__(self, key):
        """key: metadata of the file."""
        plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
        order = plain + [b for b in range(256) if b not in plain]
        self.letter = dict(zip(order, byte_letters()))
        self.tokens = key["tokenizer.ggml.tokens"]
        self.id = {t: i for i, t in enumerate(self.tokens)}
        self.rank = {tuple(m.split(" ")): i for i, m in enumerate(key["tokenizer.ggml.merges"])}
        self.pattern = regex.compile(PRE[key["tokenizer.ggml.pre"]])
        self.bos = [key["tokenizer.ggml.bos_token_id"]] if key.get("tokenizer.ggml.add_bos_token") else []
        self.ends = {key[f"tokenizer.ggml.{k}_token_id"] for k in ("eos", "eot")
                     if f"tokenizer.ggml.{k}_token_id" in key}

    def encode(self, text):
        """Ids of text, BOS first where the file says so."""
        out = list(self.bos)
        for word in self.pattern.findall(text):
            parts = [self.letter[b] for b in word.encode()]
            while len(parts) > 1:
                rank, i = min((self.rank.get(p, len(self.rank)), i) for i, p in enumerate(zip(parts, parts[1:])))
                if rank == len(self.rank):
                    break
                parts[i:i + 2] = [parts[i] + parts[i + 1]]
            out += [self.id[p] for p in parts]
        return out

    def decode(self, ids):
        byte = {c: b for b, c in self.letter.items()}
        return bytes(byte[c] for i in ids for c in self.tokens[i] if c in byte).decode(errors="replace")
