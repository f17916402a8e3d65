"""Operators of onnxruntime's com.microsoft domain (CPU, f32) as functions: oracles and peers.

Both pack heads into the last axis: query [B,T,H*D], key [B,T,G*D], value [B,T,G*E], output [B,T,H*E], which is bnhd
with its last two axes joined. scale 0 means 1/sqrt(D).

LinearAttention (checked with onnxruntime 1.31.1): states are [B,G,D,E]; rule linear has no feature map and no
denominator; rules gated and gated_delta have a log decay [B,T,G], or [B,T,G*D] per key channel, rules delta and gated_delta
a beta [B,T,G] (checked with 1.32.0). On the CPU it runs one task per (batch, kv head) and processes tokens in order; the
attribute chunk_size is for other devices and has no effect there.

MultiHeadAttention (checked with onnxruntime 1.32.0): softmax attention, H = G. The CPU honours unidirectional: query i sees
keys up to i. That form stores all N x N scores; the one without it does not.
"""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

VERSION = f"onnxruntime {onnxruntime.__version__}"
SOURCE = f"{VERSION} com.microsoft.LinearAttention"


def pack(x):
    """bnhd -> [B,N,H*D]"""
    return np.ascontiguousarray(x.reshape(*x.shape[:2], -1))


def unpack(x, heads):
    """[B,N,H*D] -> bnhd"""
    return x.reshape(*x.shape[:2], heads, -1)


class Operator:
    """A compiled session with a single node. inputs, outputs: name -> rank. Call it with arrays; it returns a list of arrays."""

    def __init__(self, op, inputs, outputs, threads, **attributes):
        node = helper.make_node(op, list(inputs), list(outputs), domain="com.microsoft", **attributes)

        def values(ranks):
            return [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * rank) for n, rank in ranks.items() if n]

        graph = helper.make_graph([node], op, values(inputs), values(outputs))
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self.names = [name for name in inputs if name]
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, *arrays):
        return self.session.run(None, dict(zip(self.names, arrays, strict=True)))


class LinearAttention(Operator):
    """Call it with packed q, k, v (and past_state, decay, beta; rule delta always needs a past_state); it returns
    [output, present_state]."""

    def __init__(self, heads, kv_heads, rule="linear", scale=0.0, state=False, threads=1, decay=False, beta=False):
        inputs = {"query": 3, "key": 3, "value": 3} | ({"past_state": 4} if state else {})
        if decay:
            inputs |= ({} if state else {"": 4}) | {"decay": 3}
        if beta:
            inputs |= ({} if decay else {"": 3}) | {"beta": 3}
        super().__init__(
            "LinearAttention", inputs, {"output": 3, "present_state": 4}, threads,
            q_num_heads=heads, kv_num_heads=kv_heads, update_rule=rule, scale=scale,
        )


class MultiHeadAttention(Operator):
    """Call it with packed q, k, v; it returns [output]."""

    def __init__(self, heads, causal=False, scale=0.0, threads=1):
        inputs = {"query": 3, "key": 3, "value": 3}
        super().__init__(
            "MultiHeadAttention", inputs, {"output": 3}, threads,
            num_heads=heads, unidirectional=int(causal), scale=scale,
        )
