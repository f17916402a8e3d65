//! Qwen3-Next without experts, a hybrid of the gated delta rule and gated attention, as transformers publishes it
//! (`Qwen3NextForCausalLM`).

use std::ops::Range;

use super::parts::{self, Ends, split};
use super::{Described, Family};
use crate::error::Error;
use crate::model::keys::Keys;
use crate::model::spec::{Gate, Layer, Mlp, MlpKind};
use crate::model::weights::{Source, Weights};

const NAME: &str = "qwen3_next";

// Heads of multi-token prediction are no part of the model that transformers runs.
pub(super) const FAMILY: Family = Family { name: NAME, describe, ignored: |name| name.starts_with("mtp.") };

/// Keys that only experts use.
const EXPERTS: &[&str] =
    &["moe_intermediate_size", "norm_topk_prob", "num_experts_per_tok", "shared_expert_intermediate_size"];

/// Sizes of the delta rule's heads: key heads, value heads, and their widths.
#[derive(Debug, Clone, Copy)]
struct Delta {
    key_heads: usize,
    value_heads: usize,
    dim: usize,
    dim_v: usize,
}

impl Delta {
    /// Rows of `in_proj_qkvz`: for each key head its q, k, and the v and z of its value heads.
    fn qkvz(&self, part: usize) -> Vec<Range<usize>> {
        let values = self.value_heads / self.key_heads * self.dim_v;
        let widths = [self.dim, self.dim, values, values];
        let (first, block) = (widths[..part].iter().sum::<usize>(), widths.iter().sum::<usize>());
        (0..self.key_heads).map(|head| head * block + first..head * block + first + widths[part]).collect()
    }

    /// Rows of `in_proj_ba`: for each key head b, then a, of its value heads.
    fn ba(&self, part: usize) -> Vec<Range<usize>> {
        let each = self.value_heads / self.key_heads;
        (0..self.key_heads).map(|head| (2 * head + part) * each..(2 * head + part + 1) * each).collect()
    }
}

fn describe(keys: &Keys, weights: &Weights) -> Described {
    let mut spec = parts::spec(keys, NAME, keys.number("rms_norm_eps")?.unwrap_or(1e-6))?;
    parts::silu(keys)?;
    let heads = keys.count("num_attention_heads")?.unwrap_or(16);
    let dim = keys.count("head_dim")?.unwrap_or(256);
    let mut attention = Layer::new(parts::op("softmax"))
        .size("heads", heads)
        .size("kv_heads", keys.count("num_key_value_heads")?.unwrap_or(2))
        .size("head_dim", dim)
        .size("value_dim", dim);
    attention.gate = Gate::Sigmoid;
    spec.positions = parts::rope(keys, dim, 0.25, true)?;
    let delta = Delta {
        key_heads: keys.count("linear_num_key_heads")?.unwrap_or(16),
        value_heads: keys.count("linear_num_value_heads")?.unwrap_or(32),
        dim: keys.count("linear_key_head_dim")?.unwrap_or(128),
        dim_v: keys.count("linear_value_head_dim")?.unwrap_or(128),
    };
    if !delta.value_heads.is_multiple_of(delta.key_heads) {
        let expected = format!("a multiple of the {} key heads", delta.key_heads);
        return Err(keys.wrong("linear_num_value_heads", &expected, delta.value_heads));
    }
    let linear = Layer::new(parts::op("linear"))
        .size("heads", delta.key_heads)
        .size("kv_heads", delta.value_heads)
        .size("head_dim", delta.dim)
        .size("value_dim", delta.dim_v)
        .size("conv", keys.count("linear_conv_kernel_dim")?.unwrap_or(4))
        .flag("rule", "gated-delta")
        .flag("l2norm", "true");
    let layers = keys.count("num_hidden_layers")?.unwrap_or(48);
    let interval = keys.count("full_attention_interval")?.unwrap_or(4);
    let attended = match keys.words("layer_types")? {
        None => (1..=layers).map(|layer| layer.is_multiple_of(interval)).collect(),
        Some(words) if words.len() != layers => {
            return Err(keys.wrong("layer_types", &format!("{layers} words, one per layer"), words.len()));
        }
        Some(words) => {
            let of = |word: &String| match word.as_str() {
                "linear_attention" => Ok(false),
                "full_attention" => Ok(true),
                other => Err(keys.wrong("layer_types", "linear_attention or full_attention", format!("`{other}`"))),
            };
            words.iter().map(of).collect::<Result<Vec<_>, _>>()?
        }
    };
    refuse_experts(keys, layers)?;
    spec.layers = attended.iter().map(|full| if *full { attention.clone() } else { linear.clone() }).collect();
    spec.mlp = Some(Mlp { kind: MlpKind::Swiglu, hidden: keys.count("intermediate_size")?.unwrap_or(5632) });
    let biases = keys.switch("attention_bias")?.unwrap_or(false);
    let ends = Ends::new(keys, weights, &["model.embed_tokens.weight"], false)?;
    spec.tied = ends.tied;
    keys.finish(&[parts::HARMLESS, EXPERTS].concat(), NAME)?;
    let source = move |name: &str| {
        if name == "norm.weight" {
            return Some(Source::of("model.norm.weight").plus_one());
        }
        let Some((layer, rest)) = split(name) else { return ends.source(name) };
        let of = |theirs: &str| Source::of(format!("model.layers.{layer}.{theirs}"));
        Some(match rest {
            "norm1.weight" => of("input_layernorm.weight").plus_one(),
            "norm2.weight" => of("post_attention_layernorm.weight").plus_one(),
            _ if rest.starts_with("mlp.") => of(&format!("mlp.{}", parts::swiglu(rest, false)?)),
            _ if attended.get(layer).copied().unwrap_or(false) => {
                // Every head has rows of its queries, then rows of its gate.
                let rows = |part: usize| {
                    (0..heads).map(|head| (2 * head + part) * dim..(2 * head + part + 1) * dim).collect::<Vec<_>>()
                };
                match rest {
                    "mixer.q.weight" => of("self_attn.q_proj.weight").rows(rows(0)),
                    "mixer.z.weight" => of("self_attn.q_proj.weight").rows(rows(1)),
                    "mixer.q.bias" if biases => of("self_attn.q_proj.bias").rows(rows(0)),
                    "mixer.z.bias" if biases => of("self_attn.q_proj.bias").rows(rows(1)),
                    "mixer.q_norm.weight" => of("self_attn.q_norm.weight").plus_one(),
                    "mixer.k_norm.weight" => of("self_attn.k_norm.weight").plus_one(),
                    _ => of(&format!("self_attn.{}", parts::attention(rest, biases)?)),
                }
            }
            "mixer.q.weight" => of("linear_attn.in_proj_qkvz.weight").rows(delta.qkvz(0)),
            "mixer.k.weight" => of("linear_attn.in_proj_qkvz.weight").rows(delta.qkvz(1)),
            "mixer.v.weight" => of("linear_attn.in_proj_qkvz.weight").rows(delta.qkvz(2)),
            "mixer.z.weight" => of("linear_attn.in_proj_qkvz.weight").rows(delta.qkvz(3)),
            "mixer.beta.weight" => of("linear_attn.in_proj_ba.weight").rows(delta.ba(0)),
            "mixer.a.weight" => of("linear_attn.in_proj_ba.weight").rows(delta.ba(1)),
            "mixer.conv.weight" => of("linear_attn.conv1d.weight"),
            "mixer.dt_bias" => of("linear_attn.dt_bias"),
            "mixer.a_log" => of("linear_attn.A_log"),
            "mixer.norm.weight" => of("linear_attn.norm.weight"),
            "mixer.o.weight" => of("linear_attn.out_proj.weight"),
            _ => return None,
        })
    };
    Ok((spec, parts::strict(source)))
}

/// Refuses a model with a layer of experts.
fn refuse_experts(keys: &Keys, layers: usize) -> Result<(), Error> {
    let dense = keys.indices("mlp_only_layers")?.unwrap_or_default();
    let experts = keys.index("num_experts")?.unwrap_or(512);
    let step = keys.count("decoder_sparse_step")?.unwrap_or(1);
    let has_experts = |layer: usize| experts > 0 && !dense.contains(&layer) && (layer + 1).is_multiple_of(step);
    match (0..layers).find(|layer| has_experts(*layer)) {
        None => Ok(()),
        Some(layer) => Err(keys.wrong(
            "num_experts",
            "no layer with experts, which are not read",
            format!("{experts} in layer {layer}"),
        )),
    }
}
