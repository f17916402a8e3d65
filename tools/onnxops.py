"""onnxruntime's com.microsoft.LinearAttention (CPU, f32) as a function: an oracle and a peer.

The operator packs heads into the last axis: query [B,T,H*D], key [B,T,G*D], value [B,T,G*E], output [B,T,H*E], which is
bnhd with its last two axes joined; states are [B,G,D,E]. scale 0 means 1/sqrt(D). Rule linear has no feature map and no
denominator. On the CPU it runs one task per (batch, kv head) and walks the tokens in order; the attribute chunk_size is
kept for other devices and changes nothing there. Checked with onnxruntime 1.31.1.
"""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

SOURCE = f"onnxruntime {onnxruntime.__version__} com.microsoft.LinearAttention"


def pack(x):
    """bnhd -> [B,N,H*D]"""
    return np.ascontiguousarray(x.reshape(*x.shape[:2], -1))


class LinearAttention:
    """One compiled session. Call it with packed arrays; it gives (output, present_state)."""

    def __init__(self, heads, kv_heads, rule="linear", scale=0.0, state=False, threads=1):
        names = ["query", "key", "value"] + (["past_state"] if state else [])
        node = helper.make_node(
            "LinearAttention", names, ["output", "present_state"], domain="com.microsoft",
            q_num_heads=heads, kv_num_heads=kv_heads, update_rule=rule, scale=scale,
        )

        def value(name, rank):
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)

        graph = helper.make_graph(
            [node], "linear_attention", [value(n, 4 if n == "past_state" else 3) for n in names],
            [value("output", 3), value("present_state", 4)],
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self.names = names
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, *arrays):
        return self.session.run(None, dict(zip(self.names, arrays, strict=True)))
