//! The rows of the parts in their table: tensors, flags, named shapes, and how a request becomes a configuration.

use super::{Tokens, embedding, gated_norm, gather, matmul, quantize, rope, stable_sort, topk};
use crate::catalog::case::Case;
use crate::catalog::domain::Domain;
use crate::catalog::flags::{Flag, FlagKind, Flags};
use crate::catalog::qkv;
use crate::catalog::request::Request;
use crate::catalog::spec::{AxisDefault, Causality, Draw, Op, TensorSpec};
use crate::error::Error;
use crate::operator::{Configured, Operator};
use crate::tensor::{DType, Layout};

/// Every part of this crate that runs alone.
pub static PARTS: &[Op] = &[TOPK, GATHER, SORT, NORM, QUANTIZE, MATMUL, EMBEDDING, ROPE];

/// What the rows of all parts have in common.
const PART: Op = Op {
    name: "",
    summary: "",
    inputs: &[],
    outputs: &[],
    state: &[],
    axes: &[],
    flags: &[],
    causal: Causality::Neither,
    recurrent: false,
    rows_apart: true,
    complexity: "",
    summaries: None,
    configure: topk,
    cases: topk_cases,
};

const X: TensorSpec = TensorSpec::sequence("x", "B H N E");
const O: TensorSpec = qkv::OUTPUT;
const INDEX: TensorSpec = TensorSpec::sequence("index", "B H N K").of(Domain::Index).drawn(Draw::Below("S"));
const WEIGHT: TensorSpec = TensorSpec::sequence("weight", "B H N K").single();

const BATCH: (&str, AxisDefault) = qkv::AXES[0];
const HEADS: (&str, AxisDefault) = qkv::AXES[1];
const LEN: (&str, AxisDefault) = qkv::AXES[3];
const DIM: (&str, AxisDefault) = ("E", AxisDefault::Length(64));
const KEY_DIM: (&str, AxisDefault) = qkv::AXES[5];

const DEFAULT_CHOICES: usize = 4;
const DEFAULT_TOPK: usize = 8;
const DEFAULT_BINS: usize = 256;
const DEFAULT_EPS: f32 = 1e-5;
const DEFAULT_THETA: f32 = 10000.0;

/// Addresses of the largest sums.
const TOPK: Op = Op {
    name: topk::Config::ALGORITHM.name,
    summary: "the K addresses of the largest sums of one logit per digit, and their weights",
    inputs: &[TensorSpec::sequence("q", "B H N U*P")],
    outputs: &[INDEX, WEIGHT],
    axes: &[BATCH, HEADS, LEN, ("U*P", AxisDefault::Length(20))],
    flags: &[
        Flag {
            name: "choices",
            kind: FlagKind::Count,
            help: "Number of choices P per digit; there are P^U addresses [default: 4]",
        },
        Flag { name: "topk", kind: FlagKind::Count, help: "Number of addresses K that are kept [default: 8]" },
        Flag {
            name: "weights",
            kind: FlagKind::Choice(&["product", "softmax"]),
            help: "Weights of the kept addresses: products of the softmaxes of their digits, or the softmax of their sums \
                   [default: product]",
        },
        Flag { name: "tau", kind: FlagKind::Number, help: "Temperature of the softmax [default: 1]" },
    ],
    complexity: "N U K P",
    ..PART
};

/// Weighted sums of rows of a table.
const GATHER: Op = Op {
    name: gather::Config::ALGORITHM.name,
    summary: "weighted sums of rows of a table, as in an embedding bag",
    inputs: &[INDEX, WEIGHT, TensorSpec::stream("table", "1|B 1|H S E")],
    outputs: &[O],
    axes: &[BATCH, HEADS, LEN, ("K", AxisDefault::Length(8)), ("S", AxisDefault::Length(1024)), DIM],
    complexity: "N K E",
    configure: gather,
    cases: gather_cases,
    ..PART
};

/// The stable order of numbers by bins.
const SORT: Op = Op {
    name: stable_sort::Config::ALGORITHM.name,
    summary: "the stable order of whole numbers by bins, and where each bin starts",
    inputs: &[TensorSpec::stream("bins", "B H N").of(Domain::Index).drawn(Draw::ByFlags(below_bins))],
    outputs: &[TensorSpec::stream("order", "B H N"), TensorSpec::stream("offsets", "B H bins+1")],
    axes: &[BATCH, HEADS, LEN],
    flags: &[Flag {
        name: "bins",
        kind: FlagKind::Count,
        help: "Number of bins; the tensor `bins` has whole numbers below it [default: 256]",
    }],
    rows_apart: false,
    complexity: "N log N",
    configure: sort,
    cases: sort_cases,
    ..PART
};

/// Norm and gate.
const NORM: Op = Op {
    name: gated_norm::Config::ALGORITHM.name,
    summary: "RMS or layer norm per head, times a weight, plus a bias, times the activation of a gate",
    inputs: &[
        X,
        TensorSpec::weight("weight", "E").or_forms(&[("weight.H", "H E")]),
        TensorSpec::weight("bias", "E").or_forms(&[("bias.H", "H E")]),
        TensorSpec::sequence("gate", "B H N E").optional(),
    ],
    outputs: &[O],
    axes: &[BATCH, HEADS, LEN, DIM],
    flags: &[
        Flag {
            name: "kind",
            kind: FlagKind::Choice(&["rms", "layer", "none"]),
            help: "What a row is divided by: the root of its mean square, that of its variance around the mean, or nothing \
                   [default: rms]",
        },
        Flag {
            name: "gate",
            kind: FlagKind::Choice(&["sigmoid", "silu"]),
            help: "Activation of the tensor `gate`, which must be given with it [default: sigmoid]",
        },
        Flag {
            name: "eps",
            kind: FlagKind::Number,
            help: "Number added to the mean square or the variance [default: 1e-5]",
        },
    ],
    complexity: "N E",
    configure: norm,
    cases: norm_cases,
    ..PART
};

/// The nearest code of a codebook.
const QUANTIZE: Op = Op {
    name: quantize::Config::ALGORITHM.name,
    summary: "vector quantisation: the nearest code of a codebook, exactly",
    inputs: &[
        X,
        TensorSpec { optional: false, ..TensorSpec::weight("codebook", "C E").or_forms(&[("codebook.H", "H C E")]) },
    ],
    outputs: &[TensorSpec::sequence("code", "B H N"), O],
    axes: &[BATCH, HEADS, LEN, ("C", AxisDefault::Length(1024)), DIM],
    complexity: "N C E",
    configure: quantize,
    cases: quantize_cases,
    ..PART
};

/// Products with weights.
const MATMUL: Op = Op {
    name: matmul::Config::ALGORITHM.name,
    summary: "products with a weight, with a bias, an activation, factors and a residual",
    inputs: &[
        TensorSpec::stream("x", "N K"),
        TensorSpec { optional: false, ..TensorSpec::weight("weight", "M K") },
        TensorSpec::weight("bias", "M"),
        TensorSpec::stream("times", "N M").optional(),
        TensorSpec::stream("residual", "N M").optional(),
    ],
    outputs: &[TensorSpec::stream("o", "N M")],
    axes: &[LEN, ("K", AxisDefault::Length(64)), ("M", AxisDefault::Length(64))],
    flags: &[
        Flag {
            name: "activation",
            kind: FlagKind::Choice(&["none", "silu", "gelu", "gelu-tanh", "relu", "relu2", "sigmoid", "log-sigmoid"]),
            help: "Function of the products with the bias; gelu is the exact form [default: none]",
        },
        Flag { name: "scale", kind: FlagKind::Number, help: "Factor of everything but the residual [default: 1]" },
        Flag {
            name: "weight-dtype",
            kind: FlagKind::Choice(&["f32", "f16"]),
            help: "Storage type of the weight [default: that of the file]",
        },
    ],
    complexity: "N K M",
    configure: matmul,
    cases: matmul_cases,
    ..PART
};

/// Rows of a table of embeddings.
const EMBEDDING: Op = Op {
    name: embedding::Config::ALGORITHM.name,
    summary: "rows of a table by index, times a scale, plus rows of learned positions",
    inputs: &[
        TensorSpec::stream("index", "N").of(Domain::Index).drawn(Draw::Below("V")),
        TensorSpec::stream("table", "V D"),
        TensorSpec::weight("positions", "L D"),
    ],
    outputs: &[TensorSpec::stream("o", "N D")],
    axes: &[LEN, ("V", AxisDefault::Length(1000)), ("L", AxisDefault::Same("N")), KEY_DIM],
    flags: &[Flag { name: "scale", kind: FlagKind::Number, help: "Factor of the rows of the table [default: 1]" }],
    complexity: "N D",
    configure: embed,
    cases: embedding_cases,
    ..PART
};

/// Rotary positions.
const ROPE: Op = Op {
    name: rope::Config::ALGORITHM.name,
    summary: "rotary positions: pairs of columns of q and k turn with the position of their token",
    inputs: &[TensorSpec::sequence("q", "B H N D"), TensorSpec::sequence("k", "B G N D")],
    outputs: &[TensorSpec::sequence("q_out", "B H N D"), TensorSpec::sequence("k_out", "B G N D")],
    axes: &[BATCH, HEADS, qkv::AXES[2], LEN, KEY_DIM],
    flags: &[
        Flag { name: "theta", kind: FlagKind::Number, help: "Base of the frequencies, 1 or more [default: 10000]" },
        Flag {
            name: "rope-dims",
            kind: FlagKind::Count,
            help: "Number of leading columns that turn, in pairs half of them apart [default: D]",
        },
        Flag {
            name: "position",
            kind: FlagKind::Text("COUNT"),
            help: "Position of the first token, a whole number of 0 or more [default: 0]",
        },
    ],
    complexity: "N D",
    configure: rotate,
    cases: rope_cases,
    ..PART
};

fn bins(flags: &Flags) -> Result<usize, Error> {
    Ok(flags.count(SORT.name, "bins")?.unwrap_or(DEFAULT_BINS))
}

fn below_bins(flags: &Flags) -> Draw {
    Draw::BelowCount(bins(flags).unwrap_or(DEFAULT_BINS))
}

/// The rows of a tensor of four axes, and the length of its last axis.
fn tokens(op: &'static str, request: &Request<'_>, spec: &TensorSpec) -> Result<(Tokens, usize), Error> {
    let d = request.required(op, spec)?.dims();
    let [heads, len] = if request.layout == Layout::Bhnd { [d[1], d[2]] } else { [d[2], d[1]] };
    Ok((Tokens::new(d[0], heads, len).layout(request.layout), d[3]))
}

fn checked<C: Configured>(config: C) -> Result<Box<dyn Operator>, Error> {
    Operator::validate(&config)?;
    Ok(Box::new(config))
}

fn topk(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let (name, flags) = (TOPK.name, request.flags);
    let (tokens, width) = tokens(name, request, &TOPK.inputs[0])?;
    let choices = flags.count(name, "choices")?.unwrap_or(DEFAULT_CHOICES);
    if !width.is_multiple_of(choices) {
        let expected = format!("a last axis U*P that is a multiple of P = {choices} choices");
        return Err(Error::tensor(name, "q", expected, width.to_string()));
    }
    let topk = flags.count(name, "topk")?.unwrap_or(DEFAULT_TOPK);
    let softmax = flags.word("weights") == Some("softmax");
    checked(topk::Config {
        weights: if softmax { topk::Weights::Softmax } else { topk::Weights::Product },
        tau: flags.number(name, "tau")?.unwrap_or(1.0),
        dtype: request.dtype,
        ..topk::Config::new(tokens, width / choices, choices, topk)
    })
}

fn gather(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let (tokens, topk) = tokens(GATHER.name, request, &INDEX)?;
    let d = request.required(GATHER.name, &GATHER.inputs[2])?.dims();
    request.required(GATHER.name, &WEIGHT)?;
    checked(gather::Config {
        tables: [d[0], d[1]],
        dtype: request.dtype,
        ..gather::Config::new(tokens, topk, d[2], d[3])
    })
}

fn sort(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let d = request.required(SORT.name, &SORT.inputs[0])?.dims();
    checked(stable_sort::Config::new(d[0], d[1], d[2], bins(request.flags)?))
}

/// Whether a weight is given, and for which heads.
fn weight_of(request: &Request<'_>, spec: &TensorSpec) -> Result<gated_norm::Weight, Error> {
    Ok(match request.optional(NORM.name, spec)?.map(|shape| shape.rank()) {
        None => gated_norm::Weight::None,
        Some(1) => gated_norm::Weight::Shared,
        Some(_) => gated_norm::Weight::PerHead,
    })
}

fn norm(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let (name, flags) = (NORM.name, request.flags);
    let [x, weight, bias, gate] = [0, 1, 2, 3].map(|at| &NORM.inputs[at]);
    let (tokens, dim) = tokens(name, request, x)?;
    let gated = match flags.word("gate") {
        None => request.optional(name, gate)?.is_some(),
        Some(_) => request.required(name, gate).map(|_| true)?,
    };
    let act = if flags.word("gate") == Some("silu") { gated_norm::Gate::Silu } else { gated_norm::Gate::Sigmoid };
    checked(gated_norm::Config {
        kind: match flags.word("kind") {
            Some("none") => gated_norm::Kind::None,
            Some("layer") => gated_norm::Kind::Layer,
            _ => gated_norm::Kind::Rms,
        },
        weight: weight_of(request, weight)?,
        bias: weight_of(request, bias)?,
        gate: gated.then_some(act),
        eps: flags.number(name, "eps")?.unwrap_or(DEFAULT_EPS),
        dtype: request.dtype,
        ..gated_norm::Config::new(tokens, dim)
    })
}

fn embed(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let name = EMBEDDING.name;
    let [index, table, positions] = [0, 1, 2].map(|at| &EMBEDDING.inputs[at]);
    let tokens = request.required(name, index)?.dims()[0];
    let table = request.required(name, table)?.dims();
    checked(embedding::Config {
        table_dtype: request.dtype,
        dtype: request.dtype,
        scale: request.flags.number(name, "scale")?.unwrap_or(1.0),
        positions: request.optional(name, positions)?.map(|shape| shape.dims()[0]),
        ..embedding::Config::new(tokens, table[0], table[1])
    })
}

fn rotate(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let (name, flags) = (ROPE.name, request.flags);
    let (of_q, dim) = tokens(name, request, &ROPE.inputs[0])?;
    let (of_k, _) = tokens(name, request, &ROPE.inputs[1])?;
    let first = match flags.word("position") {
        None => 0,
        Some(word) => word.parse().map_err(|_| {
            Error::Usage(format!("{name}: --position: expected a whole number of 0 or more, found `{word}`"))
        })?,
    };
    let theta = flags.number(name, "theta")?.unwrap_or(DEFAULT_THETA);
    checked(rope::Config {
        batch: of_q.batch,
        rope: Some(rope::Rope::new(theta, flags.count(name, "rope-dims")?.unwrap_or(dim))),
        first,
        layout: request.layout,
        dtype: request.dtype,
        ..rope::Config::new(of_q.len, of_q.heads, of_k.heads, dim)
    })
}

fn quantize(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let (tokens, dim) = tokens(QUANTIZE.name, request, &X)?;
    let book = request.required(QUANTIZE.name, &QUANTIZE.inputs[1])?;
    let codes = book.dims()[book.rank() - 2];
    checked(quantize::Config {
        per_head: book.rank() == 3,
        dtype: request.dtype,
        ..quantize::Config::new(tokens, codes, dim)
    })
}

fn matmul(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let (name, flags) = (MATMUL.name, request.flags);
    let [x, weight, bias, times, residual] = [0, 1, 2, 3, 4].map(|at| &MATMUL.inputs[at]);
    let d = request.required(name, x)?.dims();
    let width = request.required(name, weight)?.dims()[0];
    let activation = flags.word("activation").unwrap_or("none");
    checked(matmul::Config {
        dtype: request.dtype,
        weight: if flags.word("weight-dtype") == Some("f16") { DType::F16 } else { DType::F32 },
        bias: request.optional(name, bias)?.is_some(),
        activation: matmul::Activation::named(activation).unwrap_or(matmul::Activation::None),
        times: request.optional(name, times)?.is_some(),
        residual: request.optional(name, residual)?.is_some(),
        scale: flags.number(name, "scale")?.unwrap_or(1.0),
        ..matmul::Config::new(d[0], d[1], width)
    })
}

fn topk_cases() -> Vec<Case> {
    let keys = Case::new("product_keys", &[("B", 2), ("H", 1), ("N", 9), ("U*P", 48)]).flag("choices", "24");
    let keys = keys.flag("weights", "softmax");
    let many = Case::new("many_choices", &[("H", 1), ("N", 3), ("U*P", 1200)]).flag("choices", "600");
    vec![
        Case::new("grouped", &[("B", 2), ("H", 3), ("N", 5)]),
        keys.clone(),
        Case { name: "keys_f16".into(), ..keys.dtype(DType::F16) },
        Case::new("odd", &[("H", 1), ("N", 7), ("U*P", 21)]).flag("choices", "7").flag("topk", "5").flag("tau", "0.7"),
        // More logits than a workgroup caches.
        many.flag("topk", "3").flag("weights", "softmax"),
    ]
}

fn gather_cases() -> Vec<Case> {
    let grouped = Case::new("grouped", &[("B", 2), ("H", 3), ("N", 5), ("K", 4), ("S", 9), ("1|B", 2), ("1|H", 3)]);
    vec![
        Case { name: "grouped_f16".into(), ..grouped.clone().dtype(DType::F16) },
        grouped,
        Case::new("shared", &[("B", 2), ("H", 2), ("N", 3), ("K", 3), ("S", 7), ("E", 70)]),
        Case::new("per_head", &[("B", 2), ("H", 2), ("N", 3), ("K", 1), ("S", 1), ("E", 1), ("1|H", 2)]),
        Case::new("per_batch", &[("B", 2), ("H", 2), ("N", 3), ("K", 2), ("S", 5), ("E", 3), ("1|B", 2)]),
    ]
}

fn sort_cases() -> Vec<Case> {
    vec![
        Case::new("grouped", &[("B", 2), ("H", 3), ("N", 100)]).flag("bins", "5"),
        Case::new("one", &[("H", 1), ("N", 1)]).flag("bins", "1"),
        Case::new("two_tiles", &[("H", 2), ("N", 2049)]).flag("bins", "3"),
        Case::new("many_bins", &[("H", 1), ("N", 5000)]).flag("bins", "70000"),
    ]
}

fn norm_cases() -> Vec<Case> {
    let grouped = Case::new("grouped", &[("B", 2), ("H", 3), ("N", 5), ("E", 20)]).with("weight.H").with("gate");
    let wide = Case::new("wide", &[("H", 1), ("N", 1), ("E", 2048)]).with("weight");
    vec![
        Case { name: "grouped_f16".into(), ..grouped.clone().dtype(DType::F16) },
        grouped,
        Case::new("plain", &[("H", 2), ("N", 3), ("E", 1)]),
        Case::new("weighted", &[("H", 2), ("N", 3), ("E", 70)]).with("weight").flag("eps", "0.5"),
        Case::new("gated", &[("H", 2), ("N", 3), ("E", 70)]).with("gate"),
        Case::new("layer", &[("H", 1), ("N", 9), ("E", 24)]).with("weight").with("bias").flag("kind", "layer"),
        Case::new("gate_only", &[("H", 2), ("N", 3), ("E", 24)])
            .with("bias.H")
            .with("gate")
            .flag("kind", "none")
            .flag("gate", "silu"),
        // A hidden state of one token.
        wide.clone(),
        Case { name: "wide_f16".into(), ..wide.dtype(DType::F16) },
        Case::new("wide_layer", &[("H", 1), ("N", 3), ("E", 1100)]).with("weight").with("bias").flag("kind", "layer"),
        Case::new("wide_odd", &[("H", 1), ("N", 2), ("E", 771)]).with("weight").flag("kind", "layer"),
        // More than the invocations of a workgroup keep.
        Case::new("wider", &[("H", 1), ("N", 2), ("E", 4099)]).with("gate").flag("kind", "layer").slow(),
        Case::new("widest", &[("H", 1), ("N", 1), ("E", 16388)]).with("weight").slow(),
    ]
}

fn quantize_cases() -> Vec<Case> {
    let grouped = Case::new("grouped", &[("B", 2), ("H", 3), ("N", 70), ("C", 70), ("E", 20)]).with("codebook.H");
    vec![
        Case { name: "grouped_f16".into(), ..grouped.clone().dtype(DType::F16) },
        grouped,
        Case::new("one_code", &[("H", 2), ("N", 3), ("C", 1), ("E", 1)]),
        Case::new("odd", &[("B", 3), ("H", 5), ("N", 5), ("C", 129), ("E", 7)]),
        // Workgroups share the codes.
        Case::new("few_rows", &[("H", 3), ("N", 1), ("C", 1000), ("E", 36)]),
    ]
}

fn matmul_cases() -> Vec<Case> {
    let shape = |name, [n, k, m]: [usize; 3]| Case::new(name, &[("N", n), ("K", k), ("M", m)]);
    let all = |case: Case| case.with("bias").with("times").with("residual").flag("scale", "0.5");
    let grouped = all(shape("grouped", [70, 36, 72])).flag("activation", "silu");
    let odd = all(shape("odd", [70, 37, 75])).flag("activation", "gelu");
    let mut cases = vec![
        Case { name: "grouped_f16".into(), ..grouped.clone().dtype(DType::F16) },
        grouped.clone(),
        Case { name: "odd_f16".into(), ..odd.clone().dtype(DType::F16) },
        odd.clone(),
        shape("plain", [130, 64, 64]),
        shape("one", [1, 1, 1]),
        shape("few_rows", [20, 40, 100]).with("bias"),
        shape("one_row", [1, 96, 70]).with("residual"),
        shape("three_rows", [3, 37, 130]),
        Case { name: "half_weight".into(), ..grouped.flag("weight-dtype", "f16") },
        Case { name: "half_weight_odd".into(), ..odd.clone().flag("weight-dtype", "f16") },
        Case { name: "half_weight_f16".into(), ..odd.flag("weight-dtype", "f16").dtype(DType::F16) },
        shape("half_weight_one_row", [1, 96, 70]).flag("weight-dtype", "f16"),
        shape("many_columns", [2, 24, 5000]).slow(),
    ];
    let activations = matmul::Activation::NAMED.into_iter().skip(1);
    cases.extend(activations.map(|(name, _)| shape(name, [9, 8, 12]).flag("activation", name)));
    cases
}

fn embedding_cases() -> Vec<Case> {
    let grouped = Case::new("grouped", &[("N", 9), ("V", 50), ("D", 24)]);
    vec![
        Case { name: "grouped_f16".into(), ..grouped.clone().dtype(DType::F16) },
        grouped,
        Case::new("one", &[("N", 1), ("V", 1), ("D", 1)]),
        Case::new("odd", &[("N", 70), ("V", 33), ("D", 7)]).flag("scale", "2.5"),
        Case::new("odd_f16", &[("N", 70), ("V", 33), ("D", 7)]).dtype(DType::F16).with("positions"),
        Case::new("positions", &[("N", 5), ("V", 33), ("L", 11), ("D", 24)]).with("positions").flag("scale", "0.5"),
    ]
}

fn rope_cases() -> Vec<Case> {
    let grouped = Case::new("grouped", &[("B", 2), ("H", 6), ("G", 3), ("N", 5), ("D", 24)]);
    vec![
        Case { name: "grouped_f16".into(), ..grouped.clone().dtype(DType::F16) },
        grouped,
        Case::new("one", &[("H", 1), ("N", 1), ("D", 2)]).flag("position", "3"),
        Case::new("partial", &[("H", 2), ("N", 9), ("D", 24)]).flag("rope-dims", "8").flag("theta", "500000"),
        Case::new("odd", &[("H", 3), ("N", 7), ("D", 21)]).flag("rope-dims", "10"),
        Case::new("far", &[("H", 2), ("N", 70), ("D", 64)]).flag("position", "100000"),
    ]
}
