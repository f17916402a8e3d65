"""Writes tests/goldens/mta_*.safetensors: inputs and expected outputs of multi-token attention from code that shares
nothing with this crate.

    pip install "numpy==2.4.6" "torch==2.15.0"
    python tools/goldens/mta.py

The oracle computes full query-key maps in torch float64: conv2d with one group per head on masked and padded maps, einsum
over heads, softmax, RMSNorm, Linear and sigmoid, in the order of the paper's code. For a q_tail it computes the whole
sequence and keeps the last rows.

Tensors (f32): q, k, v, o in the file's layout, the weights that the case has, q_tail_in and q_tail_out. Metadata: operator,
source, layout, and the flags of `subquad run` that reproduce o. Check: every case also runs as a loop over heads, queries
and taps in numpy float64; the script stops if the two differ by more than 1e-12 of the largest value.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import tensorfile  # noqa: E402

SOURCE = f"torch {torch.__version__.split('+')[0]} conv2d, einsum, softmax, float64"


def mask(n, m, causal):
    return np.arange(m) <= np.arange(n)[:, None] + m - n if causal else np.ones((n, m), bool)


def maps(q, k, v, w, causal, scale, depth):
    """All stages on full maps, in torch."""
    h, n, m = q.shape[1], q.shape[2], k.shape[2]
    t = {name: torch.from_numpy(x) for name, x in w.items()}
    q, k, v = (torch.from_numpy(x) for x in (q, k, v))
    k, v = (x.repeat_interleave(h // x.shape[1], 1) for x in (k, v))
    seen = torch.from_numpy(mask(n, m, causal))

    def convolve(x, theta):
        rows, half = theta.shape[1] - 1, theta.shape[2] // 2
        return F.conv2d(F.pad(x, (half, half, rows, 0)), theta[:, None], groups=h)

    s = torch.where(seen, q @ k.transpose(-1, -2) * scale, 0.0)
    if "kq_pre" in t:
        s = convolve(s, t["kq_pre"])
    if "head_pre" in t:
        s = torch.einsum("oc,bcij->boij", t["head_pre"], s)
    a = torch.where(seen, s, -torch.inf).softmax(-1).nan_to_num()
    if "kq_post" in t:
        a = torch.where(seen, convolve(a, t["kq_post"]), 0.0)
    if "head_post" in t:
        c = t["head_post"].shape[1]
        a = torch.einsum("gco,bgcij->bgoij", t["head_post"], a.unflatten(1, (h // c, c))).flatten(1, 2)
    o = a @ v
    if "norm" in t:
        o = F.rms_norm(o, (o.shape[-1],), t["norm"], 1e-5)
        o = o if depth is None else o * (1 - (0.8 - 0.6 * np.exp(-0.3 * depth)))
    if "gate_weight" in t:
        o = o * torch.sigmoid(F.linear(o, t["gate_weight"], t.get("gate_bias")))
    return o.numpy()


def loop(q, k, v, w, causal, scale, depth):
    """The definition, cell by cell."""
    (batch, h, n, _), (_, g, m, _) = q.shape, k.shape
    seen = mask(n, m, causal)
    o = np.zeros((batch, h, n, v.shape[3]))

    def convolve(x, theta):
        out = np.zeros_like(x)
        cq, ck = theta.shape
        half = ck // 2
        for a in range(cq):
            for b in range(-half, half + 1):
                for i in range(a, n):
                    j = np.arange(max(0, -b), min(m, m - b))
                    out[i, j] += theta[cq - 1 - a, half + b] * x[i - a, j + b]
        return out

    for b in range(batch):
        s = [scale * q[b, i] @ k[b, i // (h // g)].T * seen for i in range(h)]
        if "kq_pre" in w:
            s = [convolve(s[i], w["kq_pre"][i]) for i in range(h)]
        if "head_pre" in w:
            s = [sum(w["head_pre"][i, c] * s[c] for c in range(h)) for i in range(h)]
        a = []
        for x in s:
            e = np.exp(x - x.max(-1, keepdims=True)) * seen
            a.append(e / np.maximum(e.sum(-1, keepdims=True), 1e-300))
        if "kq_post" in w:
            a = [convolve(a[i], w["kq_post"][i]) * seen for i in range(h)]
        if "head_post" in w:
            c = w["head_post"].shape[1]
            at = [(i // c, i // c * c, i % c) for i in range(h)]
            a = [sum(w["head_post"][x, y, z] * a[first + y] for y in range(c)) for x, first, z in at]
        for i in range(h):
            for r in range(n):
                x = a[i][r] @ v[b, i // (h // g)]
                if "norm" in w:
                    x = x / np.sqrt((x * x).mean() + 1e-5) * w["norm"]
                    x = x if depth is None else x * (0.2 + 0.6 * np.exp(-0.3 * depth))
                if "gate_weight" in w:
                    x = x / (1 + np.exp(-(w["gate_weight"] @ x + w.get("gate_bias", 0))))
                o[b, i, r] = x
    return o


def single(shape, rng, size=1.0):
    """Random values that are exact in f32, as float64."""
    return (rng.standard_normal(shape) * size).astype(np.float32).astype(np.float64)


def weights(names, h, e, pre, post, group, gates, rng):
    shapes = {
        "kq_pre": (h, *pre),
        "kq_post": (h, *post),
        "head_pre": (h, h),
        "head_post": (h // group, group, group),
        "norm": (e,),
        "gate_weight": (gates, e),
        "gate_bias": (gates,),
    }
    return {name: single(shapes[name], rng, 0.5) for name in names}


def main(rng):
    heads = ["head_pre", "head_post"]
    every = ["kq_pre", "kq_post", *heads, "norm", "gate_weight", "gate_bias"]
    cases = [  # name, flags, weights, B, H, G, N, M, D, E, kernels, group, gates, layout, rows before
        ("pre", "", ["kq_pre"], 1, 2, 2, 23, 23, 4, 3, (6, 11), (1, 1), 1, 1, "bhnd", 0),
        ("post", "--scale 0.7", ["kq_post"], 1, 2, 2, 40, 40, 4, 3, (1, 1), (5, 7), 1, 1, "bhnd", 0),
        ("talking_heads", "", heads, 1, 4, 4, 17, 17, 4, 3, (1, 1), (1, 1), 4, 1, "bhnd", 0),
        ("all_bnhd", "--depth 3", every, 2, 4, 2, 19, 19, 4, 5, (3, 5), (2, 9), 2, 1, "bnhd", 0),
        ("open", "--no-causal", ["kq_pre", "kq_post", "head_pre"], 1, 2, 1, 9, 37, 4, 3, (4, 3), (3, 3), 1, 1, "bhnd", 0),
        ("channels", "", ["norm", "gate_weight"], 1, 2, 2, 11, 11, 4, 6, (1, 1), (1, 1), 1, 6, "bhnd", 0),
        ("over_length", "", ["kq_pre", "kq_post"], 1, 2, 2, 3, 3, 4, 3, (16, 31), (16, 31), 1, 1, "bhnd", 0),
        ("state", "", every, 1, 2, 1, 4, 21, 4, 3, (4, 3), (3, 5), 2, 1, "bhnd", 17),
        ("decode", "", ["kq_pre", "kq_post"], 1, 4, 2, 1, 33, 4, 3, (6, 11), (6, 11), 1, 1, "bhnd", 32),
    ]
    for name, flags, names, b, h, g, n, m, d, e, pre, post, group, gates, layout, before in cases:
        q, k, v = single((b, h, n + before, d), rng), single((b, g, m, d), rng), single((b, g, m, e), rng)
        w = weights(names, h, e, pre, post, group, gates, rng)
        words = flags.split()
        number = lambda flag: float(words[words.index(flag) + 1]) if flag in words else None  # noqa: B023, E731
        scale = number("--scale")
        settings = ("--no-causal" not in words, d**-0.5 if scale is None else float(np.float32(scale)), number("--depth"))
        o, check = maps(q, k, v, w, *settings), loop(q, k, v, w, *settings)
        error = np.abs(o - check).max() / np.abs(check).max()
        if not error < 1e-12:
            sys.exit(f"{name}: {error:.1e} from the loop")
        tensors = dict(q=q[:, :, before:], k=k, v=v, o=o[:, :, before:], **w)
        if before:
            tail = pre[0] - 1 + post[0] - 1
            tensors |= dict(q_tail_in=q[:, :, before - tail : before], q_tail_out=q[:, :, -tail:])
        turn = (lambda x: x.swapaxes(1, 2)) if layout == "bnhd" else (lambda x: x)
        tensors = {n: turn(x) if n in "qkvo" else x for n, x in tensors.items()}
        path = ROOT / "tests" / "goldens" / f"mta_{name}.safetensors"
        tensorfile.save(path, {n: np.ascontiguousarray(x, np.float32) for n, x in tensors.items()}, {
            "operator": "mta",
            "source": SOURCE,
            "flags": f"{flags} --layout {layout}".strip(),
            "layout": layout,
            "script": "tools/goldens/mta.py",
        })
        print(f"{path.name:36} {path.stat().st_size:6} bytes, {error:.0e} from the loop")


if __name__ == "__main__":
    main(np.random.default_rng(9))
