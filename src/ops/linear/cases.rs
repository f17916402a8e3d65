//! Named shapes of linear attention.

use super::FeatureMap;
use crate::catalog::case::Case;
use crate::tensor::{DType, Layout};

/// Lengths that are multiples of the tiles, and lengths next to them.
const LENGTHS: [usize; 6] = [1, 63, 64, 65, 257, 2000];

pub(super) fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    for n in LENGTHS {
        let case = Case::new(format!("length_{n}"), &[("H", 2), ("N", n), ("D", 24), ("E", 20)]);
        list.push(case);
    }
    for (d, e) in [(1, 1), (3, 5), (16, 16), (32, 32), (64, 64), (80, 48), (100, 72), (128, 128), (256, 256)] {
        let case = Case::new(format!("dims_{d}_{e}"), &[("H", 1), ("N", 65), ("D", d), ("E", e)]);
        // The widest ones take seconds to compile on a software adapter.
        list.push(if d > 100 { case.slow() } else { case });
    }
    for map in FeatureMap::OF_ELEMENTS {
        for normalize in ["true", "false"] {
            // A signed map with a normaliser divides by sums that may be close to zero: random inputs would test the
            // condition number of the problem. A golden file covers this combination.
            if map == FeatureMap::Identity && normalize == "true" {
                continue;
            }
            let name = format!("{}_{}", map.name(), if normalize == "true" { "normalized" } else { "plain" });
            let case = Case::new(name, &[("H", 2), ("N", 129), ("D", 20), ("E", 12)])
                .flag("feature-map", map.name())
                .flag("normalize", normalize);
            // relu gives rows without any weight only at tiny shapes, and this shape is not tiny.
            list.push(case);
        }
    }
    let grouped = &[("B", 2), ("H", 6), ("G", 2), ("N", 70), ("D", 24), ("E", 20)];
    list.push(Case::new("grouped", grouped));
    list.push(Case::new("grouped_bnhd", grouped).layout(Layout::Bnhd));
    list.push(Case::new("grouped_f16", grouped).dtype(DType::F16));
    let many = [("H", 12), ("G", 1), ("N", 33), ("D", 64), ("E", 64)];
    list.push(Case::new("twelve_query_heads", &many).slow());
    list.push(Case::new("scale", &[("H", 1), ("N", 40), ("D", 8)]).flag("scale", "0.3").flag("norm-eps", "0.5"));
    list.push(Case::new("cross", &[("H", 2), ("N", 37), ("M", 300), ("D", 24), ("E", 20)]).flag("causal", "false"));
    list.push(
        Case::new("cross_bnhd", &[("H", 4), ("G", 2), ("N", 130), ("M", 65), ("D", 16), ("E", 24)])
            .flag("causal", "false")
            .layout(Layout::Bnhd),
    );
    list.push(
        Case::new("cross_wide", &[("H", 4), ("G", 2), ("N", 37), ("M", 90), ("D", 24), ("E", 100)])
            .flag("causal", "false")
            .flag("segment", "32"),
    );
    list.push(Case::new("f16", &[("H", 2), ("N", 257), ("D", 33), ("E", 31)]).dtype(DType::F16));
    let carried = &[("H", 4), ("G", 2), ("N", 200), ("D", 24), ("E", 20)];
    list.push(Case::new("carried", carried).carry());
    list.push(Case::new("carried_plain", carried).carry().flag("normalize", "false").flag("feature-map", "identity"));
    list.push(Case::new("carried_wide", &[("H", 2), ("N", 100), ("D", 40), ("E", 100)]).carry());
    list.push(Case::new("segments", carried).carry().flag("segment", "48"));
    // Every split of the columns and of the query heads reads the state, from segments or from the given state.
    let wide = &[("H", 1), ("N", 100), ("D", 24), ("E", 100)];
    list.push(Case::new("segments_wide", wide).carry().flag("segment", "48"));
    list.push(Case::new("segments_f16", wide).flag("segment", "48").dtype(DType::F16));
    let shared = |n| [("H", 24), ("G", 1), ("N", n), ("D", 64), ("E", 64)];
    list.push(Case::new("segments_shared_key_head", &shared(100)).flag("segment", "48"));
    list.push(Case::new("carried_shared_key_head", &shared(60)).carry());
    list.push(Case::new("segments_of_one", &[("H", 1), ("N", 9), ("D", 8)]).flag("segment", "1"));
    list.push(Case::new("segment_beyond_end", &[("H", 1), ("N", 9), ("D", 8)]).carry().flag("segment", "4294967296"));
    list.push(Case::new("two_passes", &[("H", 1), ("N", 3000), ("D", 16)]));
    for (name, axes) in [
        ("decode", [("B", 2), ("H", 4), ("G", 2), ("N", 1), ("D", 24), ("E", 20)]),
        ("decode_wide", [("B", 1), ("H", 3), ("G", 1), ("N", 1), ("D", 256), ("E", 200)]),
    ] {
        list.push(Case::new(name, &axes).carry().flag("decode", "true"));
    }
    list.push(
        Case::new("decode_f16", &[("H", 2), ("N", 1), ("D", 64)]).carry().flag("decode", "true").dtype(DType::F16),
    );
    maps(&mut list);
    // Log decays are drawn between 0 and about -0.1.
    let gated = |name: &str, axes: &[(&'static str, usize)]| Case::new(name, axes).flag("rule", "gated");
    let odd = &[("B", 2), ("H", 4), ("G", 2), ("N", 150), ("D", 24), ("E", 20)];
    for (name, gate) in [("head", "g"), ("channel", "g.D")] {
        let case = |what: &str, axes: &[(&'static str, usize)]| gated(&format!("gated_{name}{what}"), axes).with(gate);
        list.push(case("", odd));
        list.push(case("_bnhd", odd).layout(Layout::Bnhd));
        list.push(case("_f16", odd).dtype(DType::F16));
        list.push(case("_normalized", odd).flag("normalize", "true").flag("feature-map", "elu1"));
        list.push(case("_carried", odd).carry());
        list.push(case("_segments", odd).carry().flag("segment", "48"));
        list.push(
            case("_segments_elu1", odd)
                .carry()
                .flag("segment", "16")
                .flag("normalize", "true")
                .flag("feature-map", "elu1"),
        );
        list.push(case("_wide", &[("H", 1), ("N", 100), ("D", 40), ("E", 100)]).carry().flag("segment", "30"));
        list.push(case("_two_passes", &[("H", 1), ("N", 3000), ("D", 16)]));
        list.push(case("_one", &[("H", 1), ("N", 1), ("D", 8)]));
        let one = &[("B", 2), ("H", 4), ("G", 2), ("N", 1), ("D", 24), ("E", 20)];
        list.push(case("_decode", one).carry().flag("decode", "true"));
        list.push(
            case("_decode_elu1", one)
                .carry()
                .flag("decode", "true")
                .flag("normalize", "true")
                .flag("feature-map", "elu1"),
        );
    }
    list.extend(delta_cases());
    list.extend(form_cases());
    list.extend(few());
    list
}

/// A few tokens from a carried state.
fn few() -> Vec<Case> {
    let axes = [("B", 2), ("H", 4), ("G", 2), ("N", 7), ("D", 24), ("E", 20)];
    let case = |name: &str, rule: &str, with: &[&'static str]| {
        let case = Case::new(format!("few_{name}"), &axes).flag("rule", rule).carry();
        with.iter().copied().fold(case, Case::with)
    };
    vec![
        case("plain", "linear", &[]).flag("normalize", "false"),
        case("gated", "gated", &["g"]),
        case("gated_bnhd_f16", "gated", &["g"]).layout(Layout::Bnhd).dtype(DType::F16),
        case("gated_by_channel", "gated", &["g.D"]),
        case("delta", "delta", &["beta"]),
        case("gated_delta", "gated-delta", &["g", "beta"]).flag("l2norm", "true"),
        case("delta_bnhd_f16", "delta", &["beta"]).layout(Layout::Bnhd).dtype(DType::F16),
    ]
}

/// Cases of what more models ask.
fn form_cases() -> Vec<Case> {
    let (mut list, wide) = (Vec::new(), [("H", 1), ("N", 40), ("D", 300), ("E", 260)]);
    let axes = &[("H", 4), ("G", 2), ("N", 150), ("D", 24), ("E", 20), ("seqs", 5)];
    let values = &[("B", 2), ("H", 2), ("V", 6), ("N", 70), ("D", 12), ("E", 10)];
    let batch = &[("B", 2), ("H", 4), ("G", 2), ("N", 70), ("D", 12), ("E", 10)];
    let one = &[("B", 2), ("H", 2), ("V", 6), ("N", 1), ("D", 12), ("E", 10)];
    // Name, then flags and tensors of each rule and of the maps that treat a sequence in a way of their own.
    type Rule = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);
    let rules: [Rule; 8] = [
        ("plain", &[], &[]),
        ("gated_head", &[("rule", "gated")], &["g"]),
        ("gated_channel", &[("rule", "gated")], &["g.D"]),
        ("delta", &[("rule", "delta")], &["beta"]),
        ("delta_head", &[("rule", "gated-delta")], &["beta", "g"]),
        ("delta_channel", &[("rule", "gated-delta")], &["beta", "g.D"]),
        ("performer", &[("feature-map", "performer"), ("features", "20")], &[]),
        ("cosformer", &[("feature-map", "cosformer"), ("max-len", "60000")], &[]),
    ];
    for (rule, flags, tensors) in rules {
        let case = |what: &str, axes: &[(&'static str, usize)]| {
            let case = flags.iter().fold(Case::new(format!("{what}_{rule}"), axes), |case, (n, v)| case.flag(n, v));
            tensors.iter().fold(case, |case, name| case.with(name))
        };
        list.push(case("packed", axes).with("cu_seqlens").carry());
        list.push(case("packed_bnhd", axes).with("cu_seqlens").layout(Layout::Bnhd));
        list.push(case("packed_segments", axes).with("cu_seqlens").carry().flag("segment", "16"));
        list.push(case("packed_empty", &[("N", 9), ("H", 2), ("D", 8), ("seqs", 30)]).with("cu_seqlens").carry());
        list.push(case("backward", axes).flag("direction", "backward"));
        list.push(case("both_f16", batch).flag("direction", "both").dtype(DType::F16));
        list.push(case("packed_both", axes).with("cu_seqlens").flag("direction", "both").layout(Layout::Bnhd));
        list.push(case("value_heads", values).carry());
        list.push(case("value_heads_bnhd", values).layout(Layout::Bnhd));
        list.push(case("value_heads_decode", one).carry().flag("decode", "true"));
        list.push(case("value_heads_packed", &[("H", 2), ("V", 4), ("N", 50), ("D", 8)]).with("cu_seqlens").carry());
        list.push(case("exchanged", batch).carry().flag("state-layout", "ed"));
        list.push(case("exchanged_decode", one).carry().flag("decode", "true").flag("state-layout", "ed"));
        list.push(case("exchanged_packed", axes).with("cu_seqlens").carry().flag("state-layout", "ed"));
        list.push(case("l2norm", batch).flag("l2norm", "true").layout(Layout::Bnhd));
        list.push(case("l2norm_f16", values).flag("l2norm", "true").dtype(DType::F16));
    }
    for (rule, tensors) in [("gated", &[][..]), ("gated-delta", &["beta"])] {
        let case = |what: &str, axes: &[(&'static str, usize)]| {
            let case = Case::new(format!("{rule}_{what}"), axes).flag("rule", rule);
            tensors.iter().fold(case, |case, name| case.with(name))
        };
        let made = |what: &str, axes: &[(&'static str, usize)]| case(what, axes).with("a").with("a_log");
        list.push(made("computed", batch).carry());
        list.push(made("computed_biased", values).with("dt_bias").layout(Layout::Bnhd));
        list.push(made("computed_f16", batch).with("dt_bias").dtype(DType::F16));
        list.push(made("computed_packed", axes).with("dt_bias").with("cu_seqlens").carry());
        list.push(made("computed_decode", one).with("dt_bias").carry().flag("decode", "true"));
        // Kernels with all the buffers that they can have.
        let all = |case: Case| case.with("dt_bias").flag("l2norm", "true");
        list.push(all(made("all_packed", axes)).with("cu_seqlens").carry());
        list.push(all(made("all_packed_both", axes)).with("cu_seqlens").flag("direction", "both").dtype(DType::F16));
        list.push(all(made("all_decode", one)).carry().flag("decode", "true").flag("state-layout", "ed"));
        list.push(case("constant", batch).with("g.G").carry());
        list.push(case("constant_packed", axes).with("g.G").with("cu_seqlens").flag("direction", "both"));
        list.push(case("constant_values", values).with("g.G").layout(Layout::Bnhd).dtype(DType::F16));
    }
    for (map, setting, value) in [("performer", "features", "20"), ("cosformer", "max-len", "60000")] {
        let case = |what: &str, axes: &[(&'static str, usize)]| {
            let case = Case::new(format!("{map}_{what}"), axes).flag("feature-map", map).flag(setting, value).carry();
            case.flag("rule", "gated").with("a").with("a_log").flag("l2norm", "true")
        };
        list.push(case("all_packed", axes).with("cu_seqlens"));
        list.push(case("all_decode", one).flag("decode", "true"));
    }
    list.push(
        Case::new("l2norm_cross", &[("H", 2), ("N", 9), ("M", 30), ("D", 8)])
            .flag("causal", "false")
            .flag("l2norm", "true"),
    );
    let delta = |what: &str| Case::new(format!("delta_{what}"), values).flag("rule", "delta").with("beta");
    // beta is sigmoid of a normal number, so keys must have unit length.
    list.push(delta("sigmoid").flag("beta-sigmoid", "true").flag("l2norm", "true").carry());
    list.push(delta("one_beta").with("beta.N").carry());
    list.push(delta("one_beta_bnhd").with("beta.N").layout(Layout::Bnhd));
    list.push(
        delta("one_beta_sigmoid").with("beta.N").flag("beta-sigmoid", "true").flag("l2norm", "true").dtype(DType::F16),
    );
    list.push(
        Case::new("value_heads_cross", &[("H", 2), ("V", 4), ("N", 9), ("M", 30), ("D", 8)]).flag("causal", "false"),
    );
    list.push(Case::new("wider", &wide).carry());
    list.push(Case::new("wider_gated", &wide).flag("rule", "gated").with("g.D").carry());
    list.push(Case::new("wider_delta", &wide).flag("rule", "delta").with("beta").flag("l2norm", "true").carry());
    let widest = &[("H", 1), ("N", 20), ("D", 1024), ("E", 1024)];
    list.push(Case::new("widest_plain", widest).slow());
    // Workgroup memory holds few columns beside the log decays of so many channels.
    let channels = &[("H", 1), ("N", 20), ("D", 1024), ("E", 64)];
    list.push(Case::new("widest_gated", channels).flag("rule", "gated").with("g.D").slow());
    list.push(
        Case::new("features_1024", &[("H", 1), ("N", 40), ("D", 8)])
            .flag("feature-map", "performer")
            .flag("features", "1024"),
    );
    list
}

/// Cases of the delta rules: without a decay, with one decay per head, and with one per channel.
fn delta_cases() -> Vec<Case> {
    let mut list = Vec::new();
    let odd = &[("B", 2), ("H", 4), ("G", 2), ("N", 150), ("D", 24), ("E", 20)];
    for (name, rule, gate) in [
        ("delta", "delta", None),
        ("delta_head", "gated-delta", Some("g")),
        ("delta_channel", "gated-delta", Some("g.D")),
    ] {
        let case = |what: &str, axes: &[(&'static str, usize)]| {
            let case = Case::new(format!("{name}{what}"), axes).flag("rule", rule).with("beta");
            if let Some(gate) = gate { case.with(gate) } else { case }
        };
        list.push(case("", odd));
        list.push(case("_bnhd", odd).layout(Layout::Bnhd));
        list.push(case("_f16", odd).dtype(DType::F16));
        list.push(case("_carried", odd).carry());
        list.push(case("_segments", odd).carry().flag("segment", "37"));
        list.push(case("_scale", &[("H", 1), ("N", 40), ("D", 8)]).flag("scale", "0.3"));
        list.push(case("_wide", &[("H", 1), ("N", 100), ("D", 40), ("E", 100)]).carry());
        list.push(case("_shared_key_head", &[("H", 24), ("G", 1), ("N", 60), ("D", 64), ("E", 64)]).carry());
        list.push(case("_widest", &[("H", 1), ("N", 40), ("D", 256), ("E", 256)]).slow());
        list.push(case("_long", &[("H", 1), ("N", 3000), ("D", 16)]));
        list.push(case("_one", &[("H", 1), ("N", 1), ("D", 8)]));
        let one = &[("B", 2), ("H", 4), ("G", 2), ("N", 1), ("D", 24), ("E", 20)];
        list.push(case("_decode", one).carry().flag("decode", "true"));
        list.push(
            case("_decode_wide", &[("H", 3), ("G", 1), ("N", 1), ("D", 256), ("E", 200)])
                .carry()
                .flag("decode", "true"),
        );
    }
    list
}

/// Cases of the feature maps that are not maps of single elements.
fn maps(list: &mut Vec<Case>) {
    let small = &[("B", 2), ("H", 4), ("G", 2), ("N", 70), ("D", 10), ("E", 12), ("F", 20)];
    let one = &[("B", 2), ("H", 4), ("G", 2), ("N", 1), ("D", 10), ("E", 12)];
    for map in FeatureMap::ALL.into_iter().filter(|map| !FeatureMap::OF_ELEMENTS.contains(map)) {
        let case = |what: &str, axes: &[(&'static str, usize)]| {
            let case = Case::new(format!("{}{what}", map.name()), axes).flag("feature-map", map.name());
            match map {
                // Random positions are below this. Beyond it features are no longer all positive, unlike those of the
                // random state.
                FeatureMap::Cosformer => case.flag("max-len", "60000"),
                _ => case.flag("features", "20"),
            }
        };
        list.push(case("", small));
        list.push(case("_plain", small).flag("normalize", "false"));
        if map == FeatureMap::Cosformer {
            list.push(case("_turned", small).flag("max-len", "70"));
        }
        list.push(case("_bnhd", small).layout(Layout::Bnhd).carry());
        list.push(case("_f16", small).dtype(DType::F16));
        list.push(case("_segments", small).carry().flag("segment", "16"));
        list.push(case("_cross", &[("H", 2), ("N", 20), ("M", 33), ("D", 10)]).flag("causal", "false"));
        list.push(case("_gated", small).with("g").flag("rule", "gated").flag("segment", "16").carry());
        list.push(case("_decode", one).carry().flag("decode", "true"));
        let wide = case("_wide", &[("H", 1), ("N", 65), ("D", 64), ("E", 100)]).slow();
        list.push(if map.projects() { wide.flag("features", "256") } else { wide });
    }
}
