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
from .operators import *  # noqa: F403
from .timing import bench as bench

__version__ = "0.1.0"
__all__ = ["Model", "adapters", "bench", "load_model", *operators.__all__]
