"""Functions of fla whose state decays and is added to; see `subquad.compat.fla`."""

import torch

from ._common import counted, like, on, ready, unsupported
from ._fla_core import attend, per_value, scaled, with_state


def _linear(q, k, v, scale, initial, keep, normalize, cu, reverse=False):
    if not normalize:
        return with_state(q, k, v, initial, keep, rule="linear", scale=scaled(q, scale), cu=cu, reverse=reverse)
    state = None
    if initial is not None:
        kv, z = initial if isinstance(initial, tuple) else (initial, None)
        z = torch.zeros(kv.shape[:-1]) if z is None else ready(z)[:, 0]
        state = {"state": ready(kv), "norm": z}
    o, last = attend(q, k, v, rule="linear", scale=scaled(q, scale), state=state, keep=keep, cu=cu, reverse=reverse,
                      normalize=True, norm_eps=1e-10)  # fmt: skip
    return o, (last["state"], last["norm"][:, None]) if keep else None


@counted
def chunk_linear_attn(q, k, v, scale=None, initial_state=None, output_final_state=False, normalize=True, cu_seqlens=None):
    """Linear attention without a feature map; with `normalize` o is divided by scale * q . sum of k + 1e-10, and a state is the
    pair ([B, H, K, V], [B, 1, H, K])."""
    return _linear(q, k, v, scale, initial_state, output_final_state, normalize, cu_seqlens)


@counted
def fused_chunk_linear_attn(q, k, v, scale=None, initial_state=None, output_final_state=False, normalize=True, cu_seqlens=None):
    """As chunk_linear_attn."""
    return _linear(q, k, v, scale, initial_state, output_final_state, normalize, cu_seqlens)


@counted
def fused_recurrent_linear_attn(
    q, k, v, scale=None, initial_state=None, output_final_state=False, reverse=False, normalize=False, cu_seqlens=None
):
    """As chunk_linear_attn; with `reverse` from the last token to the first."""
    return _linear(q, k, v, scale, initial_state, output_final_state, normalize, cu_seqlens, reverse)


def _gated(q, k, v, g, scale, initial, keep, cu, v_first=False, reverse=False):
    rule = "linear" if g is None else "gated"
    return with_state(q, k, v, initial, keep, rule=rule, g=g, scale=scaled(q, scale), cu=cu, v_first=v_first, reverse=reverse)


@counted
def chunk_gla(
    q, k, v, g, scale=None, initial_state=None, output_final_state=False, state_v_first=False, cu_seqlens=None,
    cu_seqlens_cpu=None,
):  # fmt: skip
    """Gated linear attention with a decay g [B, T, H, K] per channel of the keys."""
    return _gated(q, k, v, g, scale, initial_state, output_final_state, cu_seqlens, state_v_first)


@counted
def fused_chunk_gla(q, k, v, g, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None, **kwargs):
    """As chunk_gla."""
    return _gated(q, k, v, g, scale, initial_state, output_final_state, cu_seqlens, kwargs.get("state_v_first", False))


@counted
def fused_recurrent_gla(
    q, k, v, gk=None, gv=None, scale=None, initial_state=None, output_final_state=False, reverse=False, state_v_first=False,
    cu_seqlens=None, **kwargs,
):  # fmt: skip
    """Gated linear attention with decays gk [B, T, H, K] of the keys, or gv [B, T, H, V] of the values."""
    if gv is not None:
        unsupported("fused_recurrent_gla", gk=(gk, "decays are of the channels of keys or of values, not of both"))
        return per_value(q, k, v, gv, initial_state, output_final_state, state_v_first, rule="gated", scale=scaled(q, scale),
                          cu=cu_seqlens, reverse=reverse)  # fmt: skip
    return _gated(q, k, v, gk, scale, initial_state, output_final_state, cu_seqlens, state_v_first, reverse)


def _simple(q, k, v, g, g_gamma, scale, initial, keep, cu, v_first=False, reverse=False):
    """One decay per head: g [B, T, H], or g_gamma [H] for all tokens, or both."""
    if g is not None and g_gamma is not None:
        g = ready(g) + ready(g_gamma)
    return _gated(q, k, v, g_gamma if g is None else g, scale, initial, keep, cu, v_first, reverse)


@counted
def chunk_simple_gla(
    q, k, v, g=None, g_gamma=None, scale=None, initial_state=None, output_final_state=False, state_v_first=False, cu_seqlens=None,
    cu_seqlens_cpu=None, **kwargs,
):  # fmt: skip
    """Linear attention with one decay per head: g [B, T, H], or g_gamma [H] for all tokens."""
    return _simple(q, k, v, g, g_gamma, scale, initial_state, output_final_state, cu_seqlens, state_v_first)


@counted
def fused_chunk_simple_gla(
    q, k, v, g=None, g_gamma=None, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None
):
    """As chunk_simple_gla."""
    return _simple(q, k, v, g, g_gamma, scale, initial_state, output_final_state, cu_seqlens)


@counted
def fused_recurrent_simple_gla(
    q, k, v, g=None, g_gamma=None, scale=None, initial_state=None, output_final_state=False, reverse=False, state_v_first=False,
    cu_seqlens=None, **kwargs,
):  # fmt: skip
    """As chunk_simple_gla; with `reverse` from the last token to the first."""
    return _simple(q, k, v, g, g_gamma, scale, initial_state, output_final_state, cu_seqlens, state_v_first, reverse)


def _weights(name, wanted):
    unsupported(name, output_attentions=(wanted, "weights between tokens are never stored"))


@counted
def parallel_simple_gla(q, k, v, g=None, scale=None, output_attentions=False, cu_seqlens=None, cu_seqlens_cpu=None):
    """As chunk_simple_gla, without states."""
    _weights("parallel_simple_gla", output_attentions)
    return _simple(q, k, v, g, None, scale, None, False, cu_seqlens)


def _retention(q, k, v, scale, initial, keep, cu, v_first=False, reverse=False):
    """Head h decays by 1 - 2^(-5 - h) per token (arXiv 2307.08621)."""
    gamma = torch.log1p(-torch.exp2(-5.0 - torch.arange(q.shape[2], dtype=torch.float64))).float()
    return _gated(q, k, v, gamma, scale, initial, keep, cu, v_first, reverse)


@counted
def chunk_retention(q, k, v, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None, **kwargs):
    """RetNet: head h decays by 1 - 2^(-5 - h)."""
    return _retention(q, k, v, scale, initial_state, output_final_state, cu_seqlens)


@counted
def fused_chunk_retention(q, k, v, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    """As chunk_retention."""
    return _retention(q, k, v, scale, initial_state, output_final_state, cu_seqlens)


@counted
def fused_recurrent_retention(
    q, k, v, scale=None, initial_state=None, output_final_state=False, reverse=False, state_v_first=False, cu_seqlens=None,
    **kwargs,
):  # fmt: skip
    """As chunk_retention; with `reverse` from the last token to the first."""
    return _retention(q, k, v, scale, initial_state, output_final_state, cu_seqlens, state_v_first, reverse)


@counted
def parallel_retention(q, k, v, scale=None, output_attentions=False, cu_seqlens=None):
    """As chunk_retention, without states."""
    _weights("parallel_retention", output_attentions)
    return _retention(q, k, v, scale, None, False, cu_seqlens)


def _lightning(q, k, v, layer, layers, scale, initial, keep, cu, reverse=False):
    """Head h of H in layer l of L has the log decay -8 h / H (1 - l / L) (arXiv 2405.17381)."""
    heads = q.shape[2]
    gamma = -(8 / heads * (1 - layer / layers)) * torch.arange(heads, dtype=torch.float32)
    return _gated(q, k, v, gamma, scale, initial, keep, cu, False, reverse)


@counted
def chunk_lightning_attn(
    q, k, v, layer_idx, num_layers, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None, **kwargs
):
    """Lightning attention: a decay per head that depends on the layer's number."""
    return _lightning(q, k, v, layer_idx, num_layers, scale, initial_state, output_final_state, cu_seqlens)


@counted
def fused_recurrent_lightning_attn(
    q, k, v, layer_idx, num_layers, scale=None, initial_state=None, output_final_state=False, reverse=False, cu_seqlens=None
):
    """As chunk_lightning_attn; with `reverse` from the last token to the first."""
    return _lightning(q, k, v, layer_idx, num_layers, scale, initial_state, output_final_state, cu_seqlens, reverse)


def _hgrn(x, g, initial, keep, cu):
    """h_t = exp(g_t) h_{t-1} + x_t: every channel is a head of width 1."""
    ones = torch.ones(*x.shape[:2], x.shape[2], 1)
    state = None if initial is None else ready(initial).reshape(-1, x.shape[2], 1, 1)
    o, last = with_state(ones, ones, ready(x)[..., None], state, keep, rule="gated", g=g, scale=1.0, cu=cu)
    return like(o[..., 0], x), None if last is None else on(last[..., 0, 0], x)


@counted
def chunk_hgrn(x, g, initial_state=None, output_final_state=False):
    """HGRN: x, g [B, T, D], h_t = exp(g_t) h_{t-1} + x_t. State [B, D]."""
    return _hgrn(x, g, initial_state, output_final_state, None)


@counted
def fused_recurrent_hgrn(x, g, initial_state=None, output_final_state=False, cu_seqlens=None):
    """As chunk_hgrn."""
    return _hgrn(x, g, initial_state, output_final_state, cu_seqlens)


__all__ = [name for name, one in list(globals().items()) if hasattr(one, "__wrapped__")]
