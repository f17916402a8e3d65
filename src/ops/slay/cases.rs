//! Named shapes of SLAY.

use crate::catalog::case::Case;
use crate::tensor::{DType, Layout};

/// Lengths that are multiples of the tiles, and lengths next to them.
const LENGTHS: [usize; 6] = [1, 63, 64, 65, 257, 2000];

/// Sets the numbers of nodes, anchors and features of a case.
fn sized(case: Case, [nodes, anchors, features]: [&str; 3]) -> Case {
    case.flag("nodes", nodes).flag("anchors", anchors).flag("features", features)
}

pub(super) fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    for n in LENGTHS {
        list.push(Case::new(format!("length_{n}"), &[("H", 2), ("N", n), ("D", 24), ("E", 20)]));
    }
    for (m, sizes) in [
        (6, ["2", "3", "1"]),
        (64, ["2", "8", "4"]),
        (105, ["3", "5", "7"]),
        (1024, ["2", "32", "16"]),
        (2048, ["2", "32", "32"]),
    ] {
        let case = sized(Case::new(format!("width_{m}"), &[("H", 1), ("N", 130), ("D", 24), ("E", 20)]), sizes);
        // The widest ones are slow on a software adapter.
        list.push(if m > 1000 { case.slow() } else { case });
    }
    for (d, e) in [(1, 1), (3, 5), (64, 64), (300, 17)] {
        let case = Case::new(format!("dims_{d}_{e}"), &[("H", 1), ("N", 65), ("D", d), ("E", e)]);
        list.push(if d > 24 { case.slow() } else { case });
    }
    list.push(sized(Case::new("one_node", &[("H", 1), ("N", 65), ("D", 16)]), ["1", "8", "8"]));
    list.push(sized(Case::new("eight_nodes", &[("H", 1), ("N", 65), ("D", 16)]), ["8", "4", "4"]));
    list.push(Case::new("epsilon", &[("H", 1), ("N", 40), ("D", 8)]).flag("epsilon", "0.5").flag("norm-eps", "0.01"));
    for (d, features) in [(8, "4"), (16, "2"), (32, "16")] {
        let case = Case::new(format!("exact_{d}"), &[("H", 1), ("N", 70), ("D", d), ("E", 20)])
            .flag("poly", "exact")
            .flag("features", features);
        list.push(if d > 24 { case.slow() } else { case });
    }
    // Signed features need a large `norm-eps`, so that denominators are not close to zero.
    for (poly, norm_eps) in [("maclaurin", "100"), ("tensorsketch", "100"), ("laplace", "1e-6"), ("hadamard", "1e-6")] {
        let axes = [("H", 4), ("G", 2), ("N", 65), ("D", 10), ("E", 12)];
        list.push(Case::new(poly, &axes).flag("poly", poly).flag("norm-eps", norm_eps).carry());
    }
    let grouped = &[("B", 2), ("H", 6), ("G", 2), ("N", 70), ("D", 24), ("E", 20)];
    list.push(Case::new("grouped", grouped));
    list.push(Case::new("grouped_bnhd", grouped).layout(Layout::Bnhd));
    list.push(Case::new("grouped_f16", grouped).dtype(DType::F16));
    let cross = [("H", 4), ("G", 2), ("N", 37), ("M", 300), ("D", 24), ("E", 20)];
    list.push(Case::new("cross", &cross).flag("causal", "false"));
    list.push(Case::new("cross_bnhd", &cross).flag("causal", "false").layout(Layout::Bnhd));
    list.push(
        Case::new("cross_exact", &[("H", 1), ("N", 90), ("M", 37), ("D", 8), ("E", 100)])
            .flag("causal", "false")
            .flag("poly", "exact")
            .flag("segment", "32"),
    );
    let carried = &[("H", 4), ("G", 2), ("N", 200), ("D", 24), ("E", 20)];
    list.push(Case::new("carried", carried).carry());
    list.push(Case::new("segments", carried).carry().flag("segment", "48"));
    list.push(Case::new("segments_bnhd", carried).flag("segment", "48").layout(Layout::Bnhd));
    list.push(Case::new("segments_of_one", &[("H", 1), ("N", 9), ("D", 8)]).flag("segment", "1"));
    let exact = Case::new("carried_exact", &[("H", 2), ("N", 100), ("D", 10), ("E", 12)]).carry();
    list.push(exact.flag("poly", "exact").flag("segment", "48"));
    let decode = [("B", 2), ("H", 4), ("G", 2), ("N", 1), ("D", 24), ("E", 20)];
    list.push(Case::new("decode", &decode).carry().flag("decode", "true"));
    list.push(Case::new("decode_exact", &decode).carry().flag("decode", "true").flag("poly", "exact"));
    list.push(Case::new("wide_values", &[("H", 1), ("N", 100), ("D", 24), ("E", 100)]));
    let odd = [("H", 4), ("G", 2), ("N", 70), ("D", 24), ("E", 20), ("R", 3), ("P", 5), ("F", 7)];
    list.push(sized(Case::new("given_both", &odd), ["3", "5", "7"]).with("anchors").with("omega"));
    list.push(Case::new("given_anchors", &odd).with("anchors"));
    list.push(Case::new("given_omega", &odd).with("omega"));
    list.extend(forms());
    list
}

/// Cases of what more models ask.
fn forms() -> Vec<Case> {
    let axes = &[("H", 4), ("G", 2), ("N", 90), ("D", 8), ("E", 6), ("seqs", 5)];
    let values = &[("B", 2), ("H", 2), ("V", 6), ("N", 40), ("D", 8), ("E", 6)];
    vec![
        Case::new("packed", axes).with("cu_seqlens").carry(),
        Case::new("packed_bnhd", axes).with("cu_seqlens").layout(Layout::Bnhd).flag("poly", "exact"),
        Case::new("packed_segments", axes).with("cu_seqlens").carry().flag("segment", "16"),
        Case::new("packed_empty", &[("H", 2), ("N", 9), ("D", 8), ("seqs", 30)]).with("cu_seqlens").carry(),
        Case::new("packed_both", axes).with("cu_seqlens").flag("direction", "both"),
        // The rows of the state are split over several dispatches.
        Case::new("packed_exact", &[("H", 2), ("N", 60), ("D", 24), ("E", 6), ("seqs", 5)])
            .with("cu_seqlens")
            .flag("direction", "both")
            .flag("poly", "exact"),
        Case::new("backward", axes).flag("direction", "backward").layout(Layout::Bnhd),
        Case::new("both_f16", values).flag("direction", "both").dtype(DType::F16),
        Case::new("value_heads", values).carry(),
        Case::new("value_heads_bnhd", values).layout(Layout::Bnhd).flag("poly", "nystrom").host(),
        Case::new("value_heads_cross", &[("H", 2), ("V", 4), ("N", 9), ("M", 30), ("D", 8)]).flag("causal", "false"),
        Case::new("value_heads_decode", &[("H", 2), ("V", 6), ("N", 1), ("D", 8)]).carry().flag("decode", "true"),
    ]
}
