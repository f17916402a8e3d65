"""The delta rules of linear attention, as in ONNX LinearAttention: rules delta and gated_delta, no map, no denominator,
scale 1/sqrt(D), the final state kept. Keys have unit length, beta is between 0 and 1.

linear-delta        no decay
linear-gated-delta  one log decay per head and token

onnxruntime (checked with 1.32.0): com.microsoft.LinearAttention, as in linear.py; rule delta from a state of zeros.
"""

import numpy as np
from case import Entry, Peer, stored
from libraries import onnx_form

from . import gated


def decays(case):
    return case.entry.name == "linear-gated-delta"


def onnxruntime(case, q, k, v, beta, g=None):
    import onnxops

    rule = "gated_delta" if decays(case) else "delta"
    heads, before = case.heads, not decays(case)
    operator = onnxops.LinearAttention(heads, heads, rule, threads=case.threads, state=before, decay=not before, beta=True)
    state = np.zeros((case.batch, heads, case.dim, case.dim), np.float32)

    def call(q, k, v, *rest):
        return operator(q, k, v, *([state, *rest] if before else rest))

    return [onnx_form(case, "LinearAttention", call, (q, k, v) + ((g, beta) if decays(case) else (beta,)))]


def along(case):
    shape = (case.batch, case.heads, case.length, case.dim)
    return {**dict.fromkeys("qkv", shape), "beta": shape[:3]} | ({"g": shape[:3]} if decays(case) else {})


def draw(case, tensors, rng):
    k = tensors["k"]
    tensors["k"] = stored(k / np.linalg.norm(k, axis=-1, keepdims=True), case.dtype)
    tensors["beta"] = stored(1 / (1 + np.exp(-tensors["beta"])), case.dtype)
    if decays(case):
        gated.draw(case, tensors, rng)


def entry(name, rule):
    return Entry(
        name=name,
        op="linear",
        length=8192,
        causal=(True,),
        flags=lambda case: [f"rule={rule}"],
        along=along,
        draw=draw,
        carry=True,
        peers=(Peer("onnxruntime", ("cpu",), onnxruntime),),
    )


ENTRIES = [entry("linear-delta", "delta"), entry("linear-gated-delta", "gated-delta")]
