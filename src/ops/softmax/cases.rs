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
    list.extend(pairs());
    list.extend(rows());
    list.extend(alignments());
    list
}

/// Cases in which single pairs have a bias or a mask.
fn pairs() -> Vec<Case> {
    let square = [("B", 2), ("H", 4), ("G", 2), ("N", 70), ("D", 24), ("E", 20)];
    let cross = [("B", 2), ("H", 4), ("G", 2), ("N", 37), ("M", 300), ("D", 24), ("E", 20)];
    let few = [("B", 2), ("H", 4), ("G", 2), ("N", 3), ("M", 300), ("D", 24), ("E", 20)];
    let own = |mut case: Case, batch: usize, heads: usize| {
        case.axes.extend([("1|B", batch), ("1|H", heads)]);
        case
    };
    let open = |case: Case| case.flag("causal", "false");
    let both = |name: &str, axes: &[(&'static str, usize)]| Case::new(name, axes).with("bias").with("mask");
    vec![
        open(Case::new("bias", &square).with("bias")),
        Case::new("bias_causal", &square).with("bias"),
        own(Case::new("bias_per_head", &square).with("bias"), 1, 4),
        open(own(Case::new("bias_per_batch", &cross).with("bias"), 2, 1)),
        open(Case::new("mask", &square).with("mask")),
        own(Case::new("mask_causal", &cross).with("mask"), 2, 4),
        own(both("bias_and_mask", &square), 2, 4),
        both("bias_and_mask_bnhd", &square).layout(Layout::Bnhd),
        both("bias_and_mask_window", &cross).flag("window", "70"),
        both("bias_and_mask_f16", &square).dtype(DType::F16),
        Case::new("bias_few_queries", &few).with("bias"),
        own(both("bias_and_mask_few_queries", &few), 2, 4),
        open(own(Case::new("mask_few_queries_f16", &few).with("mask"), 2, 1)).dtype(DType::F16),
    ]
}

/// Cases in which rows have sinks, caps, or an output of the logarithm of their sum.
fn rows() -> Vec<Case> {
    let square = [("H", 4), ("G", 2), ("N", 70), ("D", 24), ("E", 20)];
    let few = [("B", 2), ("H", 4), ("G", 2), ("N", 3), ("M", 300), ("D", 24), ("E", 20)];
    let late = [("H", 2), ("N", 90), ("M", 40), ("D", 24), ("E", 20)];
    let cap = |case: Case| case.flag("softcap", "1.5");
    let lse = |case: Case| case.flag("lse", "true");
    let every = |name: &str, axes: &[(&'static str, usize)]| {
        lse(cap(Case::new(name, axes).with("bias").with("mask").with("sink")))
    };
    vec![
        Case::new("sink", &square).with("sink"),
        Case::new("sink_few_queries", &few).with("sink"),
        Case::new("sink_window", &square).with("sink").flag("window", "20"),
        Case::new("sink_no_keys", &late).with("sink"),
        cap(Case::new("softcap", &square)),
        cap(Case::new("softcap_few_queries", &few)),
        Case::new("softcap_large_scores", &square).flag("scale", "30").flag("softcap", "50"),
        cap(Case::new("softcap_sink_window_f16", &square).with("sink").flag("window", "20")).dtype(DType::F16),
        lse(Case::new("lse", &square)),
        lse(Case::new("lse_few_queries", &few)),
        lse(Case::new("lse_no_keys", &late)),
        lse(Case::new("lse_wide", &[("H", 1), ("N", 70), ("D", 16), ("E", 300)])),
        lse(Case::new("lse_sink_bnhd_f16", &square).with("sink")).layout(Layout::Bnhd).dtype(DType::F16),
        every("every_extra", &square),
        every("every_extra_few_queries", &few),
        // One binding more than a device has: the two dispatches of split-K share them.
        every("every_extra_and_lengths", &few).with("lengths"),
        every("every_extra_and_sequences", &square).with("cu_seqlens"),
    ]
}

/// Cases with other alignments, key counts and packed sequences.
fn alignments() -> Vec<Case> {
    let cache = [("H", 1), ("N", 70), ("M", 200), ("D", 24), ("E", 20)];
    let late = [("H", 1), ("N", 150), ("M", 40), ("D", 24), ("E", 20)];
    let few = [("B", 3), ("H", 4), ("G", 2), ("N", 3), ("M", 300), ("D", 24), ("E", 20)];
    let batch = [("B", 3), ("H", 4), ("G", 2), ("N", 70), ("M", 200), ("D", 24), ("E", 20)];
    let packed = [("H", 4), ("G", 2), ("N", 200), ("D", 24), ("E", 20), ("seqs", 5)];
    let start = |case: Case| case.flag("align", "start");
    let open = |case: Case| case.flag("causal", "false");
    vec![
        start(Case::new("start", &cache)),
        start(Case::new("start_more_queries", &late)),
        start(Case::new("start_window", &late)).flag("window", "30"),
        start(Case::new("start_few_queries", &few)),
        Case::new("lengths", &batch).with("lengths"),
        open(Case::new("lengths_open", &batch).with("lengths")),
        start(Case::new("lengths_start", &batch).with("lengths")),
        Case::new("lengths_window_f16", &batch).with("lengths").flag("window", "50").dtype(DType::F16),
        Case::new("lengths_few_queries", &few).with("lengths"),
        Case::new("sequences", &packed).with("cu_seqlens"),
        open(Case::new("sequences_open", &packed).with("cu_seqlens")),
        Case::new("sequences_window", &packed).with("cu_seqlens").flag("window", "7"),
        Case::new("sequences_mask_bnhd", &packed).with("cu_seqlens").with("mask").layout(Layout::Bnhd),
        Case::new("sequences_few_tokens", &[("H", 2), ("N", 8), ("D", 24), ("seqs", 3)]).with("cu_seqlens"),
        Case::new("sequences_f16", &packed).with("cu_seqlens").dtype(DType::F16),
    ]
}
