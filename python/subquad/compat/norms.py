"""Norms with gates of mamba_ssm and fla, in torch: sums in float32."""

import torch
from torch.nn import functional as F

_GATES = {"silu": F.silu, "swish": F.silu, "sigmoid": torch.sigmoid}


def rmsnorm_fn(x, weight, bias=None, z=None, eps=1e-6, group_size=None, norm_before_gate=True, upcast=True):
    """mamba_ssm's gated RMS norm: x, z [.., D], weight, bias [D]; over groups of group_size columns (default D).

    norm(x) silu(z) if norm_before_gate, else norm(x silu(z)).
    """
    kind = x.dtype
    if upcast:
        x, z = x.float(), None if z is None else z.float()
    if z is not None and not norm_before_gate:
        x = x * F.silu(z)
    groups = x.unflatten(-1, (-1, group_size or x.shape[-1]))
    groups = groups * torch.rsqrt(groups.square().mean(-1, keepdim=True) + eps)
    y = groups.flatten(-2) * weight
    y = y if bias is None else y + bias
    if z is not None and norm_before_gate:
        y = y * F.silu(z)
    return y.to(kind)


class RMSNormGated(torch.nn.Module):
    """mamba_ssm's `layernorm_gated.RMSNorm`: a weight [hidden_size] and `rmsnorm_fn`."""

    def __init__(self, hidden_size, eps=1e-5, group_size=None, norm_before_gate=True, device=None, dtype=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)
        self.eps, self.group_size, self.norm_before_gate = eps, group_size, norm_before_gate

    def reset_parameters(self):
        torch.nn.init.ones_(self.weight)

    def forward(self, x, z=None):
        return rmsnorm_fn(x, self.weight, self.bias, z, self.eps, self.group_size, self.norm_before_gate)


class FusedRMSNormGated(torch.nn.Module):
    """fla's RMS norm with a gate: norm(x) weight act(g), act "swish" ("silu") or "sigmoid". `residual` is added to x first."""

    def __init__(self, hidden_size, elementwise_affine=True, eps=1e-5, activation="swish", device=None, dtype=None):
        super().__init__()
        if activation not in _GATES:
            raise ValueError(f"FusedRMSNormGated: activation: expected one of {', '.join(_GATES)}, found {activation!r}")
        weight = torch.nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype)) if elementwise_affine else None
        self.register_parameter("weight", weight)
        self.register_parameter("bias", None)
        self.hidden_size, self.eps, self.activation = hidden_size, eps, activation

    def reset_parameters(self):
        if self.weight is not None:
            torch.nn.init.ones_(self.weight)

    def forward(self, x, g, residual=None, prenorm=False, residual_in_fp32=False):
        kind, gate = x.dtype, g.float()
        x = x.float() if residual is None else x.float() + residual.float()
        y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        y = y if self.weight is None else y * self.weight.float()
        y = (y * _GATES[self.activation](gate)).to(kind)
        return (y, x.to(torch.float32 if residual_in_fp32 else kind)) if prenorm else y
