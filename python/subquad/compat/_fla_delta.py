"""Functions of fla with a correction (delta rules), and those of more than one run; see `subquad.compat.fla`."""

import torch
from torch.nn import functional as F

from ._common import counted, like, on, ready, unsupported
from ._fla_core import per_value, scaled, strength, with_state


def _delta(q, k, v, beta, scale, initial, keep, l2norm, cu, rule="delta", g=None, v_first=False, **more):
    return with_state(
        q, k, v, initial, keep, rule=rule, g=g, beta=beta, scale=scaled(q, scale), l2norm=l2norm, cu=cu, v_first=v_first, **more
    )


def _strengths(q, v, beta):
    """beta [B, T, H] for all channels of a head; ones if it is absent. fla's fused form also takes [B, T, H, V]."""
    if beta is not None and beta.dim() == 4:
        raise NotImplementedError("beta [B, T, H, V] is not supported: one strength serves all channels of a head")
    return strength(q, v, beta, False, False)[0]


@counted
def chunk_delta_rule(
    q, k, v, beta, scale=None, initial_state=None, output_final_state=False, use_qk_l2norm_in_kernel=False, cu_seqlens=None,
    cu_seqlens_cpu=None, **kwargs,
):  # fmt: skip
    """DeltaNet (arXiv 2406.06484): beta [B, T, H]."""
    beta = _strengths(q, v, beta)
    return _delta(q, k, v, beta, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, cu_seqlens)


@counted
def fused_chunk_delta_rule(q, k, v, beta, *args, **kwargs):
    """As chunk_delta_rule."""
    return chunk_delta_rule.__wrapped__(q, k, v, beta, *args, **kwargs)


@counted
def fused_recurrent_delta_rule(
    q, k, v, beta=None, scale=None, initial_state=None, output_final_state=False, use_qk_l2norm_in_kernel=False, cu_seqlens=None
):
    """As chunk_delta_rule; beta is 1 if absent."""
    beta = _strengths(q, v, beta)
    return _delta(q, k, v, beta, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, cu_seqlens)


def _gated_delta(
    q, k, v, g, beta, scale, initial, keep, l2norm, sigmoid, negative, v_first, cu, a_log=None, dt_bias=None, context=None
):
    unsupported("gated_delta_rule", cp_context=(context, "a call has all tokens of its sequences"))
    beta, sigmoid = strength(q, v, beta, sigmoid, negative)
    gate = {} if a_log is None else {"a": g, "a_log": a_log, "dt_bias": dt_bias}
    g = g if a_log is None else None
    rule = "gated_delta" if g is not None or gate else "delta"
    return _delta(q, k, v, beta, scale, initial, keep, l2norm, cu, rule, g, v_first, beta_sigmoid=sigmoid, **gate)


def _gate(use, a_log, dt_bias):
    if use and a_log is None:
        raise ValueError("use_gate_in_kernel=True: expected A_log [H], found None")
    return {"a_log": a_log, "dt_bias": dt_bias} if use else {}


@counted
def chunk_gated_delta_rule(
    q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False, use_qk_l2norm_in_kernel=False,
    use_beta_sigmoid_in_kernel=False, allow_neg_eigval=False, state_v_first=False, cu_seqlens=None, cu_seqlens_cpu=None,
    chunk_indices=None, cp_context=None, **kwargs,
):  # fmt: skip
    """Gated DeltaNet (arXiv 2412.06464): q, k [B, T, H, K], v [B, T, HV, V], g, beta [B, T, HV], HV a multiple of H.

    use_gate_in_kernel=True, with A_log and dt_bias [HV]: g is -exp(A_log) softplus(g + dt_bias). allow_neg_eigval doubles beta.
    """
    gate = _gate(kwargs.get("use_gate_in_kernel", False), kwargs.get("A_log"), kwargs.get("dt_bias"))
    return _gated_delta(q, k, v, g, beta, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel,
                        use_beta_sigmoid_in_kernel, allow_neg_eigval, state_v_first, cu_seqlens, context=cp_context,
                        **gate)  # fmt: skip


@counted
def fused_recurrent_gated_delta_rule(
    q, k, v, g=None, gk=None, gv=None, beta=None, scale=None, initial_state=None, output_final_state=False,
    use_qk_l2norm_in_kernel=False, use_gate_in_kernel=False, A_log=None, dt_bias=None, use_beta_sigmoid_in_kernel=False,
    allow_neg_eigval=False, state_v_first=False, cu_seqlens=None, **kwargs,
):  # fmt: skip
    """As chunk_gated_delta_rule; the decay is g [B, T, HV], gk [B, T, HV, K] or gv [B, T, HV, V], or g with one of the others."""
    name = "fused_recurrent_gated_delta_rule"
    gate = _gate(use_gate_in_kernel, A_log, dt_bias)
    if gk is not None or gv is not None:
        unsupported(name, gv=(None if gk is None else gv, "decays are of the channels of keys or of values, not of both"))
        if gate:
            g, gate = -ready(A_log).exp() * F.softplus(ready(g) + (0 if dt_bias is None else ready(dt_bias))), {}
        channels = ready(gv if gk is None else gk)
        g = channels if g is None else channels + ready(g)[..., None]
    if gv is not None:
        beta, sigmoid = strength(q, v, beta, use_beta_sigmoid_in_kernel, allow_neg_eigval)
        return per_value(q, k, v, g, initial_state, output_final_state, state_v_first, beta=beta, rule="gated_delta",
                         scale=scaled(q, scale), cu=cu_seqlens, l2norm=use_qk_l2norm_in_kernel, beta_sigmoid=sigmoid)  # fmt: skip
    return _gated_delta(q, k, v, g, beta, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel,
                        use_beta_sigmoid_in_kernel, allow_neg_eigval, state_v_first, cu_seqlens, **gate)  # fmt: skip


chunk_gdn = chunk_gated_delta_rule
fused_recurrent_gdn = fused_recurrent_gated_delta_rule


def _kda_gate(g, use, a_log, dt_bias, lower):
    """The log decays of Kimi Delta Attention, from g [B, T, HV, K], A_log [HV] and dt_bias [HV * K]."""
    if not use:
        return g
    g = ready(g)
    g = g if dt_bias is None else g + ready(dt_bias).reshape(g.shape[-2:])
    speed = None if a_log is None else ready(a_log).reshape(-1, 1).exp()
    if lower is not None:
        return lower * torch.sigmoid(g if speed is None else speed * g)
    if speed is None:
        raise ValueError("use_gate_in_kernel=True: expected A_log [HV] or lower_bound, found neither")
    return -speed * F.softplus(g)


@counted
def chunk_kda(
    q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False, use_qk_l2norm_in_kernel=False,
    use_gate_in_kernel=False, use_beta_sigmoid_in_kernel=False, allow_neg_eigval=False, safe_gate=False, lower_bound=None,
    disable_recompute=False, return_intermediate_states=False, state_v_first=False, cu_seqlens=None, cu_seqlens_cpu=None,
    cp_context=None, use_graph=False, max_num_seqs=None, **kwargs,
):  # fmt: skip
    """Kimi Delta Attention (arXiv 2510.26692): the gated delta rule with a decay g [B, T, HV, K] per channel of the keys.

    use_gate_in_kernel=True, with A_log [HV] and dt_bias [HV * K]: g is -exp(A_log) softplus(g + dt_bias), or with lower_bound
    lower_bound * sigmoid(exp(A_log) (g + dt_bias)).
    """
    unsupported("chunk_kda", return_intermediate_states=(return_intermediate_states, "only the last state is kept"))
    g = _kda_gate(g, use_gate_in_kernel, kwargs.get("A_log"), kwargs.get("dt_bias"), lower_bound)
    return _gated_delta(q, k, v, g, beta, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel,
                        use_beta_sigmoid_in_kernel, allow_neg_eigval, state_v_first, cu_seqlens, context=cp_context)  # fmt: skip


@counted
def fused_recurrent_kda(
    q, k, v, g, beta, A_log=None, dt_bias=None, scale=None, initial_state=None, output_final_state=False,
    use_qk_l2norm_in_kernel=False, use_gate_in_kernel=False, use_beta_sigmoid_in_kernel=False, allow_neg_eigval=False,
    lower_bound=None, state_v_first=False, cu_seqlens=None, **kwargs,
):  # fmt: skip
    """As chunk_kda."""
    g = _kda_gate(g, use_gate_in_kernel, A_log, dt_bias, lower_bound)
    return _gated_delta(q, k, v, g, beta, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel,
                        use_beta_sigmoid_in_kernel, allow_neg_eigval, state_v_first, cu_seqlens)  # fmt: skip


@counted
def chunk_gated_delta_product(
    q, k, v, g, beta, num_householder, scale=None, initial_state=None, output_final_state=False, use_qk_l2norm_in_kernel=False,
    cu_seqlens=None, cu_seqlens_cpu=None, cp_context=None,
):  # fmt: skip
    """DeltaProduct (arXiv 2502.10297): R = num_householder corrections per token; k, v, beta have R T tokens, q and g T.

    Runs as the gated delta rule over R T tokens: the first one of a token decays, the last one is read.
    """
    unsupported("chunk_gated_delta_product", cp_context=(cp_context, "a call has all tokens of its sequences"))
    r = num_householder
    spread = lambda x, at: torch.zeros(x.shape[0], x.shape[1] * r, *x.shape[2:]).index_copy_(  # noqa: E731
        1, torch.arange(at, x.shape[1] * r, r), ready(x)
    )
    o, last = _delta(
        spread(q, r - 1), k, v, beta, scaled(q, scale), initial_state, output_final_state, use_qk_l2norm_in_kernel,
        None if cu_seqlens is None else cu_seqlens * r, "delta" if g is None else "gated_delta",
        None if g is None else spread(g, 0),
    )  # fmt: skip
    return like(o[:, r - 1 :: r].contiguous(), q), last


def _gsa(q, k, v, s, g, scale, initial, keep, cu, reverse=False):
    """Two runs: keys into slots, whose softmax reads values out of slots."""
    b, t, heads, width = k.shape
    if q.shape[2] != heads:
        raise NotImplementedError("gsa: more heads of q than of k are not supported: repeat k, v, s and g")
    s = ready(s)
    if g is None:
        if cu is not None or reverse or initial is not None:
            raise NotImplementedError("gsa: g of None is not supported with cu_seqlens, reverse or a state: give g")
        z = s.logcumsumexp(1)
        g, s = torch.cat([z[:, :1], z[:, :-1]], 1) - z, (s - z).exp()
    hk, hv = (None, None) if initial is None else initial
    ok, hk = per_value(q, k, s, g, hk, keep, False, rule="gated", scale=scaled(q, scale), cu=cu, reverse=reverse)
    o, hv = with_state(ready(ok).softmax(-1), s, v, hv, keep, rule="gated", g=g, scale=1.0, cu=cu, reverse=reverse)
    return like(o, q), (hk, hv) if keep else None


@counted
def chunk_gsa(
    q, k, v, s, g=None, scale=None, initial_state=None, output_final_state=False, checkpoint_level=2, cu_seqlens=None,
    cu_seqlens_cpu=None, **kwargs,
):  # fmt: skip
    """Gated slot attention (arXiv 2409.07146): s, g [B, T, H, M] of M slots. State ([B, H, K, M], [B, H, M, V])."""
    return _gsa(q, k, v, s, g, scale, initial_state, output_final_state, cu_seqlens)


@counted
def fused_recurrent_gsa(
    q, k, v, s, g=None, scale=None, initial_state=None, output_final_state=False, reverse=False, cu_seqlens=None
):
    """As chunk_gsa; with `reverse` from the last token to the first."""
    return _gsa(q, k, v, s, g, scale, initial_state, output_final_state, cu_seqlens, reverse)


def _rwkv6(r, k, v, w, u, scale, initial, keep, cu, reverse=False):
    """o_t = scale * (S_{t-1} + u k_t v_t^T)^T r_t: each token is read one step later, and the bonus u is added."""
    if reverse:
        raise NotImplementedError("rwkv6: reverse is not supported: flip the tensors along the tokens")
    r, k, v, u, scale = ready(r), ready(k), ready(v), ready(u), scaled(r, scale)
    later = torch.cat([r[:, 1:], r[:, :1]], 1)
    seen, last = with_state(later, k, v, initial, keep, rule="gated", g=w, scale=scale, cu=cu)
    o = torch.cat([torch.zeros_like(seen[:, :1]), seen[:, :-1]], 1)
    borders = torch.tensor([0, r.shape[1]]) if cu is None else cu.cpu()
    for which in range(len(borders) - 1):
        start, end = int(borders[which]), int(borders[which + 1])
        if start < end:
            # A first token sees what entered, and nothing of the sequence before.
            o[:, start] = 0
            if initial is not None:
                state = ready(initial) if cu is None else ready(initial)[which : which + 1]
                o[:, start] = scale * (state * r[:, start, :, :, None]).sum(-2)
    return o + scale * (r * u * k).sum(-1, keepdim=True) * v, last


@counted
def chunk_rwkv6(
    r, k, v, w, u, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None, cu_seqlens_cpu=None, **kwargs
):
    """RWKV-6 (arXiv 2404.05892): log decays w [B, T, H, K], the bonus u [H, K] of the present token."""
    o, last = _rwkv6(r, k, v, w, u, scale, initial_state, output_final_state, cu_seqlens)
    return like(o, r), last


@counted
def fused_recurrent_rwkv6(
    r, k, v, w, u, scale=None, initial_state=None, output_final_state=False, reverse=False, cu_seqlens=None
):
    """As chunk_rwkv6."""
    o, last = _rwkv6(r, k, v, w, u, scale, initial_state, output_final_state, cu_seqlens, reverse)
    return like(o, r), last


__all__ = [name for name, one in list(globals().items()) if hasattr(one, "__wrapped__")]
