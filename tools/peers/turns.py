"""Times the cpu backend beside peers, in turns, on the same tensors: what the scripts beside this one share.

A peer runs in this process, on its own natural layout, which is prepared before the clock starts. Ours is a process
that stays alive (examples/cpu.rs): it prints "ready", then for every line it reads runs once and prints the seconds.
Before any timing its output is compared with that of every peer (relative RMS under 2e-5, else exit 1).

Then all take turns, so that whatever slows the machine down for a while falls on all of them. A pause before each turn
lets the threads of the one before go to sleep: those of onnxruntime spin for 40 ms after their work. Where a peer gets
less of the cores than it was given the script says so: other work holds them, and its figures are not to be quoted.

A peer that is not installed is named and left out.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import tensorfile  # noqa: E402

TOLERANCE = 2e-5
PAUSE = 0.1
OURS = "subquad cpu"


class Peer:
    """call() runs once; unpack() makes of what it returned the output in bhnd, off the clock."""

    def __init__(self, name, source, call, unpack):
        self.name, self.source, self.call, self.unpack = name, source, call, unpack
        self.cores = []  # CPU seconds per second of each run

    def run(self):
        time.sleep(PAUSE)
        start, busy = time.perf_counter(), time.process_time()
        self.call()
        seconds = time.perf_counter() - start
        self.cores.append((time.process_time() - busy) / seconds)
        return seconds

    def result(self):
        return self.unpack(self.call())


class Ours:
    """The cpu backend of operator op in a process of its own. flags: NAME=VALUE, as examples/cpu.rs takes them."""

    def __init__(self, args, op, flags, *more):
        command = [args.binary, op, "--threads", args.threads, *more]
        for flag in flags:
            command += ["--flag", flag]
        self.process = subprocess.Popen(
            [str(x) for x in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        if self.line() != "ready":
            sys.exit(f"{args.binary} did not print 'ready'")

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the benchmark process ended early, status {self.process.wait()}")
        return line.strip()

    def run(self):
        time.sleep(PAUSE)
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.line())

    def close(self):
        self.process.stdin.close()
        if self.process.wait(timeout=60) != 0:
            sys.exit(f"the benchmark process failed, status {self.process.returncode}")


def arguments(description, length, more=None):
    """The command line that all scripts have; more(parser) adds a script's own. Exits where the binary is missing."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--length", type=int, default=length)
    if more:
        more(parser)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "release" / "examples" / "cpu")
    parser.add_argument("--alone", action="store_true", help="time the peers only; no binary needed")
    parser.add_argument("--at-least", type=float, help="exit 1 if a ratio of the minima is under this")
    args = parser.parse_args()
    if not args.alone and not args.binary.exists():
        sys.exit(f"no {args.binary.name}: cargo build --release --example cpu, or give --binary")
    return args


def draw(args):
    """q, k, v: standard normal, bhnd, and the generator to draw more from."""
    rng = np.random.default_rng(1)
    shape = (1, args.heads, args.length, args.dim)
    return {name: rng.standard_normal(shape, np.float32) for name in "qkv"}, rng


def torch_peer(args, form, *arrays):
    """A form in torch on bhnd tensors, as its own modules lay them out."""
    import torch

    torch.set_num_threads(args.threads)
    tensors = [torch.from_numpy(x) for x in arrays]

    def call():
        with torch.no_grad():
            return form(*tensors)

    return Peer("torch", f"torch {torch.__version__}", call, lambda output: output.numpy())


def onnx_peer(source, operator, heads, *arrays):
    """A session of onnxops on bhnd tensors; it reads [B,N,H*D]."""
    import onnxops

    packed = [onnxops.pack(x.swapaxes(1, 2)) for x in arrays]
    return Peer(
        "onnxruntime", source, lambda: operator(*packed), lambda out: onnxops.unpack(out[0], heads).swapaxes(1, 2)
    )


def installed(**builders):
    """name -> function that makes the peer: those that can be made here, the others named."""
    peers = []
    for name, build in builders.items():
        try:
            peers.append(build())
        except ImportError as error:
            print(f"{name} is missing: {error}")
    if not peers:
        sys.exit(f"nothing to compare with: none of {', '.join(builders)} is installed")
    return peers


def fastest(forms, runs=3):
    """form -> peer: the one that a user who had tried all would take, by its minimum."""
    seconds = {}
    for name, peer in forms.items():
        peer.run()
        seconds[name] = min(peer.run() for _ in range(runs))
        peer.cores.clear()
    name = min(seconds, key=seconds.get)
    tried = ", ".join(f"{form} {time * 1e3:.2f} ms" for form, time in seconds.items())
    print(f"forms tried: {tried}; taken: {name}")
    forms[name].source += f" ({name})"
    return forms[name]


def relative_rms(found, want):
    want = want.astype(np.float64)
    return float(np.sqrt(((found - want) ** 2).sum() / (want**2).sum()))


def check(args, op, flags, more, target, peers):
    """Runs ours once and compares its output o with that of every peer."""
    ours = Ours(args, op, flags, *more, "--output", target)
    ours.run()
    ours.close()
    output = tensorfile.load(target)[0]["o"]
    errors = {peer.name: relative_rms(output, peer.result()) for peer in peers}
    text = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    print(f"relative RMS between our output and that of: {text}")
    if not all(error < TOLERANCE for error in errors.values()):
        sys.exit(f"the outputs differ by more than {TOLERANCE:.0e}")


def compare(args, op, what, tensors, peers, flags=(), carry=False):
    """Checks, times and prints; exits 1 where --at-least is not reached. what: operator and shape, for people."""
    for peer in peers:
        peer.call()
    turns = list(peers)
    times = {peer.name: [] for peer in peers}
    with tempfile.TemporaryDirectory() as folder:
        ours = None
        if not args.alone:
            source, target = Path(folder) / "in.safetensors", Path(folder) / "out.safetensors"
            tensorfile.save(source, tensors, {"layout": "bhnd"})
            more = ["--input", source, *["--carry"] * carry]
            check(args, op, flags, more, target, peers)
            ours = Ours(args, op, flags, *more)
            ours.run()
            times[OURS] = []
            turns.append(ours)
        for _ in range(args.runs):
            for name, turn in zip(times, turns, strict=True):
                times[name].append(turn.run())
        if ours:
            ours.close()

    def row(name, pair):
        print(f"{name:{width}}{pair[0]:10.2f}{pair[1]:12.2f}")

    def both(name):
        return [f(times[name]) for f in (min, statistics.median)]

    labels = {peer.name: f"times as fast as {peer.name}" for peer in peers}
    width = max(len(label) for label in [OURS, *labels.values()]) + 2
    print(f"{'; '.join(peer.source for peer in peers)}: {what}, f32, ", end="")
    print(f"{args.threads} threads of {os.cpu_count()} cores, {args.runs} runs in turns")
    print(f"{'':{width}}{'min ms':>10}{'median ms':>12}")
    for name in times:
        row(name, [seconds * 1e3 for seconds in both(name)])
    for peer in peers:
        cores = statistics.median(peer.cores)
        if cores < 0.8 * args.threads:
            print(f"warning: {peer.name} got {cores:.1f} of {args.threads} cores: ", end="")
            print("other work is running, or there is little to do; run this again")
    if ours:
        ratios = {name: [a / b for a, b in zip(both(name), both(OURS), strict=True)] for name in labels}
        for name, label in labels.items():
            row(label, ratios[name])
        if args.at_least and min(ratio for ratio, _ in ratios.values()) < args.at_least:
            sys.exit(1)
