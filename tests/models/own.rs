//! Our own form: every operator as a mixer, on both backends, beside the definitions of the operators in f64.

use std::fmt::Write;

use subquad::model::{Model, Session};
use subquad::tensor::Shape;
use subquad::{HostTensor, TensorMap};

use super::{TOLERANCE, greedy, in_chunks, on_each_backend, relative_rms, same, write};

/// d: width of all models here.
const WIDTH: usize = 12;

/// Tokens of a run: more than any convolution reaches.
const TOKENS: usize = 18;

/// A layer: its mixer, settings as JSON behind the mixer, and tensors behind `layers.I.`.
pub(crate) struct Layer {
    mixer: &'static str,
    settings: &'static str,
    tensors: Vec<(&'static str, Vec<usize>)>,
}

fn layer(mixer: &'static str, settings: &'static str, tensors: &[(&'static str, &[usize])]) -> Layer {
    let tensors = tensors.iter().map(|(name, shape)| (*name, shape.to_vec())).collect();
    Layer { mixer, settings, tensors }
}

/// Queries of 3 heads, keys and values of so many, all of width 4, and the last projection.
fn heads(keys: usize) -> Vec<(&'static str, Vec<usize>)> {
    vec![
        ("mixer.q.weight", vec![12, WIDTH]),
        ("mixer.k.weight", vec![4 * keys, WIDTH]),
        ("mixer.v.weight", vec![4 * keys, WIDTH]),
        ("mixer.o.weight", vec![WIDTH, 12]),
    ]
}

/// A layer of plain attention.
pub(crate) fn softmax_layer() -> Layer {
    attention("softmax", r#", "heads": 3"#, 3, &[])
}

fn attention(mixer: &'static str, settings: &'static str, keys: usize, more: &[(&'static str, &[usize])]) -> Layer {
    let mut layer = layer(mixer, settings, more);
    layer.tensors.extend(heads(keys));
    layer
}

/// Numbers of a scale that suits the tensor.
fn values(name: &str, shape: &Shape, seed: &mut u32) -> HostTensor {
    let (scale, middle) = match name {
        _ if name.contains("norm") && name.ends_with("weight") => (0.2, 1.0),
        _ if name.ends_with("a_log") => (0.5, 0.0),
        _ if name.ends_with("embed.weight") => (1.0, 0.0),
        _ => (0.4, 0.0),
    };
    let next = |_| {
        *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        middle + scale * ((*seed >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    HostTensor::f32(shape.clone(), (0..shape.count()).map(next).collect())
}

/// A model of these layers. `keys` are more keys of the configuration, each with a comma behind it.
pub(crate) fn model(keys: &str, mlp: &str, layers: &[Layer]) -> (tempfile::TempDir, Model) {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), keys, mlp, layers);
    let model = Model::open(folder.path()).unwrap();
    (folder, model)
}

pub(crate) fn write_model(folder: &std::path::Path, keys: &str, mlp: &str, layers: &[Layer]) {
    let mut config =
        format!(r#"{{"model_type": "subquad", "vocab_size": 256, "hidden_size": {WIDTH}, {keys} "layers": ["#);
    let mut names: Vec<(String, Vec<usize>)> =
        vec![("embed.weight".into(), vec![256, WIDTH]), ("norm.weight".into(), vec![WIDTH])];
    for (at, layer) in layers.iter().enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        write!(config, r#"{comma}{{"mixer": "{}"{}}}"#, layer.mixer, layer.settings).unwrap();
        names.push((format!("layers.{at}.norm1.weight"), vec![WIDTH]));
        names.extend(layer.tensors.iter().map(|(name, shape)| (format!("layers.{at}.{name}"), shape.clone())));
        if !mlp.is_empty() {
            names.push((format!("layers.{at}.norm2.weight"), vec![WIDTH]));
            names.push((format!("layers.{at}.mlp.up.weight"), vec![20, WIDTH]));
            names.push((format!("layers.{at}.mlp.down.weight"), vec![WIDTH, 20]));
        }
        if mlp == "swiglu" {
            names.push((format!("layers.{at}.mlp.gate.weight"), vec![20, WIDTH]));
        }
    }
    config.push(']');
    if !mlp.is_empty() {
        write!(config, r#", "mlp": {{"kind": "{mlp}", "hidden": 20}}"#).unwrap();
    }
    config.push('}');
    if keys.contains("\"layer\"") {
        names.extend(
            names
                .clone()
                .into_iter()
                .filter(|(name, _)| name.contains("norm") && !name.contains("mixer"))
                .map(|(name, shape)| (name.replace(".weight", ".bias"), shape)),
        );
    }
    match () {
        () if keys.contains("tie_embeddings") => {}
        () if keys.contains("classes") => {
            names.push(("head.weight".into(), vec![5, WIDTH]));
            names.push(("head.bias".into(), vec![5]));
        }
        () => names.push(("head.weight".into(), vec![256, WIDTH])),
    }
    if keys.contains("learned") {
        names.push(("positions.weight".into(), vec![32, WIDTH]));
    }
    let mut seed = 7;
    let tensors: TensorMap =
        names.into_iter().map(|(name, shape)| (name.clone(), values(&name, &shape.into(), &mut seed))).collect();
    write(folder, &config, &tensors);
}

fn tokens() -> Vec<u32> {
    (0..TOKENS as u32).map(|at| at * 73 % 256).collect()
}

/// Compares a model with the definitions, and its chunks and single tokens with the whole.
fn check(what: &str, keys: &str, mlp: &str, layers: &[Layer]) {
    let (_folder, model) = model(keys, mlp, layers);
    let given = tokens();
    let expected = Session::by_definition(&model).run(&given).unwrap().to_f64();
    on_each_backend(&model, |backend, session| {
        same(&session().run(&given).unwrap(), &expected, &format!("{what} on {backend}"));
        if !model.is_recurrent() {
            return;
        }
        // Every length needs kernels of its own, which a software adapter compiles for seconds.
        for length in if backend == "cpu" { &[1, 6][..] } else { &[6] } {
            let length = *length;
            let found = in_chunks(&mut session(), &given, length);
            same(&found, &expected, &format!("{what} on {backend}, {length} tokens at a time"));
        }
        // The state goes through a file of the other backend's names.
        let mut first = session();
        first.advance(&given[..6], true).unwrap();
        let mut second = Session::on_cpu(&model).unwrap();
        second.set_state(first.state().unwrap()).unwrap();
        let rest = second.advance(&given[6..], true).unwrap().unwrap();
        let width = rest.shape().dims()[1];
        same(&rest, &expected[6 * width..], &format!("{what}: from the state of {backend}"));
    });
}

#[test]
fn softmax_in_all_positions() {
    let plain = || attention("softmax", r#", "heads": 3, "kv_heads": 1"#, 1, &[("mixer.sink", &[3])]);
    check("softmax", "", "swiglu", &[plain(), plain()]);
    check("softmax, rope", r#""positions": "rope", "rope_dims": 2,"#, "gelu", &[plain(), plain()]);
    check("softmax, learned", r#""positions": "learned", "max_len": 32, "norm": "layer","#, "", &[plain()]);
    check("softmax, tied", r#""tie_embeddings": true, "norm_eps": 0.01,"#, "", &[plain()]);
    let windowed = attention("softmax", r#", "heads": 3, "window": 5, "softcap": 2.5"#, 3, &[("mixer.q.bias", &[12])]);
    check("softmax, window", "", "", &[windowed]);
}

#[test]
fn softmax_with_convolution_norm_and_gate() {
    let more: [(&str, &[usize]); 4] = [
        ("mixer.conv.weight", &[20, 1, 3]),
        ("mixer.conv.bias", &[20]),
        ("mixer.norm.weight", &[4]),
        ("mixer.z.weight", &[12, WIDTH]),
    ];
    check("softmax", "", "", &[attention("softmax", r#", "heads": 3, "kv_heads": 1, "conv": 3"#, 1, &more)]);
    check("gate alone", "", "", &[attention("softmax", r#", "heads": 3"#, 3, &more[3..])]);
    check(
        "norm alone",
        "",
        "",
        &[attention(
            "slay",
            r#", "heads": 3"#,
            3,
            &[more[2], ("mixer.anchors", &[8, 4]), ("mixer.omega", &[2, 3, 16, 4])],
        )],
    );
}

#[test]
fn yat() {
    check("yat", r#""positions": "rope","#, "", &[attention("yat", r#", "heads": 3, "epsilon": 0.5"#, 3, &[])]);
}

#[test]
fn linear_with_every_rule() {
    let of = |settings, more: &[(&'static str, &[usize])]| attention("linear", settings, 3, more);
    check("linear", "", "", &[of(r#", "heads": 3"#, &[])]);
    let gates: [(&str, &[usize]); 3] =
        [("mixer.a.weight", &[3, WIDTH]), ("mixer.a_log", &[3]), ("mixer.dt_bias", &[3])];
    check("gated", "", "", &[of(r#", "heads": 3, "rule": "gated""#, &gates)]);
    let per_key: [(&str, &[usize]); 1] = [("mixer.g.weight", &[12, WIDTH])];
    check("gated per key", "", "", &[of(r#", "heads": 3, "rule": "gated", "gate_divisor": 4"#, &per_key)]);
    let beta: [(&str, &[usize]); 1] = [("mixer.beta.weight", &[3, WIDTH])];
    check("delta", "", "", &[of(r#", "heads": 3, "rule": "delta", "l2norm": true"#, &beta)]);
    let both = [gates[0], gates[1], gates[2], beta[0]];
    check("gated delta", "", "", &[of(r#", "heads": 3, "rule": "gated-delta", "l2norm": true"#, &both)]);
    let omega: [(&str, &[usize]); 1] = [("mixer.omega", &[6, 4])];
    check("performer", "", "", &[of(r#", "heads": 3, "feature_map": "performer""#, &omega)]);
    check("cosformer", "", "", &[of(r#", "heads": 3, "feature_map": "cosformer", "max_len": 64"#, &[])]);
}

#[test]
fn slay() {
    let weights: [(&str, &[usize]); 2] = [("mixer.anchors", &[8, 4]), ("mixer.omega", &[2, 3, 16, 4])];
    check("slay", "", "gelu", &[attention("slay", r#", "heads": 3"#, 3, &weights)]);
}

#[test]
fn ramnet() {
    let all: [(&str, &[usize]); 7] = [
        ("mixer.q.weight", &[24, WIDTH]),
        ("mixer.k.weight", &[24, WIDTH]),
        ("mixer.v.weight", &[12, WIDTH]),
        ("mixer.gamma.weight", &[3, WIDTH]),
        ("mixer.norm.weight", &[4]),
        ("mixer.z.weight", &[12, WIDTH]),
        ("mixer.o.weight", &[WIDTH, 12]),
    ];
    let settings = r#", "heads": 3, "choices": 4, "topk": 3, "cape": "0,2""#;
    check("ramnet", "", "", &[layer("ramnet", settings, &all)]);
}

#[test]
fn mta() {
    let more: [(&str, &[usize]); 2] = [("mixer.kq_pre", &[3, 2, 3]), ("mixer.head_post", &[1, 3, 3])];
    check("mta", "", "", &[attention("mta", r#", "heads": 3"#, 3, &more)]);
    let (_folder, model) = model("", "", &[attention("mta", r#", "heads": 3"#, 3, &more)]);
    // A model whose mixer has no state here starts again with each token.
    let (given, mut session) = (tokens(), Session::on_cpu(&model).unwrap());
    let text = greedy(&mut session, &given, 3);
    let whole: Vec<u32> = given.iter().chain(&text[..2]).copied().collect();
    let logits = Session::on_cpu(&model).unwrap().run(&whole).unwrap().to_f32();
    let last = logits.chunks_exact(256).skip(given.len() - 1);
    let best = |row: &[f32]| (0..256).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32;
    assert_eq!(text, last.map(best).collect::<Vec<_>>());
}

fn mamba_layer(settings: &'static str) -> Layer {
    let all: [(&str, &[usize]); 9] = [
        ("mixer.in_proj.weight", &[36, WIDTH]),
        ("mixer.conv.weight", &[18, 1, 4]),
        ("mixer.conv.bias", &[18]),
        ("mixer.x_proj.weight", &[11, 18]),
        ("mixer.dt_proj.weight", &[18, 3]),
        ("mixer.dt_proj.bias", &[18]),
        ("mixer.a_log", &[18, 4]),
        ("mixer.d", &[18]),
        ("mixer.out_proj.weight", &[WIDTH, 18]),
    ];
    layer("mamba", settings, &all)
}

fn ssd_layer(settings: &'static str) -> Layer {
    let all: [(&str, &[usize]); 8] = [
        ("mixer.in_proj.weight", &[52, WIDTH]),
        ("mixer.conv.weight", &[32, 1, 4]),
        ("mixer.conv.bias", &[32]),
        ("mixer.dt_bias", &[4]),
        ("mixer.a_log", &[4]),
        ("mixer.d", &[4]),
        ("mixer.norm.weight", &[16]),
        ("mixer.out_proj.weight", &[WIDTH, 16]),
    ];
    layer("ssd", settings, &all)
}

#[test]
fn mamba_and_ssd() {
    check("mamba", "", "swiglu", &[mamba_layer(""), mamba_layer(r#", "dt_offset": 0.01, "inner": 18"#)]);
    check("ssd", "", "gelu", &[ssd_layer(r#", "groups": 2, "dt_max": 0.5"#), ssd_layer(r#", "state": 8"#)]);
    let hybrid = [ssd_layer(""), attention("softmax", r#", "heads": 3"#, 3, &[]), mamba_layer("")];
    check("hybrid", r#""positions": "rope","#, "swiglu", &hybrid);
}

#[test]
fn both_directions_with_tags_and_a_class() {
    let both = || mamba_layer(r#", "direction": "both", "padding": "same""#);
    check(
        "tags",
        r#""head": "tags", "classes": 5, "causal": false,"#,
        "",
        &[both(), ssd_layer(r#", "direction": "both""#)],
    );
    let class = r#""head": "class", "classes": 5, "causal": false, "norm": "layer","#;
    check("class", class, "gelu", &[both()]);
    let (_folder, model) = model(class, "", &[both()]);
    assert_eq!(Session::on_cpu(&model).unwrap().run(&tokens()).unwrap().shape().dims(), [1, 5]);
}

#[test]
fn an_encoder_of_every_mixer_that_looks_at_all_tokens() {
    let linformer: [(&str, &[usize]); 2] = [("mixer.e", &[1, 5, 32]), ("mixer.f", &[3, 5, 32])];
    let slay: [(&str, &[usize]); 2] = [("mixer.anchors", &[8, 4]), ("mixer.omega", &[2, 3, 16, 4])];
    let layers = [
        attention("linformer", r#", "heads": 3"#, 3, &linformer),
        attention("softmax", r#", "heads": 3"#, 3, &[]),
        attention("slay", r#", "heads": 3"#, 3, &slay),
        attention("linear", r#", "heads": 3"#, 3, &[]),
        attention("yat", r#", "heads": 3"#, 3, &[]),
    ];
    check("encoder", r#""causal": false, "max_len": 32, "head": "class", "classes": 5,"#, "gelu", &layers);
}

#[test]
fn convolutions() {
    let all: [(&str, &[usize]); 3] =
        [("mixer.weight", &[WIDTH, 1, 5]), ("mixer.bias", &[WIDTH]), ("mixer.o.weight", &[WIDTH, WIDTH])];
    check(
        "conv1d",
        "",
        "",
        &[layer("conv1d", r#", "dilation": 2"#, &all), layer("conv1d", r#", "activation": "none""#, &all)],
    );
}

#[test]
fn weights_and_activations_in_f16_stay_near_f32() {
    let (_folder, model) = model("", "swiglu", &[ssd_layer(""), attention("softmax", r#", "heads": 3"#, 3, &[])]);
    let expected = Session::on_cpu(&model).unwrap().run(&tokens()).unwrap().to_f64();
    on_each_backend(&model, |backend, session| {
        if backend == "gpu" && !super::context().unwrap().caps().f16 {
            return;
        }
        let found = session().dtype(subquad::DType::F16).run(&tokens()).unwrap();
        let error = relative_rms(&found.to_f64(), &expected);
        assert!((TOLERANCE..5e-3).contains(&error), "{backend}: {error:.1e}");
    });
}

#[test]
fn models_are_shared_by_threads_and_sessions_move_between_them() {
    fn shared<T: Send + Sync>() {}
    fn moves<T: Send>() {}
    shared::<Model>();
    moves::<Session<'static>>();
}
