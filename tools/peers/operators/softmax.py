"""Exact softmax attention. All scale the scores by 1/sqrt(D).

onnxruntime (checked with 1.32.0): com.microsoft.MultiHeadAttention on [B,N,H*D], with default settings except the number of
threads. Its causal form stores all N x N scores; the non-causal one does not.

torch (2.15): scaled_dot_product_attention on [B,H,N,D]. On the CPU with its default choice; on CUDA each kernel separately:
flash (f16, bf16), efficient (also f32), cudnn (f16, bf16).
"""

from case import Entry, Peer
from libraries import backend, onnx_form, torch_form, torch_tensors


def onnxruntime(case, q, k, v):
    import onnxops

    operator = onnxops.MultiHeadAttention(case.heads, causal=case.causal, threads=case.threads)
    return [onnx_form(case, "MultiHeadAttention", operator, (q, k, v))]


def torch(case, q, k, v):
    from torch.nn.functional import scaled_dot_product_attention

    tensors = torch_tensors(case, (q, k, v))

    def attend(q, k, v):
        return scaled_dot_product_attention(q, k, v, is_causal=case.causal)

    if case.device == "cpu":
        return [torch_form(case, "SDPA", attend, tensors)]
    kernels = {"flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "cudnn": "CUDNN_ATTENTION"}
    return [torch_form(case, f"SDPA {name}", attend, tensors, backend(key)) for name, key in kernels.items()]


ENTRIES = [
    Entry(
        name="softmax",
        op="softmax",
        length=2048,
        causal=(False, True),
        masks=2,
        flags=lambda case: [f"causal={str(case.causal).lower()}"],
        peers=(Peer("onnxruntime", ("cpu",), onnxruntime), Peer("torch", ("cpu", "cuda"), torch)),
    )
]
