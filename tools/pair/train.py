#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train one model of the pair.

    train.py --preset small --tasks tasks.bin --books books.bin --out run/small --tokens 30e6

A step takes --task-rows rows of tasks and --book-rows rows of books and averages the
two losses. The learning rate warms up, holds, and falls linearly over the last part of
the schedule, which ends at --tokens or at --minutes, whichever comes first. The same
command again resumes from the last checkpoint (a changed end moves the schedule).

Runs on a CPU or on GPUs, data-parallel under torchrun. On a CPU two one-thread
processes beat one two-thread process, by far where the cores are shared:
    torchrun --nproc-per-node 2 train.py ... --compile

While the file --pause-file exists, training sleeps: `touch` it to have the machine to
yourself, remove it to go on.
"""
import argparse
import contextlib
import csv
import dataclasses
import os
import time

import numpy as np
import torch
import torch.distributed as dist

from export import read_gguf
from model import PRESETS, Llama, batch_of
from muon import Muon


class Rows:
    """Rows of a data file in a fixed random order, epoch after epoch."""
    def __init__(self, path, seed):
        # the width is not stored: every row begins with <|endoftext|> | NOLOSS
        self.seed, self.epoch = seed, -1
        ids = np.memmap(path, np.uint16, "r")
        width = next(w for w in (257, 513, 1025, 2049) if len(ids) % w == 0 and (ids[::w] == ids[0]).all())
        self.rows = ids.reshape(-1, width)

    def batch(self, step, size):
        out = []
        for i in range(step * size, (step + 1) * size):
            epoch, j = divmod(i, len(self.rows))
            if epoch != self.epoch:
                self.epoch, self.order = epoch, np.random.RandomState(self.seed + epoch).permutation(len(self.rows))
            out.append(self.rows[self.order[j]])
        return torch.from_numpy(np.stack(out).astype(np.int64))


def average_gradients(model, world):
    grads = [p.grad for p in model.parameters()]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    for g, part in zip(grads, (flat / world).split([g.numel() for g in grads])):
        g.copy_(part.view_as(g))


def optimizers(model, lr, embed_lr):
    """Muon for the hidden matrices, AdamW for the embedding and the norms."""
    hidden = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() == 1 or "embed" in n]
    return [Muon(hidden, lr=lr, weight_decay=.1),
            torch.optim.AdamW(others, lr=embed_lr, betas=(.9, .95), weight_decay=0.)]


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--preset", choices=PRESETS, required=True)
    ap.add_argument("--tasks", required=True)
    ap.add_argument("--books", required=True)
    ap.add_argument("--valid", nargs="*", default=[], help="data files to measure the loss on at every checkpoint")
    ap.add_argument("--out", required=True, help="directory for ckpt.pt and log.csv")
    ap.add_argument("--init", help="GGUF file of a model that is not larger, to start from")
    ap.add_argument("--tokens", type=float, default=1e12, help="end of the schedule, in tokens")
    ap.add_argument("--minutes", type=float, default=1e9, help="end of the schedule, in minutes of training")
    ap.add_argument("--task-rows", type=int, default=32, help="a step, all processes together")
    ap.add_argument("--book-rows", type=int, default=8, help="a step, all processes together")
    ap.add_argument("--lr", type=float, default=.02, help="of the hidden matrices (Muon)")
    ap.add_argument("--embed-lr", type=float, default=.004, help="of the embedding and the norms (AdamW)")
    ap.add_argument("--warmup", type=int, default=100, help="steps")
    ap.add_argument("--fall", type=float, default=.6, help="part of the schedule over which the rate falls")
    ap.add_argument("--threads", type=int, default=1, help="a process, on a CPU")
    ap.add_argument("--fp32", action="store_true", help="no bf16 autocast")
    ap.add_argument("--compile", action="store_true")
    ap.add_argument("--save-minutes", type=float, default=3)
    ap.add_argument("--pause-file", help="sleep while this file exists")
    ap.add_argument("--seed", type=int, default=0)
    return ap.parse_args()


@torch.no_grad()
def grow(model, path):
    """Start from the weights of a smaller model of the same width, so that it computes the same at first.

    It may have fewer layers and a smaller ff. The output matrices of what is new are
    zero, its input matrices keep their random values.
    """
    _, state = read_gguf(path)
    for name, p in model.named_parameters():
        old = state.get(name)
        if old is not None:
            if name.endswith("down_proj.weight"):
                p.zero_()
            p[tuple(slice(n) for n in old.shape)] = old
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            p.zero_()


class Trainer:
    def __init__(self, a):
        self.a, self.dev = a, "cuda" if torch.cuda.is_available() else "cpu"
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if self.world > 1:
            dist.init_process_group("nccl" if self.dev == "cuda" else "gloo")
            if self.dev == "cuda":
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.set_num_threads(a.threads)
        torch.manual_seed(a.seed)
        self.model = Llama(PRESETS[a.preset]).to(self.dev)
        if a.init:
            grow(self.model, a.init)
        self.opts = optimizers(self.model, a.lr, a.embed_lr)
        self.streams = [(Rows(a.tasks, a.seed), a.task_rows // self.world), (Rows(a.books, a.seed), a.book_rows // self.world)]
        self.per_step = sum(n * self.world * (s.rows.shape[1] - 1) for s, n in self.streams)
        self.loss_of = torch.compile(self.model.loss, dynamic=False) if a.compile else self.model.loss
        self.low = contextlib.nullcontext if a.fp32 else lambda: torch.autocast(self.dev, dtype=torch.bfloat16)
        self.ckpt, self.step, elapsed = os.path.join(a.out, "ckpt.pt"), 0, 0.
        if os.path.exists(self.ckpt):
            s = torch.load(self.ckpt, map_location=self.dev)
            self.model.load_state_dict(s["model"])
            for o, state in zip(self.opts, s["opts"]):
                o.load_state_dict(state)
            self.step, elapsed = s["step"], s["elapsed"]
        self.begun = time.time() - elapsed

    def minutes(self):
        return (time.time() - self.begun) / 60

    def pause(self):
        start = time.time()
        while self.a.pause_file and os.path.exists(self.a.pause_file):
            time.sleep(1)
        self.begun += time.time() - start

    def progress(self):
        p = max(self.step * self.per_step / self.a.tokens, self.minutes() / self.a.minutes)
        if self.world > 1:                          # the clocks differ: rank 0 decides
            t = torch.tensor(p, dtype=torch.float64, device=self.dev)
            dist.broadcast(t, 0)
            p = t.item()
        return p

    def set_rate(self, progress):
        rise, fall = (self.step + 1) / self.a.warmup, max(.01, (1 - progress) / self.a.fall)
        for o, lr in zip(self.opts, (self.a.lr, self.a.embed_lr)):
            for g in o.param_groups:
                g["lr"] = lr * min(1, rise, fall)
        return min(1, rise, fall)

    def inputs(self, rows):
        batch = batch_of(rows, multiple=(rows.shape[1] - 1) * len(rows) // 16)
        return [t.to(self.dev) for t in batch]

    def train_step(self):
        for o in self.opts:
            o.zero_grad(set_to_none=True)
        losses = []
        for (stream, n), one_document in zip(self.streams, (False, True)):
            inputs = self.inputs(stream.batch(self.step * self.world + self.rank, n))
            with self.low():
                loss = self.loss_of(*inputs, one_document)
            (loss / len(self.streams)).backward()
            losses.append(loss.item())
        if self.world > 1:
            average_gradients(self.model, self.world)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.)
        for o in self.opts:
            o.step()
        self.step += 1
        return np.array(losses)

    @torch.no_grad()
    def validate(self):
        """Mean loss a target of every --valid file."""
        out = []
        for path in self.a.valid:
            total = count = 0
            for rows in torch.from_numpy(np.array(Rows(path, 0).rows).astype(np.int64)).split(16):
                with self.low():
                    ids, keep, target = self.inputs(rows)
                    n = int((target >= 0).sum())
                    total, count = total + self.model.loss(ids, keep, target).item() * n, count + n
            out.append(total / count)
        return out

    def save(self):
        torch.save({"model": self.model.state_dict(), "opts": [o.state_dict() for o in self.opts], "step": self.step,
                    "elapsed": self.minutes() * 60, "config": dataclasses.asdict(self.model.c), "args": vars(self.a)},
                   self.ckpt + ".tmp")
        os.replace(self.ckpt + ".tmp", self.ckpt)

    def run(self):
        log = out = None
        if self.rank == 0:
            log = open(os.path.join(self.a.out, "log.csv"), "a", newline="")
            out = csv.writer(log)
            if log.tell() == 0:
                out.writerow(["step", "tokens", "minutes", "rate", "task_loss", "book_loss", *self.a.valid, "tokens_per_s"])
        mean, count, saved, mark, progress = 0., 0, self.minutes(), (self.step, time.time()), self.progress()
        while progress < 1:
            self.pause()
            rate = self.set_rate(progress)
            mean, count, progress = mean + self.train_step(), count + 1, self.progress()
            due = progress >= 1 or self.minutes() - saved >= self.a.save_minutes
            if self.rank or not (due or self.step % 20 == 0):
                continue
            speed = (self.step - mark[0]) * self.per_step / (time.time() - mark[1])
            v = self.validate() if due else [float("nan")] * len(self.a.valid)
            out.writerow([self.step, self.step * self.per_step, "%.2f" % self.minutes(), "%.3f" % rate,
                          *("%.4f" % x for x in mean / count), *("%.4f" % x for x in v), "%.0f" % speed])
            log.flush()
            print("step %d  %.2fM tokens  %.1f min  rate %.2f  tasks %.4f  books %.4f  %s %.0f tok/s" % (
                self.step, self.step * self.per_step / 1e6, self.minutes(), rate, *(mean / count),
                "valid " + " ".join("%.4f" % x for x in v) if due else "", speed), flush=True)
            mean, count, mark = 0., 0, (self.step, time.time())
            if due:
                self.save()
                saved = self.minutes()


def main():
    a = arguments()
    os.makedirs(a.out, exist_ok=True)
    t = Trainer(a)
    if t.rank == 0:
        print("%s: %.3fM parameters on %s, %d processes, %d tokens a step, from step %d" % (
            a.preset, sum(p.numel() for p in t.model.parameters()) / 1e6, t.dev, t.world, t.per_step, t.step), flush=True)
    t.run()


if __name__ == "__main__":
    main()
