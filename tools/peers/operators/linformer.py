"""Linformer attention: a projection e [1,K,M], shared by all heads, reduces keys and values from M to K rows; then softmax
attention with scores scaled by 1/sqrt(D).

torch has no operator for it, so we try several forms:

einsum  the projections and the attention by einsum, as in the formula
matmul  e expanded over the heads, the attention by matmul; the scale goes to the K projected keys, not to N x K scores
SDPA    e expanded over the heads, then scaled_dot_product_attention
"""

import numpy as np
from case import Entry, Peer, stored
from libraries import torch_form, torch_tensors


def torch(case, q, k, v, e):
    import torch

    scale = case.scale

    def einsum(q, k, v, e):
        kp = torch.einsum("km,bhmd->bhkd", e[0], k)
        vp = torch.einsum("km,bhmd->bhkd", e[0], v)
        weights = torch.softmax(torch.einsum("bhnd,bhkd->bhnk", q, kp) * scale, dim=-1)
        return torch.einsum("bhnk,bhkd->bhnd", weights, vp)

    def project(x, e):
        return torch.matmul(e.expand(*x.shape[:2], -1, -1), x)

    def matmul(q, k, v, e):
        kp, vp = project(k, e) * scale, project(v, e)
        return torch.matmul(torch.softmax(torch.matmul(q, kp.mT), dim=-1), vp)

    def fused(q, k, v, e):
        return torch.nn.functional.scaled_dot_product_attention(q, project(k, e), project(v, e))

    tensors = torch_tensors(case, (q, k, v, e))
    forms = {"einsum": einsum, "matmul": matmul, "SDPA": fused}
    return [torch_form(case, name, form, tensors) for name, form in forms.items()]


def draw(case, tensors, rng):
    # Variance 1/M keeps projected keys and values at about unit variance.
    e = rng.standard_normal((1, case.rank, case.length), np.float32) * np.float32(case.length**-0.5)
    tensors["e"] = stored(e, case.dtype)


ENTRIES = [
    Entry(
        name="linformer",
        op="linformer",
        length=8192,
        causal=(False,),
        draw=draw,
        ranked=True,
        peers=(Peer("torch", ("cpu", "cuda"), torch),),
    )
]
