"""Mamba's selective scan, from dt to the gated output, 16 states, on heads x dim channels, all in one group.

transformers (checked with 5.23.0): mamba_selective_scan in plain torch (its __wrapped__), so that it does not use another
package's kernel: it computes exp(dt a) and dt b x for all tokens, then loops over the tokens.

torch: the same in chunks of 16, 64 and 256 tokens, so that these intermediate tensors fit a cache.
"""

import numpy as np
from case import Entry, Peer, stored
from libraries import torch_form, torch_tensors

from .conv1d import channels, shape

STATES = 16
CHUNKS = (16, 64, 256)


def transformers(case, *arrays):
    from transformers.models.mamba import modeling_mamba

    def form(x, dt, b, c, z, a, d, dt_bias):
        scan = modeling_mamba.mamba_selective_scan.__wrapped__
        return scan(x, dt, a, b, c, d, z=z, delta_bias=dt_bias, delta_softplus=True)

    return [torch_form(case, "mamba_selective_scan", form, torch_tensors(case, arrays))]


def chunked(size):
    import torch

    def form(x, dt, b, c, z, a, d, dt_bias):
        step = torch.nn.functional.softplus(dt + dt_bias[:, None])
        state = x.new_zeros(x.shape[0], x.shape[1], STATES)
        out = torch.empty_like(x)
        for first in range(0, x.shape[2], size):
            part = slice(first, first + size)
            # Tokens first, so that each step reads contiguous memory.
            short = step[:, :, part].permute(2, 0, 1).unsqueeze(-1)
            decay = torch.exp(short * a)
            own = short * x[:, :, part].permute(2, 0, 1).unsqueeze(-1) * b[:, :, part].permute(2, 0, 1).unsqueeze(2)
            states = torch.empty_like(own)
            for t in range(own.shape[0]):
                state = torch.addcmul(own[t], decay[t], state, out=states[t])
            out[:, :, part] = torch.einsum("tbcs,bst->bct", states, c[:, :, part])
        return (out + d[:, None] * x) * torch.nn.functional.silu(z)

    return form


def torch(case, *arrays):
    tensors = torch_tensors(case, arrays)
    return [torch_form(case, f"chunks of {size}", chunked(size), tensors) for size in CHUNKS]


def along(case):
    wide, narrow = (case.batch, channels(case), case.length), (case.batch, STATES, case.length)
    return {"x": wide, "dt": wide, "b": narrow, "c": narrow, "z": wide}


def draw(case, tensors, rng):
    count = channels(case)
    steps = 0.01 * np.exp(rng.standard_normal(count, np.float32))
    tensors["a"] = stored(-np.tile(np.arange(1, STATES + 1, dtype=np.float32), (count, 1)), case.dtype)
    tensors["d"] = stored(rng.standard_normal(count, np.float32), case.dtype)
    tensors["dt_bias"] = stored(np.log(np.expm1(steps)).astype(np.float32), case.dtype)


ENTRIES = [
    Entry(
        name="mamba",
        op="mamba",
        length=8192,
        causal=(True,),
        along=along,
        draw=draw,
        output="y",
        shape=lambda case: f"{shape(case)} S={STATES}",
        peers=(Peer("transformers", ("cpu", "cuda"), transformers), Peer("torch", ("cpu", "cuda"), torch)),
    )
]
