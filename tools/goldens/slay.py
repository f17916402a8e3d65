"""Writes tests/goldens/slay_*.safetensors: inputs and expected outputs of operator `slay`, from code that shares nothing
with this crate.

    pip install "numpy==2.4.6"
    python tools/goldens/slay.py

The oracle is the masked quadratic form in float64. Nodes and weights come from numpy's laggauss. Features are not
multiplied out: a score is the product of the scores of both maps, A = (A(q) . A(k)) (E(q) . E(k)); `exact` uses the squared
cosine for the first; `nystrom` uses numpy's eigh, `tensorsketch` numpy's fft. o = tril(A) v / (sum A + norm_eps). For a
carried state the form runs over the earlier tokens, which produced the state, and the new ones.

Tensors (f32): q, k, v, o in the file's layout; anchors [P,D], signs or sketches [2,P,D] or nothing, and omega [R,G,F,D];
state_in [B,G,m,E], norm_in [B,G,m] if the case starts from a state (pass them to --state-in as `state` and `norm`);
state_out, norm_out if there is a final state (causal). Metadata: source, layout, and the flags of `subquad run slay` that
reproduce the outputs.

Check: every causal case also runs as a loop over tokens with the features multiplied out in the order (r, p, f), which
also gives the states; the script stops if the two differ by more than 1e-12.
"""


import numpy as np

import golden


SOURCE = "numpy float64 quadratic form"
PREFIX = 29  # tokens that produced a carried state

# name, layout, B, H, G, N, M, D, E, R, P (0: no map that takes anchors), F, causal, epsilon, norm_eps, from a state, poly
CASES = [
    ("default", "bhnd", 1, 2, 1, 65, 65, 16, 12, 2, 8, 16, True, None, None, False, "anchor"),
    ("state", "bnhd", 1, 4, 2, 37, 37, 5, 8, 3, 5, 7, True, None, None, True, "anchor"),
    ("exact", "bhnd", 2, 2, 2, 33, 33, 6, 5, 2, 0, 4, True, 0.25, 1e-3, False, "exact"),
    ("exact_state", "bhnd", 1, 2, 1, 20, 20, 7, 6, 1, 0, 3, True, None, None, True, "exact"),
    ("decode", "bhnd", 2, 4, 2, 1, 1, 12, 9, 2, 4, 6, True, None, None, True, "anchor"),
    ("cross", "bnhd", 2, 4, 2, 65, 37, 9, 7, 2, 6, 5, False, 1e-6, None, False, "anchor"),
    ("many_nodes", "bhnd", 1, 1, 1, 40, 40, 8, 8, 12, 3, 5, True, None, None, False, "anchor"),
    ("nystrom", "bhnd", 1, 2, 1, 30, 30, 6, 5, 2, 9, 4, True, None, 10.0, True, "nystrom"),
    ("maclaurin", "bhnd", 1, 2, 1, 30, 30, 6, 5, 2, 9, 4, True, None, 100.0, True, "maclaurin"),
    ("tensorsketch", "bhnd", 1, 2, 1, 30, 30, 6, 5, 2, 9, 4, True, None, 100.0, True, "tensorsketch"),
    ("laplace", "bhnd", 1, 2, 1, 30, 30, 6, 5, 2, 0, 12, True, 0.5, None, True, "laplace"),
    ("hadamard", "bhnd", 1, 2, 1, 30, 30, 6, 5, 2, 0, 12, True, None, None, True, "hadamard"),
]


def rms(a, b):
    return float(np.sqrt(((a - b) ** 2).sum() / (b**2).sum()))


def grouped(x, heads):
    """bhnd with G heads -> one copy per query head."""
    return np.repeat(x, heads // x.shape[1], axis=1)


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def exponential(u, omega, nodes, poly):
    """u [B,H,N,D], omega [R,H,F,D] -> [B,H,N,R,F]."""
    s, w = nodes
    x = np.einsum("bhnd,rhfd->bhnrf", u, omega)
    e = np.sqrt(w / omega.shape[2])[:, None] * np.exp(np.sqrt(2 * s)[:, None] * x - s[:, None])
    return e * x**2 / np.sqrt(omega.shape[2]) if poly == "hadamard" else e


def square(u, taken, poly):
    """[..., D] -> [..., P], by the map's parameters: anchors, signs, sketches or none."""
    if poly == "exact":
        i, j = np.triu_indices(u.shape[-1])
        return np.where(i == j, 1, np.sqrt(2)) * u[..., i] * u[..., j]
    if poly in ("laplace", "hadamard"):
        return np.ones((*u.shape[:-1], 1))
    if poly == "maclaurin":
        return (u @ taken[0].T) * (u @ taken[1].T) / np.sqrt(taken.shape[1])
    if poly == "tensorsketch":
        first, second = (np.fft.fft(u @ sketch.T) for sketch in taken)
        return np.fft.ifft(first * second).real
    squares = (u @ taken.T) ** 2
    if poly == "nystrom":
        values, vectors = np.linalg.eigh((taken @ taken.T) ** 2 + 1e-3 * np.eye(len(taken)))
        return squares @ (vectors / np.sqrt(values) @ vectors.T)
    return squares / np.sqrt(len(taken))


def features(x, taken, omega, nodes, poly):
    a, e = square(unit(x), taken, poly), exponential(unit(x), omega, nodes, poly)
    return np.einsum("bhnp,bhnrf->bhnrpf", a, e).reshape(*x.shape[:3], -1)


def quadratic(q, k, v, taken, omega, nodes, poly, causal, eps):
    """Queries align with the last keys when causal."""
    heads = q.shape[1]
    q, k, v, omega = unit(q), unit(grouped(k, heads)), grouped(v, heads), grouped(omega, heads)
    cosines = q @ k.swapaxes(-1, -2)
    squares = cosines**2 if poly == "exact" else square(q, taken, poly) @ square(k, taken, poly).swapaxes(-1, -2)
    eq, ek = (exponential(x, omega, nodes, poly).reshape(*x.shape[:3], -1) for x in (q, k))
    a = squares * (eq @ ek.swapaxes(-1, -2))
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
    name, layout, b, h, g, n, m, d, e, r, p, f, causal, epsilon, norm_eps, carried, poly = case
    rng = np.random.default_rng([20260204, index])

    def draw(*shape):
        return rng.normal(0, 1, shape).astype(np.float32)

    before = PREFIX if carried else 0
    q, k, v = draw(b, h, n, d), draw(b, g, before + m, d), draw(b, g, before + m, e)
    omega = draw(r, g, f, d)
    name_of = {"anchor": "anchors", "nystrom": "anchors", "maclaurin": "signs", "tensorsketch": "sketches"}.get(poly)
    taken = None
    if name_of == "anchors":
        taken = unit(draw(p, d).astype(np.float64)).astype(np.float32)
    elif name_of == "signs":
        taken = np.sign(draw(2, p, d))
    elif name_of == "sketches":
        taken = np.zeros((2, p, d), np.float32)
        for sketch in taken:
            sketch[rng.integers(0, p, d), np.arange(d)] = rng.choice([-1, 1], d)

    # rounded to f32, as the program stores these flags
    kernel_eps = float(np.float32(1e-3 if epsilon is None else epsilon))
    eps = float(np.float32(1e-6 if norm_eps is None else norm_eps))
    t, alpha = np.polynomial.laguerre.laggauss(r)
    nodes = t / (2 + kernel_eps), alpha / (2 + kernel_eps)
    q64, k64, v64, omega64 = (x.astype(np.float64) for x in (q, k, v, omega))
    if poly == "laplace":
        nodes = nodes[0], alpha * (2 + kernel_eps) / 4
    taken64 = None if taken is None else taken.astype(np.float64)

    o = quadratic(q64, k64, v64, taken64, omega64, nodes, poly, causal, eps)
    tensors = {"q": q, "k": k[:, :, before:], "v": v[:, :, before:], "o": o}
    if layout == "bnhd":
        tensors = {key: x.swapaxes(1, 2) for key, x in tensors.items()}
    tensors["omega"] = omega
    if taken is not None:
        tensors[name_of] = taken
    agree = ""
    if causal:
        fq = features(q64, taken64, grouped(omega64, h), nodes, poly)
        fk = features(k64, taken64, omega64, nodes, poly)
        state = fk[:, :, :before].swapaxes(-1, -2) @ v64[:, :, :before]
        norm = fk[:, :, :before].sum(2)
        if carried:
            tensors |= {"state_in": state, "norm_in": norm}
        loop, state, norm = token_loop(fq, fk[:, :, before:], v64[:, :, before:], eps, state, norm)
        check = rms(loop, o)
        assert check < 1e-12, (name, check)
        tensors |= {"state_out": state, "norm_out": norm}
        agree = f", the other form within {check:.1e}"

    flags = [f"--nodes {r}", f"--features {f}", *([f"--anchors {p}"] if p else [])]
    flags += [f"--poly {poly}"] * (poly != "anchor")
    flags += ["--causal" if causal else "--no-causal"]
    flags += [f"--epsilon {epsilon}"] * (epsilon is not None) + [f"--norm-eps {norm_eps}"] * (norm_eps is not None)
    flags += [f"--layout {layout}"]
    tensors = {key: x.astype(np.float32) for key, x in tensors.items()}
    golden.save(__file__, "slay", name, tensors, SOURCE, " ".join(flags), layout, agree)


def main():
    for index, case in enumerate(CASES):
        make(index, case)


if __name__ == "__main__":
    main()
