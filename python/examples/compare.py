"""Every mechanism on one q, k and v: how long it takes, how much it keeps of a sequence, how far it is from exact attention.

    pip install ./python matplotlib
    python python/examples/compare.py                                   (drawn from a seed)
    python python/examples/compare.py --input qkv.npz --output own.svg  (q, k, v [B, N, H, D] of your own)

Causal where the mechanism is. No mechanism was trained for these tensors: the distance says how unlike softmax it is, not how good
a model would be with it.
"""

import argparse
import time

import numpy as np
import subquad


def mechanisms(heads, dim):
    """Name -> call of (q, k, v), all [B, N, H, D]."""
    rng = np.random.default_rng(0)

    def gates(q):
        return -np.abs(rng.standard_normal(q.shape[:3], dtype=np.float32)) / 16

    def strengths(q):
        return (1 / (1 + np.exp(-rng.standard_normal(q.shape[:3], dtype=np.float32)))).astype(np.float32)

    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    return {
        "softmax": lambda q, k, v, **at: subquad.softmax_attention(q, k, v, **at),
        "softmax, window 256": lambda q, k, v, **at: subquad.softmax_attention(q, k, v, window=256, **at),
        "linformer, 128 rows": lambda q, k, v, **at: subquad.linformer_attention(
            q, k, v, rank=min(128, k.shape[1]), pool="mean", **at),
        "linear": lambda q, k, v, **at: subquad.linear_attention(q, k, v, **at),
        "performer": lambda q, k, v, **at: subquad.linear_attention(q, k, v, feature_map="performer", **at),
        "gated": lambda q, k, v, **at: subquad.linear_attention(
            q, k, v, rule="gated", feature_map="elu1", normalize=True, g=gates(q), **at),
        "gated delta": lambda q, k, v, **at: subquad.linear_attention(
            unit(q), unit(k), v, rule="gated_delta", g=gates(q), beta=strengths(q), **at),
        "slay": lambda q, k, v, **at: subquad.slay_attention(q, k, v, **at),
    }  # fmt: skip


def load(path):
    with np.load(path) as file:
        return [np.ascontiguousarray(file[name], np.float32) for name in "qkv"]


def main():
    parser = argparse.ArgumentParser(description="Every mechanism on one q, k and v.")
    parser.add_argument("--input", metavar="FILE", help="npz with q, k, v [B, N, H, D] (default: drawn)")
    parser.add_argument("--output", metavar="FILE", default="compare.svg")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--length", type=int, default=4096, help="tokens, if they are drawn (default: 4096)")
    args = parser.parse_args()
    if args.input:
        q, k, v = load(args.input)
    else:
        rng = np.random.default_rng(1)
        q, k, v = (rng.standard_normal((1, args.length, 4, 64), dtype=np.float32) for _ in range(3))
    lengths = [n for n in (256, 512, 1024, 2048, 4096, 8192, 16384) if n < q.shape[1]] + [q.shape[1]]
    exact = subquad.softmax_attention(q, k, v, device=args.device)
    rows = {}
    for name, run in mechanisms(*q.shape[2:]).items():
        times = []
        for n in lengths:
            part = [np.ascontiguousarray(x[:, :n]) for x in (q, k, v)]
            run(*part, device=args.device)
            least = float("inf")
            for _ in range(3):
                start = time.perf_counter()
                o = run(*part, device=args.device)
                least = min(least, time.perf_counter() - start)
            times.append(1e3 * least)
        distance = float(np.sqrt(((o - exact) ** 2).sum() / (exact**2).sum()))
        rows[name] = times, distance
        print(f"{name:22} {times[-1]:9.2f} ms at {lengths[-1]} tokens, distance from softmax {distance:.3f}")

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), constrained_layout=True)
    for name, (times, _) in rows.items():
        left.plot(lengths, times, marker="o", markersize=4, label=name)
    left.set(xscale="log", yscale="log", xlabel="tokens", ylabel="ms", title=f"Time ({args.device})")
    left.set_xticks(lengths, map(str, lengths), fontsize=8)
    left.minorticks_off()
    left.legend(fontsize=8)
    right.barh(list(rows), [distance for _, distance in rows.values()])
    right.invert_yaxis()
    right.set(xlabel="relative RMS", title=f"Distance from softmax at {lengths[-1]} tokens")
    figure.savefig(args.output)
    print(f"{args.output} written")


if __name__ == "__main__":
    main()
