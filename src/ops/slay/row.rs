//! The row of `slay` in the table of operators: tensors, flags, and how a request becomes a configuration.

use super::poly::{Poly, WORDS};
use super::{Config, NAME, cases, summary};
use crate::catalog;
use crate::catalog::flags::{Flag, FlagKind};
use crate::catalog::recurrent::{CU_SEQLENS, DIRECTION, SEQUENCES};
use crate::catalog::request::Request;
use crate::catalog::spec::{AxisDefault, Causality, Draw, Op, TensorSpec};
use crate::error::Error;
use crate::operator::Operator;
use crate::tensor::Shape;

const OMEGA: TensorSpec = TensorSpec::weight("omega", "R G F D");

/// Axes of its tensors.
const AXES: [(&str, AxisDefault); 12] = catalog::qkv::axes_and([
    catalog::qkv::VALUE_HEADS,
    ("R", AxisDefault::Length(2)),
    ("P", AxisDefault::Length(8)),
    ("F", AxisDefault::Length(16)),
    SEQUENCES,
]);

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "linear attention with features that approximate the spherical Yat kernel",
    inputs: &[
        catalog::qkv::INPUTS[0],
        catalog::qkv::INPUTS[1],
        catalog::qkv::INPUTS[2].per_value_head(),
        ANCHORS,
        OMEGA,
        SIGNS,
        SKETCHES,
        CU_SEQLENS,
    ],
    outputs: &[catalog::qkv::OUTPUT],
    state: &[TensorSpec::state("state", "B G m E"), TensorSpec::state("norm", "B G m").drawn(Draw::Positive)],
    axes: &AXES,
    flags: &[
        Flag {
            name: "nodes",
            kind: FlagKind::Count,
            help: "Number of quadrature nodes R [default: that of omega, else 2]",
        },
        Flag {
            name: "features",
            kind: FlagKind::Count,
            help: "Number of random features F per node [default: that of omega, else 16]",
        },
        Flag {
            name: "anchors",
            kind: FlagKind::Count,
            help: "Number of anchors, signs or sketches P [default: that of the tensor, else 8]",
        },
        Flag {
            name: "poly",
            kind: FlagKind::Choice(WORDS),
            help: "Feature map of the squared inner product [default: anchor]",
        },
        Flag {
            name: "epsilon",
            kind: FlagKind::Number,
            help: "Number added to the denominator of the kernel [default: 1e-3]",
        },
        Flag {
            name: "norm-eps",
            kind: FlagKind::Number,
            help: "Number added to the denominator of the output [default: 1e-6]",
        },
        DIRECTION,
    ],
    causal: Causality::Both,
    recurrent: true,
    rows_apart: false,
    complexity: "N m E, m = R P F",
    summaries: Some(summary::folding),
    configure,
    cases: cases::cases,
};

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let flags = request.flags;
    let qkv = catalog::qkv::of_shared(&OP, request)?;
    let mut config = Config::new(qkv);
    config.poly = flags.word("poly").and_then(Poly::named).unwrap_or(config.poly);
    if config.poly.weight().is_none() && flags.word("anchors").is_some() {
        let name = config.poly.name();
        return Err(Error::Usage(format!("{NAME}: --anchors: expected none with --poly {name}, which has no anchors")));
    }
    let dim = format!("dim D = {} as in q", qkv.dim_k);
    let counts = |name: &str| flags.count(NAME, name);
    let [mut nodes, mut features, mut anchors] = [counts("nodes")?, counts("features")?, counts("anchors")?];
    let agree = |tensor: &str, shape: &Shape, axis: usize, flag: &str, given: &mut Option<usize>| {
        let found = shape.dims()[axis];
        match given {
            Some(wanted) if *wanted != found => {
                Err(Error::tensor(NAME, tensor, format!("{wanted} as in --{flag}"), shape.to_string()))
            }
            _ => {
                *given = Some(found);
                Ok(())
            }
        }
    };
    for spec in [&ANCHORS, &SIGNS, &SKETCHES] {
        let Some(shape) = request.optional(NAME, spec)? else { continue };
        if config.poly.weight().is_none_or(|own| own != spec.name) {
            let expected = format!("none with --poly {}", config.poly.name());
            return Err(Error::tensor(NAME, spec.name, expected, shape.to_string()));
        }
        let dims = shape.dims();
        if dims[dims.len() - 1] != qkv.dim_k {
            return Err(Error::tensor(NAME, spec.name, dim, shape.to_string()));
        }
        if dims.len() == 3 && dims[0] != 2 {
            return Err(Error::tensor(NAME, spec.name, "two of [P, D]", shape.to_string()));
        }
        agree(spec.name, shape, dims.len() - 2, "anchors", &mut anchors)?;
    }
    if let Some(shape) = request.optional(NAME, &OMEGA)? {
        let dims = shape.dims();
        if dims[3] != qkv.dim_k {
            return Err(Error::tensor(NAME, "omega", dim, shape.to_string()));
        }
        if dims[1] != qkv.key_heads() {
            let expected = format!("G = {} key heads as in k", qkv.key_heads());
            return Err(Error::tensor(NAME, "omega", expected, shape.to_string()));
        }
        agree("omega", shape, 0, "nodes", &mut nodes)?;
        agree("omega", shape, 2, "features", &mut features)?;
    }
    config.nodes = nodes.unwrap_or(config.nodes);
    config.features = features.unwrap_or(config.features);
    config.anchors = anchors.unwrap_or(config.anchors);
    config.mode = request.mode(NAME)?;
    config.epsilon = flags.number(NAME, "epsilon")?.unwrap_or(config.epsilon);
    config.norm_eps = flags.number(NAME, "norm-eps")?.unwrap_or(config.norm_eps);
    config.validate()?;
    Ok(Box::new(config))
}

const ANCHORS: TensorSpec = TensorSpec::weight("anchors", "P D").drawn(Draw::Shaped(directions));

const SIGNS: TensorSpec = TensorSpec::weight("signs", "2 P D").drawn(Draw::Shaped(signs));

const SKETCHES: TensorSpec = TensorSpec::weight("sketches", "2 P D").drawn(Draw::Shaped(count_sketches));

/// Turns standard normal rows into random unit vectors.
pub(super) fn directions(shape: &Shape, values: &mut [f32]) {
    for row in values.chunks_exact_mut(shape.dims()[1]) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
        row.iter_mut().for_each(|x| *x /= norm);
    }
}

fn signs(_: &Shape, values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = 1f32.copysign(*x));
}

/// Keeps the entry of largest magnitude of every column, as a sign. All others become 0.
fn count_sketches(shape: &Shape, values: &mut [f32]) {
    let (rows, columns) = (shape.dims()[1], shape.dims()[2]);
    for sketch in values.chunks_exact_mut(rows * columns) {
        for column in 0..columns {
            let at = |row: usize| row * columns + column;
            let largest = (0..rows).max_by(|a, b| sketch[at(*a)].abs().total_cmp(&sketch[at(*b)].abs())).unwrap_or(0);
            for row in 0..rows {
                let x = &mut sketch[at(row)];
                *x = if row == largest { 1f32.copysign(*x) } else { 0.0 };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_sketch_has_one_sign_a_column() {
        let shape: Shape = [2, 5, 40].into();
        let mut values: Vec<f32> = (0..400).map(|i| (((i * i * 31 + 7 * i) % 401) as f32) - 200.5).collect();
        count_sketches(&shape, &mut values);
        for sketch in values.chunks_exact(200) {
            for column in 0..40 {
                let entries: Vec<f32> = (0..5).map(|row| sketch[row * 40 + column]).filter(|x| *x != 0.0).collect();
                assert!(entries == [1.0] || entries == [-1.0], "{entries:?}");
            }
        }
    }
}
