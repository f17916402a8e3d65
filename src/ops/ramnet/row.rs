//! The row of `ramnet` in the table of operators: tensors, flags, and how a request becomes a configuration.

use super::{Cape, Codebook, Config, DEFAULT_CHOICES, DEFAULT_TOPK, NAME, Rule, cases};
use crate::catalog;
use crate::catalog::domain::Domain;
use crate::catalog::flags::{Flag, FlagKind, Flags};
use crate::catalog::recurrent::{CU_SEQLENS, DIRECTION, SEQUENCES};
use crate::catalog::request::Request;
use crate::catalog::spec::{AxisDefault, Causality, Draw, Op, TensorSpec};
use crate::error::Error;
use crate::operator::Operator;
use crate::operator::qkv::Qkv;
use crate::tensor::{Layout, Shape};

const CODEBOOK: TensorSpec = TensorSpec::weight("codebook", "C E").or_forms(&[("codebook.H", "H C E")]);

const INPUTS: [TensorSpec; 6] = [
    TensorSpec::sequence("q", "B H N U*P"),
    TensorSpec::sequence("k", "B H N U*P"),
    TensorSpec::sequence("v", "B H N E"),
    TensorSpec::sequence("gamma", "B H N").of(Domain::Extended),
    CODEBOOK,
    CU_SEQLENS,
];

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "RAM-Net: a large memory of slots; every token writes to and reads from a few of them",
    inputs: &INPUTS,
    outputs: &[catalog::qkv::OUTPUT, TensorSpec::sequence("code", "B H N").optional()],
    state: &[
        TensorSpec::state("state", "B H P^U E"),
        TensorSpec::state("mass", "B H P^U").drawn(Draw::Positive),
        TensorSpec::state("position", "1").drawn(Draw::Shaped(far)),
    ],
    axes: &[
        catalog::qkv::AXES[0],
        catalog::qkv::AXES[1],
        catalog::qkv::AXES[3],
        ("U*P", AxisDefault::Length(20)),
        ("E", AxisDefault::Length(64)),
        SEQUENCES,
        ("C", AxisDefault::Length(256)),
    ],
    flags: &[
        Flag {
            name: "choices",
            kind: FlagKind::Count,
            help: "Number of choices P per digit; there are P^U slots [default: 4]",
        },
        Flag {
            name: "topk",
            kind: FlagKind::Count,
            help: "Number of slots K that a token writes to and reads from [default: 8]",
        },
        Flag { name: "rule", kind: FlagKind::Choice(&["gsu", "pdma"]), help: "Update rule of the mass [default: gsu]" },
        Flag {
            name: "cape",
            kind: FlagKind::Text("none|all|H,H,..."),
            help: "Heads whose slot addresses shift by one per token [default: none]",
        },
        Flag { name: "tau", kind: FlagKind::Number, help: "Temperature of the address softmax [default: 1]" },
        Flag {
            name: "mass-eps",
            kind: FlagKind::Number,
            help: "Number added to the mass before division [default: 1e-12 for gsu, 1e-6 for pdma]",
        },
        Flag {
            name: "codes",
            kind: FlagKind::Switch,
            help: "Also write the number of each value's code, `code`; needs the tensor codebook [default: off]",
        },
        DIRECTION,
    ],
    causal: Causality::Always,
    recurrent: true,
    rows_apart: false,
    complexity: "N K (U P + E)",
    summaries: None,
    configure,
    cases: cases::cases,
};

/// Draws a position some tokens into a sequence.
fn far(_: &Shape, values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = (x.abs() * 1e4).floor());
}

/// Parses `none`, `all`, or a list of heads separated by commas.
fn cape(flags: &Flags) -> Result<Cape, Error> {
    let word = flags.word("cape").unwrap_or("none");
    match word {
        "none" => Ok(Cape::None),
        "all" => Ok(Cape::All),
        _ => match word.split(',').map(|head| head.trim().parse()).collect::<Result<Vec<usize>, _>>() {
            Ok(heads) => Ok(Cape::Heads(heads)),
            Err(_) => {
                let text = format!("--cape: expected none, all or heads as 0,3,5, found `{word}`");
                Err(Error::Usage(format!("{NAME}: {text}")))
            }
        },
    }
}

/// The codebook, if there is one: `[C, E]`, or `[H, C, E]`.
fn codebook(request: &Request<'_>, qkv: &Qkv) -> Result<Option<Codebook>, Error> {
    let output = request.flags.switch("codes").unwrap_or(false);
    let Some(shape) = request.optional(NAME, &CODEBOOK)? else {
        if output {
            let given = "the flag --codes".into();
            return Err(Error::Missing {
                op: NAME,
                tensor: CODEBOOK.name.into(),
                expected: "[C, E] or [H, C, E]".into(),
                given,
            });
        }
        return Ok(None);
    };
    let (per_head, codes) = (shape.rank() == 3, shape.dims()[shape.rank() - 2]);
    let wanted: Shape = if per_head { [qkv.heads, codes, qkv.dim_v].into() } else { [codes, qkv.dim_v].into() };
    if *shape != wanted {
        return Err(Error::tensor(NAME, CODEBOOK.name, format!("{wanted} with v as it is"), shape.to_string()));
    }
    Ok(Some(Codebook { codes, per_head, output }))
}

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let flags = request.flags;
    let axes = |spec: &TensorSpec| -> Result<Vec<usize>, Error> {
        let mut dims = request.required(NAME, spec)?.dims().to_vec();
        if request.layout == Layout::Bnhd {
            dims.swap(1, 2);
        }
        Ok(dims)
    };
    let [q, k, v, gamma, ..] = INPUTS;
    let first = axes(&q)?;
    for (spec, axes) in [(k, axes(&k)?), (v, axes(&v)?), (gamma, axes(&gamma)?)] {
        let same = if spec.name == "k" { 4 } else { 3 };
        let letters = ["batch B", "heads H", "length N", "last axis U*P"];
        for axis in 0..same {
            if axes[axis] != first[axis] {
                let expected = format!("{} = {} as in q", letters[axis], first[axis]);
                return Err(Error::tensor(NAME, spec.name, expected, axes[axis].to_string()));
            }
        }
    }
    let qkv = Qkv::new().batch(first[0]).heads(first[1]).len(first[2]).dim(first[3]).dim_v(axes(&v)?[3]);
    let config = Config {
        qkv: qkv.dtype(request.dtype).layout(request.layout),
        choices: flags.count(NAME, "choices")?.unwrap_or(DEFAULT_CHOICES),
        topk: flags.count(NAME, "topk")?.unwrap_or(DEFAULT_TOPK),
        rule: if flags.word("rule") == Some("pdma") { Rule::Pdma } else { Rule::Gsu },
        cape: cape(flags)?,
        tau: flags.number(NAME, "tau")?.unwrap_or(1.0),
        mass_eps: flags.number(NAME, "mass-eps")?,
        codebook: codebook(request, &qkv)?,
        mode: request.mode(NAME)?,
    };
    config.validate()?;
    Ok(Box::new(config))
}
