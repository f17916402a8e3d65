"""Compares every mixer of tools/train with the operator of subquad, on the cpu backend, in f32.

    cargo build --release
    python tools/train/check.py [--binary target/release/subquad] [--models examples/models/ssd ..]

--models also compares the logits of whole models on the held-out excerpt. A relative RMS over 1e-5 anywhere ends it with exit
code 1. Lengths are no multiples of a chunk or a window.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import mixers  # noqa: E402
import model as models  # noqa: E402
import ramnet  # noqa: E402
import tensorfile  # noqa: E402

TOLERANCE = 1e-5
MODEL = {"hidden_size": 96, "positions": "none", "norm_eps": 1e-5, "layers": [None]}
LENGTH = 333


class Command:
    """Runs an operator of the command on tensors."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, Path(folder)

    def run(self, op, tensors, *flags):
        source = self.folder / "in.safetensors"
        tensorfile.save(source, {name: np.asarray(x.detach(), np.float32) for name, x in tensors.items()})
        return self.output("run", op, "--input", source, *flags)

    def logits(self, folder, text):
        source = self.folder / "text"
        source.write_bytes(text)
        return self.output("model", "run", folder, "--input", source, "--dtype", "f32")

    def output(self, *words):
        target = self.folder / "out.safetensors"
        command = [self.binary, *words, "--output", target, "--backend", "cpu", "--quiet"]
        subprocess.run([str(x) for x in command], check=True, stdout=subprocess.DEVNULL)
        return next(iter(tensorfile.load(target)[0].values()))


def drawn(*shape):
    return torch.randn(shape)


def cores(command):
    """(name, found, expected) of the cores, on q, k and v of normal numbers."""
    q, k, v = drawn(2, 4, LENGTH, 24), drawn(2, 2, LENGTH, 24), drawn(2, 2, LENGTH, 16)
    given = {"q": q, "k": k, "v": v}
    layer = {"heads": 4, "kv_heads": 2, "head_dim": 24, "value_dim": 16}
    for name, more, flags in (("softmax", {}, []), ("softmax", {"window": 100}, ["--window", 100]),
                              ("linear", {}, []), ("slay", {"nodes": 3, "anchors": 5}, [])):
        mixer = models.MIXERS[name](MODEL, layer | more)
        weights = {x: y for x, y in mixer.named_parameters() if x in ("anchors", "omega")}
        yield f"{name} {more}", mixer.core(q, k, v), command.run(name, given | weights, *flags)


def blocks(command):
    """(name, found, expected) of the convolution, and of all of Mamba-2 between its projections."""
    conv, x = mixers.Convolution(40, 4), drawn(2, LENGTH, 40)
    with torch.no_grad():
        conv.bias.normal_()
    given = {"x": x.transpose(1, 2), "weight": conv.weight, "bias": conv.bias}
    yield "conv1d", conv(x), command.run("conv1d", given).swapaxes(1, 2)

    mixer = mixers.Ssd(MODEL, {"heads": 6, "head_dim": 32, "state": 16, "groups": 2})
    kept = {}
    mixer.conv.register_forward_hook(lambda _, __, y: kept.update(conv=y))
    mixer.out_proj = mixers.Weight(torch.eye(mixer.inner))
    x = drawn(2, LENGTH, 96)
    found = mixer(x)
    z, _, dt = mixers.apply(mixer.in_proj, x).split([192, 256, 6], -1)
    x, b, c = kept["conv"].split([192, 32, 32], -1)
    given = {"x": x.unflatten(-1, (6, 32)), "dt": dt, "b": b.unflatten(-1, (2, 16)), "c": c.unflatten(-1, (2, 16)),
             "z": z.unflatten(-1, (6, 32)), "a_log": mixer.a_log, "d": mixer.d, "dt_bias": mixer.dt_bias}
    y = torch.from_numpy(command.run("ssd", given).copy()).flatten(2)
    yield "ssd", found, F.rms_norm(y.unflatten(-1, (2, 96)), (96,), None, 1e-5).flatten(2).numpy()


def memory(command):
    """(name, found, expected) of RAM-Net's memory."""
    for digits, topk, cape in ((2, 4, False), (3, 8, False), (5, 8, True)):
        q, k, v, gamma = drawn(2, 3, 65, 4 * digits), drawn(2, 3, 65, 4 * digits), drawn(2, 3, 65, 16), 3 * drawn(2, 3, 65)
        found = ramnet.memory(q, k, v, gamma, 4, topk, cape)
        flags = ["--choices", 4, "--topk", topk, "--cape", "all" if cape else "none"]
        given = {"q": q, "k": k, "v": v, "gamma": gamma}
        yield f"ramnet, {4**digits} slots, cape {cape}", found, command.run("ramnet", given, *flags)


def whole(command, folders):
    """(name, found, expected) of the logits [N, V] of models."""
    text = (HERE.parents[1] / "examples" / "models" / "persuasion.txt").read_bytes()[:777]
    tokens = torch.from_numpy(np.frombuffer(text, np.uint8).astype(np.int64))[None]
    for folder in folders:
        with torch.no_grad():
            yield str(folder), models.load(folder)(tokens)[0], command.logits(folder, text)


def main():
    parser = argparse.ArgumentParser(description="Compares the mixers with the operators of subquad.")
    parser.add_argument("--binary", type=Path, default=HERE.parents[1] / "target" / "release" / "subquad")
    parser.add_argument("--models", type=Path, nargs="+", default=[], metavar="FOLDER")
    args = parser.parse_args()
    torch.manual_seed(1)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        command = Command(args.binary, folder)
        parts = (cores(command), blocks(command), memory(command), whole(command, args.models))
        for part in parts:
            for name, found, expected in part:
                found, expected = found.detach().numpy().astype(np.float64), expected.astype(np.float64)
                error = np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean())
                failed |= not error < TOLERANCE
                print(f"{name}: {error:.1e}")
    sys.exit("a mixer and its operator differ (bound 1e-5)" if failed else 0)


if __name__ == "__main__":
    main()
