"""Times whole models: transformers in torch beside `subquad model bench`, in turns, after their logits are compared.

    pip install "numpy==2.4.6" "torch==2.15.0" "transformers==5.24.0"
    cargo build --release
    python tools/peers/models.py                          (Mamba-2 of 130 M parameters with random weights)
    python tools/peers/models.py --folder DIR             (a model folder as published)
    python tools/peers/models.py --alone                  (torch only; no binary needed)

Random  hidden 768, 24 layers, 24 heads of 64, 128 states, one group, 50288 tokens, embedding tied to the head: 129 M f32
        parameters from torch seed 1, in a temporary folder (516 MB). Time does not depend on the values.
Prefill one forward pass over --length tokens from an empty cache; torch computes the logits of the last token only, as
        generate() does.
Decode  --tokens steps of one token each after that prefill, always the most likely token; the time is per token.
torch   eager, f32, --threads threads, inference mode. Without a GPU transformers has no kernels for Mamba and runs its own
        formulas in torch: in chunks for prefill, token by token for decoding.

The table is that of peers.py. Exit codes: 0 done; 1 logits differ by more than 1e-4 (relative RMS), or something failed;
2 usage.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT / "tools")]

import table  # noqa: E402
import tensorfile  # noqa: E402
import turns  # noqa: E402

BINARY = ROOT / "target" / "release" / ("subquad.exe" if sys.platform == "win32" else "subquad")
BOUND = 1e-4
COMPARED = 64  # tokens whose logits are compared


def libraries():
    """torch, and transformers without its messages and progress bars."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers


class Torch:
    """The model of a folder in torch."""

    def __init__(self, folder, threads):
        torch, transformers = libraries()
        torch.set_num_threads(threads)
        self.torch = torch
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}"
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.busy = self.spent = 0.0

    def logits(self, tokens):
        with self.torch.inference_mode():
            return self.model(self.torch.from_numpy(tokens[None])).logits[0].numpy()

    def clocked(self, call):
        start, busy = time.perf_counter(), time.process_time()
        result = call()
        seconds = time.perf_counter() - start
        self.busy, self.spent = self.busy + time.process_time() - busy, self.spent + seconds
        return result, seconds

    def turn(self, tokens, count):
        """Seconds of the prefill, and per token after it."""
        torch = self.torch
        last = None

        def step(ids, cache):
            kept = {} if cache is None else {"cache": cache}
            return self.model(ids, use_cache=True, logits_to_keep=1, **kept)

        def decode():
            nonlocal last
            for _ in range(count):
                last = step(last.logits[:, -1].argmax(-1, keepdim=True), last.cache)

        time.sleep(turns.PAUSE["cpu"])
        with torch.inference_mode():
            last, prefill = self.clocked(lambda: step(torch.from_numpy(tokens[None]), None))
            _, spent = self.clocked(decode)
        return prefill, spent / count


class Ours:
    """The command on the same folder."""

    def __init__(self, args, folder):
        self.args, self.folder = args, folder

    def call(self, verb, *words):
        target = ["--backend", self.args.backend] + (["--adapter", self.args.adapter] if self.args.adapter else [])
        command = [self.args.binary, "model", verb, self.folder, *words, *target]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"subquad model {verb}: {done.stderr.strip()}")
        return done.stdout

    def logits(self, tokens):
        with tempfile.TemporaryDirectory() as place:
            given, found = Path(place) / "tokens.safetensors", Path(place) / "logits.safetensors"
            tensorfile.save(given, {"tokens": tokens.astype(np.int32)})
            self.call("run", "--input", given, "--output", found, "--quiet")
            return tensorfile.load(found)[0]["logits"]

    def turn(self):
        """As Torch.turn. What `model bench --json` prints is read here and nowhere else."""
        words = ["--lengths", self.args.length, "--tokens", self.args.tokens, "--repeats", 1, "--json"]
        [row] = json.loads(self.call("bench", *words))["rows"]
        return row["prefill_seconds"], row["decode_seconds_per_token"]


def write(folder):
    """The random model."""
    torch, transformers = libraries()
    torch.manual_seed(1)
    config = transformers.Mamba2Config(
        hidden_size=768, num_hidden_layers=24, num_heads=24, head_dim=64, state_size=128, n_groups=1, expand=2,
        vocab_size=50288, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    transformers.Mamba2ForCausalLM(config).save_pretrained(folder)


def arguments():
    parser = argparse.ArgumentParser(description="Times transformers in torch beside `subquad model bench`.")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="a model as published (default: a random Mamba-2)")
    parser.add_argument("--length", type=int, default=1024, help="tokens of the prefill (default: 1024)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens decoded per turn (default: 64)")
    parser.add_argument("--runs", type=int, default=7, help="turns of each (default: 7)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    parser.add_argument("--backend", default="cpu", help="of ours (default: cpu)")
    parser.add_argument("--adapter", help="of ours")
    parser.add_argument("--binary", type=Path, default=BINARY)
    parser.add_argument("--alone", action="store_true", help="time torch only; no binary needed")
    parser.add_argument("--format", choices=list(table.FORMATS), default="table")
    args = parser.parse_args()
    if min(args.length, args.tokens, args.runs, args.threads) < 1:
        parser.error("--length, --tokens, --runs and --threads must be 1 or more")
    if not args.alone and not args.binary.is_file():
        parser.error(f"no {args.binary}: cargo build --release, give --binary, or --alone")
    return args


def main():
    args = arguments()
    report = table.Report(table.machine(ROOT))
    with contextlib.ExitStack() as stack:
        folder = args.folder
        if not folder:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
            write(folder)
        config = json.loads((folder / "config.json").read_text())
        theirs, ours = Torch(folder, args.threads), None if args.alone else Ours(args, folder)
        tokens = np.random.default_rng(1).integers(0, config["vocab_size"], args.length)
        rms = None
        if ours:
            few = tokens[:COMPARED]
            rms = turns.relative_rms(theirs.logits(few), ours.logits(few))
            if not rms < BOUND:
                sys.exit(f"logits differ by a relative RMS of {rms:.1e}, so nothing is timed")
        theirs.turn(tokens, 2)  # pages of the weights, and allocations
        theirs.busy = theirs.spent = 0.0
        found = {"ours": [], "theirs": []}
        for _ in range(args.runs):
            found["theirs"].append(theirs.turn(tokens, args.tokens))
            if ours:
                found["ours"].append(ours.turn())
        parameters = sum(parameter.numel() for parameter in theirs.model.parameters())
        cores = theirs.busy / theirs.spent
    report.about["model"] = f"{config['model_type']}, {parameters / 1e6:.0f} M parameters"
    report.about["turns"] = f"{args.runs} each, {args.threads} threads; torch was busy on {cores:.2f} cores"
    for index, (phase, count) in enumerate((("prefill", args.length), ("decode", 1))):
        shape = f"N={count}" if index == 0 else f"1 token after {args.length}"
        mine = [turn[index] for turn in found["ours"]]
        if mine:
            report.rows.append(table.Row(phase, "", shape, "f32", *table.OURS, mine))
        its = [turn[index] for turn in found["theirs"]]
        row = table.Row(phase, "", shape, "f32", "transformers", theirs.version, "eager", "", its, cores, rms)
        if mine:
            row.compare(mine)
        report.rows.append(row)
        for name, seconds in (("subquad", mine), ("transformers", its)):
            if seconds:
                rate = count / np.array(seconds)
                report.notes.append(f"{phase}: {name} {np.median(rate):.1f} tokens/s (median), {rate.max():.1f} at best")
    print(table.FORMATS[args.format](report), end="")


if __name__ == "__main__":
    main()
