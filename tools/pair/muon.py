# SPDX-License-Identifier: Apache-2.0
"""Muon for the hidden matrices: momentum whose update is made nearly orthogonal.

Method and the coefficients of the iteration: Keller Jordan and others, "Muon: An
optimizer for hidden layers in neural networks" (2024), kellerjordan.github.io/posts/muon.
"""
import torch


def orthogonalise(g, steps=5):
    """Newton-Schulz on a stack of matrices [n, rows, cols], towards U V' of each SVD."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x, flip = g.bfloat16(), g.shape[1] > g.shape[2]
    if flip:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        y = x @ x.mT
        x = a * x + (b * y + c * (y @ y)) @ x
    return (x.mT if flip else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Matrices of one shape are updated together, as one stack."""
    def __init__(self, params, lr, momentum=.95, weight_decay=0.):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            lr, mu = group["lr"], group["momentum"]
            shapes = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for (rows, cols), ps in shapes.items():
                updates = []
                for p in ps:
                    m = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    m.lerp_(p.grad, 1 - mu)
                    updates.append(p.grad.lerp(m, mu))          # Nesterov
                for p, u in zip(ps, orthogonalise(torch.stack(updates))):
                    p.mul_(1 - lr * group["weight_decay"])
                    p.add_(u, alpha=-lr * max(1, rows / cols) ** .5)
