# SPDX-License-Identifier: Apache-2.0
"""Golden noise and golden draws: Philox4x32-10 written from the paper (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011), keyed as kernels/noise.h says, and the sample op of kernels/row.h in float64.

Writes noise/noise.txt and noise/draws.jsonl (see README.md). Draws that float32 arithmetic could decide either way
(a race, a cut or a verdict within a relative 1e-4 or 1e-5) are left out and counted.

usage: make_noise_goldens.py
"""
import json
import os

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
M32 = 0xFFFFFFFF
DRAW, AGAIN, RATIO, REST = range(4)


def philox(counter, key):
    """Philox4x32-10: four words of counter, two of key, four words out."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & M32, (a >> 32) ^ c[3] ^ k[1], a & M32]
        k = [(k[0] + 0x9E3779B9) & M32, (k[1] + 0xBB67AE85) & M32]
    return c


def known_answers():
    """Random123's kat_vectors for philox4x32 10."""
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    for counter, key, want in (
            ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
            ([M32] * 4, [M32] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
            (pi, [0xA4093822, 0x299F31D0], "d16cfe09 94fdcceb 5001e420 24126ea1")):
        assert [f"{v:08x}" for v in philox(counter, key)] == want.split()


def quad(seed, pos, purpose, index):
    return philox([index, pos, purpose, int.from_bytes(b"weir", "big")], [seed & M32, seed >> 32])


def arrivals(seed, pos, purpose, n):
    """E[n], exponential with mean 1: the noise of token ids 0..n-1."""
    bits = np.array([quad(seed, pos, purpose, i) for i in range((n + 3) // 4)], dtype=np.float64).reshape(-1)[:n]
    return -np.log1p(-(bits + 0.5) * 2.0 ** -32)


class Unsure(Exception):
    """float32 might decide otherwise."""


def certain(ok):
    if not ok:
        raise Unsure


def cut_weights(x, ask):
    """Weights w[n] at the temperature of ask, 0 where cut: top_k, then top_p over what is left, then min_p relative
    to the highest. Ties stay from the lowest id up."""
    w = np.exp((x - x.max()) / ask["temperature"])
    order = np.argsort(-x, kind="stable")
    stay = len(order) if ask["top_k"] == 0 else min(ask["top_k"], len(order))
    if ask["top_p"] < 1:
        total = np.cumsum(w[order[:stay]])
        share = total / total[-1]
        certain((np.abs(share - ask["top_p"]) > 1e-5).all())
        stay = int(np.searchsorted(share, ask["top_p"])) + 1  # the one that reaches top_p stays
    out = np.zeros_like(w)
    out[order[:stay]] = w[order[:stay]]
    if ask["min_p"] > 0:
        certain((np.abs(w / ask["min_p"] - 1) > 1e-5).all())
        out[w < ask["min_p"]] = 0
    return out


def race(x, ask, purpose):
    if ask["temperature"] == 0:
        return int(x.argmax())
    w = cut_weights(x, ask)
    at = np.divide(arrivals(int(ask["seed"], 16), ask["pos"], purpose, len(x)), w, out=np.full(len(x), np.inf),
                   where=w > 0)
    first = int(at.argmin())
    others = np.delete(at, first)
    certain(len(others) == 0 or others.min() > at[first] * (1 + 1e-4))
    return first


def by_ratio(x, ask):
    """Maximal coupling: the probe stands with probability min(1, P/Q), else a race of what P has above Q."""
    w = cut_weights(x, ask)
    p = w / w.sum()
    q = np.zeros(len(x))
    for i, logprob in ask["draft"]:
        q[i] = np.exp(logprob)
    seed, pos, probe = int(ask["seed"], 16), ask["pos"], ask["probe"]
    u = (quad(seed, pos, RATIO, 0)[0] + 0.5) * 2.0 ** -32
    certain(abs(u * q[probe] / p[probe] - 1) > 1e-4 if p[probe] > 0 else True)
    if u * q[probe] <= p[probe]:
        return probe
    rest = np.maximum(0, p - q)
    certain((np.abs(p - q)[q > 0] > 1e-4 * p[q > 0]).all())
    at = np.divide(arrivals(seed, pos, REST, len(x)), rest, out=np.full(len(x), np.inf), where=rest > 0)
    first = int(at.argmin())
    certain((np.delete(at, first) > at[first] * (1 + 1e-2)).all())
    return first


def stands(lp, p, probe, ask):
    """Whether the probe stands by a rule on probabilities at temperature 1."""
    a, b, top, entropy = ask["keep_a"], ask["keep_b"], p.max(), -(p * lp).sum()
    have, want = {"v1": (np.exp(ask["probe_q"]), top - a), "v2": (p[probe], top - a), "v3": (p[probe], (1 - a) * top),
                  "typical": (p[probe], min(a, b * np.exp(-entropy)))}[ask["keep"]]
    certain(abs(have - want) > 1e-5 * top)
    return have >= want


def answer(x, ask):
    """The row of kernels/row.h for one ask."""
    lp = x - x.max()
    lp = lp - np.log(np.exp(lp).sum())
    p = np.exp(lp)
    probe = ask["probe"]
    if probe >= 0 and ask["keep"] == "all":
        token = probe
    elif probe >= 0 and ask["keep"] == "nll":
        certain(abs(-lp[probe] - ask["keep_nll"]) > 1e-4)
        token = probe if -lp[probe] <= ask["keep_nll"] else race(x, ask, AGAIN)
    elif probe >= 0 and ask["keep"] == "ratio" and ask["temperature"] > 0:
        token = by_ratio(x, ask)
    elif probe >= 0 and ask["keep"] in ("v1", "v2", "v3", "typical"):
        token = probe if stands(lp, p, probe, ask) else race(x, ask, AGAIN)
    else:
        token = race(x, ask, DRAW)
    top = np.sort(p)[::-1]
    return {"token": token, "logprob": lp[token], "entropy": -(p * lp).sum(), "p_max": top[0],
            "margin": top[0] - (top[1] if len(top) > 1 else 0), "probe_logprob": lp[probe if probe >= 0 else token]}


def f32(x):
    return float(np.float32(x))


def more_asks(rng, x, t, k, p, m):
    """Of the rules that came later, with what they want; drafts of up to 20 ids, the probe among them."""
    for keep, a, b in (("v1", 0.1, 0), ("v2", 0.3, 0), ("v3", 0.5, 0), ("typical", 0.09, 0.3), ("ratio", 0, 0), ("ratio", 0, 0)):
        near = np.argsort(-x, kind="stable")[:20]
        ids = [int(i) for i in rng.permutation(near)[:int(rng.integers(1, len(near) + 1))]]
        share = rng.exponential(size=len(ids))
        yield {"temperature": f32(t), "top_k": k, "top_p": f32(p), "min_p": f32(m),
               "seed": f"{rng.integers(2 ** 64, dtype=np.uint64):016x}", "pos": int(rng.integers(5000)),
               "probe": ids[0], "keep": keep, "keep_nll": f32(a), "keep_a": f32(a), "keep_b": f32(b),
               "probe_q": f32(-rng.exponential()),
               "draft": [[i, f32(v)] for i, v in zip(ids, np.log(share / share.sum()))] if keep == "ratio" else []}


def rows(rng):
    """(name, n_valid, logits): ordinary, padded, longer than a chunk of 4096 ids, peaked, flat, tied, alone."""
    yield "ordinary", 288, rng.standard_normal(288) * 3
    padded = rng.standard_normal(320) * 3
    padded[288:] += 20
    yield "padded", 288, padded
    yield "long", 5003, rng.standard_normal(5003) * 3.5
    peaked = rng.standard_normal(101)
    peaked[77] += 12
    yield "peaked", 101, peaked
    yield "flat", 130, rng.standard_normal(130) * 1e-3
    yield "tied", 97, rng.integers(-3, 4, 97) / 2
    yield "alone", 1, np.array([-2.5])


def main():
    known_answers()
    out = os.path.join(HERE, "noise")
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "noise.txt"), "w") as f:
        for seed in (0, 1, 42, 0xFFFFFFFF, 0x100000000, 0x123456789ABCDEF0, 0xFFFFFFFFFFFFFFFF):
            for pos in (0, 1, 17, 4095, 0x7FFFFFFF):
                for purpose in (DRAW, AGAIN, RATIO, REST):
                    for index in (0, 1, 63, 37984):
                        v = " ".join(f"{x:08x}" for x in quad(seed, pos, purpose, index))
                        f.write(f"{seed:016x} {pos} {purpose} {index} {v}\n")

    rng, rng2 = np.random.default_rng(2011), np.random.default_rng(2211)
    laws = [(0, 0, 1, 0), (1, 0, 1, 0), (0.7, 0, 1, 0), (1.6, 0, 1, 0), (1, 1, 1, 0), (1, 5, 1, 0), (0.8, 40, 1, 0),
            (1, 0, 0.9, 0), (1, 0, 0.3, 0), (1, 0, 0.001, 0), (1, 0, 1, 0.1), (0.7, 40, 0.95, 0.05), (1.3, 20, 0.8, 0.2),
            (1, 100000, 0.5, 0)]
    judged = [(-1, "all", 0)] * 4 + [("some", "own", 0), ("top", "own", 0), ("some", "nll", 3), ("top", "nll", 3),
                                     ("some", "nll", 0.5), ("some", "all", 0)]
    left_out = kept = stood = 0
    with open(os.path.join(out, "draws.jsonl"), "w") as f:
        for name, n_valid, logits in rows(rng):
            text = [str(np.float32(v)) for v in logits]
            x = np.array([np.float32(float(t)) for t in text])
            assert (x == logits.astype(np.float32)).all()
            f.write(f'{{"kind": "row", "name": "{name}", "n_valid": {n_valid}, "logits": [{", ".join(text)}]}}\n')
            x = x[:n_valid].astype(np.float64)
            for t, k, p, m in laws:
                asks = []
                for probe, keep, nll in judged:
                    at = {"some": int(rng.integers(n_valid)), "top": int(x.argmax()), -1: -1}[probe]
                    ask = {"temperature": f32(t), "top_k": k, "top_p": f32(p), "min_p": f32(m),
                           "seed": f"{rng.integers(2 ** 64, dtype=np.uint64):016x}", "pos": int(rng.integers(5000)),
                           "probe": at, "keep": keep, "keep_nll": f32(nll)}
                    asks.append(ask)
                for ask in asks + list(more_asks(rng2, x, t, k, p, m)):
                    at = ask["probe"]
                    try:
                        row = answer(x, ask)
                    except Unsure:
                        left_out += 1
                        continue
                    kept += 1
                    stood += at >= 0 and row["token"] == at
                    f.write(json.dumps({"kind": "draw", **ask, **{
                        a: b if a == "token" else float(f"{b:.9g}") for a, b in row.items()}}) + "\n")
    print(f"{kept} draws, {left_out} left out as undecidable in float32; {stood} probes stood")


if __name__ == "__main__":
    main()
