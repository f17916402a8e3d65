//! Named shapes of Linformer.

use crate::catalog::case::Case;
use crate::tensor::{DType, Layout};

pub(super) fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    // No projection is given, so e is drawn. The ranks and lengths include multiples of the tiles and other numbers.
    for (n, rank) in [(1, "1"), (63, "63"), (64, "17"), (65, "64"), (257, "65"), (2000, "130")] {
        let case = Case::new(format!("length_{n}_rank_{rank}"), &[("H", 2), ("N", n), ("D", 24), ("E", 20)]);
        list.push(case.flag("rank", rank));
    }
    list.push(Case::new("rank_1024", &[("H", 1), ("N", 70), ("M", 1100), ("D", 16)]).flag("rank", "1024"));
    for (d, e) in [(1, 1), (7, 40), (40, 64), (80, 100), (128, 128), (256, 256)] {
        let case = Case::new(format!("dims_{d}_{e}"), &[("H", 1), ("N", 70), ("D", d), ("E", e)]).flag("rank", "33");
        // The wider tiles take seconds to compile on a software adapter.
        list.push(if e > 40 { case.slow() } else { case });
    }
    let given = [("H", 4), ("N", 100), ("M", 90), ("D", 24), ("E", 20), ("K", 40)];
    list.push(Case::new("given", &given).with("e"));
    list.push(Case::new("given_both", &given).with("e").with("f"));
    // Only f is given: e is drawn with the same rank.
    list.push(Case::new("given_f", &given).with("f"));
    let own = [("B", 2), ("H", 4), ("G", 2), ("N", 50), ("M", 90), ("D", 24), ("E", 20), ("K", 40), ("1|H", 4)];
    list.push(Case::new("per_head", &own).with("e"));
    list.push(Case::new("per_head_both", &own).with("e").with("f"));
    list.push(Case::new("per_head_bnhd", &own).with("e").layout(Layout::Bnhd));
    let grouped = &[("B", 2), ("H", 6), ("G", 2), ("N", 70), ("D", 24), ("E", 20)];
    list.push(Case::new("grouped", grouped).flag("rank", "30"));
    list.push(Case::new("grouped_bnhd", grouped).flag("rank", "30").layout(Layout::Bnhd));
    list.push(Case::new("grouped_f16", grouped).flag("rank", "30").dtype(DType::F16));
    // Long enough that tokens are split on any adapter.
    let long = [("H", 1), ("N", 40), ("M", 2000), ("D", 24), ("E", 20)];
    list.push(Case::new("split", &long).flag("rank", "20"));
    list.push(Case::new("split_f16", &long).flag("rank", "20").dtype(DType::F16));
    list.push(Case::new("scale", &long).flag("rank", "20").flag("scale", "2"));
    for pool in ["mean", "max"] {
        let pooled = |name: &str, axes: &[(&'static str, usize)], rank| {
            Case::new(format!("{pool}_{name}"), axes).flag("pool", pool).flag("rank", rank)
        };
        list.push(pooled("even", &[("H", 2), ("N", 64), ("D", 24), ("E", 20)], "16"));
        list.push(pooled("odd", grouped, "33"));
        list.push(pooled("odd_bnhd", grouped, "33").layout(Layout::Bnhd));
        list.push(pooled("all", &long, "2000"));
        list.push(pooled("split", &long, "3"));
        list.push(pooled("one", &long, "1").dtype(DType::F16));
    }
    list
}
