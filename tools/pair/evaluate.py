#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measure the pair; models are GGUF files or checkpoints.

    evaluate.py text    --small S --large L file...      bits a byte, entropy, agreement on running text
    evaluate.py tasks   --small S --large L test.jsonl   exact match by task and level, greedy
    evaluate.py cascade --small S --large L test.jsonl   exact match against the large model's share of tokens
    evaluate.py say     --large L --prompt P             greedy text
"""
import argparse
import collections
import math
import re

import torch
import torch.nn.functional as F

import bpe
import decode
import gen_tasks


def correct(item, text):
    found = list(re.finditer(gen_tasks.MATCH[item.task], text))
    return bool(found) and found[-1].groups()[-1] == item.answer


def answer_all(tok, models, items, rule, n=100):
    """-> ([(task, level, correct)], tokens, of these by the large model); batches of prompts of like length."""
    items, hits, tokens, deferred = sorted(items, key=lambda e: len(e.prompt)), [], 0, 0
    for i in range(0, len(items), n):
        texts, k, d = decode.generate(tok, models, [e.prompt for e in items[i:i + n]], rule)
        hits += [(e.task, e.level, correct(e, x)) for e, x in zip(items[i:i + n], texts)]
        tokens, deferred = tokens + k, deferred + d
    return hits, tokens, deferred


def rate(hits):
    return sum(h[2] for h in hits) / max(1, len(hits))


@torch.no_grad()
def teacher_forced(tok, small, large, pieces, taus=()):
    """pieces: (context ids, target ids), the context's last position predicting the first target."""
    r = collections.Counter()
    for context, target in pieces:
        x, y = torch.tensor([(context + target)[:-1]]), torch.tensor(target)
        ls, ll = (m.logits(m.hidden(x)[0, len(context) - 1:]) for m in (small, large))
        hs, hl = decode.entropy(ls), decode.entropy(ll)
        ts, tl, easy = ls.argmax(-1), ll.argmax(-1), hs < .5
        for k, v in (("n", len(y)), ("nats_small", F.cross_entropy(ls, y, reduction="sum")),
                     ("nats_large", F.cross_entropy(ll, y, reduction="sum")), ("H_small", hs.sum()),
                     ("H_large", hl.sum()), ("easy_small", easy.sum()), ("easy_large", (hl < .5).sum()),
                     ("agree", (ts == tl).sum()), ("agree_easy", (ts == tl)[easy].sum()),
                     ("top1_small", (ts == y).sum()), ("top1_large", (tl == y).sum())):
            r[k] += float(v)
        for tau in taus:                            # whose loss counts
            defer = hs > tau
            r["defer", tau] += float(defer.sum())
            r["nats", tau] += float(F.cross_entropy(torch.where(defer[:, None], ll, ls), y, reduction="sum"))
    n, easy = r.pop("n"), max(1, r["easy_small"])
    out = {k: v / n for k, v in r.items() if isinstance(k, str)}
    out["agree_easy"] = r["agree_easy"] / easy
    return out | {"tokens": int(n), "cascade": [(t, r["defer", t] / n, r["nats", t] / n) for t in taus]}


def show(name, d):
    print(name + "  " + "  ".join("%s %s" % (k, "%.4f" % v if isinstance(v, float) else v) for k, v in d.items()), flush=True)


def text(tok, small, large, path, size, window=511):
    """Windows that each start with <|endoftext|>."""
    with open(path, "rb") as f:
        s = f.read(size).decode("utf8", "ignore")
    ids = tok.encode(s)
    r = teacher_forced(tok, small, large, (([tok.eot], ids[i:i + window]) for i in range(0, len(ids), window)),
                       taus=(6, 5, 4, 3, 2))
    bits = r["tokens"] / len(s.encode()) / math.log(2)
    r["bits_per_byte_small"], r["bits_per_byte_large"] = r["nats_small"] * bits, r["nats_large"] * bits
    for tau, share, nats in r.pop("cascade"):
        print("tau %g: large's share %.3f, %.4f bits a byte" % (tau, share, nats * bits))
    show(path, r)


def tasks(tok, small, large, items):
    if all(e.completion for e in items):
        show("completions, teacher-forced", teacher_forced(
            tok, small, large, ((tok.encode(e.prompt, bos=True), tok.encode(e.completion) + [tok.eot]) for e in items)))
    for name, m in (("small", small), ("large", large)):
        hits, _, _ = answer_all(tok, [m], items, decode.greedy)
        r = {"all": rate(hits)}
        r |= {"level %d" % l: rate([h for h in hits if h[1] == l]) for l in range(4)}
        r |= {t: rate([h for h in hits if h[0] == t]) for t in gen_tasks.TASKS}
        show("%s, %d tasks " % (name, len(items)), r)


def cascade(tok, small, large, items, taus):
    """Rows of a Markdown table; "random" defers at the same rate, one seed."""
    print("| rule | large's share of tokens | exact match, % | random at that rate |\n|---|---|---|---|")
    for name, rule in (("small only", decode.greedy), *(("tau %g" % t, decode.by_entropy(t)) for t in taus),
                       ("oracle (defer where they differ)", decode.oracle)):
        hits, n, d = answer_all(tok, [small, large], items, rule)
        chance = ""
        if name.startswith("tau"):
            chance = "%.1f" % (100 * rate(answer_all(tok, [small, large], items, decode.by_chance(d / n))[0]))
        print("| %s | %.1f%% | %.1f | %s |" % (name, 100 * d / n, 100 * rate(hits), chance), flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=("text", "tasks", "cascade", "say"))
    ap.add_argument("--small", default="models/weir-demo-small-Q8_0.gguf")
    ap.add_argument("--large", default="models/weir-demo-large-Q8_0.gguf")
    ap.add_argument("--tok", default="models/tokenizer.json")
    ap.add_argument("--bytes", type=int, default=300_000, help="of a text")
    ap.add_argument("--taus", default="3,2,1.5,1,.7,.5,.3,.15,.05")
    ap.add_argument("--prompt")
    ap.add_argument("--limit", type=int, default=100)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("files", nargs="*")
    a = ap.parse_intermixed_args()
    torch.set_num_threads(a.threads)
    tok, small, large = bpe.Tokenizer.load(a.tok), decode.load(a.small), decode.load(a.large)
    if a.what == "say":
        print(decode.generate(tok, [large], [a.prompt.replace("\\n", "\n")], decode.greedy, a.limit)[0][0])
    for path in a.files:
        if a.what == "text":
            text(tok, small, large, path, a.bytes)
        elif a.what == "tasks":
            tasks(tok, small, large, gen_tasks.load(path))
        elif a.what == "cascade":
            cascade(tok, small, large, gen_tasks.load(path), [float(t) for t in a.taus.split(",")])


if __name__ == "__main__":
    main()
