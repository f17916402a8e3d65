//! Our own form: every operator is a mixer, and tensors have the names that the other families are mapped to. INTERFACE of the
//! form: docs/models.md.

use super::{Described, Family, Names, parts};
use crate::catalog::flags::FlagKind;
use crate::error::Error;
use crate::model::keys::Keys;
use crate::model::mixers::Form;
use crate::model::spec::{Gate, Head, Layer, Mlp, MlpKind, Norm, Positions, Spec, Tokens};
use crate::model::weights::{Source, Weights};
use crate::ops::OPS;

const NAME: &str = "subquad";

pub(super) const FAMILY: Family = Family { name: NAME, describe, ignored: |_| false };

fn describe(keys: &Keys, _: &Weights) -> Described {
    let positions = match keys.word("positions", ["none", "rope", "learned"])? {
        "rope" => {
            Positions::Rope { theta: keys.number("rope_theta")?.unwrap_or(10000.0), dims: keys.count("rope_dims")? }
        }
        "learned" => Positions::Learned,
        _ => Positions::None,
    };
    let head = match keys.word("head", ["lm", "tags", "class"])? {
        "tags" => Head::Tags(keys.size("classes")?),
        "class" => Head::Class(keys.size("classes")?),
        _ => Head::Lm,
    };
    let tied = keys.switch("tie_embeddings")?.unwrap_or(false);
    if tied && head != Head::Lm {
        return Err(keys.wrong("tie_embeddings", "false, since only the head lm can use the embedding", "true"));
    }
    let mlp = match keys.object("mlp")? {
        None => None,
        Some(mlp) => {
            let kind = match mlp.word("kind", ["none", "swiglu", "gelu"])? {
                "swiglu" => Some(MlpKind::Swiglu),
                "gelu" => Some(MlpKind::Gelu),
                _ => None,
            };
            let hidden = if kind.is_some() { mlp.size("hidden")? } else { mlp.index("hidden")?.unwrap_or(0) };
            mlp.finish(&[], NAME)?;
            kind.map(|kind| Mlp { kind, hidden })
        }
    };
    let labels = keys.words("labels")?.unwrap_or_default();
    let vocab = keys.size("vocab_size")?;
    let tokens =
        if keys.word("tokens", ["bytes", "tokenizer"])? == "bytes" { Tokens::Bytes } else { Tokens::Tokenizer };
    if !labels.is_empty() && labels.len() != head.width(vocab) {
        return Err(keys.wrong("labels", &format!("{} names, as many as classes", head.width(vocab)), labels.len()));
    }
    let layers = layers(keys)?;
    let causal = keys.switch("causal")?.unwrap_or(true);
    let limited = positions == Positions::Learned || layers.iter().any(|layer| layer.op.name == "linformer");
    let max_len = if limited { Some(keys.size("max_len")?) } else { keys.count("max_len")?.and(None) };
    let spec = Spec {
        family: NAME,
        vocab,
        hidden: keys.size("hidden_size")?,
        tokens,
        causal,
        norm: if keys.word("norm", ["rms", "layer"])? == "layer" { Norm::Layer } else { Norm::Rms },
        eps: keys.number("norm_eps")?.unwrap_or(1e-5),
        positions,
        max_len,
        head,
        tied,
        layers,
        mlp,
        embed_scale: 1.0,
        residual_scale: 1.0,
        logits_scale: 1.0,
        labels,
        ends: parts::ends(keys)?,
    };
    if tokens == Tokens::Bytes && vocab < 256 {
        return Err(keys.wrong("vocab_size", "256 or more, for tokens that are bytes", vocab));
    }
    keys.finish(&["architectures", "torch_dtype", "dtype"], NAME)?;
    Ok((spec, Names { source: Box::new(|name| Some(Source::of(name))), strict: false }))
}

fn layers(keys: &Keys) -> Result<Vec<Layer>, Error> {
    let all = keys.objects("layers")?.unwrap_or_default();
    if all.is_empty() {
        return Err(keys.wrong("layers", "a list of one layer or more", "none"));
    }
    all.iter().map(layer).collect()
}

fn layer(keys: &Keys) -> Result<Layer, Error> {
    let names: Vec<_> = OPS.iter().map(|op| op.name).collect();
    let expected = format!("one of {}", names.join(", "));
    let mixer = keys.text("mixer")?.ok_or_else(|| keys.wrong("mixer", &expected, "none"))?;
    let found = OPS.iter().find(|op| op.name == mixer).zip(Form::of(&mixer));
    let (op, form) = found.ok_or_else(|| keys.wrong("mixer", &expected, format!("`{mixer}`")))?;
    let mut layer = Layer::new(op);
    for name in form.sizes {
        if let Some(size) = keys.count(name)? {
            layer = layer.size(name, size);
        }
    }
    if op.name == "ramnet" {
        layer.gate = Gate::Sigmoid;
    }
    if let Some(divisor) = keys.number("gate_divisor")? {
        layer.gate_divisor = divisor;
    }
    // The convolution in front of mamba has a padding of its own.
    let padding =
        OPS.iter().filter(|op| op.name == "conv1d").flat_map(|op| op.flags).find(|flag| flag.name == "padding");
    // That in front of ssd is followed by SiLU, for a prompt as for a token.
    let own = op.flags.iter().filter(|flag| flag.name != "conv-activation");
    let flags = own.chain(padding.filter(|_| op.name == "mamba"));
    for flag in flags {
        let key = flag.name.replace('-', "_");
        let text = match flag.kind {
            FlagKind::Switch => keys.switch(&key)?.map(|on| on.to_string()),
            FlagKind::Count => keys.count(&key)?.map(|count| count.to_string()),
            FlagKind::Number => keys.number(&key)?.map(|number| number.to_string()),
            FlagKind::Choice(words) => match keys.text(&key)? {
                Some(word) if !words.contains(&word.as_str()) => {
                    return Err(keys.wrong(&key, &format!("one of {}", words.join(", ")), format!("`{word}`")));
                }
                word => word,
            },
            FlagKind::Text(_) => match keys.value(&key) {
                Some(serde_json::Value::Number(number)) => Some(number.to_string()),
                _ => keys.text(&key)?,
            },
        };
        if let Some(text) = text {
            layer = layer.flag(flag.name, text);
        }
    }
    keys.finish(&[], &format!("the mixer {mixer}"))?;
    Ok(layer)
}
