//! The row of `linformer` in the table of operators: tensors, flags, and how a request becomes a configuration.

use super::{Config, DEFAULT_RANK, NAME, Pool, Projection, Sharing, cases};
use crate::catalog;
use crate::catalog::flags::{Flag, FlagKind};
use crate::catalog::request::Request;
use crate::catalog::spec::{AxisDefault, Causality, Draw, Op, TensorSpec};
use crate::error::Error;
use crate::operator::Operator;
use crate::tensor::Shape;

const E: TensorSpec = TensorSpec::weight("e", "1|H K M").or_longer().drawn(Draw::Shaped(johnson_lindenstrauss));
const F: TensorSpec = TensorSpec::weight("f", "1|H K M").or_longer().drawn(Draw::Shaped(johnson_lindenstrauss));

/// Axes of its tensors.
const AXES: [(&str, AxisDefault); 8] = catalog::qkv::axes_and([("K", AxisDefault::Length(DEFAULT_RANK))]);

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "low-rank attention: softmax over keys and values projected to a fixed number of rows",
    inputs: &[catalog::qkv::INPUTS[0], catalog::qkv::INPUTS[1], catalog::qkv::INPUTS[2], E, F],
    outputs: &[catalog::qkv::OUTPUT],
    state: &[],
    axes: &AXES,
    flags: &[
        Flag {
            name: "rank",
            kind: FlagKind::Count,
            help: "Number of projected rows K, at most M [default: that of e or f, else 256]",
        },
        Flag { name: "scale", kind: FlagKind::Number, help: "Factor of the scores [default: 1/sqrt D]" },
        Flag {
            name: "pool",
            kind: FlagKind::Choice(&["mean", "max"]),
            help: "Pool tokens instead of projecting them with e and f [default: no pooling; e is drawn from the seed if the files lack it]",
        },
    ],
    causal: Causality::Never,
    recurrent: false,
    rows_apart: false,
    complexity: "(N + M) K (D + E)",
    summaries: None,
    configure,
    cases: cases::cases,
};

/// Scales standard normal values to N(0, 1/K), so that the projection preserves lengths in the mean.
fn johnson_lindenstrauss(shape: &Shape, values: &mut [f32]) {
    let scale = 1.0 / (shape.dims()[1] as f32).sqrt();
    values.iter_mut().for_each(|x| *x *= scale);
}

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let flags = request.flags;
    let qkv = catalog::qkv::of(&OP, request)?;
    let pool = flags.word("pool").map(|word| if word == "max" { Pool::Max } else { Pool::Mean });
    let mut rank = flags.count(NAME, "rank")?.map(|rank| (rank, "--rank"));
    let mut sharing = [None; 2];
    for (spec, sharing) in [E, F].iter().zip(&mut sharing) {
        let Some(shape) = request.optional(NAME, spec)? else { continue };
        let refuse = |expected: String| Err(Error::tensor(NAME, spec.name, expected, shape.to_string()));
        if let Some(pool) = flags.word("pool") {
            return refuse(format!("none with --pool {pool}, which takes its place"));
        }
        let [heads, rows, keys] = [0, 1, 2].map(|axis| shape.dims()[axis]);
        if keys < qkv.keys {
            return refuse(format!("length M = {} as in k, or longer", qkv.keys));
        }
        if heads != 1 && heads != qkv.heads {
            return refuse(format!("1 or H = {} heads", qkv.heads));
        }
        match rank {
            Some((rank, of)) if rank != rows => return refuse(format!("rank K = {rank} as in {of}")),
            _ if rows > qkv.keys => return refuse(format!("rank K of at most M = {}", qkv.keys)),
            _ => rank = Some((rows, spec.name)),
        }
        *sharing = Some(if heads == 1 { Sharing::AllHeads } else { Sharing::PerHead });
    }
    let [e, f] = sharing;
    let config = Config {
        qkv,
        rank: rank.map_or(DEFAULT_RANK, |(rank, _)| rank),
        projection: match pool {
            Some(pool) => Projection::Pool(pool),
            None => Projection::Matrices { e: e.unwrap_or(Sharing::AllHeads), f },
        },
        scale: flags.number(NAME, "scale")?,
    };
    config.validate()?;
    Ok(Box::new(config))
}
