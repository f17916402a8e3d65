"""The table and the loss curves of trained models: examples/models/training.md and training.svg.

    pip install "torch==2.15.0" "numpy==2.4.6" "safetensors==0.8.0" "matplotlib==3.11.2"
    python tools/train/report.py examples/models/attention:target/train/attention [FOLDER:WORK ..]

WORK is the folder with log.jsonl of tools/train/train.py. A run that was stopped and went on from an earlier checkpoint has
some steps twice; the last one counts.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tools" / "reproduce"))
import data  # noqa: E402
import model as models  # noqa: E402
from evaluate import bits_per_byte  # noqa: E402
from page import table  # noqa: E402
from plots import STYLES, legend, plt, save  # noqa: E402


class Log:
    """start: settings of the last start; losses, tests: step -> line."""

    def __init__(self, path):
        self.start, self.losses, self.tests = {}, {}, {}
        for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            if "begun" in line:
                self.start = line
            else:
                (self.losses if "bits" in line else self.tests)[line["step"]] = line

    def smooth(self, share=0.1):
        """(millions of bytes, bits per byte) of an exponential mean of the training losses."""
        points, mean = [], None
        for step in sorted(self.losses):
            bits = self.losses[step]["bits"]
            mean = bits if mean is None or len(points) < 3 else (1 - share) * mean + share * bits
            points.append((self.losses[step]["bytes"] / 1e6, mean))
        return points


def draw(logs, path):
    figure, ax = plt.subplots(figsize=(8, 5))
    for (name, log), (colour, _, marker) in zip(logs.items(), STYLES):
        tests = [(log.tests[step]["bytes"] / 1e6, log.tests[step]["held_out"]) for step in sorted(log.tests)]
        ax.plot(*zip(*log.smooth()), color=colour, linewidth=1.2, label=f"{name}, training")
        ax.plot(*zip(*tests), color=colour, linestyle="none", marker=marker, markersize=5, label=f"{name}, held out")
    ax.set(xlabel="millions of bytes seen", ylabel="bits per byte", ylim=(1.4, 4), xlim=(0, None))
    legend(ax, columns=4, below=0.12)
    figure.subplots_adjust(left=0.08, right=0.98, top=0.97, bottom=0.24)
    save(figure, path, "training")


def row(name, folder, log, held_out, excerpt):
    model, last = models.load(folder), log.losses[max(log.losses)]
    total, trained = model.count()
    return [name, f"{total:,}", f"{trained:,}", f"{(folder / 'model.safetensors').stat().st_size:,}", f"{last['bytes']:,}",
            f"{last['cpu']:,}", f"{bits_per_byte(model, held_out, log.start['length']):.4f}",
            f"{bits_per_byte(model, excerpt, len(excerpt)):.4f}"]


def main():
    parser = argparse.ArgumentParser(description="Table and loss curves of trained models.")
    parser.add_argument("runs", nargs="+", metavar="FOLDER:WORK")
    parser.add_argument("--package", type=Path, default=data.PACKAGE, metavar="DIR", help="the text, see data.py")
    parser.add_argument("--output", type=Path, default=ROOT / "examples" / "models", metavar="DIR")
    args = parser.parse_args()
    torch.set_num_threads(1)
    _, held_out = data.texts(args.package)
    logs, rows = {}, []
    for run in args.runs:
        folder, work = map(Path, run.rsplit(":", 1))
        logs[folder.name] = Log(work / "log.jsonl")
        rows.append(row(folder.name, folder, logs[folder.name], held_out, data.excerpt(held_out)))
        print(*rows[-1], file=sys.stderr, flush=True)
    length = next(iter(logs.values())).start["length"]
    header = ["model", "numbers", "trained", "bytes of the file", "bytes seen", "CPU seconds",
              f"held out, windows of {length}", "excerpt, one piece"]
    (args.output / "training.md").write_text(table(header, rows) + "\n", encoding="utf-8")
    draw(logs, args.output / "training.svg")


if __name__ == "__main__":
    main()
