"""Times subquad and the libraries users would otherwise choose, in turns and at the same shapes, and prints one table.

    pip install "numpy==2.4.6" "onnx==1.23.2" "onnxruntime==1.32.0" "torch==2.15.0" "transformers==5.23.0"
                                               (and fla-core==0.6.0: on NVIDIA, and for linear-gated)
    cargo build --release --example turns
    python tools/peers/peers.py                                      (every operator, the cpu backend, two threads, f32)
    python tools/peers/peers.py softmax --causal --length 1024,4096
    python tools/peers/peers.py --device cuda --dtype f16 --output h200.md

--device cpu: the cpu backend against onnxruntime, torch and implementations in torch. --device cuda: an adapter against
torch and fla-core on the same GPU, both with eager calls and as CUDA graphs. operators/ describes the forms, turns.py the
timing.

All start from the same tensors (numpy seed 1). Before a form is timed, its output is compared with ours: the relative RMS
must be under 2e-5 in f32, or four roundings of the storage type otherwise. A form that differs more is left out, and the
script exits with 1. The table shows the fastest form of each library; the lines below it list all forms tried.

A library that is not installed and a form that fails are listed with the reason and left out. Exit codes: 0 done; 1
something failed, an output differed, or --at-least was not reached; 2 usage.
"""

import argparse
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT / "tools")]

try:
    import numpy as np
except ImportError as error:
    sys.exit(f"peers.py needs numpy, and more to compare with ({error}): see its first lines for pip install")

import libraries  # noqa: E402
import operators  # noqa: E402
import table  # noqa: E402
import tensorfile  # noqa: E402
import turns  # noqa: E402
from case import Case, Refused, tolerance  # noqa: E402

BINARY = ROOT / "target" / "release" / "examples" / ("turns.exe" if sys.platform == "win32" else "turns")


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"peers.py: {message}\n")


def count(word):
    number = int(word) if word.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, found `{word}`")
    return number


def counts(words):
    return [count(word.strip()) for word in words.split(",")]


def arguments():
    parser = Parser(description="Times other libraries beside ours, in turns, at the same shapes.")
    names = sorted({entry.name for entry in operators.ENTRIES} | {entry.op for entry in operators.ENTRIES})
    parser.add_argument("ops", nargs="*", metavar="OP", help=f"all, or some of {', '.join(names)}")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--length", type=counts, help="N, or several: 1024,4096 (2048 for softmax, else 8192)")
    parser.add_argument("--heads", type=count, default=8)
    parser.add_argument("--dim", type=count, default=64)
    parser.add_argument("--batch", type=count, default=1)
    parser.add_argument("--rank", type=count, default=256, help="K, the rows that linformer projects to")
    parser.add_argument("--dtype", choices=["f32", "f16", "bf16"], default="f32", help="ours reads bf16 as f32")
    parser.add_argument("--causal", action=argparse.BooleanOptionalAction, help="one mask instead of an operator's own")
    parser.add_argument("--threads", type=count, default=2)
    parser.add_argument("--runs", type=count, default=7, help="turns of each")
    parser.add_argument("--adapter", help="of ours: a number, a part of a name, gpu (default on cuda) or cpu")
    parser.add_argument("--binary", type=Path, default=BINARY)
    parser.add_argument("--alone", action="store_true", help="time the others only; no binary needed")
    parser.add_argument("--every-form", action="store_true", help="time all forms of a library, not the fastest alone")
    parser.add_argument("--at-least", type=float, metavar="X", help="exit 1 if ours is less than X times as fast")
    parser.add_argument("--format", choices=list(table.FORMATS), help="by the extension of --output, or table")
    parser.add_argument("--output", type=Path, metavar="FILE", help="instead of standard output")
    args = parser.parse_args()

    for word in args.ops:
        if not operators.find(word):
            parser.error(f"no operator `{word}`; there are {', '.join(names)}")
    wanted = [entry for entry in operators.ENTRIES if not args.ops or any(entry in operators.find(w) for w in args.ops)]
    args.cases = [case for entry in wanted for case in cases(args, entry)]
    if not args.cases:
        parser.error(f"none of {', '.join(e.name for e in wanted)} is {'causal' if args.causal else 'without a mask'}")
    if args.output and (args.output.is_dir() or not args.output.absolute().parent.is_dir()):
        parser.error(f"--output {args.output}: not a file in a folder that is there")
    if not args.format:
        suffix = args.output.suffix[1:] if args.output else ""
        args.format = suffix if suffix in table.FORMATS else "table"
    if not args.adapter:
        args.adapter = "gpu" if args.device == "cuda" else "cpu"
    if not args.alone and not args.binary.is_file():
        sys.exit(f"peers.py: no {args.binary}: cargo build --release --example turns, or give --binary")
    # A name without a folder would be searched for on PATH.
    args.binary = args.binary.resolve()
    return args


def cases(args, entry):
    """One case per requested mask and length."""
    masks = entry.causal[: entry.masks] if args.causal is None else [m for m in entry.causal if m == args.causal]
    names = ("batch", "heads", "dim", "rank", "dtype", "device", "threads")
    same = {name: getattr(args, name) for name in names}
    lengths = args.length or [entry.length]
    return [Case(entry, causal=mask, length=length, **same) for length in lengths for mask in masks]


@dataclass
class Contender:
    """A form of a library in one mode; rms: relative RMS of its output against ours."""

    library: str
    way: str
    form: str
    clock: object = None
    rms: float = math.nan

    @property
    def by(self):
        return f", {self.way}" if self.way else ""

    def __str__(self):
        return f"{self.library} {self.form}{self.by}"


class Session:
    """One call of the script."""

    def __init__(self, args):
        self.args = args
        self.report = table.Report(table.machine(ROOT))
        self.failed = self.warned = False
        self.versions, self.want = {}, None
        needed = {p.library for case in args.cases for p in case.entry.peers if args.device in p.devices}
        for library in sorted(needed):
            try:
                self.versions[library] = libraries.load(library)
            except Exception as error:
                self.report.missing[library] = libraries.reason(error)
        if args.device == "cuda":
            self.open_cuda()
        if not self.versions:
            named = "; ".join(f"{name}: {reason}" for name, reason in self.report.missing.items())
            sys.exit(f"peers.py: nothing to compare with ({named})")
        self.report.about["peers"] = ", ".join(self.versions.values())
        how = "of one call" if args.device == "cpu" else f"of calls for {turns.TURN * 1e3:.0f} ms, between CUDA events"
        self.report.about["turns"] = f"{args.runs} each, one after another, {how}; {args.threads} threads"
        if table.load() > 0.5 * table.cores():
            self.note(f"warning: a load of {table.load():.2f} before the first turn: other work was running")

    def open_cuda(self):
        if "torch" not in self.versions:
            sys.exit(f"peers.py: --device cuda needs torch, which is missing ({self.report.missing['torch']})")
        found = libraries.cuda()
        if not found:
            sys.exit(f"peers.py: --device cuda: {self.versions['torch']} sees no CUDA device")
        self.gpu, self.report.about["cuda"] = found

    def note(self, text):
        self.report.notes.append(text)
        if self.args.output or self.args.format == "csv":
            print(text, file=sys.stderr)

    def fail(self, text):
        self.failed = True
        self.note(text)

    def contenders(self, case, label, arrays):
        """The forms to time, all with correct outputs."""
        found, tried = [], False
        for peer in case.entry.peers:
            if case.device not in peer.devices or peer.library not in self.versions:
                continue
            tried = True
            try:
                forms = peer.build(case, *arrays)
            except Refused as error:
                self.note(f"{label}: {peer.library} left out: {error}")
                continue
            except Exception as error:
                self.note(f"{label}: {peer.library} fails: {libraries.reason(error)}")
                continue
            for way in turns.WAYS[case.device]:
                ready = [self.prepare(case, label, peer.library, way, form) for form in forms]
                found += self.take(label, [contender for contender in ready if contender])
        if not tried:
            self.note(f"{label}: nothing to compare with is installed")
        elif not found:
            self.fail(f"{label}: nothing was left to compare with")
        return found

    def prepare(self, case, label, library, way, form):
        """A form with its clock, after the comparison; None if it fails or differs, with a message."""
        contender = Contender(library, way, form.name)
        try:
            contender.clock = turns.WAYS[case.device][way](form)
            result = contender.clock.result()
        except Exception as error:
            self.note(f"{label}: {contender} fails: {libraries.reason(error)}")
            return None
        if self.want is None:  # --alone: the first form replaces ours
            self.want = result
        contender.rms = turns.relative_rms(result, self.want)
        # Not <=, because it may be NaN.
        if not contender.rms < tolerance(form.numbers):
            self.fail(f"{label}: {contender} differs by a relative RMS of {contender.rms:.1e}, so it is not timed")
            return None
        return contender

    def take(self, label, ready):
        """The fastest form per library and mode."""
        if len(ready) < 2 or self.args.every_form:
            return ready
        seconds = turns.fastest([contender.clock for contender in ready])
        taken = ready[seconds.index(min(seconds))]
        tried = ", ".join(f"{c.form} {time * 1e3:.3g} ms" for c, time in zip(ready, seconds, strict=True))
        self.note(f"{label}: forms of {taken.library}{taken.by}: {tried}; taken: {taken.form}")
        return [taken]

    def ours(self, case, source, target=None):
        return turns.Ours(self.args.binary, self.args.adapter, case, source, target)

    def run(self, case):
        label = f"{case.entry.name}, {case.mask}, {case.shape}"
        print(f"{label}: comparing outputs", file=sys.stderr)
        tensors = case.tensors()
        self.want = None
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in.safetensors", Path(folder) / "out.safetensors"
            if self.args.alone:
                found = self.contenders(case, label, tensors.values())
                self.add(case, label, found, turns.alternate([c.clock for c in found], self.args.runs))
                return
            # Parameters stay f32; so does bf16, which subquad reads as f32.
            half = {name: x.astype(np.float16) for name, x in tensors.items() if name in case.entry.along(case)}
            tensorfile.save(source, tensors | (half if case.dtype == "f16" else {}), {"layout": "bhnd"})
            with self.ours(case, source, target) as once:
                once.turn()
            self.want = tensorfile.load(target)[0][case.entry.output].astype(np.float32)
            found = self.contenders(case, label, tensors.values())
            print(f"{label}: timing", file=sys.stderr)
            with self.ours(case, source) as ours:
                self.say_ours(ours)
                ours.turn()
                seconds = turns.alternate([*(c.clock for c in found), ours], self.args.runs)
                self.add(case, label, found, seconds, ours)

    def say_ours(self, ours):
        self.report.about["ours"] = f"{ours.on}; seconds: {ours.clock}"
        if self.args.device == "cuda" and self.gpu not in ours.on and not self.warned:
            self.warned = True
            self.note(f"warning: ours ran on {ours.on}, the others on {self.gpu}")

    def add(self, case, label, found, seconds, ours=None):
        """Rows of a case, ours first; `seconds` ends with ours."""
        same, rows = (case.entry.name, case.mask, case.shape), []
        if ours:
            dtype = "f32" if case.dtype == "bf16" else case.dtype
            rows.append(table.Row(*same, dtype, *table.OURS, seconds[-1], ours.cores()))
        for one, times in zip(found, seconds, strict=False):
            its = (one.library, self.versions[one.library], one.form, one.way)
            row = table.Row(*same, case.dtype, *its, times, one.clock.cores())
            if ours:
                row.rms = one.rms
                row.compare(seconds[-1])
                if self.args.at_least and row.ours_min < self.args.at_least:
                    self.fail(f"{label}: ours is {row.ours_min:.2f} times as fast as {row.implementation}")
            rows.append(row)
        self.report.rows += rows
        threads = min(self.args.threads, table.cores())
        few = [f"{row.implementation} {row.cores:.1f}" for row in rows if row.cores and row.cores < 0.8 * threads]
        if few:
            why = "other work is running, or there is little to do for so many; run this again"
            self.note(f"{label}: warning: busy of {threads} cores: {', '.join(few)}; {why}")


def main():
    args = arguments()
    session = Session(args)
    interrupted = False
    try:
        for case in args.cases:
            try:
                session.run(case)
            except turns.Failed as error:
                session.fail(f"{case.entry.name}, {case.mask}, {case.shape}: ours fails: {error}")
            libraries.tidy(case)
    except KeyboardInterrupt:
        interrupted = True
        session.note("interrupted: the rows below the last one are missing")
    text = table.FORMATS[args.format](session.report)
    if not session.report.rows:
        print("\n".join(session.report.notes), file=sys.stderr)
    elif args.output:
        args.output.write_text(text)
    else:
        print(text, end="")
    sys.exit(130 if interrupted else int(session.failed))


if __name__ == "__main__":
    main()
