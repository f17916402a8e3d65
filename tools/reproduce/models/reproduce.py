"""What recurrent models and attention cost, and what they can do with tokens that say nothing: the small trained models of
examples/models, measured.

    cargo build --release
    pip install "numpy==2.4.6" "matplotlib==3.11.2"
    python tools/reproduce/models/reproduce.py         (minutes on two cores; --quick: under one; --help has the flags)

All models have the same size and saw the same text. Three parts:

    score    bits per byte of a text that none was trained on, and the bytes of state that a sequence holds
    filler   after every byte of the text come k - 1 tokens that say nothing. Time, state, and bits per byte of the text itself,
             counted over its own bytes only: for `filler` the token is always the same byte, for `noise` it is drawn. A model
             without memory of its own for what matters pays for each of them
    length   prefill and decode over the length of the prompt, and the state after it

Prints the page models.md and writes it to --output with models.svg; progress goes to stderr.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
import command  # noqa: E402
from command import Binary, Parser, progress, tensorfile  # noqa: E402
from page import table  # noqa: E402

MODELS = command.ROOT / "examples" / "models"
TEXT = MODELS / "persuasion.txt"
FILLER = ord("~")  # a byte that the training text does not have


class Models(Binary):
    """Runs `subquad model` on the folders."""

    def __init__(self, args, folder):
        super().__init__(args, folder)
        self.names = args.models

    def model(self, verb, name, *words):
        where = [] if verb == "inspect" else self.where
        return json.loads(self.call([self.path, "model", verb, MODELS / name, "--json", *where, *words]))

    def state(self, name, length):
        return self.model("inspect", name, "--len", length)["state_bytes"]

    def logits(self, name, tokens):
        """(logits, seconds) of a row of tokens."""
        source, target = self.folder / "tokens.safetensors", self.folder / "logits.safetensors"
        tensorfile.save(source, {"tokens": tokens.astype(np.int32)})
        said = self.model("run", name, "--input", source, "--output", target, "--quiet")
        return tensorfile.load(target)[0]["logits"], said["seconds"]


def bits(logits, tokens, wanted):
    """Mean bits of the wanted tokens, each from the row before it."""
    rows, targets = logits[wanted - 1].astype(np.float64), tokens[wanted]
    top = rows.max(axis=1)
    sums = np.log(np.exp(rows - top[:, None]).sum(axis=1)) + top
    return float(np.mean(sums - rows[np.arange(len(rows)), targets]) / np.log(2))


def spread(text, k, kind):
    """(tokens, places of the text's bytes): k - 1 tokens behind every byte."""
    tokens = np.full(len(text) * k, FILLER)
    if kind == "noise":
        tokens = np.random.default_rng(7).integers(32, 127, len(text) * k)
    tokens[::k] = text
    return tokens, np.arange(0, len(tokens), k)


def scores(models, text):
    rows = []
    for name in models.names:
        progress(f"score: {name}")
        said = models.model("score", name, "--input", text)
        inspected = models.model("inspect", name)
        states = [f"{models.state(name, length):,}" for length in (256, 1024, 4096)]
        rows.append([name, f"{inspected['parameters']:,}", f"{said['bits_per_byte']:.3f}", *states])
    return rows


def fillers(models, text, steps):
    """name -> kind -> [(k, bits, seconds, state bytes)]."""
    found = {}
    for name in models.names:
        for kind in ("filler", "noise"):
            for k in steps:
                progress(f"{kind}: {name}, k = {k}")
                tokens, places = spread(text, k, kind)
                logits, seconds = models.logits(name, tokens)
                point = (k, bits(logits, tokens, places[1:]), seconds, models.state(name, len(tokens)))
                found.setdefault(name, {}).setdefault(kind, []).append(point)
    return found


def lengths(models, steps, repeats):
    """name -> [(length, prefill seconds, decode seconds per token, state bytes)]."""
    found = {}
    for name in models.names:
        progress(f"length: {name}")
        words = ["--lengths", ",".join(map(str, steps)), "--tokens", 32, "--repeats", repeats]
        rows = models.model("bench", name, *words)["rows"]
        found[name] = [(row["length"], row["prefill_seconds"], row["decode_seconds_per_token"],
                        models.state(name, row["length"])) for row in rows]
    return found


def page(args, place, scored, filled, timed):
    k = [f"k = {point[0]}" for point in next(iter(filled.values()))["filler"]]
    n = [f"{point[0]}" for point in next(iter(timed.values()))]
    each = lambda at, text: [[name, *(text(point[at]) for point in points)] for name, points in timed.items()]  # noqa: E731

    def of(kind, at, text):
        return [[name, *(text(point[at]) for point in kinds[kind])] for name, kinds in filled.items()]

    lines = [
        "# Recurrent models and attention, measured",
        f"{place}. One run of each; times are the least of {args.repeats}. Models: examples/models; text: "
        f"{TEXT.relative_to(command.ROOT)}.",
        "## Bits per byte, and state",
        table(["model", "parameters", "bits/byte", "state bytes at 256", "1024", "4096"], scored),
        "## Tokens that say nothing",
        f"Behind every byte of the first {args.bytes} of the text come k - 1 more tokens. Bits per byte of the text's own bytes, "
        "with the same byte as filler:",
        table(["model", *k], of("filler", 1, "{:.2f}".format)),
        "with random bytes:",
        table(["model", *k], of("noise", 1, "{:.2f}".format)),
        "Seconds for all tokens:",
        table(["model", *k], of("filler", 2, "{:.2f}".format)),
        "Bytes of state:",
        table(["model", *k], of("filler", 3, "{:,}".format)),
        "## Length",
        "Milliseconds of a prompt:",
        table(["model", *n], each(1, lambda x: f"{1e3 * x:.1f}")),
        "Milliseconds of a token behind it:",
        table(["model", *n], each(2, lambda x: f"{1e3 * x:.3f}")),
        "Bytes of state:",
        table(["model", *n], each(3, "{:,}".format)),
    ]
    return "\n\n".join(lines) + "\n"


def draw(path, filled, timed):
    from plots import STYLES, legend, plt, save, ticks

    figure, panels = plt.subplots(1, 4, figsize=(17, 4.6), constrained_layout=True)
    looks = dict(zip(filled, STYLES))

    def lines(ax, curves, x, y, title, log=True):
        for name, points in curves.items():
            colour, dashes, marker = looks[name]
            ax.plot(*zip(*points), color=colour, linestyle=dashes, marker=marker, markersize=5, label=name)
        ax.set(xscale="log", xlabel=x, ylabel=y, title=title, yscale="log" if log else "linear")
        ticks(ax.xaxis, sorted({point[0] for points in curves.values() for point in points}))
        legend(ax, columns=2)

    for ax, kind in zip(panels, ("filler", "noise")):
        lines(ax, {name: [point[:2] for point in kinds[kind]] for name, kinds in filled.items()},
              f"k: tokens per byte of the text ({kind})", "bits per byte of the text", f"Tokens that say nothing: {kind}", False)
    lines(panels[2], {name: [(point[0], 1e3 * point[2]) for point in points] for name, points in timed.items()},
          "tokens before", "ms per token", "Decoding")
    lines(panels[3], {name: [(point[0], point[3]) for point in points] for name, points in timed.items()},
          "tokens before", "bytes", "State of a sequence")
    save(figure, path, "models")


def main():
    parser = Parser(description=__doc__.split("\n\n")[0])
    command.add_arguments(parser, "models")
    parser.add_argument("--models", nargs="+", default=["attention", "ssd", "hybrid", "slayformer"], metavar="NAME")
    parser.add_argument("--bytes", type=command.count, default=2048, help="of the text, for fillers (default: 2048)")
    parser.add_argument("--repeats", type=command.count, default=3)
    parser.add_argument("--quick", action="store_true", help="short texts, few points")
    args = parser.parse_args()
    command.prepare(args)
    fillings, prompts = [1, 2, 4, 8], [128, 512, 2048, 8192]
    if args.quick:
        args.bytes, args.repeats, fillings, prompts = 256, 1, [1, 2], [64, 128]
    for name in args.models:
        if not (MODELS / name / "model.safetensors").is_file():
            sys.exit(f"--models {name}: examples/models has no weights of that name")
    with tempfile.TemporaryDirectory() as folder:
        models = Models(args, folder)
        text = np.frombuffer(TEXT.read_bytes()[: args.bytes], np.uint8).astype(np.int64)
        scored = scores(models, TEXT)
        filled = fillers(models, text, fillings)
        timed = lengths(models, prompts, args.repeats)
        target = models.model("run", args.models[0], "--text", "x", "--quiet")["target"]
    written = page(args, f"{target}; load {command.load():.1f}", scored, filled, timed)
    print(written)
    (args.output / "models.md").write_text(written)
    files = [args.output / f"models.{kind}" for kind in (["svg", "png"] if args.png else ["svg"])]
    draw(files, filled, timed)


if __name__ == "__main__":
    main()
