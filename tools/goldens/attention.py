"""Writes tests/goldens/softmax_*.safetensors, linformer_*.safetensors and yat_*.safetensors: inputs and expected outputs
from code that shares nothing with this crate.

    pip install "numpy==2.4.6" "torch==2.15.0" "linformer==0.2.3"     (linformer with --no-deps)
    python tools/goldens/attention.py

softmax_*    torch's scaled_dot_product_attention in float64; masks follow the definition or are torch's own (is_causal,
             causal_lower_right).
linformer_*  the package linformer by lucidrains in float64, with its linear layers set so that it attends to the given
             tensors; torch einsum in float64 with one matrix per head; torch's adaptive pooling, whose windows are
             floor(r M / K) to ceil((r + 1) M / K) - 1.
yat_*        numpy in float64, all pairs at once: squared distances from differences, cosines from these distances.

Tensors (f32): q, k, v, o in the file's layout; e [1|H,K,M], f [1|H,K,M]. Metadata: operator, source, layout, and the
flags of `subquad run` that reproduce o. Check: every case also runs as a loop over queries in numpy float64; the script
stops if the two differ by more than 1e-12 of the largest value.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from linformer import LinformerSelfAttention
from torch.nn.attention.bias import causal_lower_right

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import tensorfile  # noqa: E402

SDPA = f"torch {torch.__version__.split('+')[0]} scaled_dot_product_attention, float64"


def loop(q, k, v, causal=False, window=None, scale=None, weigh=None, norm_eps=0.0):
    """The definition, query by query: query i sees keys i + M - N - W + 1 to i + M - N. `weigh` computes the weights of a
    query and the keys it sees (default: softmax)."""
    (batch, heads, n, d), (_, kv_heads, m, _) = q.shape, k.shape
    o = np.zeros((batch, heads, n, v.shape[3]))
    for b in range(batch):
        for h in range(heads):
            for i in range(n):
                end = i + m - n + 1 if causal else m
                start = max(0, end - window) if window else 0
                if end <= 0:
                    continue
                g = h // (heads // kv_heads)
                if weigh:
                    w = weigh(q[b, h, i], k[b, g, start:end])
                else:
                    s = k[b, g, start:end] @ q[b, h, i] * (d**-0.5 if scale is None else scale)
                    w = np.exp(s - s.max())
                o[b, h, i] = w @ v[b, g, start:end] / (w.sum() + norm_eps)
    return o


def save(name, source, flags, tensors, o, check, layout="bhnd"):
    error = np.abs(o - check).max() / np.abs(check).max()
    if not error < 1e-12:
        sys.exit(f"{name}: {error:.1e} from the loop")
    turn = (lambda x: x.swapaxes(1, 2)) if layout == "bnhd" else (lambda x: x)
    tensors = {n: turn(x) if n in "qkv" else x for n, x in tensors.items()} | {"o": turn(o)}
    tensors = {n: np.ascontiguousarray(x, np.float32) for n, x in tensors.items()}
    path = ROOT / "tests" / "goldens" / f"{name}.safetensors"
    tensorfile.save(path, tensors, {
        "operator": name.split("_")[0],
        "source": source,
        "flags": f"{flags} --layout {layout}".strip(),
        "layout": layout,
        "script": "tools/goldens/attention.py",
    })
    print(f"{path.name:36} {path.stat().st_size:6} bytes, {error:.0e} from the loop")


def single(shape, rng, size=1.0):
    """Random values that are exact in f32, as float64."""
    return (rng.standard_normal(shape) * size).astype(np.float32).astype(np.float64)


def softmax(rng):
    # name, flags, B, H, G, N, M, D, E, scale of q, layout, how torch gets the mask
    cases = [
        ("causal", "", 1, 2, 2, 37, 37, 8, 8, 1, "bhnd", "is_causal"),
        ("open_cross", "--no-causal", 1, 2, 2, 13, 65, 8, 5, 1, "bhnd", None),
        ("grouped", "--causal", 2, 6, 2, 17, 17, 8, 6, 1, "bhnd", "is_causal"),
        ("grouped_bnhd", "--no-causal --scale 0.3", 2, 6, 3, 17, 21, 8, 6, 1, "bnhd", None),
        ("cache", "--causal", 1, 2, 1, 19, 45, 8, 6, 1, "bhnd", "lower_right"),
        ("cache_window", "--causal --window 9", 1, 2, 2, 19, 45, 8, 6, 1, "bnhd", "mask"),
        ("window", "--window 5", 1, 2, 2, 40, 40, 8, 6, 1, "bhnd", "mask"),
        ("decode", "", 1, 4, 2, 1, 300, 8, 6, 1, "bhnd", None),
        ("large_scores", "--causal --scale 1", 1, 1, 1, 40, 40, 4, 6, 12, "bhnd", "is_causal"),
    ]
    for name, flags, b, h, g, n, m, d, e, size, layout, how in cases:
        q, k, v = single((b, h, n, d), rng, size), single((b, g, m, d), rng), single((b, g, m, e), rng)
        words = flags.split()
        causal = "--no-causal" not in words
        number = {w: float(words[i + 1]) for i, w in enumerate(words) if w in ("--scale", "--window")}
        window, scale = int(number.get("--window", 0)) or None, number.get("--scale")
        # Rounded to f32, like a number on the command line.
        scale = scale if scale is None else float(np.float32(scale))
        mask = {"lower_right": causal_lower_right(n, m)}.get(how)
        if how == "mask":
            end = torch.arange(n)[:, None] + m - n
            key = torch.arange(m)[None]
            mask = (key <= end) & (key > end - window)
        if how == "lower_right":
            # The bias object supports neither float64 nor grouped heads; its mask does.
            mask = mask._materialize() if hasattr(mask, "_materialize") else mask
        o = F.scaled_dot_product_attention(
            *map(torch.tensor, (q, k, v)), attn_mask=mask, is_causal=how == "is_causal", scale=scale, enable_gqa=h != g
        )
        check = loop(q, k, v, causal, window, scale)
        save(f"softmax_{name}", SDPA, flags, dict(q=q, k=k, v=v), o.numpy(), check, layout)


def linformer(rng):
    def package(name, heads, n, d, rank):
        dim = heads * d
        torch.manual_seed(1)
        layer = LinformerSelfAttention(dim, n, k=rank, heads=heads).eval().double()
        # The package computes keys and values from one context. A permutation, which is exact, makes them differ.
        order = rng.permutation(dim)
        with torch.no_grad():
            for linear in (layer.to_q, layer.to_k, layer.to_v, layer.to_out):
                linear.weight.copy_(torch.eye(dim))
                if linear.bias is not None:
                    linear.bias.zero_()
            layer.to_v.weight.copy_(torch.eye(dim)[order])
            x, context = single((1, n, dim), rng), single((1, n, dim), rng)
            o = layer(torch.tensor(x), context=torch.tensor(context)).numpy()
        split = lambda y: y.reshape(1, n, heads, d).transpose(0, 2, 1, 3)  # noqa: E731
        q, k, v, o = split(x), split(context), split(context[..., order]), split(o)
        e, f = (p.detach().numpy().T[None] for p in (layer.proj_k, layer.proj_v))
        check = loop(q, e @ k, f @ v)
        source = "linformer 0.2.3 LinformerSelfAttention, float64"
        save(f"linformer_{name}", source, "", dict(q=q, k=k, v=v, e=e, f=f), o, check)

    package("package_one_head", 1, 33, 8, 12)
    package("package", 4, 33, 8, 12)

    cases = [
        ("shared", "", 2, 4, 2, 20, 37, 10, 1, None, "bhnd"),
        ("shared_scale_bnhd", "--scale 0.7", 2, 4, 2, 20, 37, 10, 1, 1, "bnhd"),
        ("per_head", "", 1, 4, 2, 20, 37, 10, 4, 4, "bhnd"),
        ("per_head_e", "", 1, 4, 4, 20, 37, 10, 4, 1, "bnhd"),
    ]
    for name, flags, b, h, g, n, m, rank, e_heads, f_heads, layout in cases:
        q, k, v = single((b, h, n, 8), rng), single((b, g, m, 8), rng), single((b, g, m, 6), rng)
        tensors = dict(q=q, k=k, v=v, e=single((e_heads, rank, m), rng, rank**-0.5))
        if f_heads:
            tensors["f"] = single((f_heads, rank, m), rng, rank**-0.5)
        scale = float(np.float32(0.7)) if flags else 8**-0.5
        e, f = tensors["e"], tensors.get("f", tensors["e"])
        of_heads = lambda x: torch.tensor(np.repeat(x, h // g, axis=1))  # noqa: E731
        short = lambda p, x: torch.einsum(  # noqa: E731
            "hrm,bhmd->bhrd", torch.tensor(p).expand(h, rank, m), of_heads(x)
        )
        keys, values = short(e, k), short(f, v)
        weights = torch.softmax(torch.einsum("bhnd,bhrd->bhnr", torch.tensor(q), keys) * scale, -1)
        o = torch.einsum("bhnr,bhrd->bhnd", weights, values).numpy()
        check = loop(q, e @ np.repeat(k, h // g, axis=1), f @ np.repeat(v, h // g, axis=1), scale=scale)
        source = f"torch {torch.__version__.split('+')[0]} einsum, float64"
        save(f"linformer_{name}", source, flags, tensors, o, check, layout)

    for pool, torch_pool in (("mean", F.adaptive_avg_pool1d), ("max", F.adaptive_max_pool1d)):
        q, k, v = single((2, 4, 20, 8), rng), single((2, 2, 37, 8), rng), single((2, 2, 37, 6), rng)
        short = lambda x: torch_pool(torch.tensor(x).flatten(0, 1).mT, 10).mT.reshape(2, 2, 10, -1)  # noqa: B023, E731
        o = F.scaled_dot_product_attention(torch.tensor(q), short(k), short(v), enable_gqa=True).numpy()
        window = [slice(r * 37 // 10, -((r + 1) * 37 // -10)) for r in range(10)]
        of = np.mean if pool == "mean" else np.max
        pooled = lambda x: np.stack([of(x[:, :, w], axis=2) for w in window], axis=2)  # noqa: B023, E731
        source = f"torch {torch.__version__.split('+')[0]} {torch_pool.__name__} and {SDPA.split()[2]} float64"
        flags = f"--pool {pool} --rank 10"
        save(f"linformer_pool_{pool}", source, flags, dict(q=q, k=k, v=v), o, loop(q, pooled(k), pooled(v)))


def yat(rng):
    # name, flags, B, H, G, N, M, D, E, layout. In `match` the keys equal the queries; in `zeros` two of each are zero.
    cases = [
        ("causal", "", 1, 2, 2, 37, 37, 8, 8, "bhnd"),
        ("softmax", "--norm softmax --no-causal", 1, 2, 2, 13, 65, 8, 5, "bhnd"),
        ("grouped_bnhd", "--kernel euclidean --epsilon 0.01", 2, 6, 2, 17, 17, 8, 6, "bnhd"),
        ("cache", "--kernel euclidean --norm softmax", 1, 2, 1, 19, 45, 8, 6, "bhnd"),
        ("norm_eps", "--no-causal --norm-eps 0.5", 1, 2, 2, 13, 21, 8, 6, "bhnd"),
        ("decode", "", 1, 4, 2, 1, 300, 8, 6, "bhnd"),
        ("match", "", 1, 2, 2, 21, 21, 8, 6, "bhnd"),
        ("match_euclidean", "--kernel euclidean", 1, 2, 2, 21, 21, 8, 6, "bhnd"),
        ("zeros", "", 1, 2, 2, 12, 12, 8, 6, "bhnd"),
    ]
    for name, flags, b, h, g, n, m, d, e, layout in cases:
        q, k, v = single((b, h, n, d), rng), single((b, g, m, d), rng), single((b, g, m, e), rng)
        if name.startswith("match"):
            k = q.copy()
        if name == "zeros":
            q[:, :, 3:5], k[:, :, 4:6] = 0, 0
        words = flags.split()
        causal = "--no-causal" not in words
        sphere = "euclidean" not in words
        exponential = "softmax" in words
        number = lambda flag, default: float(  # noqa: E731
            np.float32(words[words.index(flag) + 1] if flag in words else default)  # noqa: B023
        )
        epsilon, norm_eps = number("--epsilon", 1e-3), 0 if exponential else number("--norm-eps", 1e-6)

        unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)  # noqa: E731
        many = np.repeat(k, h // g, axis=1)
        a, c = (unit(q), unit(many)) if sphere else (q, many)
        apart = ((a[:, :, :, None] - c[:, :, None]) ** 2).sum(-1)
        both = (a**2).sum(-1)[..., None] + (c**2).sum(-1)[:, :, None]
        inner = (both - apart) / 2
        # A zero vector has no unit vector: the formula's 2 - 2 x is 2.
        weights = inner**2 / ((2 - 2 * inner if sphere else apart) + epsilon)
        weights = np.exp(weights - weights.max(-1, keepdims=True)) if exponential else weights
        if causal:
            weights = weights * (np.arange(m) <= np.arange(n)[:, None] + m - n)
        o = weights @ np.repeat(v, h // g, axis=1) / (weights.sum(-1, keepdims=True) + norm_eps)

        def weigh(row, keys):
            if sphere:  # noqa: B023
                x = unit(keys) @ unit(row)  # noqa: B023
                s = x**2 / (2 + epsilon - 2 * x)  # noqa: B023
            else:
                x = keys @ row
                s = x**2 / (row @ row + (keys**2).sum(1) - 2 * x + epsilon)  # noqa: B023
            return np.exp(s - s.max()) if exponential else s  # noqa: B023

        check = loop(q, k, v, causal, weigh=weigh, norm_eps=norm_eps)
        save(f"yat_{name}", f"numpy {np.__version__}, float64", flags, dict(q=q, k=k, v=v), o, check, layout)


if __name__ == "__main__":
    generator = np.random.default_rng(3)
    softmax(generator)
    linformer(generator)
    yat(generator)
