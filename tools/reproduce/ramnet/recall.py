"""RAM-Net trained on associative recall (MQAR), beside linear and softmax attention of as many parameters.

    pip install "torch==2.15.0" "numpy==2.4.6" "safetensors==0.8.0" "matplotlib==3.11.2"
    python tools/reproduce/ramnet/recall.py --output DIR          (hours on one core; --quick: a minute; --help has the flags)

A sequence of 96 tokens has pairs of a key and a value, then every key once more in another order, among blanks; the model
answers a key with its value. Task: multi-query associative recall, arXiv 2312.04927, here with 512 tokens and 8, 16 or 32
pairs. A model has two layers, a causal convolution over four tokens and the mixer under test, so that one memory must hold
all pairs. Each is trained once on sequences of all three loads, and tested on fresh ones.

Points go to recall.json in --output as they are done, and a second run goes on from there. recall.svg and recall.md show them.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "train")]
import model as models  # noqa: E402

VOCABULARY, LENGTH, LOADS, WIDTH, HEADS = 512, 96, (8, 16, 32), 64, 2
PARAMETERS = 82000
BLANK = 0


def sequences(rng, pairs, count):
    """(tokens, answers) [count, LENGTH]: an answer is the value at a query, -1 elsewhere.

    Keys are tokens 1 to 255, without repetition in a sequence; values are tokens 256 to 511.
    """
    keys = 1 + rng.permuted(np.tile(np.arange(VOCABULARY // 2 - 1), (count, 1)), axis=1)[:, :pairs]
    values = rng.integers(VOCABULARY // 2, VOCABULARY, size=(count, pairs))
    tokens, answers = np.full((count, LENGTH), BLANK), np.full((count, LENGTH), -1)
    tokens[:, : 2 * pairs : 2], tokens[:, 1 : 2 * pairs : 2] = keys, values
    free = np.tile(np.arange(2 * pairs, LENGTH), (count, 1))
    places = rng.permuted(free, axis=1)[:, :pairs]
    np.put_along_axis(tokens, places, keys, 1)
    np.put_along_axis(answers, places, values, 1)
    return torch.from_numpy(tokens), torch.from_numpy(answers)


def mixers():
    """Name -> settings of the mixer under test, in the order in which they are trained."""
    # A token reads and writes an eighth of the slots, from 8 to 64 of them. With 8 of 256 the addresses of a key and of its query
    # hardly meet before training, and what does not meet has no gradient: that model stays at chance for 2000 steps.
    ramnet = {f"ramnet {4**u}": {"mixer": "ramnet", "heads": HEADS, "head_dim": 4 * u, "value_dim": WIDTH // HEADS,
                                 "topk": min(64, max(8, 4**u // 8))} for u in (2, 3, 4, 5)}
    linear = {f"linear {d}": {"mixer": "linear", "heads": HEADS, "head_dim": d, "value_dim": WIDTH // HEADS}
              for d in (32, 128)}
    return {"softmax": {"mixer": "softmax", "heads": HEADS}, "ramnet 64": ramnet.pop("ramnet 64"),
            "linear 32": linear.pop("linear 32")} | ramnet | linear


def state_bytes(layer):
    """Bytes in f32 of what the mixer keeps of a sequence: keys and values of all tokens, or its state and norm or mass."""
    heads, value = layer["heads"], layer.get("value_dim", WIDTH // HEADS)
    if layer["mixer"] == "softmax":
        return 4 * LENGTH * heads * 2 * value
    rows = 4 ** (layer["head_dim"] // 4) if layer["mixer"] == "ramnet" else layer["head_dim"]
    return 4 * heads * rows * (value + 1)


def build(layer):
    """The model, with the width of its MLPs chosen so that all have about PARAMETERS numbers."""
    config = {"model_type": "subquad", "vocab_size": VOCABULARY, "hidden_size": WIDTH, "causal": True, "norm": "rms",
              "norm_eps": 1e-5, "positions": "none", "tie_embeddings": True, "head": "lm",
              "layers": [{"mixer": "conv1d", "conv": 4}, layer], "mlp": {"kind": "gelu", "hidden": 64}}
    each = 2 * 2 * WIDTH
    config["mlp"]["hidden"] += round((PARAMETERS - models.Model(config).count()[0]) / each)
    return models.Model(config)


def train(layer, args):
    """A trained model and the mean loss of its last steps in nats."""
    torch.manual_seed(args.seed)
    rng, model = np.random.default_rng(args.seed), build(layer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=0.01, fused=True)
    last = []
    for step in range(args.steps):
        share = min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        for group in optimizer.param_groups:
            group["lr"] = args.rate * share
        parts = [sequences(rng, pairs, args.batch) for pairs in LOADS]
        tokens, answers = (torch.cat(x) for x in zip(*parts))
        asked = answers >= 0
        loss = F.cross_entropy(model(tokens)[asked], answers[asked])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        last = (last + [loss.item()])[-50:]
        if step % 100 == 99:
            print(f"  step {step + 1}: {sum(last) / len(last):.3f}", file=sys.stderr, flush=True)
    return model, sum(last) / len(last)


@torch.no_grad()
def accuracy(model, args):
    """Pairs -> share of right answers on fresh sequences."""
    rng, found = np.random.default_rng(args.seed + 1), {}
    for pairs in LOADS:
        tokens, answers = sequences(rng, pairs, args.tested)
        asked = answers >= 0
        found[pairs] = round((model(tokens)[asked].argmax(-1) == answers[asked]).float().mean().item(), 4)
    return found


def draw(points, path):
    """Accuracy over bytes of state: a panel per load."""
    from plots import STYLES, legend, plt, save

    figure, axes = plt.subplots(1, len(LOADS), figsize=(12, 4.2), sharey=True)
    for ax, pairs in zip(axes, LOADS):
        for (kind, title), (colour, dashes, marker) in zip(
                {"ramnet": "RAM-Net", "linear": "linear", "softmax": "softmax"}.items(), STYLES):
            line = sorted((x["state_bytes"], x["accuracy"][str(pairs)]) for name, x in points.items()
                          if x["kind"] == kind and name in mixers())
            if line:
                ax.plot(*zip(*line), color=colour, linestyle=dashes, marker=marker, label=title)
        ax.set(xscale="log", ylim=(-0.02, 1.04), xlabel="bytes of state", title=f"{pairs} pairs")
        legend(ax, columns=3)
    axes[0].set_ylabel("accuracy")
    figure.subplots_adjust(left=0.06, right=0.985, top=0.9, bottom=0.24, wspace=0.08)
    save(figure, path, "recall")


def page(points):
    """recall.md: one row per model."""
    from page import table

    rows = [[name, f"{x['state_bytes']:,}", f"{x['parameters']:,}", *(f"{x['accuracy'][str(p)]:.3f}" for p in LOADS),
             f"{x['loss']:.3f}", x["steps"], x["seconds"]]
            for name, x in sorted(points.items(), key=lambda x: (x[1]["kind"], x[1]["state_bytes"]))]
    header = ["mixer", "bytes of state", "parameters", *(f"{p} pairs" for p in LOADS), "loss (nats)", "steps", "seconds"]
    lines = [f"# Associative recall, trained: accuracy over bytes of state\n\n{__doc__.split(chr(10) * 2)[2]}\n",
             table(header, rows), "\nA number behind a name is slots per head (ramnet) or key features per head (linear). A token reads and writes K slots:"
             " 8 of 16, 64, 32 of 256, 64 of 1024, unless a row says another. Seconds are of one thread on a shared machine. The"
             " paper gives no figures of this kind; these are ours.",
             "\n![accuracy over bytes of state](recall.svg)\n"]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description="Associative recall of trained models over the bytes of their state.")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--only", action="append", metavar="NAME", help=f"some of: {', '.join(mixers())}")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=16, help="sequences of each load per step (16)")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate (0.003)")
    parser.add_argument("--tested", type=int, default=500, help="sequences of each load of the test (500)")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="20 steps: does it run")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.tested = 20, 20
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    kept = args.output / "recall.json"
    points = json.loads(kept.read_text()) if kept.exists() else {}
    for name, layer in mixers().items():
        if name in points or (args.only and name not in args.only):
            continue
        begun = time.perf_counter()
        model, loss = train(layer, args)
        points[name] = {"kind": layer["mixer"], "state_bytes": state_bytes(layer), "parameters": model.count()[0],
                        "accuracy": {str(p): x for p, x in accuracy(model, args).items()}, "loss": round(loss, 4),
                        "steps": args.steps, "batch": args.batch * len(LOADS), "rate": args.rate, "seed": args.seed,
                        "seconds": round(time.perf_counter() - begun)}
        kept.write_text(json.dumps(points, indent=1) + "\n")
        print(name, points[name], flush=True)
    draw(points, args.output / "recall.svg")
    (args.output / "recall.md").write_text(page(points), encoding="utf-8")


if __name__ == "__main__":
    main()
