"""The functions of the package `causal_conv1d` (facts: Dao-AILab/causal-conv1d 1.7)."""

import torch

from .. import operators
from . import _common
from ._common import counted, like, ready, unsupported


def _activation(name, given):
    if given not in (None, "silu", "swish"):
        raise NotImplementedError(f"{name}: activation {given!r} is not supported: the convolution knows None and silu")
    return given


def _convolve(x, weight, bias, activation, initial=None, keep=False, cu=None):
    """x [B, C, N] of float32. Channels are the last axis of memory if those of x are."""
    last = x.stride(1) == 1 and x.shape[1] > 1
    found = operators.causal_conv1d(
        x.transpose(1, 2) if last else x, weight, bias, activation, initial_states=initial, return_final_states=keep,
        cu_seqlens=cu, layout="bnc" if last else "bcn", device=_common.device(),
    )  # fmt: skip
    y, state = found if keep else (found, None)
    return (y.transpose(1, 2) if last else y), state


@counted
def causal_conv1d_fn(
    x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False, final_states_out=None, activation=None
):
    """Depthwise causal convolution: x [B, C, N], weight [C, W], bias [C], activation None, "silu" or "swish".

    seq_idx [B, N] has the number of each token's sequence: no tap crosses to another one, and a token of a negative number is 0.
    initial_states [B, C, W - 1]. Returns y [B, C, N], or (y, final states [B, C, W - 1]), which final_states_out receives.
    """
    name = "causal_conv1d_fn"
    kind = _activation(name, activation)
    w, given = ready(weight), ready(x)
    if seq_idx is not None:
        other = "the packed form starts every sequence from zeros, as the original does"
        unsupported(name, initial_states=(initial_states, other), return_final_states=(return_final_states, other))
        b, c, n = x.shape
        flat = given.transpose(1, 2).reshape(1, b * n, c).transpose(1, 2)
        y, _ = _convolve(flat, w, ready(bias), kind, cu=_common.borders(seq_idx)[0])
        y = y.transpose(1, 2).reshape(b, n, c).transpose(1, 2)
        return like(y.masked_fill((seq_idx < 0).cpu()[:, None], 0), x)
    y, state = _convolve(given, w, ready(bias), kind, ready(initial_states), return_final_states)
    if not return_final_states:
        return like(y, x)
    state = like(state, x)
    return like(y, x), (state if final_states_out is None else final_states_out.copy_(state))


@counted
def causal_conv1d_update(x, conv_state, weight, bias=None, activation=None, cache_seqlens=None, conv_state_indices=None):
    """The next tokens of a convolution: x [B, C] or [B, C, T], conv_state [B, C, L] with the last L inputs, L at least W - 1.

    conv_state is updated in place. conv_state_indices [B] are the rows of conv_state that belong to x. Returns y as x.
    """
    name = "causal_conv1d_update"
    unsupported(name, cache_seqlens=(cache_seqlens, "the state is no ring buffer"))
    kind = _activation(name, activation)
    rows = conv_state if conv_state_indices is None else conv_state[conv_state_indices]
    one = x.dim() == 2
    tokens = (x[..., None] if one else x).to(rows.dtype)
    joined = torch.cat([rows, tokens], dim=-1)
    taps = weight.shape[-1] - 1
    before = ready(joined[..., : joined.shape[-1] - tokens.shape[-1]])
    before = before[..., before.shape[-1] - taps :]
    y, _ = _convolve(ready(tokens), ready(weight), ready(bias), kind, before, keep=True)
    after = joined[..., -rows.shape[-1] :]
    if conv_state_indices is None:
        conv_state.copy_(after)
    else:
        conv_state[conv_state_indices] = after
    return like(y[..., 0] if one else y, x)
