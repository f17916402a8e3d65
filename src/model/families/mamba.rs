//! Mamba as transformers publishes it (`MambaForCausalLM`; Gu and Dao, arXiv 2312.00752).

use super::parts::{self, Ends, renamed, split};
use super::{Described, Family};
use crate::model::keys::Keys;
use crate::model::spec::Layer;
use crate::model::weights::{Source, Weights};

const NAME: &str = "mamba";

pub(super) const FAMILY: Family = Family { name: NAME, describe, ignored: |_| false };

/// Keys of the original repository that say again what other keys say.
const OTHERS: &[&str] =
    &["d_inner", "d_model", "n_layer", "fused_add_norm", "rms_norm", "ssm_cfg", "pad_vocab_size_multiple"];

fn describe(keys: &Keys, weights: &Weights) -> Described {
    let mut spec = parts::spec(keys, NAME, keys.number("layer_norm_epsilon")?.unwrap_or(1e-5))?;
    parts::silu(keys)?;
    let expand = keys.number("expand")?.unwrap_or(2.0);
    let inner = keys.count("intermediate_size")?.unwrap_or((expand * spec.hidden as f32) as usize);
    let rank = match keys.value("time_step_rank") {
        None => spec.hidden.div_ceil(16),
        Some(word) if word.as_str() == Some("auto") => spec.hidden.div_ceil(16),
        Some(_) => keys.size("time_step_rank")?,
    };
    let layer = Layer::new(parts::op("mamba"))
        .size("inner", inner)
        .size("state", keys.count("state_size")?.unwrap_or(16))
        .size("dt_rank", rank)
        .size("conv", keys.count("conv_kernel")?.unwrap_or(4));
    spec.layers = vec![layer; keys.count("num_hidden_layers")?.unwrap_or(32)];
    let biases = keys.switch("use_bias")?.unwrap_or(false);
    let convolution = keys.switch("use_conv_bias")?.unwrap_or(true);
    let ends = Ends::new(keys, weights, &["backbone.embeddings.weight", "backbone.embedding.weight"], true)?;
    spec.tied = ends.tied;
    keys.finish(&[parts::HARMLESS, OTHERS].concat(), NAME)?;
    let source = move |name: &str| {
        if name == "norm.weight" {
            return Some(Source::of("backbone.norm_f.weight"));
        }
        let Some((layer, rest)) = split(name) else { return ends.source(name) };
        let theirs = match rest {
            "norm1.weight" => "norm.weight",
            "mixer.in_proj.bias" | "mixer.out_proj.bias" if !biases => return None,
            "mixer.conv.bias" if !convolution => return None,
            _ => renamed(
                rest,
                &[
                    ("mixer.in_proj.weight", "mixer.in_proj.weight"),
                    ("mixer.in_proj.bias", "mixer.in_proj.bias"),
                    ("mixer.conv.weight", "mixer.conv1d.weight"),
                    ("mixer.conv.bias", "mixer.conv1d.bias"),
                    ("mixer.x_proj.weight", "mixer.x_proj.weight"),
                    ("mixer.dt_proj.weight", "mixer.dt_proj.weight"),
                    ("mixer.dt_proj.bias", "mixer.dt_proj.bias"),
                    ("mixer.a_log", "mixer.A_log"),
                    ("mixer.d", "mixer.D"),
                    ("mixer.out_proj.weight", "mixer.out_proj.weight"),
                    ("mixer.out_proj.bias", "mixer.out_proj.bias"),
                ],
            )?,
        };
        Some(Source::of(format!("backbone.layers.{layer}.{theirs}")))
    };
    Ok((spec, parts::strict(source)))
}
