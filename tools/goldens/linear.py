"""Writes tests/goldens/linear_*.safetensors: inputs and expected outputs of operator `linear`, rules linear and gated,
from code that shares nothing with this crate.

    pip install "numpy==2.4.6" "onnx==1.23.2" "onnxruntime==1.32.0"
    python tools/goldens/linear.py

linear_ort_*   onnxruntime's com.microsoft.LinearAttention on the CPU, f32: no feature map, no denominator.
               linear_ort_gated_* has a log decay per head, or per key channel.
linear_quad_*  the masked quadratic form in float64: A = phi(q) phi(k)^T (N x M), o = scale A v / (scale sum A + eps).
               For a carried state the form runs over the earlier tokens, which produced the state, and the new ones.

Tensors (f32): q, k, v, o, and g under rule gated, in the file's layout; state_in [B,G,D,E], norm_in [B,G,D] if the case
starts from a state (pass them to --state-in as `state` and `norm`); state_out, norm_out if there is a final state (causal;
norm only when normalised). Metadata: source, layout, and the flags of `subquad run linear` that reproduce the outputs.

Check: the script stops if a second form disagrees. Un-normalised cases also run in the quadratic form (1e-6), causal
normalised ones in a loop over tokens (1e-12). All cases of rule gated run in that loop, and those with a denominator also
in the quadratic form with products of decays.
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import golden  # noqa: E402
import onnxops  # noqa: E402

QUADRATIC = "numpy float64 quadratic form"
PREFIX = 29  # tokens that produced a carried state
PHI = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "elu1": lambda x: np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))),
}

# name, oracle, layout, B, H, G, N, M, D, E, feature map, causal, scale (None: default), norm_eps, from a state, and, for
# rule gated, the scope of the log decay
CASES = [
    ("ort_plain", "ort", "bhnd", 1, 3, 3, 37, 37, 24, 24, "identity", True, None, None, False),
    ("ort_grouped_state", "ort", "bnhd", 2, 4, 2, 65, 65, 5, 7, "identity", True, 0.25, None, True),
    ("ort_decode", "ort", "bhnd", 2, 6, 3, 1, 1, 24, 5, "identity", True, None, None, True),
    ("quad_elu1", "quad", "bhnd", 1, 2, 1, 65, 65, 24, 24, "elu1", True, None, None, False),
    ("quad_elu1_state", "quad", "bnhd", 1, 4, 2, 37, 37, 5, 24, "elu1", True, None, None, True),
    ("quad_relu", "quad", "bhnd", 2, 2, 2, 65, 65, 5, 5, "relu", True, 0.5, 1e-3, False),
    ("quad_elu1_cross", "quad", "bnhd", 2, 4, 2, 65, 37, 5, 7, "elu1", False, None, None, False),
    ("quad_identity_cross", "quad", "bhnd", 1, 2, 2, 37, 65, 24, 5, "identity", False, 0.3, 0.25, False),
    ("ort_gated_head", "ort", "bhnd", 1, 3, 3, 70, 70, 12, 10, "identity", True, None, None, False, "head"),
    ("ort_gated_channel", "ort", "bnhd", 2, 4, 2, 37, 37, 5, 7, "identity", True, 0.25, None, True, "channel"),
    ("ort_gated_decode", "ort", "bhnd", 2, 6, 3, 1, 1, 12, 5, "identity", True, None, None, True, "channel"),
    ("quad_gated_head", "quad", "bhnd", 1, 4, 2, 65, 65, 8, 6, "elu1", True, None, None, True, "head"),
    ("quad_gated_channel", "quad", "bnhd", 1, 2, 1, 37, 37, 7, 5, "relu", True, 0.5, 1e-3, False, "channel"),
]


def rms(a, b):
    return float(np.sqrt(((a.astype(np.float64) - b) ** 2).sum() / (b.astype(np.float64) ** 2).sum()))


def grouped(x, heads):
    """bhnd with G heads -> one copy per query head."""
    return np.repeat(x, heads // x.shape[1], axis=1)


def quadratic(q, k, v, causal, scale, eps, logs=None):
    """q, k already mapped, bhnd, float64. eps None: no denominator. Queries align with the last keys when causal.

    logs: log decays [B,G,M,1] or [B,G,M,D]; token j reaches token i through those of j+1 to i.
    """
    k, v = grouped(k, q.shape[1]), grouped(v, q.shape[1])
    a = q @ k.swapaxes(-1, -2)
    if logs is not None:
        sums = np.cumsum(grouped(logs, q.shape[1]), 2)
        first = sums.shape[2] - q.shape[2]
        decays = np.exp(np.minimum(sums[:, :, first:, None] - sums[:, :, None], 0))
        a = np.einsum("bhid,bhjd,bhijd->bhij", q, k, np.broadcast_to(decays, (*decays.shape[:4], q.shape[3])))
    if causal:
        a = np.tril(a, a.shape[-1] - a.shape[-2])
    o = scale * (a @ v)
    return o if eps is None else o / (scale * a.sum(-1, keepdims=True) + eps)


def token_loop(q, k, v, scale, eps, state, norm, logs=None):
    """The recurrence, token by token."""
    out = []
    for n in range(q.shape[2]):
        left = 1.0 if logs is None else np.exp(logs[:, :, n])
        state = (state if logs is None else state * left[..., None]) + k[:, :, n, :, None] * v[:, :, n, None, :]
        norm = norm * left + k[:, :, n]
        o = scale * np.einsum("bhd,bhde->bhe", q[:, :, n], grouped(state, q.shape[1]))
        z = scale * np.einsum("bhd,bhd->bh", q[:, :, n], grouped(norm, q.shape[1]))
        out.append(o if eps is None else o / (z + eps)[..., None])
    return np.stack(out, 2), state, norm


def make(index, case):
    name, oracle, layout, b, h, g, n, m, d, e, feature, causal, scale, eps, carried, *gate = case
    rng = np.random.default_rng([20240, index])
    normalised = oracle == "quad"

    def draw(heads, length, width, centre=0.0, spread=1.0):
        return rng.normal(centre, spread, (b, heads, length, width)).astype(np.float32)

    # a signed map needs a denominator that keeps its sign: centre q and k off zero
    off = (0.7, 0.4) if feature == "identity" and normalised else ()
    before = PREFIX if carried else 0
    q, k, v = draw(h, n, d, *off), draw(g, before + m, d, *off), draw(g, before + m, e)

    logs = None
    if gate:
        logs = -np.abs(draw(g, before + m, d if gate == ["channel"] else 1, spread=0.3))

    phi = PHI[feature]
    fq, fk, v64 = phi(q.astype(np.float64)), phi(k.astype(np.float64)), v.astype(np.float64)
    factor = scale if scale is not None else (1.0 if normalised else d**-0.5)
    epsilon = (1e-6 if eps is None else eps) if normalised else None
    state_in = fk[:, :, :before].swapaxes(-1, -2) @ v64[:, :, :before]
    norm_in = fk[:, :, :before].sum(2)
    logs64 = None if logs is None else logs.astype(np.float64)
    if carried and gate:
        none = np.zeros_like(state_in), np.zeros_like(norm_in)
        prefix = np.zeros((b, h, before, d)), fk[:, :, :before], v64[:, :, :before]
        _, state_in, norm_in = token_loop(*prefix, 1.0, None, *none, logs64[:, :, :before])
    o = quadratic(fq, fk, v64, causal, factor, epsilon, logs64)
    if causal:
        loop, state_out, norm_out = token_loop(
            fq, fk[:, :, before:], v64[:, :, before:], factor, epsilon, state_in, norm_in,
            None if logs is None else logs64[:, :, before:],
        )
        check = rms(loop, o)
        assert check < 1e-12, (name, check)
        if not gate:
            state_out = fk.swapaxes(-1, -2) @ v64
            norm_out = fk.sum(2)

    k, v = k[:, :, before:], v[:, :, before:]
    if gate:
        logs = logs[:, :, before:]
    if oracle == "ort":
        rule = "gated" if gate else "linear"
        run = onnxops.LinearAttention(h, g, rule, scale=scale or 0.0, state=carried, decay=bool(gate))
        arrays = [onnxops.pack(x.swapaxes(1, 2)) for x in (q, k, v)] + [state_in.astype(np.float32)] * carried
        arrays += [onnxops.pack(logs.swapaxes(1, 2))] if gate else []
        theirs, state = run(*arrays)
        theirs = theirs.reshape(b, n, h, e).swapaxes(1, 2)
        check = max(rms(theirs, o), rms(state, state_out))
        assert check < 1e-6, (name, check)
        o, state_out = theirs, state

    tensors = {"q": q, "k": k, "v": v, "o": o} | ({"g": logs} if gate else {})
    if layout == "bnhd":
        tensors = {key: x.swapaxes(1, 2) for key, x in tensors.items()}
    if gate == ["head"]:
        tensors["g"] = tensors["g"][..., 0]
    if carried:
        tensors["state_in"] = state_in
    if carried and normalised:
        tensors["norm_in"] = norm_in
    if causal:
        tensors["state_out"] = state_out
    if causal and normalised:
        tensors["norm_out"] = norm_out

    flags = ["--rule gated"] * bool(gate)
    flags += [f"--feature-map {feature}", "--normalize" if normalised else "--no-normalize"]
    flags += ["--causal" if causal else "--no-causal"]
    flags += [f"--scale {scale}"] * (scale is not None) + [f"--norm-eps {eps}"] * (eps is not None)
    flags += [f"--layout {layout}"]
    tensors = {key: x.astype(np.float32) for key, x in tensors.items()}
    source = onnxops.SOURCE if oracle == "ort" else QUADRATIC
    agree = "" if not causal else f", the other form within {check:.1e}"
    golden.save(__file__, "linear", name, tensors, source, " ".join(flags), layout, agree)


def main():
    for index, case in enumerate(CASES):
        make(index, case)


if __name__ == "__main__":
    main()
