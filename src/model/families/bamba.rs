//! Bamba, a hybrid of Mamba-2 and attention, as transformers publishes it (`BambaForCausalLM`).

use super::parts::{self, Ends, split};
use super::{Described, Family};
use crate::error::Error;
use crate::model::keys::Keys;
use crate::model::spec::{Layer, Mlp, MlpKind};
use crate::model::weights::{Source, Weights};

const NAME: &str = "bamba";

pub(super) const FAMILY: Family = Family { name: NAME, describe, ignored: |_| false };

/// The share of a head that turns, which transformers fixes for this family.
const ROTARY: f32 = 0.5;

fn describe(keys: &Keys, weights: &Weights) -> Described {
    let mut spec = parts::spec(keys, NAME, keys.number("rms_norm_eps")?.unwrap_or(1e-5))?;
    parts::silu(keys)?;
    let hybrid = Hybrid::new(keys, spec.hidden, Some(8))?;
    spec.positions = parts::rope(keys, hybrid.head_dim, ROTARY, false)?;
    let hidden = keys.count("intermediate_size")?.unwrap_or(14336);
    spec.mlp = Some(Mlp { kind: MlpKind::Swiglu, hidden });
    let layers = keys.count("num_hidden_layers")?.unwrap_or(32);
    let attended = keys.indices("attn_layer_indices")?.unwrap_or_default();
    if let Some(at) = attended.iter().find(|at| **at >= layers) {
        return Err(keys.wrong("attn_layer_indices", &format!("layers below {layers}"), at));
    }
    spec.layers = (0..layers).map(|at| hybrid.layer(attended.contains(&at))).collect();
    let ends = Ends::new(keys, weights, &["model.embed_tokens.weight"], false)?;
    spec.tied = ends.tied;
    let mlp_biases = keys.switch("mlp_bias")?.unwrap_or(false);
    // Transformers computes the number of dimensions that turn by itself.
    keys.finish(&[parts::HARMLESS, &["attn_rotary_emb", "partial_rotary_factor"]].concat(), NAME)?;
    let source = move |name: &str| {
        if name == "norm.weight" {
            return Some(Source::of("model.final_layernorm.weight"));
        }
        let Some((layer, rest)) = split(name) else { return ends.source(name) };
        let theirs = match rest {
            "norm1.weight" => "input_layernorm.weight".to_owned(),
            "norm2.weight" => "pre_ff_layernorm.weight".to_owned(),
            _ if rest.starts_with("mlp.") => format!("feed_forward.{}", parts::swiglu(rest, mlp_biases)?),
            _ => hybrid.name(rest, attended.contains(&layer))?,
        };
        Some(Source::of(format!("model.layers.{layer}.{theirs}")))
    };
    Ok((spec, parts::strict(source)))
}

/// The two mixers of a hybrid, as Bamba and Granite name their keys and tensors.
pub(super) struct Hybrid {
    pub head_dim: usize,
    mamba: Layer,
    attention: Layer,
    attention_biases: bool,
    projections: bool,
    convolution: bool,
}

impl Hybrid {
    /// `kv_heads` is the number of key heads if the key is absent; `None` and null stand for as many as heads.
    pub(super) fn new(keys: &Keys, hidden: usize, kv_heads: Option<usize>) -> Result<Self, Error> {
        let heads = keys.count("num_attention_heads")?.unwrap_or(32);
        let head_dim = match keys.count("head_dim")? {
            Some(dim) => dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => return Err(keys.wrong("num_attention_heads", &format!("a number that divides {hidden}"), heads)),
        };
        let absent = kv_heads.filter(|_| keys.lacks("num_key_value_heads")).unwrap_or(heads);
        let kv_heads = keys.count("num_key_value_heads")?.unwrap_or(absent);
        let attention = Layer::new(parts::op("softmax"))
            .size("heads", heads)
            .size("kv_heads", kv_heads)
            .size("head_dim", head_dim)
            .size("value_dim", head_dim);
        let heads = keys.count("mamba_n_heads")?.unwrap_or(128);
        let inner = (keys.number("mamba_expand")?.unwrap_or(2.0) * hidden as f32) as usize;
        let dim = match keys.value("mamba_d_head") {
            None => inner / heads,
            Some(word) if word.as_str() == Some("auto") => inner / heads,
            Some(_) => keys.size("mamba_d_head")?,
        };
        if dim * heads != inner {
            let expected = format!("mamba_n_heads * mamba_d_head = {} as mamba_expand * hidden_size", dim * heads);
            return Err(keys.wrong("mamba_expand", &expected, inner));
        }
        let mamba = Layer::new(parts::op("ssd"))
            .size("heads", heads)
            .size("head_dim", dim)
            .size("state", keys.count("mamba_d_state")?.unwrap_or(256))
            .size("groups", keys.count("mamba_n_groups")?.unwrap_or(1))
            .size("conv", keys.count("mamba_d_conv")?.unwrap_or(4));
        Ok(Self {
            head_dim,
            mamba: parts::limited(keys, mamba)?,
            attention,
            attention_biases: keys.switch("attention_bias")?.unwrap_or(false),
            projections: keys.switch("mamba_proj_bias")?.unwrap_or(false),
            convolution: keys.switch("mamba_conv_bias")?.unwrap_or(true),
        })
    }

    /// Sets the scale of the scores.
    pub(super) fn scale(&mut self, scale: f32) {
        self.attention.flags.set("scale", scale.to_string());
    }

    /// A layer with attention, or with a state space.
    pub(super) fn layer(&self, attention: bool) -> Layer {
        if attention { self.attention.clone() } else { self.mamba.clone() }
    }

    /// Name of a mixer's tensor in its layer.
    pub(super) fn name(&self, rest: &str, attention: bool) -> Option<String> {
        if attention {
            return Some(format!("self_attn.{}", parts::attention(rest, self.attention_biases)?));
        }
        Some(format!("mamba.{}", parts::mamba2(rest, self.projections, self.convolution)?))
    }
}
