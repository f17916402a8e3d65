"""Multi-token attention with the kernel of its paper before the softmax, 6 queries by 11 keys, causal.

torch: full query-key maps, conv2d with one group per head on the masked scores, softmax, product with the values, as in the
authors' code (linked from arXiv 2504.00927).
"""

import numpy as np
from case import Entry, Peer, stored
from libraries import torch_form, torch_tensors

QUERIES, KEYS = 6, 11


def convolved(q, k, v, kernel):
    import torch
    from torch.nn.functional import conv2d, pad

    n, heads = q.shape[2], q.shape[1]
    unseen = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1)
    scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(unseen, 0.0)
    padded = pad(scores, (KEYS // 2, KEYS // 2, QUERIES - 1, 0))
    weights = conv2d(padded, kernel[:, None], groups=heads).masked_fill(unseen, -torch.inf).softmax(-1)
    return weights @ v


def torch(case, *arrays):
    return [torch_form(case, "conv2d", convolved, torch_tensors(case, arrays))]


def draw(case, tensors, rng):
    # Near the identity, where training starts.
    kernel = 0.05 * rng.standard_normal((case.heads, QUERIES, KEYS), np.float32)
    kernel[:, -1, KEYS // 2] += 1
    tensors["kq_pre"] = stored(kernel, case.dtype)


ENTRIES = [
    Entry(
        name="mta",
        op="mta",
        length=1024,
        causal=(True,),
        draw=draw,
        shape=lambda case: f"B={case.batch} H={case.heads} N={case.length} D={case.dim} {QUERIES}x{KEYS}",
        peers=(Peer("torch", ("cpu", "cuda"), torch),),
    )
]
