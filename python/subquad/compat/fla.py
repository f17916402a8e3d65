"""Functions with the names and arguments of fla (flash-linear-attention 0.6).

Tensors are [B, T, H, D]; keys, values and gates may have other heads as fla allows. All return (o, final_state), the state None
unless output_final_state. States are float32 [B, H, K, V], with cu_seqlens [N + 1] (B is 1) [N, H, K, V]; state_v_first exchanges
the last two axes. Decays are logarithms. scale is 1 / sqrt(K) if absent. Chunk sizes and other settings of kernels are taken and
not needed. `parallel_..` functions return (o, None). Functions of fla that subquad cannot express raise NotImplementedError.
"""

from ._fla_decay import *  # noqa: F403
from ._fla_delta import *  # noqa: F403

FAMILIES = {
    "linear_attn": ("chunk_linear_attn", "fused_chunk_linear_attn", "fused_recurrent_linear_attn"),
    "gla": ("chunk_gla", "fused_chunk_gla", "fused_recurrent_gla"),
    "simple_gla": ("chunk_simple_gla", "fused_chunk_simple_gla", "fused_recurrent_simple_gla", "parallel_simple_gla"),
    "retention": ("chunk_retention", "fused_chunk_retention", "fused_recurrent_retention", "parallel_retention"),
    "lightning_attn": ("chunk_lightning_attn", "fused_recurrent_lightning_attn"),
    "delta_rule": ("chunk_delta_rule", "fused_chunk_delta_rule", "fused_recurrent_delta_rule"),
    "gated_delta_rule": ("chunk_gated_delta_rule", "chunk_gdn", "fused_recurrent_gated_delta_rule", "fused_recurrent_gdn"),
    "gated_delta_product": ("chunk_gated_delta_product",),
    "kda": ("chunk_kda", "fused_recurrent_kda"),
    "hgrn": ("chunk_hgrn", "fused_recurrent_hgrn"),
    "gsa": ("chunk_gsa", "fused_recurrent_gsa"),
    "rwkv6": ("chunk_rwkv6", "fused_recurrent_rwkv6"),
}

_ENTERS = "the state is updated by more than a decay and one correction along the key"
_SPARSE = "it is attention over chosen blocks of keys"
_SCORES = "its scores between tokens have no form in softmax_attention"
_NO = {
    "generalized_delta_rule": (_ENTERS, "chunk_dplr_delta_rule", "fused_recurrent_dplr_delta_rule", "chunk_iplr_delta_rule",
                               "fused_recurrent_iplr_delta_rule"),
    "rwkv7": (_ENTERS, "chunk_rwkv7", "fused_recurrent_rwkv7", "fused_mul_recurrent_rwkv7"),
    "comba": (_ENTERS, "chunk_comba", "fused_recurrent_comba"),
    "gdn2": (_ENTERS, "chunk_gdn2", "fused_recurrent_gdn2"),
    "gated_oja_rule": (_ENTERS, "chunk_gated_oja_rule", "fused_recurrent_gated_oja_rule"),
    "momentum_delta_rule": (_ENTERS, "chunk_momentum_delta_rule", "fused_recurrent_momentum_delta_rule"),
    "precond_gated_delta_rule": (_ENTERS, "chunk_precond_gated_delta_rule", "fused_recurrent_precond_gated_delta_rule"),
    "precond_kda": (_ENTERS, "chunk_precond_kda", "fused_recurrent_precond_kda"),
    "mesa_net": ("each output solves a linear system", "chunk_mesa_net", "mesa_net_decoding_one_step"),
    "ttt": ("the state is updated by the gradient of a norm", "chunk_ttt_linear", "fused_chunk_ttt_linear"),
    "titans": ("the state is updated by the gradient of a norm", "chunk_titans_linear"),
    "log_linear_attn": ("it has a state per level of a tree", "chunk_log_linear_attn"),
    "rwkv4": ("its state is a running softmax per channel", "fused_recurrent_rwkv4"),
    "abc": ("its gate without decay is a running softmax over slots; use chunk_gsa with g", "chunk_abc"),
    "lightnet": ("its decay is a running softmax over keys; use chunk_gla with that decay", "chunk_lightnet",
                 "fused_recurrent_lightnet"),
    "based": ("its feature map is not among those of linear_attention", "fused_chunk_based", "parallel_based"),
    "rebased": ("its feature map is not among those of linear_attention", "parallel_rebased"),
    "nsa": (_SPARSE, "parallel_nsa"),
    "moba": (_SPARSE, "parallel_moba"),
    "path_attn": (_SCORES, "parallel_path_attn"),
    "parallax": (_SCORES, "parallel_parallax"),
    "stickbreaking_attn": (_SCORES, "parallel_stickbreaking_attn"),
    "deltaformer": (_SCORES, "deltaformer_attn"),
    "wall_attn": (_SCORES, "parallel_wall_attn"),
    "forgetting_attn": ("its decays are no argument of softmax_attention; a bias [B, H, T, T] is", "parallel_forgetting_attn"),
}  # fmt: skip


def _refusing(name, family, reason):
    def refuse(*args, **kwargs):
        raise NotImplementedError(f"{name} (fla.ops.{family}) is not supported: {reason}")

    refuse.__name__ = name
    return refuse


def __getattr__(name):
    for family, (reason, *names) in _NO.items():
        if name in names:
            return _refusing(name, family, reason)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [name for names in FAMILIES.values() for name in names]
