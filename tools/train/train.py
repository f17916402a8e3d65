"""Trains a language model over bytes and writes its weights beside its config.json.

    pip install "torch==2.15.0" "numpy==2.4.6" "safetensors==0.8.0"
    python tools/train/train.py examples/models/ssd --work target/train/ssd      (--help has the flags)

The same command goes on from the last checkpoint in --work. Progress is one JSON object per line in --work/log.jsonl.
The learning rate rises over the first steps, stays, and falls to zero along a cosine over the last share of the steps, so
that more bytes can be asked for as long as it has not begun to fall.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import torch
from torch.nn import functional as F

import data
import model as models
from evaluate import bits_per_byte


def rate(step, steps, args):
    """The learning rate of a step, as a share of the highest."""
    falling = max(1, round(args.decay * steps))
    left = (steps - step) / falling
    fall = 1.0 if left >= 1 else 0.5 * (1 - math.cos(math.pi * left))
    return min(1.0, (step + 1) / args.warmup) * fall


def optimizer(model, args):
    """AdamW; weight decay only for the weights of projections."""
    groups = {True: [], False: []}
    for name, x in model.named_parameters():
        if x.requires_grad:
            groups[x.ndim == 2 and name != "embed.weight"].append(x)
    return torch.optim.AdamW([{"params": groups[True], "weight_decay": args.weight_decay},
                              {"params": groups[False], "weight_decay": 0.0}],
                             lr=args.rate, betas=(0.9, args.beta2), fused=True)


class Run:
    """A model in training, its checkpoint, and its log."""

    def __init__(self, args, training):
        torch.manual_seed(args.seed)
        self.args, self.model = args, models.Model(models.read_config(args.folder))
        self.optimizer = optimizer(self.model, args)
        self.crops = data.Crops(training, args.length, args.batch, args.seed)
        self.step, self.seconds, self.cpu = 0, 0.0, 0.0
        self.checkpoint = args.work / "checkpoint.pt"
        if self.checkpoint.exists():
            self.restore()
        self.forward = torch.compile(self.model) if args.compile else self.model

    def restore(self):
        kept = torch.load(self.checkpoint, weights_only=False)
        self.model.load_state_dict(kept["model"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.crops.restore(kept["crops"])
        self.step, self.seconds, self.cpu = kept["step"], kept["seconds"], kept["cpu"]

    def keep(self):
        """Writes the checkpoint beside the old one, then replaces it: a stop at any time loses no more than some steps."""
        written = self.checkpoint.with_suffix(".new")
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step,
                    "crops": self.crops.state(), "seconds": self.seconds, "cpu": self.cpu}, written)
        os.replace(written, self.checkpoint)

    def log(self, **what):
        with open(self.args.work / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")

    def update(self, steps):
        """One step; returns the mean loss in bits per byte."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.rate * rate(self.step, steps, self.args)
        tokens = torch.from_numpy(next(self.crops))
        loss = F.cross_entropy(self.forward(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.args.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item() / math.log(2)


def train(args):
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    training, held_out = data.texts(args.package)
    run, sample = Run(args, training), held_out[: args.sample]
    steps = math.ceil(args.bytes / (args.batch * args.length))
    total, trained = run.model.count()
    run.log(begun=run.step, steps=steps, parameters=total, trained=trained, seed=args.seed, rate=args.rate,
            batch=args.batch, length=args.length, warmup=args.warmup, decay=args.decay)
    losses, kept, (wall, cpu) = [], time.monotonic(), (time.monotonic(), time.process_time())

    def measure():
        nonlocal wall, cpu
        now = time.monotonic(), time.process_time()
        run.seconds, run.cpu, (wall, cpu) = run.seconds + now[0] - wall, run.cpu + now[1] - cpu, now

    while run.step < steps:
        losses.append(run.update(steps))
        measure()
        if run.step % args.every == 0 or run.step == steps:
            run.log(step=run.step, bytes=run.step * args.batch * args.length, bits=round(sum(losses) / len(losses), 4),
                    seconds=round(run.seconds), cpu=round(run.cpu))
            losses = []
        if run.step % args.test == 0 or run.step == steps:
            run.log(step=run.step, bytes=run.step * args.batch * args.length,
                    held_out=round(bits_per_byte(run.model, sample, args.length), 4))
            measure()
        if time.monotonic() - kept > args.keep or run.step == steps:
            run.keep()
            kept = time.monotonic()
    models.save(run.model, args.folder / "model.safetensors",
                {"format": "pt", "seed": args.seed, "bytes_seen": run.step * args.batch * args.length})


def main():
    parser = argparse.ArgumentParser(description="Trains a model of bytes described by FOLDER/config.json.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="checkpoint and log")
    parser.add_argument("--package", type=Path, default=data.PACKAGE, metavar="DIR", help="the text, see data.py")
    parser.add_argument("--bytes", type=int, default=4 << 20, help="bytes seen in training (4194304)")
    parser.add_argument("--batch", type=int, default=4, help="sequences per step (4)")
    parser.add_argument("--length", type=int, default=256, help="bytes per sequence (256)")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate (0.003)")
    parser.add_argument("--warmup", type=int, default=100, help="steps of the rise of the learning rate (100)")
    parser.add_argument("--decay", type=float, default=0.4, help="share of the steps over which it falls (0.4)")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--beta2", type=float, default=0.98)
    parser.add_argument("--clip", type=float, default=1.0, help="largest norm of the gradient (1)")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="torch.compile; needs a C++ compiler")
    parser.add_argument("--every", type=int, default=20, help="steps between lines of the log (20)")
    parser.add_argument("--test", type=int, default=500, help="steps between tests on the held-out text (500)")
    parser.add_argument("--sample", type=int, default=8192, help="bytes of the held-out text of these tests (8192)")
    parser.add_argument("--keep", type=float, default=60, help="seconds between checkpoints (60)")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
