"""What the functions of fla share: one call of `linear_attention`."""

import torch

from .. import operators
from . import _common
from ._common import like, on, ready


def attend(
    q, k, v, *, rule, g=None, beta=None, scale=None, state=None, keep=False, cu=None, v_first=False, l2norm=False, reverse=False,
    **more,
):  # fmt: skip
    """One run of `linear_attention` on float32 tensors of the CPU. Returns o like q and the state, or None, on q's device."""
    given = {"q": q, "k": k, "v": v, "g": g, "beta": beta, **{name: more.pop(name, None) for name in ("a", "a_log", "dt_bias")}}
    given = {name: ready(x) for name, x in given.items()}
    if reverse and cu is not None and (keep or state is not None):
        raise NotImplementedError("reverse with cu_seqlens and a state is not supported: states of packed runs go forward")
    turn = reverse and cu is None
    if turn:
        given = {name: x if x is None or x.dim() < 3 else x.flip(1) for name, x in given.items()}
    found = operators.linear_attention(
        given.pop("q"), given.pop("k"), given.pop("v"), rule=rule, feature_map="identity", scale=scale, l2norm=l2norm or None,
        initial_state=state, output_final_state=keep, cu_seqlens=None if cu is None else cu.cpu(),
        state_layout="ed" if v_first else None, direction="backward" if reverse and not turn else None, device=_common.device(),
        **{"normalize": False, **given, **more},
    )  # fmt: skip
    o, last = found if keep else (found, None)
    return like(o.flip(1) if turn else o, q), None if last is None else {name: on(x, q) for name, x in last.items()}


def with_state(q, k, v, initial, keep, **settings):
    o, last = attend(q, k, v, state=None if initial is None else {"state": ready(initial)}, keep=keep, **settings)
    return o, last["state"] if keep else None


def strength(q, v, beta, sigmoid, negative):
    """beta [B, T, HV] as the rules take it, and whether they take its sigmoid."""
    if negative and not sigmoid:
        raise ValueError("allow_neg_eigval=True: expected use_beta_sigmoid_in_kernel=True as well")
    if beta is None:
        return torch.ones(v.shape[:3]), None
    if negative:
        return 2 * ready(beta).sigmoid(), None
    return beta, sigmoid or None


def per_value(q, k, v, gv, initial, keep, v_first, beta=None, **settings):
    """Decays gv [B, T, H, V] per channel of the values: every channel is a head of its own with values of width 1."""
    b, t, h, width = v.shape
    heads = h * width
    own = lambda x: None if x is None else ready(x).repeat_interleave(width, dim=2)  # noqa: E731
    if initial is not None:
        initial = ready(initial) if v_first else ready(initial).transpose(-1, -2)
        initial = initial.reshape(-1, heads, initial.shape[-1], 1)
    o, last = with_state(
        q, k, ready(v).reshape(b, t, heads, 1), initial, keep, g=ready(gv).reshape(b, t, heads), beta=own(beta), **settings
    )
    if last is not None:
        last = last.reshape(last.shape[0], h, width, -1)
        last = last if v_first else last.transpose(-1, -2).contiguous()
    return o.reshape(b, t, h, width), last


def scaled(q, scale):
    return q.shape[-1] ** -0.5 if scale is None else scale
