//! Named shapes of RAM-Net.

use crate::catalog::case::Case;
use crate::tensor::{DType, Layout};

/// Sets the numbers of choices per digit and of slots per access.
fn sized(case: Case, choices: &str, topk: &str) -> Case {
    case.flag("choices", choices).flag("topk", topk)
}

pub(super) fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    for n in [1, 63, 64, 65, 257, 2000] {
        list.push(Case::new(format!("length_{n}"), &[("H", 2), ("N", n), ("E", 20)]));
    }
    for (width, choices, topk) in [
        (4, "2", "4"),
        (24, "24", "3"),
        (21, "7", "5"),
        (32, "2", "3"),
        (20, "4", "1"),
        (20, "4", "32"),
        (12, "4", "64"),
        (40, "40", "40"),
    ] {
        let axes = [("H", 2), ("N", 150), ("U*P", width), ("E", 12)];
        list.push(sized(Case::new(format!("digits_{width}_{choices}_{topk}"), &axes), choices, topk));
    }
    // The maximum number of slots.
    for (width, choices, topk, n) in [(512, "256", "64", 12), (65536, "65536", "64", 3)] {
        let axes = [("H", 1), ("N", n), ("U*P", width), ("E", 3)];
        list.push(sized(Case::new(format!("digits_{width}_{choices}_{topk}"), &axes), choices, topk).slow());
    }
    for e in [1, 33, 64, 100] {
        list.push(Case::new(format!("dims_{e}"), &[("H", 1), ("N", 65), ("E", e)]));
    }
    let grouped = &[("B", 2), ("H", 6), ("N", 70), ("U*P", 24), ("E", 20)];
    let grouped = |name: &str| Case::new(name, grouped).flag("choices", "24");
    list.push(grouped("grouped"));
    list.push(grouped("grouped_bnhd").layout(Layout::Bnhd));
    list.push(grouped("grouped_f16").dtype(DType::F16));
    let some = [("B", 2), ("H", 3), ("N", 140), ("U*P", 8), ("E", 20)];
    list.push(Case::new("pdma", &some).flag("rule", "pdma"));
    list.push(Case::new("mass_eps", &some).flag("rule", "pdma").flag("mass-eps", "0.01"));
    list.push(Case::new("tau", &some).flag("tau", "0.25"));
    list.push(Case::new("cape", &some).flag("cape", "all"));
    list.push(Case::new("cape_bnhd", &some).flag("cape", "0,2").layout(Layout::Bnhd).carry());
    list.push(Case::new("carried", &some).carry());
    list.push(Case::new("carried_pdma", &some).carry().flag("rule", "pdma").flag("cape", "all"));
    list.push(Case::new("segments", &some).carry().flag("segment", "48"));
    list.push(Case::new("segments_of_one", &[("H", 1), ("N", 5), ("U*P", 8), ("E", 4)]).flag("segment", "1"));
    // Every token writes and reads every slot.
    let hot = [("H", 2), ("N", 700), ("U*P", 4), ("E", 20)];
    list.push(sized(Case::new("hot", &hot), "2", "4"));
    list.push(sized(Case::new("hot_pdma", &hot), "2", "4").flag("rule", "pdma").carry());
    // More slots than a table in workgroup memory has.
    let large = [("B", 2), ("H", 2), ("N", 150), ("U*P", 22), ("E", 20)];
    let large = |name: &str| sized(Case::new(name, &large), "2", "8");
    list.push(large("large").flag("rule", "pdma").flag("cape", "0").flag("segment", "100"));
    list.push(large("large_carried").carry().flag("segment", "48"));
    list.push(large("large_backward_f16").layout(Layout::Bnhd).flag("direction", "backward").dtype(DType::F16));
    list.push(large("large_both").flag("direction", "both"));
    list.extend(forms());
    let decode = [("B", 2), ("H", 3), ("N", 1), ("E", 20)];
    list.push(Case::new("decode", &decode).carry().flag("decode", "true"));
    list.push(Case::new("decode_f16", &decode).carry().flag("decode", "true").flag("cape", "1").dtype(DType::F16));
    let wide = [("H", 1), ("N", 1), ("U*P", 12), ("E", 300)];
    list.push(sized(Case::new("decode_wide", &wide), "4", "64").carry().flag("decode", "true").flag("rule", "pdma"));
    let coded = [("B", 2), ("H", 2), ("N", 40), ("U*P", 8), ("E", 12), ("C", 20)];
    list.push(Case::new("codebook", &coded).with("codebook").flag("codes", "true").carry());
    let per_head = Case::new("codebook_heads", &coded).with("codebook.H").layout(Layout::Bnhd);
    list.push(per_head.flag("codes", "true").flag("direction", "both"));
    let packed = [("H", 3), ("N", 60), ("U*P", 12), ("E", 8), ("C", 70), ("seqs", 4)];
    list.push(Case::new("codebook_packed", &packed).with("codebook").with("cu_seqlens").carry());
    list.push(Case::new("codebook_f16", &coded).with("codebook").dtype(DType::F16).flag("codes", "true"));
    let one = [("B", 2), ("H", 2), ("N", 1), ("U*P", 8), ("E", 12), ("C", 20)];
    let decode = Case::new("codebook_decode", &one).with("codebook").flag("codes", "true").flag("decode", "true");
    list.push(decode.carry());
    list
}

/// Packed sequences and directions.
fn forms() -> Vec<Case> {
    let axes = [("H", 3), ("N", 90), ("U*P", 8), ("E", 6), ("seqs", 5)];
    let packed = |name: &str| Case::new(name, &axes).with("cu_seqlens");
    let large = [("H", 2), ("N", 60), ("U*P", 22), ("E", 6), ("seqs", 4)];
    let large = |name: &str| sized(Case::new(name, &large).with("cu_seqlens"), "2", "8");
    let batches = [("B", 2), ("H", 2), ("N", 40), ("U*P", 8), ("E", 6)];
    vec![
        packed("packed").carry().flag("cape", "0,2"),
        packed("packed_bnhd").layout(Layout::Bnhd).flag("rule", "pdma").flag("cape", "all").dtype(DType::F16),
        Case::new("packed_empty", &[("H", 2), ("N", 9), ("U*P", 8), ("E", 6), ("seqs", 30)]).with("cu_seqlens").carry(),
        packed("packed_both").flag("direction", "both").flag("cape", "1"),
        large("packed_large"),
        large("packed_large_carried").carry().flag("cape", "all").flag("rule", "pdma"),
        Case::new("backward", &batches).flag("direction", "backward").flag("cape", "1").layout(Layout::Bnhd),
        Case::new("both", &batches).flag("direction", "both"),
        Case::new("both_f16", &batches).flag("direction", "both").layout(Layout::Bnhd).dtype(DType::F16),
    ]
}
