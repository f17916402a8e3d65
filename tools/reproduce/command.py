"""Runs `subquad`, measures its process, and describes the machine. Used by the reproduce.py of each paper."""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import tensorfile  # noqa: E402


def say(text):
    print(text, flush=True)


def progress(text):
    print(text, file=sys.stderr, flush=True)


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"reproduce.py: {message}\n")


def count(word):
    number = int(word) if word.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, found `{word}`")
    return number


def positive(word):
    try:
        number = float(word)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number over 0, found `{word}`")
    return number


def add_arguments(parser, name):
    """The flags that every reproduction has: the binary, where it runs, where the results go."""
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "release" / "subquad")
    parser.add_argument("--output", type=Path, default=ROOT / "target" / "reproduce" / name, metavar="DIR")
    parser.add_argument("--backend", help="as in subquad run (cpu, unless --adapter names one)")
    parser.add_argument("--adapter", help="as in subquad run")
    parser.add_argument("--png", action="store_true", help=f"write {name}.png too")


def prepare(args):
    """Exits if a file or folder named by these flags cannot be used."""
    args.backend = args.backend or ("auto" if args.adapter else "cpu")
    if not args.binary.is_file():
        sys.exit(f"no {args.binary}: cargo build --release, or give --binary")
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"--output {args.output}: {error.strerror}")


def load():
    """Load average of the last minute; 0 if unknown."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def place(said):
    """A description of the machine; said: the binary's report of a run."""
    where = said["adapter"] or f"cpu backend, {said['threads']} threads"
    return (f"{where}; {os.cpu_count()} cores, {platform.machine()}, {platform.system()}; "
            f"subquad {said['version']}, numpy {np.__version__}")


class Refused(SystemExit):
    """The binary failed; reason: its own sentence. If nobody catches this, the program exits with the reason."""

    def __init__(self, command, reason):
        super().__init__(f"subquad {command} failed: {reason}")
        self.reason = reason


def sentence(done):
    """The first line a failed command printed."""
    text = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
    return text.splitlines()[0].removeprefix("error: ")


class Binary:
    """Runs the command on files in a temporary folder."""

    def __init__(self, args, folder):
        self.path, self.folder = args.binary.resolve(), Path(folder)
        self.where = ["--backend", args.backend]
        if args.adapter:
            self.where += ["--adapter", args.adapter]
        self.last = None

    def file(self, name, **tensors):
        path = self.folder / f"{name}.safetensors"
        tensorfile.save(path, {x: np.asarray(y, None if y.dtype == np.int32 else np.float32) for x, y in tensors.items()})
        return path

    def command(self, op, source, *flags, where=None):
        command = [self.path, "run", op, "--input", source, "--output", self.folder / "o.safetensors"]
        return [str(x) for x in [*command, *(where or self.where), "--json", "--quiet", *flags]]

    def call(self, command):
        """A command's output; raises Refused if it fails."""
        command = [str(x) for x in command]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            start = command.index(str(self.path)) + 1
            raise Refused(" ".join(command[start : start + 2]), sentence(done))
        return done.stdout

    def outputs(self, op, source, *flags):
        """Name -> output, with the rank of the input."""
        self.last = json.loads(self.call(self.command(op, source, *flags)))
        return tensorfile.load(self.folder / "o.safetensors")[0]

    def run(self, op, source, *flags):
        """The output o."""
        return self.outputs(op, source, *flags)["o"]

    def measure(self, op, source, *flags):
        """(the binary's report of the run, peak resident bytes of its process or None)."""
        command = self.command(op, source, *flags)
        if not hasattr(os, "wait4"):
            return json.loads(self.call(command)), None
        *said, peak = self.call([sys.executable, "-I", "-S", str(HERE / "peak.py"), *command]).strip().split("\n")
        return json.loads("\n".join(said)), int(peak)

    def choices(self, op, flag):
        """The values that `run OP --help` lists for a flag."""
        found = re.search(rf"{flag} <.*?possible values: ([^\]]*)\]", self.call([self.path, "run", op, "--help"]))
        return found[1].split(", ") if found else []

    def bench(self, ops, *flags):
        """Rows of `bench`; raises Refused if there are none. `bench` exits with an error if a row is wrong, but prints all."""
        command = [str(x) for x in (self.path, "bench", *ops, *self.where, "--format", "json", "--quiet", *flags)]
        done = subprocess.run(command, capture_output=True, text=True)
        if not done.stdout.startswith("{"):
            raise Refused("bench", sentence(done))
        return [row for one in json.loads(done.stdout)["adapters"] for row in one["rows"]]
