"""Sequence mixers on arrays.

Arrays are NumPy arrays, or tensors of the CPU with `__dlpack__` (torch, JAX, ..); results are of the same library. Storage is
float32 or float16 (torch's bfloat16 is converted), sums are float32. Axes: B batch, N tokens, H heads of queries, G heads of keys
(H is a multiple of G), D and E the widths of keys and values. layout="bnhd", the default, is q [B, N, H, D]; "bhnd" is
[B, H, N, D]; both hold for q, k, v, g, beta, gamma and the output alike.

device: "auto" (a GPU if there is one, else the CPU), "cpu", "gpu", "vulkan", "vulkan:0", "metal:0", "dx12:0". A GPU receives the
arrays and returns the result in each call.

A state is a dict of float32 arrays. `output_final_state=True` returns it after the output, `initial_state` takes it. The one-token
forms return a new state; with `in_place=True` they write it into the arrays that were given, and return these. With
`cu_seqlens` [S + 1], the borders of S sequences that lie one after another in a single batch entry, a state has S in place of B.

Errors: ValueError with one sentence that names the operator, the tensor, what was expected and what was found; RuntimeError if a
device is missing or lost.
"""

from ._call import call

__all__ = [
    "causal_conv1d", "causal_conv1d_update", "linear_attention", "linear_attention_step", "linformer_attention",
    "multi_token_attention", "ram_net", "ram_net_step", "selective_scan", "selective_state_update", "slay_attention",
    "slay_attention_step", "softmax_attention", "ssd", "ssd_step", "yat_attention",
]  # fmt: skip


def _dashed(word):
    return word.replace("_", "-") if isinstance(word, str) else word


def _with_state(name, outputs, state, wanted):
    return (outputs[name], state) if wanted else outputs[name]


def linear_attention(
    q, k, v, *, rule="linear", g=None, beta=None, feature_map=None, features=None, omega=None, a=None, a_log=None, dt_bias=None,
    scale=None, normalize=None, norm_eps=None, l2norm=None, beta_sigmoid=None, causal=True, direction=None, max_len=None,
    initial_state=None, output_final_state=False, state_layout=None, cu_seqlens=None, segment=None, layout="bnhd", seed=0,
    device="auto",
):  # fmt: skip
    """Linear attention and its relatives with a decay or a correction.

    S_t = diag(exp g_t) S_{t-1} + phi(k_t) v_t^T,  o_t = scale * S_t^T phi(q_t), divided by scale * z_t . phi(q_t) + norm_eps if
    normalised; the delta rules write beta_t k_t (v_t - S^T k_t)^T instead.

    q [B, N, H, D], k [B, N, G, D], v [B, N, G, E]; v may have more heads than q and k (then the state has as many).
    rule          "linear", "gated", "delta", "gated_delta"
    feature_map   "elu1" (rule linear), "identity" (all others), "relu", "performer", "performer_relu", "cosformer"
    g             log decays, 0 or less: [B, N, G], [B, N, G, D], or [G] for all tokens; or a, a_log, dt_bias:
                  g = -exp(a_log) softplus(a + dt_bias)
    beta          [B, N, G] or [B, N, 1] (delta rules); beta_sigmoid takes the sigmoid of it
    normalize     default: rule linear only. scale: default 1 if normalised, else 1 / sqrt(D)
    l2norm        q and k are divided by sqrt(sum of squares + 1e-6) first
    state         {"state": [B, G, D', E], "norm": [B, G, D'] if normalised, ..}; state_layout="ed" is [B, G, E, D']

    Sources: arXiv 2006.16236, 2406.06484 (delta), 2412.06464 (gated delta), 2009.14794 (performer), 2202.08791 (cosformer).
    Returns o [B, N, H, E], or (o, state).
    """
    tensors = {"q": q, "k": k, "v": v, "g": g, "beta": beta, "omega": omega, "a": a, "a_log": a_log, "dt_bias": dt_bias,
               "cu_seqlens": cu_seqlens}  # fmt: skip
    settings = {"rule": _dashed(rule), "feature_map": _dashed(feature_map), "features": features, "scale": scale,
                "normalize": normalize, "norm_eps": norm_eps, "l2norm": l2norm, "beta_sigmoid": beta_sigmoid, "causal": causal,
                "direction": direction, "max_len": max_len, "state_layout": state_layout, "segment": segment}  # fmt: skip
    outputs, state = call("linear", tensors, settings, layout=layout, seed=seed, device=device, initial_state=initial_state,
                          keep=output_final_state)  # fmt: skip
    return _with_state("o", outputs, state, output_final_state)


def linear_attention_step(
    q, k, v, state=None, *, rule="linear", g=None, beta=None, feature_map=None, features=None, omega=None, a=None, a_log=None,
    dt_bias=None, scale=None, normalize=None, norm_eps=None, l2norm=None, beta_sigmoid=None, max_len=None, state_layout=None,
    in_place=False, layout="bnhd", seed=0, device="auto",
):  # fmt: skip
    """One token of `linear_attention`, whose arguments it has: N is 1. Returns (o, state)."""
    tensors = {"q": q, "k": k, "v": v, "g": g, "beta": beta, "omega": omega, "a": a, "a_log": a_log, "dt_bias": dt_bias}
    settings = {"rule": _dashed(rule), "feature_map": _dashed(feature_map), "features": features, "scale": scale,
                "normalize": normalize, "norm_eps": norm_eps, "l2norm": l2norm, "beta_sigmoid": beta_sigmoid,
                "max_len": max_len, "state_layout": state_layout, "decode": True}  # fmt: skip
    outputs, state = call("linear", tensors, settings, layout=layout, seed=seed, device=device, initial_state=state, keep=True,
                          in_place=in_place)  # fmt: skip
    return outputs["o"], state


def slay_attention(
    q, k, v, *, anchors=None, omega=None, num_anchors=None, nodes=None, features=None, poly=None, epsilon=None, norm_eps=None,
    causal=True, direction=None, initial_state=None, output_final_state=False, cu_seqlens=None, segment=None, layout="bnhd",
    seed=0, device="auto",
):  # fmt: skip
    """SLAY: linear attention with random features of the spherical Yat kernel (arXiv 2602.04915).

    q [B, N, H, D], k [B, N, G, D], v [B, N, G, E]; anchors [P, D] and omega [R, G, F, D] are drawn from the seed if absent.
    num_anchors P (8), nodes R (2), features F (16), poly "anchor" (default), "exact", ..
    State: {"state": [B, G, m, E], "norm": [B, G, m]}.
    Returns o [B, N, H, E], or (o, state).
    """
    tensors = {"q": q, "k": k, "v": v, "anchors": anchors, "omega": omega, "cu_seqlens": cu_seqlens}
    settings = {"anchors": num_anchors, "nodes": nodes, "features": features, "poly": poly, "epsilon": epsilon,
                "norm_eps": norm_eps, "causal": causal, "direction": direction, "segment": segment}  # fmt: skip
    outputs, state = call("slay", tensors, settings, layout=layout, seed=seed, device=device, initial_state=initial_state,
                          keep=output_final_state)  # fmt: skip
    return _with_state("o", outputs, state, output_final_state)


def slay_attention_step(
    q, k, v, state=None, *, anchors=None, omega=None, num_anchors=None, nodes=None, features=None, poly=None, epsilon=None,
    norm_eps=None, in_place=False, layout="bnhd", seed=0, device="auto",
):  # fmt: skip
    """One token of `slay_attention`: N is 1. Returns (o, state)."""
    tensors = {"q": q, "k": k, "v": v, "anchors": anchors, "omega": omega}
    settings = {"anchors": num_anchors, "nodes": nodes, "features": features, "poly": poly, "epsilon": epsilon,
                "norm_eps": norm_eps, "decode": True}  # fmt: skip
    outputs, state = call("slay", tensors, settings, layout=layout, seed=seed, device=device, initial_state=state, keep=True,
                          in_place=in_place)  # fmt: skip
    return outputs["o"], state


def softmax_attention(
    q, k, v, *, scale=None, causal=True, window=None, bias=None, mask=None, sink=None, softcap=None, lengths=None,
    cu_seqlens=None, align=None, return_lse=False, layout="bnhd", device="auto",
):  # fmt: skip
    """Exact softmax attention.

    q [B, N, H, D], k [B, M, G, D], v [B, M, G, E]. Causal with N < M is aligned at the end, as with a key/value cache
    (align="start": query i sees keys up to i). window: each query sees its last `window` keys.
    bias [1 | B, 1 | H, N, M] is added to the scores (-inf hides a pair); mask of the same shapes, bool, hides where it is False;
    sink [H] joins the sum of each row; softcap C is C tanh(s / C); lengths [B] are keys of each entry.
    Returns o [B, N, H, E], or (o, lse [B, H, N] in float32) with return_lse. Source: arXiv 1706.03762.
    """
    tensors = {"q": q, "k": k, "v": v, "bias": bias, "mask": mask, "sink": sink, "lengths": lengths, "cu_seqlens": cu_seqlens}
    settings = {"scale": scale, "causal": causal, "window": window, "softcap": softcap, "align": align,
                "lse": True if return_lse else None}  # fmt: skip
    outputs, _ = call("softmax", tensors, settings, layout=layout, seed=0, device=device)
    return (outputs["o"], outputs["lse"]) if return_lse else outputs["o"]


def yat_attention(
    q, k, v, *, kernel=None, norm=None, epsilon=None, norm_eps=None, causal=True, lengths=None, cu_seqlens=None, align=None,
    layout="bnhd", device="auto",
):  # fmt: skip
    """Exact attention with the Yat kernel (arXiv 2602.04915): "spherical" (default) or "euclidean"; norm "kernel" or "softmax".

    q [B, N, H, D], k [B, M, G, D], v [B, M, G, E]. Returns o [B, N, H, E].
    """
    tensors = {"q": q, "k": k, "v": v, "lengths": lengths, "cu_seqlens": cu_seqlens}
    settings = {"kernel": kernel, "norm": norm, "epsilon": epsilon, "norm_eps": norm_eps, "causal": causal, "align": align}
    return call("yat", tensors, settings, layout=layout, seed=0, device=device)[0]["o"]


def linformer_attention(q, k, v, *, e=None, f=None, rank=None, pool=None, scale=None, layout="bnhd", seed=0, device="auto"):
    """Linformer: softmax attention over keys and values projected to K rows (arXiv 2006.04768); every query sees all of them.

    q [B, N, H, D], k [B, M, G, D], v [B, M, G, E]; e, f [1 | H, K, M] (f absent: e serves both; e absent: drawn from the seed
    with rank K, 256); pool "mean" or "max" in their place. Returns o [B, N, H, E].
    """
    tensors = {"q": q, "k": k, "v": v, "e": e, "f": f}
    settings = {"rank": rank, "pool": pool, "scale": scale}
    return call("linformer", tensors, settings, layout=layout, seed=seed, device=device)[0]["o"]


def multi_token_attention(
    q, k, v, *, kq_pre=None, kq_post=None, head_pre=None, head_post=None, norm=None, gate_weight=None, gate_bias=None, scale=None,
    depth=None, causal=True, align=None, layout="bnhd", device="auto",
):  # fmt: skip
    """Multi-Token Attention: scores and weights of neighbouring queries, keys and heads are mixed (arXiv 2504.00927).

    q [B, N, H, D], k [B, M, G, D], v [B, M, G, E]; kq_pre, kq_post [H, cq, ck] (ck odd), head_pre [H, H],
    head_post [H / c, c, c], norm [E], gate_weight [1 | E, E], gate_bias [1 | E]. What is absent is skipped.
    Returns o [B, N, H, E].
    """
    tensors = {"q": q, "k": k, "v": v, "kq_pre": kq_pre, "kq_post": kq_post, "head_pre": head_pre, "head_post": head_post,
               "norm": norm, "gate_weight": gate_weight, "gate_bias": gate_bias}  # fmt: skip
    settings = {"scale": scale, "depth": depth, "causal": causal, "align": align}
    return call("mta", tensors, settings, layout=layout, seed=0, device=device)[0]["o"]


def ram_net(
    q, k, v, gamma, *, choices=None, topk=None, rule=None, cape=None, tau=None, mass_eps=None, codebook=None, return_codes=False,
    direction=None, initial_state=None, output_final_state=False, cu_seqlens=None, segment=None, layout="bnhd", device="auto",
):  # fmt: skip
    """RAM-Net: a memory of P^U slots per head, of which each token writes and reads K (arXiv 2602.11958).

    q, k [B, N, H, U P] are logits of U digits of P choices (4), v [B, N, H, E], gamma [B, N, H]. topk K (8), rule "gsu" or
    "pdma", cape "all" or a list of heads. codebook [C, E] or [H, C, E]: v is replaced by its nearest code before it is written.
    State: {"state": [B, H, P^U, E], "mass": [B, H, P^U], "position": [1]}.
    Returns o [B, N, H, E], then the codes [B, N, H] if return_codes, then the state if output_final_state.
    """
    tensors = {"q": q, "k": k, "v": v, "gamma": gamma, "codebook": codebook, "cu_seqlens": cu_seqlens}
    settings = {"choices": choices, "topk": topk, "rule": rule, "cape": cape, "tau": tau, "mass_eps": mass_eps,
                "codes": True if return_codes else None, "direction": direction, "segment": segment}  # fmt: skip
    outputs, state = call("ramnet", tensors, settings, layout=layout, seed=0, device=device, initial_state=initial_state,
                          keep=output_final_state)  # fmt: skip
    found = (outputs["o"], *([outputs["code"]] if return_codes else []), *([state] if output_final_state else []))
    return found if len(found) > 1 else found[0]


def ram_net_step(
    q, k, v, gamma, state=None, *, choices=None, topk=None, rule=None, cape=None, tau=None, mass_eps=None, codebook=None,
    in_place=False, layout="bnhd", device="auto",
):  # fmt: skip
    """One token of `ram_net`: N is 1. Returns (o, state)."""
    tensors = {"q": q, "k": k, "v": v, "gamma": gamma, "codebook": codebook}
    settings = {"choices": choices, "topk": topk, "rule": rule, "cape": cape, "tau": tau, "mass_eps": mass_eps, "decode": True}
    outputs, state = call("ramnet", tensors, settings, layout=layout, seed=0, device=device, initial_state=state, keep=True,
                          in_place=in_place)  # fmt: skip
    return outputs["o"], state


def _steps(delta_softplus, dt_limit, dt_offset):
    least, most = dt_limit if dt_limit is not None else (None, None)
    return {"dt_softplus": bool(delta_softplus), "dt_min": least if least else None,
            "dt_max": most if most is not None and most != float("inf") else None, "dt_offset": dt_offset}  # fmt: skip


def selective_scan(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False, *, dt_limit=None,
    dt_offset=None, direction=None, initial_state=None, cu_seqlens=None, segment=None, device="auto",
):  # fmt: skip
    """Mamba's selective scan (arXiv 2312.00752), with the arguments of mamba_ssm's selective_scan_fn.

    u, delta, z [B, C, N]; A [C, S], 0 or less; B, C [B, S, N], [B, G, S, N], or [C, S] for all tokens; D, delta_bias [C].
    dt_limit (least, most) clamps the steps. initial_state [B, C, S].
    Returns y [B, C, N], or (y, last state [B, C, S]).
    """
    tensors = {"x": u, "dt": delta, "a": A, "b": B, "c": C, "d": D, "z": z, "dt_bias": delta_bias, "cu_seqlens": cu_seqlens}
    settings = {**_steps(delta_softplus, dt_limit, dt_offset), "direction": direction, "segment": segment}
    outputs, state = call("mamba", tensors, settings, layout="bcn", seed=0, device=device, initial_state=initial_state,
                          keep=return_last_state)  # fmt: skip
    return (outputs["y"], state["state"]) if return_last_state else outputs["y"]


def selective_state_update(
    state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False, *, dt_limit=None, in_place=False, device="auto"
):
    """One token of Mamba's scan: x, dt, z [B, C], A [C, S], B, C [B, S] or [B, G, S], state [B, C, S].

    Returns (y [B, C], state). mamba_ssm's function writes into `state`, as this one does with in_place=True.
    """
    one = lambda x: None if x is None else x[..., None]  # noqa: E731
    tensors = {"x": one(x), "dt": one(dt), "a": A, "b": one(B), "c": one(C), "d": D, "z": one(z), "dt_bias": dt_bias}
    settings = {**_steps(dt_softplus, dt_limit, None), "decode": True}
    outputs, after = call("mamba", tensors, settings, layout="bcn", seed=0, device=device, initial_state=state, keep=True,
                          in_place=in_place)  # fmt: skip
    return outputs["y"][..., 0], after["state"]


def ssd(
    x, dt, A, B, C, *, D=None, z=None, dt_bias=None, dt_softplus=False, dt_limit=None, dt_offset=None, initial_state=None,
    output_final_state=False, direction=None, state_layout=None, cu_seqlens=None, segment=None, device="auto",
):  # fmt: skip
    """Mamba-2's state-space dual (arXiv 2405.21060).

    x, z [B, N, H, P]; dt [B, N, H]; A [H], 0 or less; B, C [B, N, G, S]; D [H] or [H, P]; dt_bias [H]. State
    {"state": [B, H, P, S]}. Returns y [B, N, H, P], or (y, state).
    """
    tensors = {"x": x, "dt": dt, "a": A, "b": B, "c": C, "d": D, "z": z, "dt_bias": dt_bias, "cu_seqlens": cu_seqlens}
    settings = {**_steps(dt_softplus, dt_limit, dt_offset), "direction": direction, "state_layout": state_layout,
                "segment": segment}  # fmt: skip
    outputs, state = call("ssd", tensors, settings, layout="bhnd", seed=0, device=device, initial_state=initial_state,
                          keep=output_final_state)  # fmt: skip
    return _with_state("y", outputs, state, output_final_state)


def ssd_step(
    x, dt, A, B, C, state=None, *, D=None, z=None, dt_bias=None, dt_softplus=False, dt_limit=None, in_place=False, device="auto"
):
    """One token of `ssd`: N is 1. Returns (y, state)."""
    tensors = {"x": x, "dt": dt, "a": A, "b": B, "c": C, "d": D, "z": z, "dt_bias": dt_bias}
    settings = {**_steps(dt_softplus, dt_limit, None), "decode": True}
    outputs, after = call("ssd", tensors, settings, layout="bhnd", seed=0, device=device, initial_state=state, keep=True,
                          in_place=in_place)  # fmt: skip
    return outputs["y"], after


def _activation(name):
    return {None: "none", "swish": "silu"}.get(name, name)


def causal_conv1d(
    x, weight, bias=None, activation=None, *, initial_states=None, return_final_states=False, padding=None, dilation=None,
    cu_seqlens=None, layout="bcn", device="auto",
):  # fmt: skip
    """Depthwise convolution along the sequence: y[n] = act(bias + sum_w weight[w] x[n - W + 1 + w]).

    x [B, C, N] (layout "bnc": [B, N, C]), weight [C, W] or [C, 1, W] with W up to 32, bias [C], activation None or "silu"
    ("swish"). initial_states [B, C, W - 1], the last inputs before x, oldest first. padding "same" looks at later tokens too.
    Returns y, or (y, final states).
    """
    settings = {"activation": _activation(activation), "padding": padding, "dilation": dilation}
    tensors = {"x": x, "weight": weight, "bias": bias, "cu_seqlens": cu_seqlens}
    outputs, state = call("conv1d", tensors, settings, layout=layout, seed=0, device=device, initial_state=initial_states,
                          keep=return_final_states)  # fmt: skip
    if not return_final_states:
        return outputs["y"]
    y = outputs["y"]
    if state:
        return y, state["state"]
    # A single tap keeps nothing.
    return y, y[..., :0] if layout == "bcn" else y[:, :0].swapaxes(1, 2)


def causal_conv1d_update(x, conv_state, weight, bias=None, activation=None, *, in_place=False, device="auto"):
    """One token of `causal_conv1d`: x [B, C], conv_state [B, C, W - 1]. Returns (y [B, C], conv_state)."""
    tensors = {"x": x[..., None], "weight": weight, "bias": bias}
    outputs, state = call("conv1d", tensors, {"activation": _activation(activation), "decode": True}, layout="bcn", seed=0,
                          device=device, initial_state=conv_state, keep=True, in_place=in_place)  # fmt: skip
    return outputs["y"][..., 0], state["state"]
