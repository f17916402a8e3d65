"""Answers for packages that need CUDA or Triton: `mamba_ssm`, `causal_conv1d`, `fla`.

    import subquad.compat.transformers
    subquad.compat.transformers.enable()        # models of transformers now call subquad, on any GPU or on the CPU
    subquad.compat.calls()                      # {"causal_conv1d_fn": 24, "mamba_chunk_scan_combined": 24}

`subquad.compat.fla`, `.mamba_ssm` and `.causal_conv1d` have the functions by themselves. All take tensors of torch. Storage of
other than 32 bits is converted, outputs have the dtype of the first tensor, states are float32. No function computes gradients.
"""

from ._common import calls as calls, device as device

__all__ = ["calls", "device"]
