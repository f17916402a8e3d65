"""Reproduces the results of Linformer (arXiv 2006.04768) that need no training, and reports where the paper falls short.

    cargo build --release
    pip install "numpy==2.4.6" "matplotlib==3.11.2"
    python tools/reproduce/linformer/reproduce.py          (under 5 minutes on two cores; --help has the flags)

The operators `linformer` and `softmax` run in the binary; oracle.py has the same formulas in numpy float64. First the
script compares both: a relative RMS over 1e-5 anywhere ends it with exit code 1. Then it runs three parts:

    error       linformer against exact softmax, over k, on q, k, v of a real encoder (examples/minilm.safetensors) and
                on longer ones generated from its statistics
    spectrum    the singular values of the real attention matrices, the paper's figure 1
    cost        time and memory over n and k, compared with the paper's table of ratios

Prints progress, the findings in sentences, and the names of the two files written to --output: linformer.md (all
tables) and linformer.svg. Statements about the paper are marked [mem] (recalled, not checked against it) or [sec] (from
a summary of it).
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
import command  # noqa: E402
import figure  # noqa: E402
import oracle  # noqa: E402
import report  # noqa: E402
from command import ROOT, Binary, say, tensorfile  # noqa: E402

TOLERANCE = 1e-5
SAMPLE = ROOT / "examples" / "minilm.safetensors"


def normal(rng, *shape):
    """Entries N(0, 1/K) of a projection [..., K, tokens]."""
    return rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-2]))


# ---- the binary against the formulas ----


def cross_check(binary, qkv):
    """Compares every form used below with float64; returns rows, exits if one differs."""
    q, k, v = qkv
    heads, tokens, _ = q.shape
    rng = np.random.default_rng(1)
    rank = 100  # does not divide the number of tokens, so pools overlap
    e, f = normal(rng, 1, rank, tokens), normal(rng, heads, rank, tokens)
    plain, shared = binary.file("plain", q=q, k=k, v=v), binary.file("shared", q=q, k=k, v=v, e=e)
    apart = binary.file("apart", q=q, k=k, v=v, e=f, f=f[::-1])
    drawn = binary.folder / "drawn.safetensors"
    rows, failed = [], []

    def judge(name, got, want):
        error = oracle.total_error(got, want)
        rows.append([name, f"{error:.1e}"])
        if not error < TOLERANCE:
            failed.append(f"{name}: relative RMS {error:.1e}")

    judge("softmax, not causal", binary.run("softmax", plain, "--no-causal"), oracle.attention(q, k, v))
    judge("linformer, one e for all heads, k and v", binary.run("linformer", shared), oracle.linformer(q, k, v, e))
    judge("linformer, e and f a head", binary.run("linformer", apart), oracle.linformer(q, k, v, f, f[::-1]))
    for kind in ("mean", "max"):
        got = binary.run("linformer", plain, "--rank", rank, "--pool", kind)
        judge(f"linformer, pool {kind}", got, oracle.pool(q, k, v, rank, kind))
    got = binary.run("linformer", plain, "--rank", 128, "--seed", 1, "--save-params", drawn)
    e = tensorfile.load(drawn)[0]["e"].astype(np.float64)
    judge("linformer, e drawn by the binary", got, oracle.linformer(q, k, v, e))
    variance = float((e**2).mean() * 128)
    rows.append(["entries of that e: mean, variance times k", f"{e.mean():.1e}, {variance:.3f}"])
    if e.shape != (1, 128, tokens) or abs(variance - 1) > 0.05:
        failed.append(f"drawn e: shape {e.shape}, variance times k {variance:.3f}")
    if failed:
        sys.exit("the binary and the formulas differ (bound 1e-5): " + "; ".join(failed))
    keys = k.astype(np.float64)
    return rows, float(np.sqrt(((e @ keys) ** 2).mean() / (keys**2).mean()))


# ---- part a: error over k ----


def errors(binary, name, qkv, ranks, seeds, decompose):
    """Error of each method of reducing n rows to k: relative RMS of a head's output, for all heads.

    Returns curves: name -> [rank][head] (drawn: [rank][seed][head]), "mean of v": [head], "matrix": [rank][head], the
    error of P itself, and "spectra", the singular values of each head.
    """
    q, k, v = qkv
    heads, tokens, dim = q.shape
    source = binary.file(name, q=q, k=k, v=v)
    exact = binary.run("softmax", source, "--no-causal")
    curves = {"drawn": [], "pool mean": [], "pool max": [], "P R^T R v": [], "svd": [], "matrix": [], "spectra": []}
    for rank in ranks:
        runs = [binary.run("linformer", source, "--rank", rank, "--seed", seed) for seed in range(1, seeds + 1)]
        curves["drawn"].append([oracle.error(o, exact) for o in runs])
        for kind in ("mean", "max"):
            o = binary.run("linformer", source, "--rank", rank, "--pool", kind)
            curves[f"pool {kind}"].append(oracle.error(o, exact))
    # P R^T R v is exact attention on other values, so several ranks fit side by side in one run.
    rng = np.random.default_rng(2)
    mixed = []
    for rank in ranks:
        r = normal(rng, 1, rank, tokens)
        mixed.append(r.swapaxes(1, 2) @ (r @ v))
    at_once = max(256 // dim, 1)  # the largest head dimension the binary takes
    for i in range(0, len(ranks), at_once):
        part = mixed[i : i + at_once]
        source = binary.file("mixed", q=q, k=k, v=np.concatenate(part, axis=-1))
        o = binary.run("softmax", source, "--no-causal")
        curves["P R^T R v"] += [oracle.error(x, exact) for x in np.split(o, len(part), axis=-1)]
    constant = np.broadcast_to(v.mean(1, keepdims=True), exact.shape)
    curves["mean of v"] = oracle.error(constant, exact)
    if decompose:
        of_o, of_p = np.empty((2, len(ranks), heads))
        for h in range(heads):
            p = oracle.weights(q[h], k[h])
            singular, left = oracle.decompose(p)
            o = p @ v[h].astype(np.float64)
            in_basis, size = left.T @ o, np.linalg.norm(o)
            for i, rank in enumerate(ranks):
                of_o[i, h] = np.linalg.norm(in_basis[rank:]) / size
                of_p[i, h] = np.sqrt((singular[rank:] ** 2).sum() / (singular**2).sum())
            curves["spectra"].append(singular)
        curves["svd"], curves["matrix"] = list(of_o), list(of_p)
    return curves


# ---- part b: spectrum ----


def spectra(qkv, rng, controls=True):
    """Per head: singular values of P, the effective number of keys, and the cumulative shares of the controls."""
    rows = []
    for q, k in zip(qkv[0].astype(np.float64), qkv[1].astype(np.float64)):
        p = oracle.weights(q, k)
        row = {"singular": oracle.decompose(p)[0], "keys": oracle.perplexity(p)}
        row["shares"] = oracle.cumulative(row["singular"])
        if controls:
            for name, control in (("scores", oracle.unstructured), ("tokens", oracle.unordered)):
                row[name] = oracle.cumulative(oracle.decompose(control(q, k, rng))[0])
        rows.append(row)
    return rows


# ---- part c: time and memory ----


def cost(binary, args):
    """runs: n -> {"softmax" or k: (seconds, peak bytes over that of n=16, bytes of tensors and workspace, runs)}.

    Also returns: base, the peak at n=16; notes; said, the binary's last report.
    """
    heads, dim = args.heads, args.dim
    rng = np.random.default_rng(3)
    start, results, notes, base = time.perf_counter(), {}, [], {}

    def inputs(length):
        return binary.file("timed", **{x: rng.standard_normal((heads, length, dim), np.float32) for x in "qkv"})

    source = inputs(16)
    params = binary.file("e8", e=normal(rng, 1, 8, 16))
    for op, flags in (("softmax", ("--no-causal",)), ("linformer", ("--params", params))):
        said, base[op] = binary.measure(op, source, *flags)
    last, length = 0.0, 512
    while length <= args.max_n:
        used = time.perf_counter() - start
        if used + 4 * last > args.seconds:
            notes.append(f"n={length} and longer left out: --seconds {args.seconds:g} would not do")
            break
        source = inputs(length)
        jobs = {"softmax": ("softmax", ("--no-causal",))}
        for k in args.ranks:
            if k <= length // 2:
                # From a file, so that the measurement excludes drawing the projection.
                params = binary.file(f"e{k}", e=normal(rng, 1, k, length))
                jobs[k] = ("linformer", ("--params", params))
        found = {name: [] for name in jobs}
        for _ in range(args.runs):
            for name, (op, flags) in jobs.items():
                said, peak = binary.measure(op, source, *flags)
                found[name].append((said["seconds"], peak, said["workspace_bytes"]))
            if time.perf_counter() - start > args.seconds:
                break
        results[length] = {}
        for name, runs in found.items():
            seconds, peaks, workspace = zip(*runs)
            op = jobs[name][0]
            # The smallest peak of the runs: the interleaving of threads can only add to it.
            over = None if peaks[0] is None else min(peaks) - base[op]
            tensors = 4 * heads * length * 4 * dim + (0 if name == "softmax" else 4 * name * length)
            results[length][name] = (min(seconds), over, tensors + max(workspace), len(runs))
        for k in args.ranks:
            (binary.folder / f"e{k}.safetensors").unlink(missing_ok=True)
        last = time.perf_counter() - start - used
        say(f"  n={length}: {last:.0f} s")
        length *= 2
    return {"runs": results, "base": base, "notes": notes, "said": said}


# ---- all of it ----


def main():
    parser = argparse.ArgumentParser(description="Linformer against exact softmax: error, spectrum, time and memory.")
    command.add_arguments(parser, "linformer")
    parser.add_argument("--seconds", type=float, default=100, help="for part c; what it has no time for is left out")
    parser.add_argument("--max-n", type=int, default=8192, help="longest sequence of part c")
    parser.add_argument("--runs", type=int, default=3, help="runs in turns, of which the least counts")
    parser.add_argument("--heads", type=int, default=4, help="of part c")
    parser.add_argument("--dim", type=int, default=64, help="of part c")
    parser.add_argument("--ranks", type=int, nargs="+", default=[128, 256, 512, 1024], help="of part c")
    parser.add_argument("--lengths", type=int, nargs="*", default=[2048, 8192], help="of the generated ones of part a")
    args = parser.parse_args()
    command.prepare(args)
    begun = time.perf_counter()
    busy = command.load()

    tensors, about = tensorfile.load(SAMPLE)
    real = [tensors[name][0].astype(np.float32) for name in "qkv"]
    heads, tokens, _ = real[0].shape
    with tempfile.TemporaryDirectory() as folder:
        binary = Binary(args, folder)
        say("the binary against the formulas in float64")
        checked, growth = cross_check(binary, real)
        for name, value in checked:
            say(f"  {name}: {value}")

        # Measure the cost first: after minutes of work a machine may run slower.
        say("cost")
        costs = cost(binary, args)

        say("error over k")
        ranks = [k for k in (16, 32, 64, 128, 256) if k < tokens] + [tokens]
        curves = errors(binary, "real", real, ranks, seeds=5, decompose=True)
        parts = [report.Part("real", list(range(heads)), tokens, ranks, curves, 5)]
        likeness = []
        for length in args.lengths:
            # Use four heads of long inputs: an exact softmax of all heads takes too long.
            some = list(range(heads)) if length <= 4096 else [0, 3, 6, 9]
            rng = np.random.default_rng([4, length])
            made, rho = oracle.lengthen(real, length, rng)
            start = [x[:, :tokens] for x in made]
            likeness.append((length, rho, spectra(start, rng, controls=False)))
            ranks = [k for k in (16, 32, 64, 128, 256, 512, 1024, 2048) if 2 * k <= length]
            # The decomposition takes a second per head at 2048 tokens, a minute at 8192.
            curves = errors(binary, f"n{length}", [x[some] for x in made], ranks, 3, decompose=length <= 2048)
            parts.append(report.Part("generated", some, length, ranks, curves, 3))
            say(f"  n={length}: {time.perf_counter() - begun:.0f} s since the start")

    say("spectrum")
    observed = spectra(real, np.random.default_rng(5))

    findings = [line for part in parts for line in report.error_findings(part)]
    findings += report.growth_findings(parts, growth)
    findings += report.spectrum_findings(observed) + report.cost_findings(costs["runs"], args) + costs["notes"]
    place = command.place(costs["said"])
    warning = ""
    if busy > 0.5:
        warning = f"other work was running (load {busy:.1f} at the start): the times are not to be quoted"
    text = report.page(args, place, warning, findings, checked, about, parts, likeness, observed, costs)
    (args.output / "linformer.md").write_text(text, encoding="utf-8")
    files = [args.output / "linformer.svg"] + ([args.output / "linformer.png"] if args.png else [])
    figure.draw(files, **report.panels(args, parts[0], observed, costs["runs"]))

    say("")
    for line in findings:
        say(f"- {line}")
    if warning:
        say(f"warning: {warning}")
    say(f"\n{', '.join(x.name for x in files)} and linformer.md written, {time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
