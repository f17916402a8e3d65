"""The causal depthwise convolution of Mamba's blocks, four taps, bias, SiLU, on heads x dim channels.

torch: conv1d with one group per channel, padded on both sides and cut, then SiLU; and one multiply-add per tap.
"""

import numpy as np
from case import Entry, Peer, stored
from libraries import torch_form, torch_tensors

WIDTH = 4


def channels(case):
    return case.heads * case.dim


def shape(case):
    return f"B={case.batch} C={channels(case)} N={case.length}"


def grouped(x, weight, bias):
    import torch

    y = torch.nn.functional.conv1d(x, weight.unsqueeze(1), bias, padding=WIDTH - 1, groups=x.shape[1])
    return torch.nn.functional.silu(y[:, :, : x.shape[2]])


def taps(x, weight, bias):
    import torch

    padded = torch.nn.functional.pad(x, (WIDTH - 1, 0))
    y = bias[:, None].expand_as(x)
    for w in range(WIDTH):
        y = torch.addcmul(y, padded[:, :, w : w + x.shape[2]], weight[:, w, None])
    return torch.nn.functional.silu(y)


def torch(case, *arrays):
    tensors = torch_tensors(case, arrays)
    return [torch_form(case, name, form, tensors) for name, form in (("conv1d", grouped), ("taps", taps))]


def draw(case, tensors, rng):
    for name, size in (("weight", (channels(case), WIDTH)), ("bias", (channels(case),))):
        tensors[name] = stored(0.5 * rng.standard_normal(size, np.float32), case.dtype)


ENTRIES = [
    Entry(
        name="conv1d",
        op="conv1d",
        length=8192,
        causal=(True,),
        along=lambda case: {"x": (case.batch, channels(case), case.length)},
        draw=draw,
        output="y",
        shape=shape,
        peers=(Peer("torch", ("cpu", "cuda"), torch),),
    )
]
