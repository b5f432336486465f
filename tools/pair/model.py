# SPDX-License-Identifier: Apache-2.0
"""The llama-architecture decoder that both models of the pair are, and its sizes.

RMSNorm, RoPE (pairs i and i + head_dim/2, as Hugging Face stores it), grouped-query
attention, SwiGLU, no biases, tied embeddings. Parameters carry Hugging Face's
names, so state_dict() is that of a LlamaForCausalLM.

A row of training data holds several documents, each behind <|endoftext|>; a
position attends only to its own document. Without that, a question about a table
sees the same names in the tables of its neighbours, with other values.
"""
import dataclasses

import torch
import torch.nn as nn
import torch.nn.functional as F

NOLOSS = 0x8000         # top bit of an id in the data: no loss on this target


@dataclasses.dataclass
class Config:
    vocab: int = 4096
    dim: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    ff: int = 768
    context: int = 512
    theta: float = 10000.0
    eps: float = 1e-5
    eot: int = 4093     # id of <|endoftext|>, which opens every document


PRESETS = {
    "small": Config(dim=128, layers=3, heads=2, kv_heads=1, ff=256),                    # 0.97M
    "large": Config(dim=256, layers=6, heads=4, kv_heads=2, ff=768),                    # 5.77M
    "gpu-small": Config(dim=256, layers=4, heads=4, kv_heads=2, ff=768, context=1024),  # 4.2M
    "gpu-large": Config(dim=512, layers=10, heads=8, kv_heads=4, ff=1536, context=1024),   # 33.6M
}


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rotate(x, cos, sin):
    """RoPE: x [..., time, head_dim], cos and sin [..., time, head_dim / 2]."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.dim, c.heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.dim, c.kv_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.dim, c.kv_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.heads * c.head_dim, c.dim, bias=False)

    def forward(self, x, cos, sin, mask):
        c, (B, T, _) = self.c, x.shape
        split = lambda t, h: t.view(B, T, h, c.head_dim).transpose(1, 2)
        q, k, v = split(self.q_proj(x), c.heads), split(self.k_proj(x), c.kv_heads), split(self.v_proj(x), c.kv_heads)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        k, v = (t.repeat_interleave(c.heads // c.kv_heads, 1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c.dim, c.ff, bias=False)
        self.up_proj = nn.Linear(c.dim, c.ff, bias=False)
        self.down_proj = nn.Linear(c.ff, c.dim, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm, self.self_attn = RMSNorm(c.dim, c.eps), Attention(c)
        self.post_attention_layernorm, self.mlp = RMSNorm(c.dim, c.eps), MLP(c)

    def forward(self, x, cos, sin, mask):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, self.model = c, nn.Module()
        self.model.embed_tokens = nn.Embedding(c.vocab, c.dim)
        self.model.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.model.norm = RMSNorm(c.dim, c.eps)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                scale = (2 * c.layers) ** -.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1
                nn.init.normal_(p, std=.02 if "embed" in name else scale * c.dim ** -.5 * .7)
        freq = c.theta ** (-torch.arange(0, c.head_dim, 2).float() / c.head_dim)
        angle = torch.arange(c.context).float()[:, None] * freq
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def hidden(self, ids, mask=None):
        """ids [batch, time] -> final hidden states [batch, time, dim]."""
        x = self.model.embed_tokens(ids)
        cos, sin = self.cos[:ids.shape[1]].to(x.dtype), self.sin[:ids.shape[1]].to(x.dtype)
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        return self.model.norm(x)

    def logits(self, h):
        return F.linear(h, self.model.embed_tokens.weight).float()

    def loss(self, ids, keep, target, one_document=False):
        """Mean loss over targets [n] at the flat positions keep [n]; -100 is ignored.

        one_document: no row has a second document, so plain causal attention will do.
        """
        mask = None
        if not one_document:
            document = (ids == self.c.eot).cumsum(1)
            mask = (document[:, :, None] == document[:, None, :]).tril()[:, None]
        h = self.hidden(ids, mask).flatten(0, 1).index_select(0, keep)
        return F.cross_entropy(self.logits(h), target)


def batch_of(rows, multiple=256):
    """Rows [batch, context + 1] of the data -> ids, keep, target for Llama.loss.

    Only targets that count reach the output matrix. Their number is padded to a
    multiple, so that there are few distinct shapes (kernels are cached by shape).
    """
    target = rows[:, 1:].flatten()
    keep = (target < NOLOSS).nonzero().squeeze(1)
    pad = -len(keep) % multiple
    return (rows & ~NOLOSS)[:, :-1], F.pad(keep, (0, pad)), F.pad(target[keep], (0, pad), value=-100)
