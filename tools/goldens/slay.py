"""Writes tests/goldens/slay_*.safetensors: inputs and expected outputs of operator `slay`, from code that shares nothing
with this crate.

    pip install "numpy==2.4.6"
    python tools/goldens/slay.py

The masked quadratic form in float64. Nodes and weights are numpy's laggauss; features are never multiplied out: a score
is the product of the two maps' own, A = (A(q) . A(k)) (E(q) . E(k)), under `exact` with the square of the cosine in
place of A's. o = tril(A) v / (sum A + norm_eps). A carried state is stated by the tokens it came from: the form runs
over these tokens and the new ones.

Tensors (f32): q, k, v, o in the file's layout; anchors [P,D] (not under `exact`) and omega [R,G,F,D]; state_in
[B,G,m,E], norm_in [B,G,m] where the case starts from a state (give them to --state-in as `state` and `norm`);
state_out, norm_out where there is one to write (causal). Metadata: source, layout, and flags, those of `subquad run slay`
that reproduce the outputs.

How checked: every causal case also goes through a loop over tokens with the features multiplied out in the order
(r, p, f), which is what gives the states, and the script stops if the two disagree (1e-12).
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import tensorfile  # noqa: E402

SOURCE = "numpy float64 quadratic form"
PREFIX = 29  # tokens behind a carried state

# name, layout, B, H, G, N, M, D, E, R, P (0: exact), F, causal, epsilon, norm_eps, from a state
CASES = [
    ("default", "bhnd", 1, 2, 1, 65, 65, 16, 12, 2, 8, 16, True, None, None, False),
    ("state", "bnhd", 1, 4, 2, 37, 37, 5, 8, 3, 5, 7, True, None, None, True),
    ("exact", "bhnd", 2, 2, 2, 33, 33, 6, 5, 2, 0, 4, True, 0.25, 1e-3, False),
    ("exact_state", "bhnd", 1, 2, 1, 20, 20, 7, 6, 1, 0, 3, True, None, None, True),
    ("decode", "bhnd", 2, 4, 2, 1, 1, 12, 9, 2, 4, 6, True, None, None, True),
    ("cross", "bnhd", 2, 4, 2, 65, 37, 9, 7, 2, 6, 5, False, 1e-6, None, False),
    ("many_nodes", "bhnd", 1, 1, 1, 40, 40, 8, 8, 12, 3, 5, True, None, None, False),
]


def rms(a, b):
    return float(np.sqrt(((a - b) ** 2).sum() / (b**2).sum()))


def grouped(x, heads):
    """bhnd with G heads -> every query head's own."""
    return np.repeat(x, heads // x.shape[1], axis=1)


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def exponential(u, omega, nodes):
    """u [B,H,N,D], omega [R,H,F,D] -> [B,H,N,R,F]."""
    s, w = nodes
    x = np.einsum("bhnd,rhfd->bhnrf", u, omega)
    return np.sqrt(w / omega.shape[2])[:, None] * np.exp(np.sqrt(2 * s)[:, None] * x - s[:, None])


def square(u, anchors):
    """[..., D] -> [..., P]; under `exact` all products of two components."""
    if anchors is not None:
        return (u @ anchors.T) ** 2 / np.sqrt(len(anchors))
    i, j = np.triu_indices(u.shape[-1])
    return np.where(i == j, 1, np.sqrt(2)) * u[..., i] * u[..., j]


def features(x, anchors, omega, nodes):
    a, e = square(unit(x), anchors), exponential(unit(x), omega, nodes)
    return np.einsum("bhnp,bhnrf->bhnrpf", a, e).reshape(*x.shape[:3], -1)


def quadratic(q, k, v, anchors, omega, nodes, causal, eps):
    """Queries align with the last keys when causal."""
    heads = q.shape[1]
    q, k, v, omega = unit(q), unit(grouped(k, heads)), grouped(v, heads), grouped(omega, heads)
    cosines = q @ k.swapaxes(-1, -2)
    poly = cosines**2 if anchors is None else square(q, anchors) @ square(k, anchors).swapaxes(-1, -2)
    eq, ek = (exponential(x, omega, nodes).reshape(*x.shape[:3], -1) for x in (q, k))
    a = poly * (eq @ ek.swapaxes(-1, -2))
    if causal:
        a = np.tril(a, a.shape[-1] - a.shape[-2])
    return a @ v / (a.sum(-1, keepdims=True) + eps)


def token_loop(q, k, v, eps, state, norm):
    """The recurrence on features, one token at a time."""
    out, heads = [], q.shape[1]
    for n in range(q.shape[2]):
        state = state + k[:, :, n, :, None] * v[:, :, n, None, :]
        norm = norm + k[:, :, n]
        o = np.einsum("bhm,bhme->bhe", q[:, :, n], grouped(state, heads))
        z = np.einsum("bhm,bhm->bh", q[:, :, n], grouped(norm, heads))
        out.append(o / (z + eps)[..., None])
    return np.stack(out, 2), state, norm


def make(index, case):
    name, layout, b, h, g, n, m, d, e, r, p, f, causal, epsilon, norm_eps, carried = case
    rng = np.random.default_rng([20260204, index])

    def draw(*shape):
        return rng.normal(0, 1, shape).astype(np.float32)

    before = PREFIX if carried else 0
    q, k, v = draw(b, h, n, d), draw(b, g, before + m, d), draw(b, g, before + m, e)
    omega = draw(r, g, f, d)
    anchors = unit(draw(p, d).astype(np.float64)).astype(np.float32) if p else None

    # what the flags mean to a program that keeps them in f32
    kernel_eps = float(np.float32(1e-3 if epsilon is None else epsilon))
    eps = float(np.float32(1e-6 if norm_eps is None else norm_eps))
    t, alpha = np.polynomial.laguerre.laggauss(r)
    nodes = t / (2 + kernel_eps), alpha / (2 + kernel_eps)
    q64, k64, v64, omega64 = (x.astype(np.float64) for x in (q, k, v, omega))
    anchors64 = None if anchors is None else anchors.astype(np.float64)

    o = quadratic(q64, k64, v64, anchors64, omega64, nodes, causal, eps)
    tensors = {"q": q, "k": k[:, :, before:], "v": v[:, :, before:], "o": o}
    if layout == "bnhd":
        tensors = {key: x.swapaxes(1, 2) for key, x in tensors.items()}
    tensors["omega"] = omega
    if anchors is not None:
        tensors["anchors"] = anchors
    agree = ""
    if causal:
        fq = features(q64, anchors64, grouped(omega64, h), nodes)
        fk = features(k64, anchors64, omega64, nodes)
        state = fk[:, :, :before].swapaxes(-1, -2) @ v64[:, :, :before]
        norm = fk[:, :, :before].sum(2)
        if carried:
            tensors |= {"state_in": state, "norm_in": norm}
        loop, state, norm = token_loop(fq, fk[:, :, before:], v64[:, :, before:], eps, state, norm)
        check = rms(loop, o)
        assert check < 1e-12, (name, check)
        tensors |= {"state_out": state, "norm_out": norm}
        agree = f", the other form within {check:.1e}"

    flags = [f"--nodes {r}", f"--features {f}", f"--anchors {p}" if p else "--poly exact"]
    flags += ["--causal" if causal else "--no-causal"]
    flags += [f"--epsilon {epsilon}"] * (epsilon is not None) + [f"--norm-eps {norm_eps}"] * (norm_eps is not None)
    flags += [f"--layout {layout}"]
    path = ROOT / "tests" / "goldens" / f"slay_{name}.safetensors"
    tensorfile.save(path, {key: x.astype(np.float32) for key, x in tensors.items()}, {
        "operator": "slay",
        "source": SOURCE,
        "flags": " ".join(flags),
        "layout": layout,
        "script": "tools/goldens/slay.py",
    })
    print(f"{path.name}: {path.stat().st_size} bytes{agree}\n    {' '.join(flags)}")
    for key, x in tensors.items():
        print(f"    {key} {list(x.shape)}")


def main():
    (ROOT / "tests" / "goldens").mkdir(parents=True, exist_ok=True)
    for index, case in enumerate(CASES):
        make(index, case)


if __name__ == "__main__":
    main()
