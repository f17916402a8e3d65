"""Times the cpu backend beside onnxruntime's CPU LinearAttention, in turns, on the same tensors.

    pip install "numpy==2.4.6" "onnx==1.23.2" "onnxruntime==1.31.1"
    cargo build --release --example cpu_linear
    python tools/peers/onnxruntime_linear.py               (H=8, D=64, N=8192, f32, two threads, 7 runs)

Both compute rule linear: causal, identity map, no denominator, scale 1/sqrt(D), the final state kept. Each reads its
own layout: onnxruntime [1,N,H*D] (bnhd), ours [1,H,N,D] (bhnd). Before any timing the two outputs are compared
(relative RMS under 2e-5, else exit 1).

onnxruntime runs in this process with its defaults but the number of threads (of the ways tried, outputs bound
beforehand and no spinning among them, plain session.run was its fastest). It gives each (batch, kv head) to one thread
and walks the tokens in order; chunk_size has no effect on the CPU. Ours is a process that stays alive: it prints
"ready", then for every line it reads runs once and prints the seconds. A pause between turns lets the threads of one
side go to sleep. Where other work holds a core the script says so: its figures are then not to be quoted.
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
import onnxops  # noqa: E402
import tensorfile  # noqa: E402

TOLERANCE = 2e-5
PAUSE = 0.02


class Peer:
    def __init__(self, q, k, v, threads):
        self.heads = q.shape[1]
        self.op = onnxops.LinearAttention(self.heads, self.heads, threads=threads)
        self.inputs = [onnxops.pack(x.swapaxes(1, 2)) for x in (q, k, v)]
        self.cores = []  # CPU seconds per second of each run

    def run(self):
        time.sleep(PAUSE)
        start, busy = time.perf_counter(), time.process_time()
        self.op(*self.inputs)
        seconds = time.perf_counter() - start
        self.cores.append((time.process_time() - busy) / seconds)
        return seconds

    def result(self):
        output, _ = self.op(*self.inputs)
        return output.reshape(1, output.shape[1], self.heads, -1).swapaxes(1, 2)


class Ours:
    def __init__(self, args, *files):
        command = [args.binary, "--heads", args.heads, "--dim", args.dim, "--length", args.length]
        command += ["--threads", args.threads, *files]
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


def main():
    parser = argparse.ArgumentParser(description="The cpu backend beside onnxruntime's CPU LinearAttention.")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "release" / "examples" / "cpu_linear")
    parser.add_argument("--alone", action="store_true", help="time onnxruntime only; no binary needed")
    parser.add_argument("--at-least", type=float, help="exit 1 if the ratio of the minima is under this")
    args = parser.parse_args()
    if not args.alone and not args.binary.exists():
        sys.exit(f"no {args.binary.name}: cargo build --release --example cpu_linear, or give --binary")

    rng = np.random.default_rng(1)
    shape = (1, args.heads, args.length, args.dim)
    tensors = {name: rng.standard_normal(shape, np.float32) for name in "qkv"}
    peer = Peer(*tensors.values(), args.threads)
    peer.run()
    times = {"onnxruntime": []}

    with tempfile.TemporaryDirectory() as folder:
        ours = None
        if not args.alone:
            source, target = Path(folder) / "qkv.safetensors", Path(folder) / "o.safetensors"
            tensorfile.save(source, tensors, {"layout": "bhnd"})
            once = Ours(args, "--input", source, "--output", target)
            once.run()
            once.close()
            want = peer.result().astype(np.float64)
            error = np.sqrt(((tensorfile.load(target)[0]["o"] - want) ** 2).sum() / (want**2).sum())
            print(f"relative RMS between the two outputs: {error:.1e}")
            if not error < TOLERANCE:
                sys.exit(f"the outputs differ by more than {TOLERANCE:.0e}")
            ours = Ours(args, "--input", source)
            ours.run()
            times["subquad cpu"] = []
        for _ in range(args.runs):
            times["onnxruntime"].append(peer.run())
            if ours:
                times["subquad cpu"].append(ours.run())
        if ours:
            ours.close()

    print(f"{onnxops.SOURCE}, rule linear, f32, H={args.heads} D={args.dim} N={args.length}, ", end="")
    print(f"{args.threads} threads of {os.cpu_count()} cores, {args.runs} runs in turns")
    print(f"{'':14}{'min ms':>10}{'median ms':>12}")
    for name, seconds in times.items():
        print(f"{name:14}{min(seconds) * 1e3:10.2f}{statistics.median(seconds) * 1e3:12.2f}")
    cores = statistics.median(peer.cores)
    if cores < 0.8 * args.threads:
        print(f"warning: onnxruntime got {cores:.1f} of {args.threads} cores: other work is running, run this again")
    if ours:
        ratios = [f(times["onnxruntime"]) / f(times["subquad cpu"]) for f in (min, statistics.median)]
        print(f"{'times as fast':14}{ratios[0]:10.2f}{ratios[1]:12.2f}")
        if args.at_least and ratios[0] < args.at_least:
            sys.exit(1)


if __name__ == "__main__":
    main()
