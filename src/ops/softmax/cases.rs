//! Named shapes of softmax attention.

use crate::catalog::case::Case;
use crate::tensor::{DType, Layout};

pub(super) fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    for n in [1, 63, 64, 65, 257, 2000] {
        list.push(Case::new(format!("length_{n}"), &[("H", 1), ("N", n), ("D", 24), ("E", 20)]));
    }
    for (d, e) in [(1, 1), (3, 5), (7, 40), (40, 64), (64, 33), (80, 100), (100, 72), (128, 128), (256, 256), (70, 300)]
    {
        let case = Case::new(format!("dims_{d}_{e}"), &[("H", 1), ("N", 70), ("D", d), ("E", e)]);
        // The wider tiles take seconds to compile on a software adapter.
        list.push(if e > 40 { case.slow() } else { case });
    }
    let open = |case: Case| case.flag("causal", "false");
    list.push(open(Case::new("open", &[("H", 2), ("N", 130), ("D", 24), ("E", 20)])));
    list.push(open(Case::new("open_cross", &[("H", 1), ("N", 37), ("M", 300), ("D", 24), ("E", 20)])));
    // The last query is aligned with the last key, so later queries see more keys. If there are more queries than keys,
    // the first queries see none and give zeros.
    list.push(Case::new("cache", &[("H", 1), ("N", 70), ("M", 200), ("D", 24), ("E", 20)]));
    list.push(Case::new("more_queries_than_keys", &[("H", 1), ("N", 150), ("M", 40), ("D", 24), ("E", 20)]));
    for (name, window) in [("window_1", "1"), ("window_50", "50"), ("window_all", "5000")] {
        list.push(Case::new(name, &[("H", 2), ("N", 200), ("D", 16)]).flag("window", window));
    }
    list.push(Case::new("window_cache", &[("H", 1), ("N", 90), ("M", 300), ("D", 16)]).flag("window", "70"));
    list.push(Case::new("window_few_keys", &[("H", 1), ("N", 90), ("M", 50), ("D", 16)]).flag("window", "20"));
    let grouped = &[("B", 2), ("H", 6), ("G", 2), ("N", 70), ("D", 24), ("E", 20)];
    list.push(Case::new("grouped", grouped));
    list.push(Case::new("grouped_bnhd", grouped).layout(Layout::Bnhd));
    list.push(Case::new("grouped_f16", grouped).dtype(DType::F16));
    list.push(Case::new("one_key_head", &[("H", 71), ("G", 1), ("N", 5), ("M", 40), ("D", 8)]));
    list.push(Case::new("scale", &[("H", 1), ("N", 40), ("D", 8)]).flag("scale", "0.7"));
    list.push(Case::new("scale_negative", &[("H", 1), ("N", 40), ("D", 8)]).flag("scale", "-2"));
    // Few queries and a long cache: the split-K form.
    let decode = [("B", 2), ("H", 6), ("G", 2), ("N", 1), ("M", 700), ("D", 24), ("E", 20)];
    list.push(Case::new("decode", &decode));
    list.push(Case::new("decode_bnhd", &decode).layout(Layout::Bnhd));
    list.push(Case::new("decode_f16", &decode).dtype(DType::F16));
    list.push(Case::new("decode_one_head", &[("H", 1), ("N", 1), ("M", 1000), ("D", 64), ("E", 100)]));
    list.push(Case::new("decode_window", &[("H", 2), ("N", 1), ("M", 1000), ("D", 16)]).flag("window", "300"));
    list.push(Case::new("few_queries", &[("H", 2), ("G", 1), ("N", 7), ("M", 500), ("D", 17), ("E", 9)]));
    list.push(Case::new("some_queries_long_cache", &[("H", 1), ("N", 20), ("M", 700), ("D", 17), ("E", 70)]));
    list.push(Case::new("few_queries_few_keys", &[("H", 1), ("N", 8), ("M", 3), ("D", 8)]));
    list
}
