"""Mamba-2's recurrence, 128 states, all heads in one group, with d and dt_bias; without z, which transformers' block
applies in its norm.

transformers (checked with 5.23.0): mamba2_chunk_scan in plain torch (its __wrapped__), so that it does not use another
package's kernel, in chunks of 64, 128 and 256 tokens (its models default to 256), returning the final state.

torch: gated linear attention in chunks (see gated.py); all heads share their scores.
"""

import numpy as np
from case import Entry, Peer, stored
from libraries import torch_form, torch_tensors

from .gated import chunked
from .linear import CHUNKS

STATES = 128


def transformers(case, *arrays):
    from transformers.models.mamba2 import modeling_mamba2

    def form(size):
        def call(x, dt, b, c, a, d, dt_bias):
            scan = modeling_mamba2.mamba2_chunk_scan.__wrapped__
            return scan(x, dt, a, b, c, size, D=d, dt_bias=dt_bias, dt_softplus=True, return_final_states=True)

        return call

    tensors = torch_tensors(case, arrays)
    return [torch_form(case, f"mamba2_chunk_scan, chunks of {size}", form(size), tensors) for size in CHUNKS]


def torch(case, *arrays):
    from torch.nn import functional

    def form(size):
        def call(x, dt, b, c, a, d, dt_bias):
            step = functional.softplus(dt + dt_bias)
            q, k, v = (t.transpose(1, 2) for t in (c, b, step.unsqueeze(-1) * x))
            y, state = chunked(size, q, k, v, (step * a).transpose(1, 2))
            return y.transpose(1, 2) + d[:, None] * x, state

        return call

    tensors = torch_tensors(case, arrays)
    return [torch_form(case, f"chunks of {size}", form(size), tensors) for size in CHUNKS]


def along(case):
    narrow = (case.batch, case.length, 1, STATES)
    wide = (case.batch, case.length, case.heads, case.dim)
    return {"x": wide, "dt": wide[:3], "b": narrow, "c": narrow}


def draw(case, tensors, rng):
    steps = 0.01 * np.exp(rng.standard_normal(case.heads, np.float32))
    tensors["a"] = stored(-rng.uniform(1, 16, case.heads).astype(np.float32), case.dtype)
    tensors["d"] = stored(rng.standard_normal(case.heads, np.float32), case.dtype)
    tensors["dt_bias"] = stored(np.log(np.expm1(steps)).astype(np.float32), case.dtype)


ENTRIES = [
    Entry(
        name="ssd",
        op="ssd",
        length=8192,
        causal=(True,),
        along=along,
        draw=draw,
        output="y",
        carry=True,
        shape=lambda case: f"B={case.batch} H={case.heads} N={case.length} P={case.dim} S={STATES}",
        peers=(Peer("transformers", ("cpu", "cuda"), transformers), Peer("torch", ("cpu", "cuda"), torch)),
    )
]
