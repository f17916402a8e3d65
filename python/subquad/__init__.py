"""Sub-quadratic sequence mixers on any GPU (Vulkan, Metal, DX12) and on the CPU, for NumPy, torch and whatever has `__dlpack__`.

    import numpy as np, subquad
    q, k, v = (np.random.randn(1, 1024, 8, 64).astype("float32") for _ in range(3))
    o = subquad.linear_attention(q, k, v)          # [1, 1024, 8, 64]

Operators: see `subquad.operators`. Models from weights: `load_model`. transformers without CUDA: `subquad.compat.transformers`.
Importing opens no device.
"""

from . import operators
from ._core import adapters as adapters
from .models import Model as Model, load_model as load_model
from .operators import (
    causal_conv1d as causal_conv1d,
    causal_conv1d_update as causal_conv1d_update,
    linear_attention as linear_attention,
    linear_attention_step as linear_attention_step,
    linformer_attention as linformer_attention,
    multi_token_attention as multi_token_attention,
    ram_net as ram_net,
    ram_net_step as ram_net_step,
    selective_scan as selective_scan,
    selective_state_update as selective_state_update,
    slay_attention as slay_attention,
    slay_attention_step as slay_attention_step,
    softmax_attention as softmax_attention,
    ssd as ssd,
    ssd_step as ssd_step,
    yat_attention as yat_attention,
)
from .timing import bench as bench

__version__ = "0.1.0"
__all__ = ["Model", "adapters", "bench", "load_model", *operators.__all__]
