"""The formulas in numpy float64, written from the paper independently of the Rust code, and the layer of its ablation.

Functions take one batch entry: q, k, v [heads, tokens, dim], cosines and scores [heads, tokens, tokens]; u and c are unit
vectors and their cosines. omega is [nodes, heads, features, dim], anchors [count, dim]. "eq." and "sec." refer to the paper
(arXiv 2602.04915). Used by reproduce.py.
"""

from dataclasses import dataclass

import numpy as np

DELTA = 1e-6  # added to the denominator

# ---- the kernel and its parts ----


def unit(x):
    x = x.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def cosines(q, k):
    return unit(q) @ unit(k).swapaxes(-1, -2)


def kernel(c, epsilon):
    """x^2 / (C - 2x), C = 2 + epsilon: the spherical Yat kernel (eq. 5)."""
    return c**2 / (2 + epsilon - 2 * c)


def rule(nodes, epsilon):
    """Gauss-Laguerre nodes s and weights w of the integral of exp(-C s) f(s) (sec. 2.4.1)."""
    t, alpha = np.polynomial.laguerre.laggauss(nodes)
    return t / (2 + epsilon), alpha / (2 + epsilon)


def quadrature(c, nodes, epsilon):
    """sum_r w_r exp(2 s_r x), an approximation of 1 / (C - 2x)."""
    return sum(w * np.exp(2 * s * c) for s, w in zip(*rule(nodes, epsilon)))


def exponential(u, omega, epsilon):
    """Positive random features of `quadrature` (eq. PRF), all nodes side by side: [heads, tokens, nodes * features]."""
    maps = []
    for s, w, one in zip(*rule(len(omega), epsilon), omega.astype(np.float64)):
        x = u @ one.swapaxes(-1, -2)
        maps.append(np.sqrt(w / one.shape[-2]) * np.exp(np.sqrt(2 * s) * x - s))
    return np.concatenate(maps, axis=-1)


def gram(features, q, k):
    return features(unit(q)) @ features(unit(k)).swapaxes(-1, -2)


def random_exponential(q, k, omega, epsilon):
    return gram(lambda u: exponential(u, omega, epsilon), q, k)


# ---- approximations of x^2: maps u [heads, tokens, dim] -> [heads, tokens, P] (sec. 2.4.2) ----

RIDGE = 1e-3  # of Nystrom's matrix, as the authors' code has it


def anchor(u, anchors):
    return (u @ anchors.T) ** 2 / np.sqrt(len(anchors))


def population(c):
    """The limit of anchor scores, up to a constant: the mean of (a.q)^2 (a.k)^2 over all unit a."""
    return 1 + 2 * c**2


def nystrom(u, anchors):
    values, vectors = np.linalg.eigh((anchors @ anchors.T) ** 2 + RIDGE * np.eye(len(anchors)))
    root = vectors * np.maximum(values, 1e-6) ** -0.5
    return (u @ anchors.T) ** 2 @ root @ vectors.T


def maclaurin(u, pair):
    """pair [2, P, D]: entries of +1 or -1."""
    return (u @ pair[0].T) * (u @ pair[1].T) / np.sqrt(pair.shape[1])


def tensorsketch(u, pair):
    """pair [2, P, D]: two count sketches, each with one +1 or -1 per column."""
    first, second = (np.fft.rfft(u @ sketch.T, axis=-1) for sketch in pair)
    return np.fft.irfft(first * second, pair.shape[1], axis=-1)


MAPS = {"anchor": anchor, "nystrom": nystrom, "maclaurin": maclaurin, "tensorsketch": tensorsketch}
SIGNED = ("nystrom", "maclaurin", "tensorsketch")  # their scores may be negative, and so may the sum


def hadamard(u, omega, epsilon):
    """(w.u)^2 times the exponential feature of the same w, so not a product of two maps (app. features)."""
    maps = []
    for s, w, one in zip(*rule(len(omega), epsilon), omega.astype(np.float64)):
        x = u @ one.swapaxes(-1, -2)
        maps.append(np.sqrt(w) / one.shape[-2] * x**2 * np.exp(np.sqrt(2 * s) * x - s))
    return np.concatenate(maps, axis=-1)


def scores(poly, q, k, params, epsilon):
    """Scores for a value of --poly; params: omega, and `poly` from draw() or known()."""
    omega = params["omega"]
    if poly == "hadamard":
        return gram(lambda u: hadamard(u, omega, epsilon), q, k)
    exponentials = random_exponential(q, k, omega, epsilon)
    if poly == "laplace":
        return exponentials  # its constant C^2 / 4 cancels
    if poly == "exact":
        return cosines(q, k) ** 2 * exponentials
    return gram(lambda u: MAPS[poly](u, params["poly"]), q, k) * exponentials / params.get("over", 1)


def draw(poly, rng, nodes, heads, features, dim, width):
    """Parameters of a value of --poly that the binary does not offer."""
    params = {"omega": rng.standard_normal((nodes, heads, features, dim))}
    if poly in ("anchor", "nystrom"):
        params["poly"] = unit(rng.standard_normal((width, dim)))
    elif poly == "maclaurin":
        params["poly"] = rng.choice([-1.0, 1.0], (2, width, dim))
    elif poly == "tensorsketch":
        params["poly"] = np.zeros((2, width, dim))
        for sketch in params["poly"]:
            sketch[rng.integers(width, size=dim), np.arange(dim)] = rng.choice([-1.0, 1.0], dim)
    return params


def authors(poly, rng, nodes, heads, features, dim, width):
    """Like draw(), but as in the authors' code at 93f9127, whose figures the paper prints.

    Nystrom's anchors are not of unit length, and TensorSketch has one sketch for both factors. Both have an additional
    factor 1/P, which is `over`.
    """
    params = draw(poly, rng, nodes, heads, features, dim, width)
    if poly == "nystrom":
        params["poly"] = rng.standard_normal((width, dim))
    elif poly == "tensorsketch":
        params["poly"][1] = params["poly"][0]
    return params | {"over": 1 if poly == "maclaurin" else width}


def known(poly, saved, width):
    """Parameters as `scores` wants them from what --save-params wrote, told by shape; None where that is not enough."""
    rest = {name: x.astype(np.float64) for name, x in saved.items() if name != "omega"}
    if "omega" not in saved:
        return None
    params = {"omega": saved["omega"]}
    if poly not in MAPS:
        return params
    shapes = [x.shape for x in rest.values()]
    dim = saved["omega"].shape[-1]
    if poly in ("anchor", "nystrom") and shapes == [(width, dim)]:
        (params["poly"],) = rest.values()
    elif poly in ("maclaurin", "tensorsketch") and shapes == [(2, width, dim)]:
        (params["poly"],) = rest.values()
    elif poly in ("maclaurin", "tensorsketch") and shapes == [(width, dim)] * 2:
        params["poly"] = np.stack(list(rest.values()))
    elif poly == "maclaurin" and shapes == [(2 * width, dim)]:
        (both,) = rest.values()
        params["poly"] = both.reshape(2, width, dim)
    else:
        return None
    return params


# ---- attention ----


def weigh(scores, v, floor=False):
    """(o, sums): causal scores times v, divided by their sum plus DELTA (eq. 7).

    floor: divides by max(sum, DELTA) instead, as the authors' code does at 93f9127. A negative sum becomes DELTA.
    """
    scores = np.tril(scores)
    sums = scores.sum(-1, keepdims=True)
    return scores @ v.astype(np.float64) / (np.maximum(sums, DELTA) if floor else sums + DELTA), sums[..., 0]


def mean(v):
    """The mean of the values so far, without queries and keys."""
    return np.cumsum(v.astype(np.float64), axis=-2) / np.arange(1, v.shape[-2] + 1)[:, None]


def steady(scores):
    """Tokens whose sum is not a small difference of large scores. For signed scores only these can be compared in f32."""
    scores = np.tril(scores)
    return np.abs(scores.sum(-1)) >= 0.1 * np.abs(scores).sum(-1)


# ---- the layer of the ablation ----


@dataclass(frozen=True)
class Setting:
    """tokens T, nodes R, features M, anchors P."""

    name: str
    tokens: int
    nodes: int
    features: int
    anchors: int


SETTINGS = [Setting("Small", 128, 2, 8, 8), Setting("Medium", 256, 2, 16, 16), Setting("Large", 512, 2, 32, 32)]
WIDTH, HEADS, BATCH, EPSILON = 64, 4, 8, 1e-6


class Layer:
    """q, k, v [batch, heads, tokens, dim] (f32) from standard normal tokens by linear layers, and the output layer.

    Weights and biases are uniform within 1/sqrt(64), torch's default. There are biases, as in the authors' ablation script
    (tests/ablation_poly_approx.py at 93f9127); their models have none.
    """

    def __init__(self, seed, tokens, biased=True):
        rng = np.random.default_rng([seed, tokens])
        bound = 1 / np.sqrt(WIDTH)

        def linear(outputs):
            return rng.uniform(-bound, bound, (outputs, WIDTH)), rng.uniform(-bound, bound, outputs) * biased

        (weight, bias), self.behind = linear(3 * WIDTH), linear(WIDTH)
        x = rng.standard_normal((BATCH, tokens, WIDTH))
        qkv = (x @ weight.T + bias).reshape(BATCH, tokens, 3, HEADS, -1)
        self.q, self.k, self.v = np.ascontiguousarray(qkv.transpose(2, 0, 3, 1, 4), np.float32)

    def output(self, o):
        """[batch, heads, tokens, dim] -> [batch, tokens, 64], after the output layer."""
        weight, bias = self.behind
        o = o.astype(np.float64).swapaxes(1, 2)
        return o.reshape(*o.shape[:2], WIDTH) @ weight.T + bias


def compare(got, want):
    """(relative L2 distance, cosine) of two outputs, each flattened to one vector."""
    a, b = np.linalg.norm(got), np.linalg.norm(want)
    return float(np.linalg.norm(got - want) / b), float((got * want).sum() / (a * b))


def relative_rms(got, want):
    got, want = got.astype(np.float64), want.astype(np.float64)
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))
