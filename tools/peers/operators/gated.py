"""Linear attention with a decaying state, as in ONNX LinearAttention: rule gated, no map, no denominator, scale 1/sqrt(D),
the final state kept.

linear-gated          one log decay per head and token
linear-gated-channel  one log decay per key channel

onnxruntime (checked with 1.32.0): com.microsoft.LinearAttention, rule gated, as in linear.py.

torch has no operator for it. The form with one decay per head uses einsum in chunks of 64, 128 and 256 tokens: decays inside
a chunk are exponentials of differences of running sums, and the state is carried from chunk to chunk. There is no such form
for decays per channel: products of a channel's exponentials overflow f32.

fla-core (0.6.0), on [B,T,H,D]: naive_chunk_simple_gla, its plain torch reference with one decay per head, at its chunk size.
"""

from case import Entry, Peer, Refused, stored
from libraries import onnx_form, torch_form, torch_tensors

from .linear import CHUNKS


def per_channel(case):
    return case.entry.name == "linear-gated-channel"


def onnxruntime(case, q, k, v, g):
    import onnxops

    operator = onnxops.LinearAttention(case.heads, case.heads, "gated", threads=case.threads, decay=True)
    return [onnx_form(case, "LinearAttention", operator, (q, k, v, g))]


def chunked(size, q, k, v, logs):
    """q, k [B,H or 1,N,D], v [B,H,N,E], log decays [B,H,N] -> o and the last state [B,H,D,E].

    A short last chunk is padded with zero tokens.
    """
    import torch

    length = v.shape[2]
    count = -(-length // size)

    def split(x):
        x = torch.nn.functional.pad(x, (0, 0, 0, count * size - length)) if count * size > length else x
        return x.reshape(x.shape[0], x.shape[1], count, size, -1)

    q, k, v, logs = (split(x) for x in (q, k, v, logs.unsqueeze(-1)))
    sums = logs.squeeze(-1).cumsum(-1)
    later = torch.ones(size, size, dtype=torch.bool, device=v.device).triu(1)
    scores = (sums.unsqueeze(-1) - sums.unsqueeze(-2)).masked_fill_(later, -torch.inf).exp_()
    scores *= torch.einsum("bhcid,bhcjd->bhcij", q, k)
    out = torch.einsum("bhcij,bhcje->bhcie", scores, v)
    left = (sums[..., -1:] - sums).exp()
    own = torch.einsum("bhcjd,bhcje->bhcde", k, v * left.unsqueeze(-1))
    whole = sums[..., -1].exp()[..., None, None]
    before, state = torch.empty_like(own), torch.zeros_like(own[:, :, 0])
    for chunk in range(count):
        before[:, :, chunk] = state
        state = torch.addcmul(own[:, :, chunk], whole[:, :, chunk], state)
    out += torch.einsum("bhcid,bhcde->bhcie", q, before) * sums.exp().unsqueeze(-1)
    return out.reshape(*out.shape[:2], count * size, -1)[:, :, :length], state


def torch(case, *arrays):
    if per_channel(case):
        raise Refused("only one decay a head is written here")
    tensors = torch_tensors(case, arrays)

    def form(size):
        return lambda q, k, v, g: chunked(size, q * case.scale, k, v, g)

    return [torch_form(case, f"chunks of {size}", form(size), tensors) for size in CHUNKS]


def fla(case, q, k, v, g):
    if per_channel(case):
        raise Refused("its reference of decays of channels goes token by token")
    from fla.ops.simple_gla.naive import naive_chunk_simple_gla

    tensors = [*torch_tensors(case, (q, k, v), bnhd=True), *torch_tensors(case, (g.swapaxes(1, 2),))]

    def form(q, k, v, g):
        return naive_chunk_simple_gla(q, k, v, g, output_final_state=True)

    return [torch_form(case, "naive_chunk_simple_gla", form, tensors, bnhd=True)]


def along(case):
    shape = (case.batch, case.heads, case.length, case.dim)
    return {**dict.fromkeys("qkv", shape), "g": shape if per_channel(case) else shape[:3]}


def draw(case, tensors, rng):
    """Decays as in models: most of the state lasts for tens of tokens."""
    tensors["g"] = stored(-0.05 * abs(tensors["g"]), case.dtype)


def entry(name):
    return Entry(
        name=name,
        op="linear",
        length=8192,
        causal=(True,),
        flags=lambda case: ["rule=gated", "feature-map=identity", "normalize=false"],
        along=along,
        draw=draw,
        carry=True,
        peers=(
            Peer("onnxruntime", ("cpu",), onnxruntime),
            Peer("torch", ("cpu", "cuda"), torch),
            Peer("fla", ("cpu",), fla),
        ),
    )


ENTRIES = [entry("linear-gated"), entry("linear-gated-channel")]
