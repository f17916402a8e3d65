"""Linear attention without decay (gated.py has decay), in the two settings that other libraries have.

linear-elu1      feature map elu(x) + 1, divided by the sum of weights, scale 1. The time includes the map.
linear-identity  rule linear of ONNX LinearAttention: no map, no denominator, scale 1/sqrt(D), the final state kept.

onnxruntime (checked with 1.32.0): com.microsoft.LinearAttention, rule linear, with default settings except the number of
threads. Plain session.run was its fastest mode; we also tried bound outputs and disabled spinning. It runs each (batch,
kv head) on one thread and processes tokens in order; chunk_size has no effect on the CPU.

torch has no operator for it, so we try several forms:

chunks of 64, 128, 256  einsum inside each chunk with the mask, plus the state of all earlier chunks
quadratic               all N x N scores with the mask, no softmax; if they take at most 256 MiB
states                  non-causal: one state, k^T v, read by every query

fla-core (0.6.0), on [B,T,H,D]: chunk_linear_attn and fused_chunk_linear_attn. They have no feature map and no f32 products
(Triton multiplies f32 as tf32), so the map runs before them, and f32 is compared as tf32.
"""

import functools

from case import Entry, Peer, Refused
from libraries import fla_form, onnx_form, torch_form, torch_tensors

CHUNKS = (64, 128, 256)
QUADRATIC_BYTES = 256 << 20


def normalised(case):
    return case.entry.name != "linear-identity"


def mapped(case, q, k):
    """Features of queries and keys; the scale is applied to the queries."""
    import torch

    if normalised(case):
        return torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1
    return q * case.scale, k


def onnxruntime(case, q, k, v):
    import onnxops

    if not case.causal:
        raise Refused("its LinearAttention is causal")
    operator = onnxops.LinearAttention(case.heads, case.heads, threads=case.threads)
    return [onnx_form(case, "LinearAttention", operator, (q, k, v))]


def maps(case, q, k):
    """A single pair of maps: the features themselves."""
    return [mapped(case, q, k)]


def chunked(case, size, maps=maps):
    """Causal, in chunks of `size` tokens; a short last chunk is padded with zero keys and queries.

    maps(case, q, k, ...) returns pairs of maps of queries and keys, [B,H,N,width] each. A token's features are the outer
    product of its maps, so its scores are the products of the maps' scores.
    """
    import torch

    def form(q, k, v, *weights):
        batch, heads, length, _ = q.shape
        count = -(-length // size)

        def split(x):
            x = torch.nn.functional.pad(x, (0, 0, 0, count * size - length)) if count * size > length else x
            return x.reshape(batch, heads, count, size, -1)

        pairs = [[split(x) for x in pair] for pair in maps(case, q, k, *weights)]
        v = split(v)
        scores = functools.reduce(torch.mul, (torch.einsum("bhcid,bhcjd->bhcij", q, k) for q, k in pairs)).tril()
        q, k = (
            functools.reduce(lambda a, b: torch.einsum("bhcip,bhcif->bhcipf", a, b).flatten(-2), each)
            for each in zip(*pairs, strict=True)
        )
        out = torch.einsum("bhcij,bhcje->bhcie", scores, v)
        # Sum over chunks in f32: sums of f16 features would overflow.
        states = torch.einsum("bhcjd,bhcje->bhcde", k, v).cumsum(2, dtype=torch.float32)
        before = torch.nn.functional.pad(states[:, :, :-1], (0, 0, 0, 0, 1, 0)).to(q.dtype)
        out = out + torch.einsum("bhcid,bhcde->bhcie", q, before)
        if normalised(case):
            sums = k.sum(3, dtype=torch.float32).cumsum(2)
            earlier = torch.nn.functional.pad(sums[:, :, :-1], (0, 0, 1, 0))
            weight = scores.sum(-1, dtype=torch.float32) + torch.einsum("bhcid,bhcd->bhci", q.float(), earlier)
            out = (out / weight.unsqueeze(-1)).to(out.dtype)
        out = out.reshape(batch, heads, count * size, -1)[:, :, :length]
        return out, states[:, :, -1]

    return form


def quadratic(case):
    import torch

    def form(q, k, v):
        q, k = mapped(case, q, k)
        scores = torch.einsum("bhid,bhjd->bhij", q, k).tril()
        out = torch.einsum("bhij,bhje->bhie", scores, v)
        if normalised(case):
            return (out / scores.sum(-1, keepdim=True, dtype=torch.float32)).to(out.dtype)
        return out, torch.einsum("bhjd,bhje->bhde", k, v)

    return form


def whole(case):
    import torch

    def form(q, k, v):
        q, k = mapped(case, q, k)
        state = torch.einsum("bhjd,bhje->bhde", k, v)
        out = torch.einsum("bhid,bhde->bhie", q, state)
        if normalised(case):
            weight = torch.einsum("bhid,bhd->bhi", q.float(), k.sum(2, dtype=torch.float32))
            return (out / weight.unsqueeze(-1)).to(out.dtype)
        return out, state

    return form


def torch(case, q, k, v):
    tensors = torch_tensors(case, (q, k, v))
    if not case.causal:
        return [torch_form(case, "states", whole(case), tensors)]
    forms = {f"chunks of {size}": chunked(case, size) for size in CHUNKS}
    if case.batch * case.heads * case.length**2 * 4 <= QUADRATIC_BYTES:
        forms["quadratic"] = quadratic(case)
    return [torch_form(case, name, form, tensors) for name, form in forms.items()]


def fla(case, q, k, v):
    if not case.causal:
        raise Refused("its linear attention is causal")
    from fla.ops.linear_attn import chunk_linear_attn, fused_chunk_linear_attn

    def form(function):
        def call(q, k, v):
            if normalised(case):
                return function(*mapped(case, q, k), v, scale=1.0, normalize=True)
            return function(q, k, v, scale=case.scale, normalize=False, output_final_state=True)

        return call

    tensors = torch_tensors(case, (q, k, v), bnhd=True)
    forms = {"chunk": chunk_linear_attn, "fused_chunk": fused_chunk_linear_attn}
    return [fla_form(case, name, form(function), tensors) for name, function in forms.items()]


def causal_flag(case):
    return f"causal={str(case.causal).lower()}"


TORCH, FLA = Peer("torch", ("cpu", "cuda"), torch), Peer("fla", ("cuda",), fla)

ENTRIES = [
    Entry(
        name="linear-elu1",
        op="linear",
        length=8192,
        causal=(True, False),
        flags=lambda case: [causal_flag(case), "feature-map=elu1", "normalize=true"],
        peers=(TORCH, FLA),
    ),
    Entry(
        name="linear-identity",
        op="linear",
        length=8192,
        causal=(True, False),
        flags=lambda case: [causal_flag(case), "feature-map=identity", "normalize=false"],
        carry=True,
        peers=(Peer("onnxruntime", ("cpu",), onnxruntime), TORCH, FLA),
    ),
]
