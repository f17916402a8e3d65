//! What several published families have in common: keys, and the names of tensors.

use super::super::keys::Keys;
use super::super::spec::{Head, Layer, Norm, Positions, Spec, Tokens};
use super::super::weights::{Source, Weights};
use super::Names;
use crate::catalog::spec::Op;
use crate::error::Error;

/// Keys of transformers that never change the result of a run.
pub(super) const HARMLESS: &[&str] = &[
    "architectures",
    "auto_map",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "id2label",
    "init_method",
    "initializer_range",
    "label2id",
    "logits_to_keep",
    "max_position_embeddings",
    "model_type",
    "normalization_function",
    "num_logits_to_keep",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "return_dict",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "use_cache",
    // Order of summation, or training.
    "chunk_size",
    "mamba_chunk_size",
    "rescale_prenorm_residual",
    "residual_in_fp32",
    "router_aux_loss_coef",
    "output_router_logits",
    "time_step_floor",
    "time_step_init_scheme",
    "time_step_max",
    "time_step_min",
    "time_step_scale",
    "use_associative_scan",
    "use_mambapy",
    "use_mamba_kernels",
    "z_loss_coefficient",
];

/// A spec of what most families have: RMS norms, no positions, a head for the next token, and no layer yet.
pub(super) fn spec(keys: &Keys, family: &'static str, eps: f32) -> Result<Spec, Error> {
    Ok(Spec {
        family,
        vocab: keys.size("vocab_size")?,
        hidden: keys.size("hidden_size")?,
        tokens: Tokens::Tokenizer,
        causal: true,
        norm: Norm::Rms,
        eps,
        positions: Positions::None,
        max_len: None,
        head: Head::Lm,
        tied: false,
        layers: Vec::new(),
        mlp: None,
        embed_scale: 1.0,
        residual_scale: 1.0,
        logits_scale: 1.0,
        labels: Vec::new(),
        ends: ends(keys)?,
    })
}

/// The tokens that end a text: one, or several.
pub(super) fn ends(keys: &Keys) -> Result<Vec<u32>, Error> {
    let list = match keys.value("eos_token_id") {
        Some(serde_json::Value::Array(_)) => keys.indices("eos_token_id")?,
        _ => keys.index("eos_token_id")?.map(|token| vec![token]),
    };
    Ok(list.unwrap_or_default().into_iter().map(|token| token as u32).collect())
}

/// Refuses another activation than SiLU.
pub(super) fn silu(keys: &Keys) -> Result<(), Error> {
    match keys.text("hidden_act")?.as_deref() {
        None | Some("silu" | "swish") => Ok(()),
        Some(other) => Err(keys.wrong("hidden_act", "silu", format!("`{other}`"))),
    }
}

/// Rotary positions, in the keys of any version. `default` is the share of a head that turns if no key says it.
pub(super) fn rope(keys: &Keys, dim: usize, default: f32, read_factor: bool) -> Result<Positions, Error> {
    let inner = match keys.object("rope_scaling")? {
        Some(inner) => Some(inner),
        None => keys.object("rope_parameters")?,
    };
    let mut theta = keys.number("rope_theta")?;
    let mut factor = keys.number("partial_rotary_factor")?.filter(|_| read_factor);
    if let Some(inner) = &inner {
        for key in ["rope_type", "type"] {
            if let Some(kind) = inner.text(key)?.filter(|kind| kind != "default") {
                return Err(inner.wrong(key, "default", format!("`{kind}`")));
            }
        }
        theta = inner.number("rope_theta")?.or(theta);
        factor = inner.number("partial_rotary_factor")?.or(factor);
        inner.finish(&[], "rotary positions")?;
    }
    let dims = (dim as f32 * factor.unwrap_or(default)) as usize;
    Ok(Positions::Rope { theta: theta.unwrap_or(10000.0), dims: Some(dims) })
}

/// Flags for limits of the steps.
pub(super) fn limited(keys: &Keys, layer: Layer) -> Result<Layer, Error> {
    let Some([min, max]) = keys.limits("time_step_limit")? else { return Ok(layer) };
    let layer = if min > 0.0 { layer.flag("dt-min", min.to_string()) } else { layer };
    Ok(if max.is_finite() { layer.flag("dt-max", max.to_string()) } else { layer })
}

/// A row of the table of operators.
pub(super) fn op(name: &'static str) -> &'static Op {
    crate::ops::find(name).unwrap_or_else(|| unreachable!("no operator {name}"))
}

/// The layer and the rest of a name: `layers.3.mixer.d` is (3, `mixer.d`).
pub(super) fn split(name: &str) -> Option<(usize, &str)> {
    let (layer, rest) = name.strip_prefix("layers.")?.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}

/// The other name of a pair; a bias only if it is there.
pub(super) fn renamed<'p>(rest: &str, pairs: &[(&str, &'p str)]) -> Option<&'p str> {
    pairs.iter().find(|(own, _)| *own == rest).map(|(_, theirs)| *theirs)
}

/// Names of the tensors of a Mamba-2 mixer. Biases follow from the configuration.
pub(super) fn mamba2(rest: &str, projections: bool, convolution: bool) -> Option<&'static str> {
    match rest {
        "mixer.in_proj.bias" | "mixer.out_proj.bias" if !projections => None,
        "mixer.conv.bias" if !convolution => None,
        _ => renamed(
            rest,
            &[
                ("mixer.in_proj.weight", "in_proj.weight"),
                ("mixer.in_proj.bias", "in_proj.bias"),
                ("mixer.conv.weight", "conv1d.weight"),
                ("mixer.conv.bias", "conv1d.bias"),
                ("mixer.dt_bias", "dt_bias"),
                ("mixer.a_log", "A_log"),
                ("mixer.d", "D"),
                ("mixer.norm.weight", "norm.weight"),
                ("mixer.out_proj.weight", "out_proj.weight"),
                ("mixer.out_proj.bias", "out_proj.bias"),
            ],
        ),
    }
}

/// Names of the tensors of an attention mixer.
pub(super) fn attention(rest: &str, biases: bool) -> Option<&'static str> {
    let found = renamed(
        rest,
        &[
            ("mixer.q.weight", "q_proj.weight"),
            ("mixer.k.weight", "k_proj.weight"),
            ("mixer.v.weight", "v_proj.weight"),
            ("mixer.o.weight", "o_proj.weight"),
            ("mixer.q.bias", "q_proj.bias"),
            ("mixer.k.bias", "k_proj.bias"),
            ("mixer.v.bias", "v_proj.bias"),
            ("mixer.o.bias", "o_proj.bias"),
        ],
    )?;
    (biases || !found.ends_with(".bias")).then_some(found)
}

/// Names of the tensors of an MLP whose three matrices are tensors of their own.
pub(super) fn swiglu(rest: &str, biases: bool) -> Option<&'static str> {
    let found = renamed(
        rest,
        &[
            ("mlp.gate.weight", "gate_proj.weight"),
            ("mlp.up.weight", "up_proj.weight"),
            ("mlp.down.weight", "down_proj.weight"),
            ("mlp.gate.bias", "gate_proj.bias"),
            ("mlp.up.bias", "up_proj.bias"),
            ("mlp.down.bias", "down_proj.bias"),
        ],
    )?;
    (biases || !found.ends_with(".bias")).then_some(found)
}

/// The embedding and the head: whether they are one, and the names that the files give them.
pub(super) struct Ends {
    pub tied: bool,
    embed: String,
}

impl Ends {
    const HEAD: &str = "lm_head.weight";

    /// As `tie_word_embeddings` says, which is `default` if it is absent. A head in the files is used in any case; a head without
    /// an embedding serves as both.
    pub(super) fn new(keys: &Keys, weights: &Weights, embed: &[&str], default: bool) -> Result<Self, Error> {
        let tied = keys.switch("tie_word_embeddings")?.unwrap_or(default);
        let found = embed.iter().find(|name| weights.has(name));
        let embed = match found {
            None if tied && weights.has(Self::HEAD) => Self::HEAD,
            None => embed[0],
            Some(found) => *found,
        };
        Ok(Self { tied: tied && (embed == Self::HEAD || !weights.has(Self::HEAD)), embed: embed.to_owned() })
    }

    /// The tensor of that name, if it is one of these.
    pub(super) fn source(&self, name: &str) -> Option<Source> {
        match name {
            "embed.weight" => Some(Source::of(self.embed.clone())),
            "head.weight" if !self.tied => Some(Source::of(Self::HEAD)),
            _ => None,
        }
    }
}

/// Names of which every one must be there.
pub(super) fn strict(source: impl Fn(&str) -> Option<Source> + Send + Sync + 'static) -> Names {
    Names { source: Box::new(source), strict: true }
}
