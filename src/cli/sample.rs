//! `subquad sample OP`.

use std::collections::BTreeMap;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::options;
use super::report::{self, Ui};
use super::{Outcome, args};
use crate::catalog::case::Case;
use crate::catalog::random;
use crate::catalog::spec::{AxisDefault, Causality, Op, TensorSpec};
use crate::error::Error;
use crate::io::{self, is_dash};
use crate::tensor::DType;

/// `subquad sample OP`.
pub(super) fn command(op: &'static Op) -> Command {
    let lengths: Vec<_> = op
        .axes
        .iter()
        .map(|(letter, length)| match length {
            AxisDefault::Length(length) => format!("{letter}={length}"),
            AxisDefault::Same(other) => format!("{letter}={other}"),
        })
        .collect();
    let order = positional(op).join(",");
    let help = format!(
        "Axis lengths by letter, for example B=1,N=512, or all of {order} in this order [default: {}]",
        lengths.join(",")
    );
    let command = Command::new(op.name)
        .about(op.summary)
        .after_help(format!("Example: subquad sample {} --output in.safetensors --seed 7", op.name))
        .arg(args::path("output").short('o').required(true).help("File to write; `-` is standard output"))
        .arg(args::value("shape").value_name("AXES").help(help))
        .args(with(op))
        .arg(args::layout(op))
        .arg(
            args::value("dtype")
                .value_name("DTYPE")
                .value_parser(["f32", "f16"])
                .default_value("f32")
                .help("Storage type of sequence tensors"),
        )
        .arg(args::seed("Seed of the random values"))
        .arg(args::on("quiet", "Print only errors"))
        .next_help_heading("Options of the operator: the tensors that a run with them needs are written too");
    args::own(command, op)
}

/// `--with`, for operators that can do without some tensors.
fn with(op: &Op) -> Option<Arg> {
    let names: Vec<_> = op.inputs.iter().flat_map(TensorSpec::choices).collect();
    let help = "Also write these optional tensors, or tensors in these forms; can be repeated";
    (!names.is_empty()).then(|| {
        let arg = args::value("with").value_name("NAME").action(ArgAction::Append).value_delimiter(',');
        arg.value_parser(PossibleValuesParser::new(names)).help(help)
    })
}

/// Writes a valid random input file.
pub(super) fn sample(op: &'static Op, matches: &ArgMatches) -> Result<Outcome, Error> {
    let path = args::required(matches, "output")?;
    let axes = axes(op, args::word_of(matches, "shape").unwrap_or(""))?;
    let dtype = if args::word_of(matches, "dtype") == Some("f16") { DType::F16 } else { DType::F32 };
    let layout = args::layout_of(matches).unwrap_or_default();
    let mut case = Case::new("sample", &axes).layout(layout).dtype(dtype);
    case.seed = args::seed_of(op.name, matches)?;
    let with = matches.try_get_many::<String>("with").ok().flatten().into_iter().flatten();
    case.with =
        with.filter_map(|given| op.inputs.iter().flat_map(TensorSpec::names).find(|name| name == given)).collect();
    case.flags = options::own_flags(op, matches);
    op.usage(&case.flags)?;
    case.complete(op);
    if let Some((letter, _)) = axes.iter().find(|(letter, _)| !case.given(op).any(|spec| spec.has_axis(letter))) {
        let of = op.inputs.iter().filter(|spec| spec.has_axis(letter)).map(|spec| spec.name);
        let text = format!("axis {letter} belongs to tensors that are not written, {}; add --with", report::names(of));
        return Err(Error::Usage(format!("{}: --shape: {text}", op.name)));
    }
    let bytes = size(op, &case)?;
    check_fit(op, &case)?;
    if is_dash(path) {
        report::check_stream(op.name, "output")?;
    }
    io::write_check(path)?;

    let ui = Ui::new(args::is_on(matches, "quiet"));
    let what = format!("drawing {}", report::bytes(bytes));
    let tensors = ui.watched(&what, &|| None, || random::given(op, &case))?;
    let lengths: Vec<_> =
        op.axes.iter().filter_map(|(letter, _)| Some(format!("{letter}={}", case.axis(op, letter)?))).collect();
    let metadata: BTreeMap<_, _> = [
        ("operator", op.name.to_owned()),
        ("sample", lengths.join(",")),
        ("seed", case.seed.to_string()),
        ("layout", op.layout_name(layout).to_owned()),
        ("dtype", dtype.to_string()),
        ("version", concat!("subquad ", env!("CARGO_PKG_VERSION")).to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    io::write(path, &tensors, &metadata)?;

    if !is_dash(path) && !args::is_on(matches, "quiet") {
        let lines: String = tensors
            .iter()
            .map(|(name, tensor)| {
                format!("{name:<10} {} {} -> {}\n", tensor.dtype(), tensor.shape(), report::path(path))
            })
            .collect();
        report::stdout(&lines)?;
    }
    Ok(Outcome::Done)
}

/// The axes of lengths that are given without letters: those of the operator's first input.
fn positional(op: &Op) -> Vec<&'static str> {
    op.inputs.first().map_or_else(Vec::new, |spec| spec.axes.split(' ').collect())
}

/// `B=1,N=512` or `1,8,512,64`.
fn axes(op: &Op, text: &str) -> Result<Vec<(&'static str, usize)>, Error> {
    let refuse = |expected: String, found: &str| {
        Err(Error::Usage(format!("{}: --shape: expected {expected}, found `{found}`", op.name)))
    };
    let order = positional(op);
    let entries: Vec<_> = text.split(',').map(str::trim).filter(|_| !text.is_empty()).collect();
    let plain = entries.iter().filter(|entry| !entry.contains('=')).count();
    if plain != 0 && (plain != entries.len() || plain != order.len()) {
        return refuse(format!("{} lengths {} or lengths by letter", order.len(), order.join(",")), text);
    }
    let mut axes: Vec<(&'static str, usize)> = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let (letter, length) = match entry.split_once('=') {
            Some((letter, length)) => (letter.trim(), length.trim()),
            None => (order.get(at).copied().unwrap_or(""), *entry),
        };
        let Some((letter, _)) = op.axes.iter().find(|(known, _)| *known == letter) else {
            let known: Vec<_> = op.axes.iter().map(|(known, _)| *known).collect();
            return refuse(format!("axis letters among {}", known.join(", ")), letter);
        };
        if axes.iter().any(|(known, _)| known == letter) {
            return refuse(format!("axis {letter} once"), text);
        }
        match length.parse() {
            Ok(length) if length > 0 => axes.push((*letter, length)),
            _ => return refuse(format!("a length of 1 or more for axis {letter}"), length),
        }
    }
    Ok(axes)
}

/// Refuses a shape that no form of the operator accepts, as a usage error, since the command line alone determines it.
fn check_fit(op: &Op, case: &Case) -> Result<(), Error> {
    let error = match case.configure(op) {
        // A flag of `run` can make a shape valid that the default setting refuses.
        Ok(_) | Err(Error::Setting { .. }) => return Ok(()),
        Err(error) => error,
    };
    // Some shapes, for example more keys than queries, fit only the non-causal form.
    if op.causal == Causality::Both && case.clone().flag("causal", "false").configure(op).is_ok() {
        return Ok(());
    }
    Err(Error::Usage(format!("--shape: {error}")))
}

/// Bytes of all tensors. Refuses tensors that do not fit into memory, before allocating them.
fn size(op: &Op, case: &Case) -> Result<u64, Error> {
    let mut total = 0u64;
    for spec in case.given(op) {
        let Some(shape) = case.shape(op, spec) else { continue };
        // Values are drawn as f32 for either storage type.
        let bytes = shape.checked_count().and_then(|count| count.checked_mul(4));
        let sum = bytes
            .and_then(|bytes| total.checked_add(bytes))
            .filter(|sum| usize::try_from(*sum).is_ok_and(|sum| Vec::<u8>::new().try_reserve_exact(sum).is_ok()));
        let Some(sum) = sum else {
            let text = format!("{}: --shape: tensor `{}` {shape} does not fit into memory", op.name, spec.name);
            return Err(Error::Usage(text));
        };
        total = sum;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::linear::OP;

    #[test]
    fn shapes_are_read_by_letter_or_by_place() {
        assert_eq!(axes(&OP, ""), Ok(vec![]));
        assert_eq!(axes(&OP, "N=5, B=2"), Ok(vec![("N", 5), ("B", 2)]));
        assert_eq!(axes(&OP, "1,8,1024,64"), Ok(vec![("B", 1), ("H", 8), ("N", 1024), ("D", 64)]));
        for (text, found) in [
            ("1,8", "expected 4 lengths B,H,N,D or lengths by letter, found `1,8`"),
            ("1,8,N=4,2", "found `1,8,N=4,2`"),
            ("Q=1", "expected axis letters among B, H, G, N, M, D, E, V, F, seqs, found `Q`"),
            ("N=0", "expected a length of 1 or more for axis N, found `0`"),
            ("N=-1", "found `-1`"),
            ("N=1,N=2", "expected axis N once"),
            ("N=", "found ``"),
            (",", "expected 4 lengths"),
        ] {
            let refused = axes(&OP, text).map_err(|error| error.to_string());
            assert!(refused.as_ref().is_err_and(|error| error.contains(found)), "{text}: {refused:?}");
        }
    }
}
