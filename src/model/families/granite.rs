//! Granite 4 without experts, a hybrid of Mamba-2 and attention, as transformers publishes it
//! (`GraniteMoeHybridForCausalLM`).

use super::bamba::Hybrid;
use super::parts::{self, Ends, split};
use super::{Described, Family};
use crate::model::keys::Keys;
use crate::model::spec::{Mlp, MlpKind, Positions};
use crate::model::weights::{Source, Weights};

const NAME: &str = "granitemoehybrid";

pub(super) const FAMILY: Family = Family { name: NAME, describe, ignored: |_| false };

/// Keys that only experts use, and the size of their hidden layer.
const EXPERTS: &[&str] = &["intermediate_size", "num_experts_per_tok"];

fn describe(keys: &Keys, weights: &Weights) -> Described {
    let mut spec = parts::spec(keys, NAME, keys.number("rms_norm_eps")?.unwrap_or(1e-6))?;
    parts::silu(keys)?;
    match keys.index("num_local_experts")? {
        Some(0) => {}
        found => {
            let found = found.map_or("none, which stands for 8".to_owned(), |count| count.to_string());
            return Err(keys.wrong("num_local_experts", "0: models with experts are not read", found));
        }
    }
    let mut hybrid = Hybrid::new(keys, spec.hidden, None)?;
    hybrid.scale(keys.number("attention_multiplier")?.unwrap_or(1.0));
    if keys.text("position_embedding_type")?.as_deref() == Some("rope") {
        spec.positions = parts::rope(keys, hybrid.head_dim, 1.0, false)?;
    } else {
        // Files without positions have their base all the same.
        let _: [_; 3] = ["rope_parameters", "rope_theta", "rope_scaling"].map(|key| keys.value(key));
        spec.positions = Positions::None;
    }
    spec.embed_scale = keys.number("embedding_multiplier")?.unwrap_or(1.0);
    spec.residual_scale = keys.number("residual_multiplier")?.unwrap_or(1.0);
    let divisor = keys.number("logits_scaling")?.unwrap_or(1.0);
    spec.logits_scale = 1.0 / divisor;
    let hidden = keys.count("shared_intermediate_size")?.unwrap_or(1024);
    spec.mlp = Some(Mlp { kind: MlpKind::Swiglu, hidden });
    let layers = keys.count("num_hidden_layers")?.unwrap_or(32);
    let key = if keys.has("layer_types") { "layer_types" } else { "layers_block_type" };
    let attended = match keys.words(key)? {
        None => vec![false; layers],
        Some(words) if words.len() != layers => {
            return Err(keys.wrong(key, &format!("{layers} words, one per layer"), words.len()));
        }
        Some(words) => {
            let of = |word: &String| match word.as_str() {
                "mamba" | "linear_attention" => Ok(false),
                "attention" | "full_attention" => Ok(true),
                other => {
                    Err(keys.wrong(key, "mamba, linear_attention, attention or full_attention", format!("`{other}`")))
                }
            };
            words.iter().map(of).collect::<Result<_, _>>()?
        }
    };
    spec.layers = attended.iter().map(|attended| hybrid.layer(*attended)).collect();
    let ends = Ends::new(keys, weights, &["model.embed_tokens.weight"], false)?;
    spec.tied = ends.tied;
    keys.finish(&[parts::HARMLESS, EXPERTS].concat(), NAME)?;
    let source = move |name: &str| {
        if name == "norm.weight" {
            return Some(Source::of("model.norm.weight"));
        }
        let Some((layer, rest)) = split(name) else { return ends.source(name) };
        let of = |theirs: &str| Source::of(format!("model.layers.{layer}.{theirs}"));
        Some(match rest {
            "norm1.weight" => of("input_layernorm.weight"),
            "norm2.weight" => of("post_attention_layernorm.weight"),
            // Gate and up are the halves of one matrix.
            "mlp.gate.weight" => of("shared_mlp.input_linear.weight").rows(std::iter::once(0..hidden)),
            "mlp.up.weight" => of("shared_mlp.input_linear.weight").rows(std::iter::once(hidden..2 * hidden)),
            "mlp.down.weight" => of("shared_mlp.output_linear.weight"),
            _ => of(&hybrid.name(rest, attended.get(layer).copied().unwrap_or(false))?),
        })
    };
    Ok((spec, parts::strict(source)))
}
