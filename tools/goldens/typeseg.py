"""Runs a trained network with this crate's convolution and selective scan in every layer, and compares its logits with
the NumPy inference of the package that it comes from.

    pip install "numpy==2.4.6"
    pip install --no-deps "typeseg==0.2.7"                  (Apache-2.0, 21 MB, with its weights)
    cargo build --release
    python tools/goldens/typeseg.py                         (--backend vulkan, --adapter NAME: as of `subquad run`)
    python tools/goldens/typeseg.py --runs 5                (times too; with onnxruntime==1.32.0 installed, it as well)
    python tools/goldens/typeseg.py --write                 (writes conv1d_typeseg and mamba_typeseg of tests/goldens)

Model   TypeSeg by Martin Dallinger (PyPI typeseg, Apache-2.0): it labels every byte of a text with one of 35 types of
        content. Six bidirectional Mamba layers, 256 channels, 16 states, 1.36 M parameters, trained.
Layer   LayerNorm, dense to u and gate, depthwise convolution of 4 taps (1 left, 2 right) with SiLU, dense to dt, B, C,
        selective scan forward plus backward with dt = softplus(.) + 1e-4, times SiLU(gate), dense, plus the layer's input.
Text    the first 4096 bytes of README.md (--text FILE: of another file).
Ours    `conv1d --padding same --layout bnc` and `mamba --direction both --dt-offset 1e-4`; the rest in NumPy below.

Fails (exit code 1) if the relative RMS of the logits is above 1e-5 or the label of any byte differs.

The two committed files hold layer 0 on the first 64 bytes of tools/sample/text.txt, 32 of its 256 channels: inputs from this
script, y from the package's own functions in float64. Tensors (f32) as of conv1d.py and mamba.py, B = 1, C = 32, N = 64.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
# In the place of this script's folder, where `import typeseg` would find this file.
sys.path[0] = str(ROOT / "tools")
import tensorfile  # noqa: E402
from models.typeseg import parse  # noqa: E402

try:
    from typeseg import _mamba_kernel as theirs
except ImportError:
    sys.exit('typeseg is not installed: pip install --no-deps "typeseg==0.2.7"')

LAYERS, RANK, STATES = 6, 16, 16
CONV_FLAGS = "--padding same --activation silu"
MAMBA_FLAGS = "--direction both --dt-softplus --dt-offset 1e-4"
BOUND = 1e-5
GOLDEN_BYTES, GOLDEN_CHANNELS = 64, 32


def load():
    """The weights by the names of the package, `Module/parameter`."""
    return parse((files("typeseg") / "data" / "mamba_al.npz").read_bytes())


def norm(weights, name, x):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-6))
    return x * weights[f"{name}/scale"] + weights[f"{name}/bias"]


def dense(weights, name, x):
    return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]


def conv_inputs(weights, layer, h):
    """Tensors of conv1d in layout bnc, and the gate [N,C]."""
    both = dense(weights, f"{layer}Dense_0", norm(weights, f"{layer}LayerNorm_0", h))
    u, gate = np.split(both, 2, axis=1)
    kernel = weights[f"{layer}Conv_0/kernel"]  # [W,1,C]
    return {"x": u[None], "weight": kernel.transpose(2, 1, 0), "bias": weights[f"{layer}Conv_0/bias"]}, gate


def mamba_inputs(weights, layer, u, gate):
    """Tensors of mamba, from the convolution's output and the gate, both [N,C].

    The network adds D u in each of its two scans, and so does `--direction both`: d is given as it is. The gate multiplies the
    sum of both scans, which is the same as each of them, so it is z.
    """
    dt, b, c = np.split(dense(weights, f"{layer}Dense_1", u), [RANK, RANK + STATES], axis=1)
    along = {"x": u, "dt": dense(weights, f"{layer}Dense_2", dt), "b": b, "c": c, "z": gate}
    return {name: t.T[None] for name, t in along.items()} | {"a_log": weights[f"{layer}A_log"], "d": weights[f"{layer}D"]}


class Command:
    """`subquad run`, through files in a folder."""

    def __init__(self, binary, folder, more):
        self.binary, self.folder, self.more = binary, Path(folder), more
        self.seconds, self.ran_on = 0.0, None

    def __call__(self, op, flags, tensors):
        given, found = self.folder / "in.safetensors", self.folder / "out.safetensors"
        tensorfile.save(given, {name: t.astype(np.float32) for name, t in tensors.items()})
        words = [self.binary, "run", op, "--input", given, "--output", found, "--json", "--quiet", *flags.split(), *self.more]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{op}: {done.stderr.strip()}")
        said = json.loads(done.stdout)
        self.seconds += said["seconds"]
        self.ran_on = said["adapter"] or f"cpu, {said['threads']} threads"
        return tensorfile.load(found)[0]["y"][0]


def forward(weights, tokens, run):
    """Logits [N,35]."""
    h = weights["Embed_0/embedding"][np.minimum(tokens, 128)]  # bytes from 128 on share one vector
    for index in range(LAYERS):
        layer = f"CheckpointMambaBlock1D_{index}/"
        tensors, gate = conv_inputs(weights, layer, h)
        u = run("conv1d", f"{CONV_FLAGS} --layout bnc", tensors)
        y = run("mamba", MAMBA_FLAGS, mamba_inputs(weights, layer, u, gate)).T
        h = h + dense(weights, f"{layer}Dense_3", y)
    return dense(weights, "Dense_0", norm(weights, "LayerNorm_0", h))


def rms(found, want):
    want = want.astype(np.float64)
    return float(np.sqrt(((found - want) ** 2).sum() / (want**2).sum()))


def read(path, count):
    tokens = np.frombuffer(path.read_bytes()[:count], np.uint8).astype(np.int64)
    if len(tokens) < count:
        sys.exit(f"{path}: expected {count} bytes, found {len(tokens)}")
    return tokens


def onnx(tokens, threads):
    """The package's ONNX graph as a function, None without onnxruntime."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    graph = (files("typeseg") / "data" / "mamba_al.onnx").read_bytes()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"ids": np.minimum(tokens, 128)})[0]


def times(forms, command, runs):
    """Times the forms in turns: least, median, and the least CPU time, which other load on the machine changes less."""
    load = os.getloadavg()[0]
    alone = "ours, operators alone"
    spent, cpu = {name: [] for name in (*forms, alone)}, {name: [] for name in forms}
    for _ in range(runs):
        for name, form in forms.items():
            command.seconds, start, busy = 0.0, time.perf_counter(), sum(os.times()[:4])
            form()
            cpu[name].append(sum(os.times()[:4]) - busy)
            spent[name].append(time.perf_counter() - start)
            if command.seconds:
                spent[alone].append(command.seconds)
    print(f"{runs} runs in turns, load {load:.1f} before and {os.getloadavg()[0]:.1f} after")
    for name, seconds in spent.items():
        busy = f", CPU {min(cpu[name]):.2f} s" if name in cpu else ""
        print(f"  {name:32} least {min(seconds):.3f} s, median {np.median(seconds):.3f} s{busy}")


def write(weights):
    """The committed files; each is computed here in a second way, which must agree."""
    tokens = read(ROOT / "tools" / "sample" / "text.txt", GOLDEN_BYTES)
    layer, own = "CheckpointMambaBlock1D_0/", slice(GOLDEN_CHANNELS)
    conv, gate = conv_inputs(weights, layer, weights["Embed_0/embedding"][np.minimum(tokens, 128)])
    wide = {name: t.astype(np.float64) for name, t in conv.items()}
    x, kernel, bias = wide["x"][0], wide["weight"].transpose(2, 1, 0), wide["bias"]
    u = theirs._silu(np, theirs._depthwise_conv1d_same(np, x, kernel, bias)).astype(np.float32)
    scan = mamba_inputs(weights, layer, u, gate)

    wide = {name: t.astype(np.float64) for name, t in scan.items()}
    along = [wide[name][0].T for name in ("x", "dt", "b", "c")]
    along[1] = theirs._softplus(np, along[1]) + 1e-4
    fixed = [-np.exp(wide["a_log"]), wide["d"]]
    backward = theirs._selective_scan_seq(np, *(t[::-1] for t in along), *fixed)[::-1]
    y = (theirs._selective_scan_seq(np, *along, *fixed) + backward) * theirs._silu(np, wide["z"][0].T)

    conv = {"x": conv["x"].transpose(0, 2, 1), "weight": conv["weight"], "bias": conv["bias"], "y": u.T[None]}
    scan["y"] = y.T[None]
    source = "typeseg 0.2.7, float64: layer 0 on text.txt"
    for op, flags, tensors in (("conv1d", CONV_FLAGS, conv), ("mamba", MAMBA_FLAGS, scan)):
        # Channels do not see each other in either operator; b and c have none.
        kept = {n: t if n in ("b", "c") else t[:, own] if t.shape[0] == 1 else t[own] for n, t in tensors.items()}
        path = ROOT / "tests" / "goldens" / f"{op}_typeseg.safetensors"
        tensorfile.save(path, {name: t.astype(np.float32) for name, t in kept.items()}, {
            "operator": op,
            "source": source,
            "licence": "weights Apache-2.0 (TypeSeg by Martin Dallinger), text in the public domain",
            "flags": flags,
            "layout": "bhnd",
            "script": "tools/goldens/typeseg.py",
        })
        print(f"{path.name}: {path.stat().st_size} bytes\n    {flags}")
        for name, t in kept.items():
            print(f"    {name} {list(t.shape)}")


def main():
    parser = argparse.ArgumentParser(description="Compares a trained network on subquad with its package.")
    parser.add_argument("--subquad", type=Path, default=ROOT / "target" / "release" / "subquad", help="the command")
    parser.add_argument("--backend", default="cpu", help="as of `subquad run` (default: cpu)")
    parser.add_argument("--adapter", help="as of `subquad run`")
    parser.add_argument("--text", type=Path, default=ROOT / "README.md")
    parser.add_argument("--bytes", type=int, default=4096, help="length of the text (default: 4096)")
    parser.add_argument("--runs", type=int, default=0, help="times each form so often, in turns (default: 0)")
    parser.add_argument("--threads", type=int, default=2, help="threads of onnxruntime (default: 2)")
    parser.add_argument("--write", action="store_true", help="write the files of tests/goldens, compare nothing")
    args = parser.parse_args()

    weights = load()
    if args.write:
        return write(weights)
    tokens = read(args.text, args.bytes)
    more = ["--backend", args.backend] + (["--adapter", args.adapter] if args.adapter else [])
    with tempfile.TemporaryDirectory() as folder:
        command = Command(args.subquad, folder, more)
        forms = {
            "ours, with processes and files": lambda: forward(weights, tokens, command),
            "typeseg in NumPy": lambda: theirs.mamba_forward(np, weights, tokens),
        }
        ours, want = (form() for form in forms.values())
        labels = int((ours.argmax(1) == want.argmax(1)).sum())
        error = rms(ours, want)
        print(f"ran on {command.ran_on}")
        print(f"{len(tokens)} bytes of {args.text.name}: relative RMS {error:.2e} (at most {BOUND:.0e}), {labels} labels equal")
        if graph := onnx(tokens, args.threads):
            print(f"its ONNX graph: relative RMS {rms(graph(), want):.2e}")
            forms[f"onnxruntime, {args.threads} threads"] = graph
        if args.runs:
            times(forms, command, args.runs)
    if not error <= BOUND or labels != len(tokens):
        sys.exit("the logits differ from the package's")


if __name__ == "__main__":
    main()
