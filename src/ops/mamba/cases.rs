//! Named shapes of the selective scan.

use crate::catalog::case::Case;
use crate::tensor::DType;

/// Lengths that are multiples of the tiles, and lengths next to them.
const LENGTHS: [usize; 6] = [1, 63, 64, 65, 257, 2000];

/// Adds all optional tensors.
fn full(case: Case) -> Case {
    case.with("d").with("z").with("dt_bias")
}

pub(super) fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    for n in LENGTHS {
        list.push(full(Case::new(format!("length_{n}"), &[("C", 9), ("N", n)])));
    }
    for s in [1, 3, 8, 16, 20, 64, 100, 256] {
        let case =
            full(Case::new(format!("states_{s}"), &[("C", 7), ("N", 150), ("S", s)])).flag("segment", "60").carry();
        // The widest ones are slow on a software adapter.
        list.push(if s > 64 { case.slow() } else { case });
    }
    let plain = [("C", 70), ("N", 130), ("S", 5)];
    list.push(Case::new("plain", &plain));
    for name in ["d", "z", "dt_bias", "a_log"] {
        list.push(Case::new(format!("with_{name}"), &plain).with(name));
    }
    list.push(full(Case::new("full", &plain)).with("a_log").carry());
    // Without softplus, some steps are negative and let the state grow. The sequence is short, so that it does not grow
    // too much.
    let short = [("C", 6), ("N", 8), ("S", 2)];
    list.push(Case::new("no_softplus", &short).with("d").with("z").flag("dt-softplus", "false").carry());
    let grouped = [("B", 2), ("C", 140), ("G", 2), ("N", 140), ("S", 6)];
    list.push(full(Case::new("grouped", &grouped)));
    list.push(full(Case::new("grouped_f16", &grouped)).carry().dtype(DType::F16));
    list.push(full(Case::new("a_group_a_channel", &[("B", 2), ("C", 5), ("G", 5), ("N", 70)])));
    let carried = [("B", 2), ("C", 20), ("N", 500)];
    list.push(full(Case::new("carried", &carried)).carry());
    list.push(full(Case::new("segments", &carried)).carry().flag("segment", "48"));
    list.push(full(Case::new("segments_f16", &carried)).carry().flag("segment", "48").dtype(DType::F16));
    list.push(full(Case::new("segments_of_one", &[("C", 3), ("N", 9)])).flag("segment", "1"));
    for direction in ["backward", "both"] {
        list.push(full(Case::new(direction, &carried)).flag("direction", direction));
        list.push(
            full(Case::new(format!("{direction}_odd"), &plain)).flag("direction", direction).flag("segment", "30"),
        );
    }
    list.push(full(Case::new("both_f16", &carried)).flag("direction", "both").dtype(DType::F16));
    let packed = [("C", 20), ("N", 150), ("seqs", 5)];
    list.push(full(Case::new("packed", &packed)).with("cu_seqlens").carry());
    list.push(full(Case::new("packed_segments", &packed)).with("cu_seqlens").carry().flag("segment", "18"));
    list.push(full(Case::new("packed_both", &packed)).with("cu_seqlens").flag("direction", "both"));
    list.push(full(Case::new("packed_f16", &packed)).with("cu_seqlens").flag("segment", "32").dtype(DType::F16));
    list.push(Case::new("packed_empty", &[("C", 9), ("N", 8), ("S", 3), ("seqs", 30)]).with("cu_seqlens").carry());
    list.push(full(Case::new("constant_b", &plain)).with("b.C").carry());
    list.push(full(Case::new("constant_both", &carried)).with("b.C").with("c.C").flag("segment", "64"));
    let limits = full(Case::new("limits", &plain)).flag("dt-min", "0.004").flag("dt-max", "0.02");
    list.push(limits.flag("dt-offset", "1e-4").flag("segment", "64"));
    let decode = [("B", 3), ("C", 100), ("N", 1)];
    list.push(full(Case::new("decode", &decode)).carry().flag("decode", "true"));
    list.push(full(Case::new("decode_f16", &decode)).carry().flag("decode", "true").dtype(DType::F16));
    let wide = [("C", 24), ("G", 2), ("N", 1), ("S", 100)];
    list.push(Case::new("decode_wide", &wide).carry().flag("decode", "true").slow());
    list
}
