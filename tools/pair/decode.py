# SPDX-License-Identifier: Apache-2.0
"""Batched decoding with one model or with the pair, and the rules that choose between the two.

The cascade here is the plain one: the small model proposes its greedy token, and where
the entropy of its distribution exceeds tau the large model's greedy token replaces it.
Both read the same text. It is the yardstick for the engine, not an engine.
"""
import torch
import torch.nn.functional as F

from export import read_gguf
from model import Config, Llama, rotate


def load(path):
    """A model from a GGUF, dequantised, or from a checkpoint, in the exported precision."""
    if path.endswith(".gguf"):
        c, state = read_gguf(path)
    else:
        s = torch.load(path, map_location="cpu")
        c, state = s["config"], {k: v.half().float() for k, v in s["model"].items()}
    m = Llama(Config(**c))
    m.load_state_dict(state)
    return m.eval()


class Decoder:
    """K/V cache of a batch in which every sequence has its own position."""
    def __init__(self, m, B, T):
        c = self.c = m.c
        self.m, self.k = m, [torch.zeros(B, c.kv_heads, T, c.head_dim) for _ in range(c.layers)]
        self.v = [torch.zeros_like(k) for k in self.k]

    def forward(self, ids, pos):
        """ids, pos [batch, n] -> final hidden states [batch, n, dim]."""
        m, c, (B, n) = self.m.model, self.c, ids.shape
        end, rows = int(pos.max()) + 1, torch.arange(B)[:, None]
        cos, sin = self.m.cos[pos][:, None], self.m.sin[pos][:, None]
        seen = torch.arange(end)[None, None] <= pos[..., None]                  # [B, n, end]
        split = lambda t, h: t.view(B, n, h, c.head_dim).transpose(1, 2)
        x, g = m.embed_tokens(ids), c.heads // c.kv_heads
        for layer, K, V in zip(m.layers, self.k, self.v):
            a, y = layer.self_attn, layer.input_layernorm(x)
            q = rotate(split(a.q_proj(y), c.heads), cos, sin)
            K[rows, :, pos] = rotate(split(a.k_proj(y), c.kv_heads), cos, sin).transpose(1, 2)
            V[rows, :, pos] = a.v_proj(y).view(B, n, c.kv_heads, c.head_dim)
            q = q.reshape(B, c.kv_heads, g * n, c.head_dim)                     # the heads of a group share K, V
            s = (q @ K[:, :, :end].transpose(-1, -2)).view(B, c.kv_heads, g, n, end) * c.head_dim ** -.5
            s = s.masked_fill(~seen[:, None, None], -1e30).softmax(-1).view(B, c.kv_heads, g * n, end)
            o = (s @ V[:, :, :end]).view(B, c.heads, n, c.head_dim).transpose(1, 2).reshape(B, n, -1)
            x = x + a.o_proj(o)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return m.norm(x)


def entropy(logits):
    """In nats."""
    p = F.log_softmax(logits, -1)
    return -(p.exp() * p).sum(-1)


# Rules: list of logits [batch, vocab], small first -> (tokens, whether the large one wrote them).

def greedy(logits):
    return logits[0].argmax(-1), torch.zeros(len(logits[0]), dtype=torch.bool)


def by_entropy(tau):
    def rule(logits):
        defer = entropy(logits[0]) > tau
        return torch.where(defer, logits[1].argmax(-1), logits[0].argmax(-1)), defer
    return rule


def by_chance(p, seed=0):
    g = torch.Generator().manual_seed(seed)
    def rule(logits):
        defer = torch.rand(len(logits[0]), generator=g) < p
        return torch.where(defer, logits[1].argmax(-1), logits[0].argmax(-1)), defer
    return rule


def oracle(logits):
    """Defer exactly where the two differ: the text of the large one at the least deferral."""
    a, b = (x.argmax(-1) for x in logits)
    return b, a != b


@torch.no_grad()
def generate(tok, models, prompts, rule, limit=100):
    """-> (texts, tokens written, of these by the large model)."""
    ids = [tok.encode(p, bos=True) for p in prompts]
    B, width = len(ids), max(map(len, ids))
    length = torch.tensor([len(x) for x in ids])
    padded = torch.full((B, width), tok.eot)
    for i, x in enumerate(ids):
        padded[i, :len(x)] = torch.tensor(x)
    decs = [Decoder(m, B, min(width + limit, m.c.context)) for m in models]
    h = [d.forward(padded, torch.arange(width).expand(B, width))[torch.arange(B), length - 1] for d in decs]
    out, rows, alive = [[] for _ in range(B)], list(range(B)), torch.ones(B, dtype=torch.bool)
    tokens = deferred = 0
    for t in range(limit):
        nxt, used = rule([m.logits(x) for m, x in zip(models, h)])
        tokens, deferred = tokens + int(alive.sum()), deferred + int((used & alive).sum())
        for i in alive.nonzero()[:, 0].tolist():
            if nxt[i] == tok.eot:
                alive[i] = False
            else:
                out[rows[i]].append(int(nxt[i]))
        room = decs[0].k[0].shape[2]
        alive &= length + t < room
        if not alive.any():
            break
        if alive.float().mean() < .7:               # drop the finished ones
            keep = alive.nonzero()[:, 0]
            rows, nxt, length, alive = [rows[i] for i in keep.tolist()], nxt[keep], length[keep], alive[keep]
            for d in decs:
                d.k, d.v = [x[keep] for x in d.k], [x[keep] for x in d.v]
        pos = (length + t)[:, None].clamp(max=room - 1)
        h = [d.forward(nxt[:, None], pos)[:, 0] for d in decs]
    return [tok.decode(o) for o in out], tokens, deferred
