"""SLAY at its defaults (R=2, P=8, F=16: m=256): linear attention with features of the spherical Yat kernel, normalised.

torch has no operator for it. We try two forms by einsum, each in chunks of 64, 128 and 256 tokens:

features  all m features of every token, then linear attention (see linear.py)
Gram      in-chunk scores as products of the scores of the two small maps; features only to read and write the state

Both sides leave out the 1e-6 added to the denominator.
"""

import numpy as np
from case import Entry, Peer, Refused, stored
from libraries import torch_form, torch_tensors

from .linear import CHUNKS, causal_flag, chunked

NODES, ANCHORS, FEATURES, EPSILON = 2, 8, 16, 1e-3


def factors(case, q, k, anchors, omega):
    """The polynomial and the exponential map, [B,H,N,P] and [B,H,N,R F], for queries and for keys."""
    import torch

    t, alpha = np.polynomial.laguerre.laggauss(NODES)
    s, w = t / (2 + EPSILON), alpha / (2 + EPSILON)

    def one(x):
        u = torch.nn.functional.normalize(x, dim=-1)
        square = torch.einsum("bhnd,pd->bhnp", u, anchors) ** 2 / ANCHORS**0.5
        nodes = [
            (w[r] / FEATURES) ** 0.5 * torch.exp((2 * s[r]) ** 0.5 * torch.einsum("bhnd,hfd->bhnf", u, omega[r]) - s[r])
            for r in range(NODES)
        ]
        return square, torch.cat(nodes, dim=-1)

    return list(zip(one(q), one(k), strict=True))


def features(case, *tensors):
    """Outer products of the maps: all features of queries and of keys."""
    import torch

    square, exponential = factors(case, *tensors)
    return [[torch.einsum("bhnp,bhnf->bhnpf", a, e).flatten(-2) for a, e in zip(square, exponential, strict=True)]]


def torch(case, *arrays):
    if not case.causal:
        raise Refused("only its causal form is written here")
    tensors = torch_tensors(case, arrays)
    forms = {}
    for size in CHUNKS:
        forms[f"features, chunks of {size}"] = chunked(case, size, features)
        forms[f"Gram, chunks of {size}"] = chunked(case, size, factors)
    return [torch_form(case, name, form, tensors) for name, form in forms.items()]


def draw(case, tensors, rng):
    anchors = rng.standard_normal((ANCHORS, case.dim), np.float32)
    tensors["anchors"] = stored(anchors / np.linalg.norm(anchors, axis=1, keepdims=True), case.dtype)
    tensors["omega"] = stored(rng.standard_normal((NODES, case.heads, FEATURES, case.dim), np.float32), case.dtype)


ENTRIES = [
    Entry(
        name="slay",
        op="slay",
        length=16384,
        causal=(True,),
        draw=draw,
        flags=lambda case: [causal_flag(case), "norm-eps=0"],
        peers=(Peer("torch", ("cpu", "cuda"), torch),),
    )
]
