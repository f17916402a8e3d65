//! Named shapes of attention with the Yat kernel.

use crate::catalog::case::Case;
use crate::tensor::{DType, Layout};

/// Random vectors of few dimensions are often near each other. Their scores are close to `1 / epsilon`, where the
/// formula itself has its largest error. The cases with small D check that the kernels have no such error.
pub(super) fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    for n in [1, 63, 64, 65, 257, 2000] {
        list.push(Case::new(format!("length_{n}"), &[("H", 1), ("N", n), ("D", 24), ("E", 20)]));
    }
    let all_four = |case: Case| {
        [("spherical", "kernel"), ("spherical", "softmax"), ("euclidean", "kernel"), ("euclidean", "softmax")].map(
            |(kernel, norm)| {
                let name = format!("{}_{kernel}_{norm}", case.name);
                Case { name, ..case.clone() }.flag("kernel", kernel).flag("norm", norm)
            },
        )
    };
    for (d, e) in [(1, 1), (3, 5), (7, 40)] {
        list.extend(all_four(Case::new(format!("dims_{d}_{e}"), &[("H", 1), ("N", 70), ("D", d), ("E", e)])));
    }
    for (d, e) in [(40, 64), (80, 100), (128, 128), (70, 300)] {
        // The wider tiles take seconds to compile on a software adapter.
        list.push(Case::new(format!("dims_{d}_{e}"), &[("H", 1), ("N", 70), ("D", d), ("E", e)]).slow());
    }
    let open = |case: Case| case.flag("causal", "false");
    list.extend(all_four(Case::new("causal", &[("H", 2), ("N", 130), ("D", 24), ("E", 20)])));
    list.extend(all_four(open(Case::new("open_cross", &[("H", 1), ("N", 37), ("M", 300), ("D", 24), ("E", 20)]))));
    // The last query is aligned with the last key, so later queries see more keys. If there are more queries than keys,
    // the first queries see none and give zeros.
    list.push(Case::new("cache", &[("H", 1), ("N", 70), ("M", 200), ("D", 24), ("E", 20)]));
    list.extend(all_four(Case::new(
        "more_queries_than_keys",
        &[("H", 1), ("N", 150), ("M", 40), ("D", 24), ("E", 20)],
    )));
    let grouped = &[("B", 2), ("H", 6), ("G", 2), ("N", 70), ("D", 24), ("E", 20)];
    list.push(Case::new("grouped", grouped));
    list.push(Case::new("grouped_bnhd", grouped).layout(Layout::Bnhd));
    list.push(Case::new("grouped_f16", grouped).dtype(DType::F16));
    list.push(Case::new("one_key_head", &[("H", 71), ("G", 1), ("N", 5), ("M", 40), ("D", 8)]));
    let settings = &[("H", 1), ("N", 40), ("D", 8)];
    list.push(Case::new("epsilon", settings).flag("epsilon", "0.5"));
    list.push(Case::new("epsilon_small", settings).flag("epsilon", "1e-6"));
    list.push(Case::new("norm_eps", settings).flag("norm-eps", "3"));
    list.push(Case::new("norm_eps_0", &[("H", 1), ("N", 40), ("M", 30), ("D", 8)]).flag("norm-eps", "0"));
    // Few queries and a long cache: the split-K form.
    let decode = [("B", 2), ("H", 6), ("G", 2), ("N", 1), ("M", 700), ("D", 24), ("E", 20)];
    list.extend(all_four(Case::new("decode", &decode)));
    list.push(Case::new("decode_bnhd", &decode).layout(Layout::Bnhd));
    list.push(Case::new("decode_f16", &decode).dtype(DType::F16));
    list.push(Case::new("few_queries", &[("H", 2), ("G", 1), ("N", 7), ("M", 500), ("D", 17), ("E", 9)]));
    list.push(Case::new("some_queries_long_cache", &[("H", 1), ("N", 20), ("M", 700), ("D", 17), ("E", 70)]));
    list.push(Case::new("few_queries_few_keys", &[("H", 1), ("N", 8), ("M", 3), ("D", 8)]));
    let batch = [("B", 3), ("H", 4), ("G", 2), ("N", 70), ("M", 200), ("D", 24), ("E", 20)];
    list.push(Case::new("start", &batch).flag("align", "start"));
    list.push(Case::new("start_more_queries", &[("H", 1), ("N", 90), ("M", 40), ("D", 24)]).flag("align", "start"));
    list.push(Case::new("lengths", &batch).with("lengths"));
    let few = [("B", 3), ("H", 4), ("G", 2), ("N", 3), ("M", 300), ("D", 24), ("E", 20)];
    list.push(open(Case::new("lengths_few_queries", &few).with("lengths")).flag("norm", "softmax"));
    let packed = [("H", 4), ("G", 2), ("N", 200), ("D", 24), ("E", 20), ("seqs", 5)];
    list.push(Case::new("sequences", &packed).with("cu_seqlens"));
    list.push(open(Case::new("sequences_open_f16", &packed).with("cu_seqlens")).dtype(DType::F16));
    list
}
