"""Bits per byte of models on the held-out text, in f32 on weights rounded to f16.

    python tools/train/evaluate.py examples/models/ssd [..] [--package DIR | --input FILE]
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

import data
import model as models


@torch.no_grad()
def bits_per_byte(model, text, length, batch=8):
    """In windows of `length` bytes that lie one after another; the first byte of each window is not predicted.

    A text that is no longer than length is one window.
    """
    tokens = torch.from_numpy(np.frombuffer(text, np.uint8).astype(np.int64))
    length = min(length, len(tokens))
    rows = tokens[: len(tokens) // length * length].view(-1, length)
    bits = 0.0
    for some in rows.split(batch):
        logits = model(some[:, :-1])
        bits += F.cross_entropy(logits.flatten(0, 1), some[:, 1:].flatten(), reduction="sum").item() / math.log(2)
    return bits / (rows.shape[0] * (length - 1))


def main():
    parser = argparse.ArgumentParser(description="Bits per byte of models on a text.")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--package", type=Path, default=data.PACKAGE, metavar="DIR", help="the held-out text, see data.py")
    parser.add_argument("--input", type=Path, metavar="FILE", help="a text instead")
    parser.add_argument("--length", type=int, default=256, help="bytes of a window (256)")
    args = parser.parse_args()
    text = args.input.read_bytes() if args.input else data.texts(args.package)[1]
    for folder in args.folders:
        begun, model = time.perf_counter(), models.load(folder)
        found = bits_per_byte(model, text, args.length)
        print(f"{folder}: {found:.4f} bits per byte in windows of {args.length} of {len(text)} bytes, "
              f"{model.count()[0]} parameters, {time.perf_counter() - begun:.1f} s", flush=True)


if __name__ == "__main__":
    main()
