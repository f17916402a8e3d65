//! Mamba-2 as transformers publishes it (`Mamba2ForCausalLM`; Dao and Gu, arXiv 2405.21060).

use super::parts::{self, Ends, split};
use super::{Described, Family};
use crate::model::keys::Keys;
use crate::model::spec::Layer;
use crate::model::weights::{Source, Weights};

const NAME: &str = "mamba2";

pub(super) const FAMILY: Family = Family { name: NAME, describe, ignored: |_| false };

fn describe(keys: &Keys, weights: &Weights) -> Described {
    let mut spec = parts::spec(keys, NAME, keys.number("layer_norm_epsilon")?.unwrap_or(1e-5))?;
    parts::silu(keys)?;
    let heads = keys.count("num_heads")?.unwrap_or(128);
    let dim = keys.count("head_dim")?.unwrap_or(64);
    let inner = (keys.number("expand")?.unwrap_or(2.0) * spec.hidden as f32) as usize;
    if heads * dim != inner {
        let expected = format!("num_heads * head_dim = {} as expand * hidden_size", heads * dim);
        return Err(keys.wrong("expand", &expected, inner));
    }
    let layer = Layer::new(parts::op("ssd"))
        .size("heads", heads)
        .size("head_dim", dim)
        .size("state", keys.count("state_size")?.unwrap_or(128))
        .size("groups", keys.count("n_groups")?.unwrap_or(8))
        .size("conv", keys.count("conv_kernel")?.unwrap_or(4));
    let layer = parts::limited(keys, layer)?;
    spec.layers = vec![layer; keys.count("num_hidden_layers")?.unwrap_or(64)];
    let biases = keys.switch("use_bias")?.unwrap_or(false);
    let convolution = keys.switch("use_conv_bias")?.unwrap_or(true);
    let ends = Ends::new(keys, weights, &["backbone.embeddings.weight", "backbone.embedding.weight"], false)?;
    spec.tied = ends.tied;
    // The size of the inner layer follows from `expand`, and the rank of steps is that of Mamba.
    keys.finish(&[parts::HARMLESS, &["intermediate_size", "time_step_rank"]].concat(), NAME)?;
    let source = move |name: &str| {
        if name == "norm.weight" {
            return Some(Source::of("backbone.norm_f.weight"));
        }
        let Some((layer, rest)) = split(name) else { return ends.source(name) };
        let theirs = match rest {
            "norm1.weight" => "norm.weight".to_owned(),
            _ => format!("mixer.{}", parts::mamba2(rest, biases, convolution)?),
        };
        Some(Source::of(format!("backbone.layers.{layer}.{theirs}")))
    };
    Ok((spec, parts::strict(source)))
}
