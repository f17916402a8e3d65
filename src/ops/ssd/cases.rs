//! Named shapes of Mamba-2's recurrence.

use crate::catalog::case::Case;
use crate::tensor::DType;

/// Lengths that are multiples of the tiles, and lengths next to them.
const LENGTHS: [usize; 6] = [1, 63, 64, 65, 257, 2000];

pub(super) fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    for n in LENGTHS {
        list.push(Case::new(format!("length_{n}"), &[("H", 2), ("N", n), ("P", 20), ("S", 24)]).with("a"));
    }
    for (p, s) in [(1, 1), (5, 3), (16, 16), (64, 128), (70, 33), (64, 256)] {
        let case = Case::new(format!("dims_{p}_{s}"), &[("H", 1), ("N", 65), ("P", p), ("S", s)]).with("a");
        // The widest ones take seconds to compile on a software adapter.
        list.push(if s > 100 { case.slow() } else { case });
    }
    let grouped = [("B", 2), ("H", 6), ("G", 2), ("N", 130), ("P", 12), ("S", 20)];
    let all = |name: &str| Case::new(name, &grouped).with("a_log").with("d").with("z").with("dt_bias");
    list.push(Case::new("grouped", &grouped).with("a"));
    list.push(all("all"));
    list.push(all("all_carried").carry());
    list.push(all("all_segments").carry().flag("segment", "48"));
    list.push(all("all_f16").dtype(DType::F16));
    list.push(Case::new("skip", &grouped).with("a").with("d").carry());
    list.push(Case::new("gate", &grouped).with("a_log").with("z"));
    list.push(Case::new("bias", &grouped).with("a").with("dt_bias").flag("segment", "32"));
    // Negative steps let the state grow, so the sequence is short.
    let few = [("H", 4), ("G", 2), ("N", 12), ("P", 12), ("S", 20)];
    list.push(Case::new("plain_steps", &few).with("a").flag("dt-softplus", "false"));
    list.push(Case::new("wide", &[("H", 2), ("N", 100), ("P", 100), ("S", 40)]).with("a").with("z").carry());
    list.push(Case::new("two_passes", &[("H", 1), ("N", 3000), ("P", 16), ("S", 16)]).with("a").with("d"));
    let one = [("B", 2), ("H", 6), ("G", 2), ("N", 1), ("P", 12), ("S", 20)];
    let decode = |name: &str| Case::new(name, &one).with("a").carry().flag("decode", "true");
    list.push(decode("decode"));
    list.push(decode("decode_all").with("d").with("z").with("dt_bias"));
    list.push(decode("decode_f16").with("d").with("z").dtype(DType::F16));
    let few = [("B", 2), ("H", 6), ("G", 2), ("N", 7), ("P", 12), ("S", 20)];
    let few = |name: &str| Case::new(name, &few).with("a_log").with("d").with("z").with("dt_bias").carry();
    list.push(few("few"));
    list.push(few("few_f16").dtype(DType::F16));
    list.push(few("few_exchanged").flag("state-layout", "ed"));
    list.extend(forms());
    list.extend(convolved());
    list
}

/// Cases of one token with its convolution.
fn convolved() -> Vec<Case> {
    let one = |name: &str, width, [b, h, p, g, s]: [usize; 5]| {
        let axes = [("B", b), ("H", h), ("N", 1), ("P", p), ("G", g), ("S", s), ("W", width), ("C", h * p + 2 * g * s)];
        Case::new(name, &axes).with("conv_weight").carry().flag("decode", "true")
    };
    let few = [2, 6, 12, 2, 20];
    let all = |case: Case| case.with("a_log").with("d").with("z").with("dt_bias").with("conv_bias");
    vec![
        one("conv", 4, few).with("a"),
        all(one("conv_all", 4, few)),
        all(one("conv_f16", 4, few).dtype(DType::F16)),
        all(one("conv_exchanged", 3, few).flag("state-layout", "ed")),
        one("conv_2", 2, [3, 5, 7, 1, 9]).with("a").with("d.P").flag("conv-activation", "none"),
        all(one("conv_1", 1, few)),
        one("conv_many", 4, [1, 24, 64, 1, 128]).with("a").with("conv_bias").slow(),
    ]
}

/// Cases of what more models ask.
fn forms() -> Vec<Case> {
    let axes = [("H", 6), ("G", 2), ("N", 130), ("P", 12), ("S", 20), ("seqs", 5)];
    let batch = [("B", 2), ("H", 6), ("G", 2), ("N", 70), ("P", 12), ("S", 20)];
    let one = [("B", 2), ("H", 6), ("G", 2), ("N", 1), ("P", 12), ("S", 20)];
    let plain = |name: &str, axes: &[(&'static str, usize)]| {
        Case::new(name, axes).with("a_log").with("d").with("z").with("dt_bias")
    };
    let limited = |case: Case| case.flag("dt-min", "0.009").flag("dt-max", "0.02").flag("dt-offset", "0.001");
    vec![
        plain("packed", &axes).with("cu_seqlens").carry(),
        plain("packed_f16", &axes).with("cu_seqlens").dtype(DType::F16),
        plain("packed_segments", &axes).with("cu_seqlens").carry().flag("segment", "16"),
        plain("packed_empty", &[("H", 2), ("N", 9), ("P", 4), ("S", 4), ("seqs", 30)]).with("cu_seqlens").carry(),
        plain("packed_both", &axes).with("cu_seqlens").flag("direction", "both"),
        plain("backward", &batch).flag("direction", "backward"),
        plain("both_f16", &batch).flag("direction", "both").dtype(DType::F16),
        plain("exchanged", &batch).carry().flag("state-layout", "ed"),
        plain("exchanged_decode", &one).carry().flag("decode", "true").flag("state-layout", "ed"),
        plain("exchanged_packed", &axes).with("cu_seqlens").carry().flag("state-layout", "ed"),
        plain("skip_per_channel", &batch).with("d.P").carry(),
        plain("skip_per_channel_f16", &batch).with("d.P").dtype(DType::F16),
        limited(plain("limited", &batch).carry()),
        limited(plain("limited_decode", &one).carry().flag("decode", "true")),
        Case::new("offset", &batch).with("a").flag("dt-offset", "0.5").flag("dt-max", "1"),
    ]
}
