"""Writes tests/goldens/linear_map_*.safetensors: inputs and expected outputs of operator `linear` with the feature maps
performer, performer-relu and cosformer, from code that shares nothing with this crate.

    pip install "numpy==2.4.6" "torch==2.15.0" "einops" && pip install --no-deps "performer-pytorch==1.1.4" \\
        axial-positional-embedding local-attention hyper-connections
    python tools/goldens/maps.py

performer        features from performer-pytorch's softmax_kernel in float64 with eps 0, so that its stabiliser, a maximum
                 over all keys, cancels in the quotient.
performer-relu   features from its generalized_kernel with ReLU and no constant.
cosformer        without features: relu(q_i) . relu(k_j) cos(th_i - th_j), the paper's reweighting (arXiv 2202.08791,
                 equation 10).

Outputs use the full matrix of weights, divided by its row sums, with decays exp(g_{j+1} + ... + g_i) under rule gated.

Tensors (f32): q, k, v, o, omega if the map has one, and g under rule gated, in the file's layout. Metadata: source, layout,
and the flags of `subquad run linear` that reproduce the outputs.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from performer_pytorch.performer_pytorch import generalized_kernel, softmax_kernel

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import tensorfile  # noqa: E402

PACKAGE = "performer-pytorch 1.1.4"

# name, map, layout, B, H, G, N, M, D, E, F, causal, scale of q and k, gated, omega per head
CASES = [
    ("performer", "performer", "bhnd", 1, 3, 3, 65, 65, 12, 10, 24, True, 1.0, False, False),
    ("performer_long", "performer", "bhnd", 1, 2, 2, 70, 70, 16, 6, 32, True, 8.0, False, False),
    ("performer_cross", "performer", "bnhd", 2, 4, 2, 19, 40, 8, 7, 20, False, 1.5, False, True),
    ("performer_gated", "performer", "bhnd", 1, 4, 2, 50, 50, 8, 5, 16, True, 1.0, True, False),
    ("performer_relu", "performer-relu", "bnhd", 1, 4, 2, 45, 45, 8, 5, 28, True, 1.0, False, True),
    ("cosformer", "cosformer", "bhnd", 1, 4, 2, 61, 61, 7, 9, 0, True, 1.0, False, False),
    ("cosformer_gated", "cosformer", "bhnd", 2, 2, 1, 33, 33, 8, 6, 0, True, 1.0, True, False),
]


def pairs(name, q, k, omega, longest):
    """Weights of all queries and keys of one head, float64."""
    if name == "cosformer":
        theta = np.pi / 2 * np.arange(max(len(q), len(k))) / longest
        return (np.maximum(q, 0) @ np.maximum(k, 0).T) * np.cos(theta[: len(q), None] - theta[None, : len(k)])
    q, k, omega = (torch.from_numpy(x.astype(np.float64)) for x in (q, k, omega))
    if name == "performer":
        phi = [softmax_kernel(x[None, None], projection_matrix=omega, is_query=of_q, eps=0.0)
               for x, of_q in ((q, True), (k, False))]
    else:
        phi = [generalized_kernel(x[None, None], projection_matrix=omega, kernel_fn=torch.nn.ReLU(), kernel_epsilon=0.0,
                                  normalize_data=False) for x in (q, k)]
    return (phi[0][0, 0] @ phi[1][0, 0].T).numpy()


def make(index, case):
    name, feature_map, layout, b, h, g, n, m, d, e, f, causal, factor, gated, apart = case
    rng = np.random.default_rng([20261, index])

    def draw(heads, length, width):
        return rng.normal(0, 1, (b, heads, length, width)).astype(np.float32)

    q, k, v = factor * draw(h, n, d), factor * draw(g, m, d), draw(g, m, e)
    q, k = q.astype(np.float32), k.astype(np.float32)
    omega = rng.normal(0, 1, (g, f, d) if apart else (f, d)).astype(np.float32) if f else None
    logs = (-0.2 * np.abs(draw(g, m, 1)[..., 0])).astype(np.float32) if gated else None
    o = np.zeros((b, h, n, e))
    for i in range(b):
        for head in range(h):
            kv = head // (h // g)
            weights = pairs(feature_map, q[i, head].astype(np.float64), k[i, kv].astype(np.float64),
                            None if omega is None else omega[kv] if apart else omega, max(n, m))
            if gated:
                passed = np.cumsum(logs[i, kv].astype(np.float64))
                weights = weights * np.exp(np.minimum(passed[:, None] - passed[None, :], 0))
            if causal:
                weights = np.tril(weights)
            sums = weights.sum(-1, keepdims=True)
            # A query whose total weight is 0 gives zeros.
            o[i, head] = np.divide(weights @ v[i, kv], sums, out=o[i, head], where=sums > 0)

    tensors = {"q": q, "k": k, "v": v, "o": o} | ({"g": logs} if gated else {})
    if layout == "bnhd":
        tensors = {key: x.swapaxes(1, 2) for key, x in tensors.items()}
    if omega is not None:
        tensors["omega"] = omega
    flags = ["--rule gated --normalize"] if gated else []
    flags += [f"--feature-map {feature_map}", "--norm-eps 0", f"--layout {layout}"] + ["--no-causal"] * (not causal)
    path = ROOT / "tests" / "goldens" / f"linear_map_{name}.safetensors"
    tensorfile.save(path, {key: np.ascontiguousarray(x, np.float32) for key, x in tensors.items()}, {
        "operator": "linear",
        "source": "numpy float64, the reweighted quadratic form" if feature_map == "cosformer" else PACKAGE,
        "flags": " ".join(flags),
        "layout": layout,
        "script": "tools/goldens/maps.py",
    })
    print(f"{path.name}: {path.stat().st_size} bytes, {' '.join(flags)}")


def main():
    for index, case in enumerate(CASES):
        make(index, case)


if __name__ == "__main__":
    main()
