//! Named shapes of multi-token attention.

use crate::catalog::case::Case;
use crate::tensor::{DType, Layout};

/// The tensors of all stages.
const ALL: [&str; 7] = ["kq_pre", "kq_post", "head_pre", "head_post", "norm", "gate_weight", "gate_bias"];

/// Gives these tensors to a case.
fn with(case: Case, tensors: &[&'static str]) -> Case {
    tensors.iter().fold(case, |case, tensor| case.with(tensor))
}

/// Sets the sizes of the convolution kernels before and after the softmax.
fn sized(mut case: Case, pre: [usize; 2], post: [usize; 2]) -> Case {
    case.axes.extend([("cq", pre[0]), ("ck", pre[1]), ("cq_post", post[0]), ("ck_post", post[1])]);
    case
}

pub(super) fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    for n in [1, 7, 63, 64, 65, 257] {
        let case = Case::new(format!("length_{n}"), &[("H", 2), ("N", n), ("D", 12), ("E", 20)]);
        list.push(with(case, &["kq_pre"]));
    }
    let small = [("H", 4), ("N", 45), ("D", 8), ("E", 12)];
    list.push(Case::new("none", &small));
    for tensor in ["kq_post", "head_pre", "head_post", "norm", "gate_weight"] {
        list.push(with(Case::new(format!("only_{tensor}"), &small), &[tensor]));
    }
    for (name, tensors) in [
        ("both_kernels", &["kq_pre", "kq_post"][..]),
        ("both_heads", &["head_pre", "head_post"]),
        ("before", &["kq_pre", "head_pre"]),
        ("after", &["kq_post", "head_post"]),
        ("crossed", &["kq_pre", "head_post"]),
        ("crossed_back", &["head_pre", "kq_post"]),
        ("all", &ALL),
    ] {
        list.push(with(Case::new(name, &small), tensors));
    }
    // Groups with fewer heads than H.
    let pairs = [("H", 6), ("N", 40), ("D", 8), ("E", 5), ("c", 2), ("H/c", 3)];
    list.push(with(Case::new("pairs", &pairs), &["head_post"]));
    list.push(with(Case::new("pairs_all", &pairs), &ALL));
    for (name, pre, post) in [
        ("taps_1_1", [1, 1], [1, 1]),
        ("taps_1_31", [1, 31], [1, 3]),
        ("taps_16_1", [16, 1], [2, 1]),
        ("taps_2_9", [2, 9], [16, 31]),
        ("taps_most", [16, 31], [16, 31]),
    ] {
        let case = sized(Case::new(name, &[("H", 2), ("N", 50), ("D", 8), ("E", 12)]), pre, post);
        list.push(with(case, &["kq_pre", "kq_post"]));
    }
    list.push(with(Case::new("taps_over_length", &[("H", 2), ("N", 3), ("D", 8), ("cq", 16)]), &["kq_pre", "kq_post"]));
    let grouped = &[("B", 2), ("H", 6), ("G", 2), ("N", 70), ("D", 24), ("E", 20)];
    list.push(with(Case::new("grouped", grouped), &["kq_pre", "kq_post", "norm", "gate_weight"]));
    list.push(with(Case::new("grouped_all", grouped), &ALL));
    list.push(with(Case::new("grouped_bnhd", grouped).layout(Layout::Bnhd), &ALL));
    list.push(with(Case::new("grouped_f16", grouped).dtype(DType::F16), &ALL));
    list.push(with(Case::new("grouped_kernel_f16", grouped).dtype(DType::F16), &["kq_pre"]));
    let open = |case: Case| case.flag("causal", "false");
    list.push(with(open(Case::new("open", &small)), &ALL));
    let cross = [("H", 2), ("N", 21), ("M", 90), ("D", 8), ("E", 12)];
    list.push(with(open(Case::new("open_cross", &cross)), &["kq_pre", "kq_post"]));
    // The last query is aligned with the last key, so later queries see more keys. If there are more queries than keys,
    // the first queries see none.
    list.push(with(Case::new("cache", &cross), &ALL));
    let more = [("H", 2), ("N", 60), ("M", 20), ("D", 8), ("E", 12)];
    list.push(with(Case::new("more_queries_than_keys", &more), &["kq_pre", "kq_post", "head_pre"]));
    list.push(with(Case::new("start", &cross).flag("align", "start"), &ALL));
    list.push(with(Case::new("start_more_queries", &more).flag("align", "start"), &["kq_pre", "kq_post", "head_pre"]));
    list.push(Case::new("start_none", &cross).flag("align", "start"));
    let settings = Case::new("settings", &small).flag("scale", "0.1").flag("depth", "3");
    list.push(with(settings, &["kq_pre", "norm", "gate_weight"]));
    let wide = [("H", 2), ("N", 40), ("D", 8), ("E", 9), ("1|E", 9)];
    list.push(with(Case::new("gate_per_channel", &wide), &["head_pre", "gate_weight", "gate_bias"]));
    list.push(with(Case::new("gate_alone", &wide).dtype(DType::F16), &["gate_weight"]));
    // More heads than a workgroup mixes at once.
    let many = sized(Case::new("many_heads", &[("H", 20), ("N", 12), ("D", 4), ("E", 3)]), [2, 3], [2, 3]);
    list.push(with(many, &ALL));
    for (d, e) in [(1, 1), (40, 70), (64, 64), (100, 300)] {
        let case = with(Case::new(format!("dims_{d}_{e}"), &[("H", 2), ("N", 37), ("D", d), ("E", e)]), &["kq_pre"]);
        list.push(if e > 64 { case.slow() } else { case });
    }
    let after = [("H", 2), ("N", 20), ("M", 47), ("D", 8), ("E", 12)];
    list.push(with(Case::new("carried", &after), &ALL).carry());
    list.push(with(Case::new("carried_f16", &after), &["kq_pre", "kq_post"]).carry().dtype(DType::F16));
    list.push(with(Case::new("carried_plain", &after), &["head_pre"]).carry());
    let decode = [("B", 2), ("H", 4), ("G", 2), ("N", 1), ("M", 150), ("D", 12), ("E", 20)];
    list.push(with(Case::new("decode", &decode), &["kq_pre", "kq_post"]).carry());
    list.push(with(Case::new("decode_all", &decode), &ALL).carry());
    // Few queries and so many keys that workgroups share them.
    let long = [("H", 2), ("N", 3), ("M", 700), ("D", 12), ("E", 20)];
    list.push(with(Case::new("long_cache", &long), &["kq_pre"]));
    list.push(with(Case::new("long_cache_carried", &long), &["kq_pre", "kq_post", "norm"]).carry());
    list.push(with(open(Case::new("long_open", &long)), &["kq_post"]));
    list.push(with(Case::new("long_plain", &long), &["norm", "gate_weight"]));
    list.push(with(Case::new("long_mixed", &long), &["kq_pre", "head_pre"]));
    list.push(with(Case::new("long_all", &long), &ALL).carry());
    // The kernels of the convolutions take more room than a slice of so few dimensions.
    let most = sized(Case::new("taps_over_dims", &[("H", 2), ("N", 20), ("D", 4), ("E", 6)]), [16, 31], [1, 3]);
    list.push(with(most, &["kq_pre", "head_pre"]));
    list.push(with(Case::new("odd", &[("H", 3), ("N", 33), ("D", 3), ("E", 5)]), &["kq_pre"]));
    // There are fewer earlier rows than the convolutions reach back to.
    list.push(
        with(Case::new("decode_short", &[("H", 2), ("N", 1), ("M", 3), ("D", 8)]), &["kq_pre", "kq_post"]).carry(),
    );
    list
}
