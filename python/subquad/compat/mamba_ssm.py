"""The functions of the package `mamba_ssm` (facts: state-spaces/mamba 2.3)."""

import torch
from torch.nn import functional as F

from .. import operators
from . import _common, causal_conv1d
from ._common import counted, like, on, ready, unsupported
from .norms import rmsnorm_fn

_NO_LIMIT = (0.0, float("inf"))


@counted
def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
    """Mamba's scan: u, delta, z [B, C, N], A [C, S], B, C [C, S], [B, S, N] or [B, G, S, N], D, delta_bias [C].

    Returns y [B, C, N], or (y, last state [B, C, S] in float32).
    """
    if torch.is_complex(A):
        raise NotImplementedError("selective_scan_fn: a complex `A` is not supported: states are real numbers")
    found = operators.selective_scan(
        *map(ready, (u, delta, A, B, C, D, z, delta_bias)), delta_softplus, return_last_state, device=_common.device()
    )
    return (like(found[0], u), on(found[1], u)) if return_last_state else like(found, u)


@counted
def mamba_inner_fn(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias, A, B=None, C=None, D=None,
    delta_bias=None, B_proj_bias=None, C_proj_bias=None, delta_softplus=True, checkpoint_lvl=1, b_rms_weight=None,
    c_rms_weight=None, dt_rms_weight=None, b_c_dt_rms_eps=1e-6,
):  # fmt: skip
    """A block of Mamba between its projections: xz [B, 2 C, N] to the output [B, N, d]. B and C are read from x if absent."""
    convolve, scan = causal_conv1d.causal_conv1d_fn.__wrapped__, selective_scan_fn.__wrapped__
    x, z = xz.chunk(2, dim=1)
    x = convolve(x, conv1d_weight.reshape(-1, conv1d_weight.shape[-1]), conv1d_bias, activation="silu")
    states, rank = A.shape[-1], delta_proj_weight.shape[1]
    parts = F.linear(x.transpose(1, 2), x_proj_weight)
    dt, rest = parts[..., :rank], parts[..., rank:]
    normed = lambda y, weight: y if weight is None else rmsnorm_fn(y, weight, eps=b_c_dt_rms_eps)  # noqa: E731
    if B is None:
        B, rest = rest[..., :states], rest[..., states:]
        B = normed(B if B_proj_bias is None else B + B_proj_bias, b_rms_weight).transpose(1, 2)
    if C is None:
        C = rest[..., :states]
        C = normed(C if C_proj_bias is None else C + C_proj_bias, c_rms_weight).transpose(1, 2)
    delta = delta_proj_weight @ normed(dt, dt_rms_weight).transpose(1, 2)
    y = scan(x, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return F.linear(y.transpose(1, 2), out_proj_weight, out_proj_bias)


def _tied(x, axes):
    """Whether the values of x are equal along its last axes because its memory is."""
    return x is None or all(x.stride(-axis) == 0 or x.shape[-axis] == 1 for axis in range(1, axes + 1))


@counted
def selective_state_update(state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False, state_batch_indices=None):
    """One token of a scan; state is updated in place.

    Mamba: state [B, C, S], x, dt, z [B, C], A [C, S], B, C [B, S] or [B, G, S], D, dt_bias [C]. Mamba-2: state [B, H, P, S],
    x, dt, z [B, H, P], A [H, P, S], B, C [B, G, S], D, dt_bias [H, P]. state_batch_indices [B] are the rows of state that belong
    to x. Returns y as x.
    """
    before = ready(state if state_batch_indices is None else state[state_batch_indices])
    heads = x.dim() == 3
    if heads and _tied(A, 2) and _tied(dt, 1) and _tied(dt_bias, 1):
        row = lambda t: None if t is None else ready(t)[:, None]  # noqa: E731
        y, _ = operators.ssd_step(
            row(x), row(dt[..., 0]), ready(A[..., 0, 0]), row(B if B.dim() == 3 else B[:, None]),
            row(C if C.dim() == 3 else C[:, None]), before, D=ready(D), z=row(z),
            dt_bias=None if dt_bias is None else ready(dt_bias[..., 0]), dt_softplus=dt_softplus, in_place=True,
            device=_common.device(),
        )  # fmt: skip
        y = y[:, 0]
    else:
        # Heads are runs of channels, and those of one group follow each other.
        flat = lambda t: None if t is None else ready(t).reshape(*t.shape[:-2], -1) if heads else ready(t)  # noqa: E731
        before, a = (ready(t).reshape(*t.shape[:-3], -1, t.shape[-1]) if heads else ready(t) for t in (before, A))
        y, before = operators.selective_state_update(
            before, flat(x), flat(dt), a, ready(B), ready(C), flat(D), flat(z), flat(dt_bias), dt_softplus, in_place=True,
            device=_common.device(),
        )  # fmt: skip
        y = y.reshape(x.shape)
    if state_batch_indices is not None:
        state[state_batch_indices] = like(before, state).reshape(-1, *state.shape[1:])
    elif before.data_ptr() != state.data_ptr():
        state.copy_(before.reshape(state.shape))
    return like(y, x)


def _scan(x, dt, A, B, C, D, z, dt_bias, initial, softplus, limit, keep, cu=None):
    found = operators.ssd(
        ready(x), ready(dt), ready(A), ready(B), ready(C), D=ready(D), z=ready(z), dt_bias=ready(dt_bias), dt_softplus=softplus,
        dt_limit=None if tuple(limit) == _NO_LIMIT else limit, initial_state=ready(initial), output_final_state=keep,
        cu_seqlens=cu, device=_common.device(),
    )  # fmt: skip
    return (found[0], found[1]["state"]) if keep else (found, None)


@counted
def mamba_chunk_scan_combined(
    x, dt, A, B, C, chunk_size=None, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None, cu_seqlens=None,
    dt_softplus=False, dt_limit=_NO_LIMIT, return_final_states=False, return_varlen_states=False,
):  # fmt: skip
    """Mamba-2's scan: x, z [B, N, H, P], dt [B, N, H], A [H], B, C [B, N, G, S], D [H] or [H, P], dt_bias [H].

    seq_idx [B, N] has the number of each token's sequence: a state starts anew where it changes. initial_states [B, H, P, S] then
    belong to the first sequence of each row, and the final states to the last one. cu_seqlens [S + 1] are the borders for
    return_varlen_states, and B is 1. chunk_size is not needed. Returns y [B, N, H, P], then the final states [B, H, P, S] and
    those of all sequences [sequences, H, P, S], float32, where they are asked for.
    """
    name = "mamba_chunk_scan_combined"
    if return_varlen_states and cu_seqlens is None:
        raise ValueError(f"{name}: return_varlen_states: expected cu_seqlens [S + 1], found None")
    unsupported(name, cu_seqlens=(cu_seqlens if seq_idx is None and initial_states is not None else None,
                                  "with initial_states it needs seq_idx as well"))  # fmt: skip
    keep = return_final_states or return_varlen_states
    if seq_idx is None and cu_seqlens is None:
        y, last = _scan(x, dt, A, B, C, D, z, dt_bias, initial_states, dt_softplus, dt_limit, keep)
        return (like(y, x), on(last, x)) if keep else like(y, x)
    if seq_idx is not None:
        cu, first, last_of = _common.borders(seq_idx)
    else:
        cu, first, last_of = cu_seqlens.cpu(), [0], [len(cu_seqlens) - 2]
    flat = lambda t: None if t is None else ready(t).reshape(1, -1, *t.shape[2:])  # noqa: E731
    initial = None
    if initial_states is not None:
        initial = torch.zeros(len(cu) - 1, *initial_states.shape[1:])
        initial[first] = ready(initial_states)
    y, states = _scan(flat(x), flat(dt), A, flat(B), flat(C), D, flat(z), dt_bias, initial, dt_softplus, dt_limit, keep, cu)
    found = [like(y.reshape(x.shape), x)]
    if return_final_states:
        found.append(on(states[last_of], x))
    if return_varlen_states:
        found.append(on(states, x))
    return tuple(found) if len(found) > 1 else found[0]


@counted
def mamba_split_conv1d_scan_combined(
    zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, chunk_size=None, initial_states=None, seq_idx=None, dt_limit=_NO_LIMIT,
    return_final_states=False, activation="silu", rmsnorm_weight=None, rmsnorm_eps=1e-6, outproj_weight=None, outproj_bias=None,
    headdim=None, ngroups=1, norm_before_gate=True,
):  # fmt: skip
    """A block of Mamba-2 after its projection: zxbcdt [B, N, 2 I + 2 G S + H], split z | x | B | C | dt. Returns [B, N, I or d].

    conv1d_weight [I + 2 G S, W]; D [H], or [H, P] without headdim; rmsnorm_weight [I] norms over I / G columns; without it z
    gates the scan.
    """
    heads = A.shape[0]
    if headdim is None:
        headdim = D.shape[1]
    inner = heads * headdim
    z, xbc, dt = zxbcdt.split([inner, zxbcdt.shape[-1] - 2 * inner - heads + inner, heads], dim=-1)
    xbc = causal_conv1d.causal_conv1d_fn.__wrapped__(
        xbc.transpose(1, 2), conv1d_weight, conv1d_bias, seq_idx=seq_idx, activation=activation
    ).transpose(1, 2)
    width = (xbc.shape[-1] - inner) // 2
    x, b, c = xbc.split([inner, width, width], dim=-1)
    by = lambda t, n: t.reshape(*t.shape[:-1], n, -1)  # noqa: E731
    found = mamba_chunk_scan_combined.__wrapped__(
        by(x, heads), dt, A, by(b, ngroups), by(c, ngroups), D=D, z=None if rmsnorm_weight is not None else by(z, heads),
        dt_bias=dt_bias, initial_states=initial_states, seq_idx=seq_idx, dt_softplus=True, dt_limit=dt_limit,
        return_final_states=return_final_states,
    )  # fmt: skip
    y, state = found if return_final_states else (found, None)
    y = y.flatten(-2)
    if rmsnorm_weight is not None:
        y = rmsnorm_fn(y, rmsnorm_weight, None, z, rmsnorm_eps, inner // ngroups, norm_before_gate)
    if outproj_weight is not None:
        y = F.linear(y.to(outproj_weight.dtype), outproj_weight, outproj_bias)
    return (y, state) if return_final_states else y
