//! Named shapes of the convolution.

use crate::catalog::case::Case;
use crate::tensor::{DType, Layout};

/// Lengths that are multiples of the tiles, and lengths next to them.
const LENGTHS: [usize; 8] = [1, 16, 17, 63, 64, 65, 257, 2000];

pub(super) fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    for n in LENGTHS {
        list.push(Case::new(format!("length_{n}"), &[("C", 5), ("N", n)]).with("bias"));
    }
    for w in (1..=8).chain([9, 32]) {
        list.push(Case::new(format!("width_{w}"), &[("C", 3), ("N", 70), ("W", w)]).with("bias").carry());
    }
    // Fewer tokens than the state has inputs.
    for n in [1, 3, 6, 7] {
        list.push(Case::new(format!("short_{n}"), &[("B", 2), ("C", 70), ("N", n), ("W", 8)]).with("bias").carry());
    }
    list.push(Case::new("no_bias", &[("C", 3), ("N", 70)]));
    list.push(Case::new("no_activation", &[("C", 3), ("N", 70)]).flag("activation", "none").with("bias"));
    let grouped = [("B", 2), ("C", 70), ("N", 140)];
    list.push(Case::new("grouped", &grouped).with("bias"));
    list.push(Case::new("grouped_f16", &grouped).with("bias").carry().dtype(DType::F16));
    let carried = [("B", 2), ("C", 9), ("N", 1500)];
    list.push(Case::new("carried", &carried).with("bias").carry());
    list.push(Case::new("carried_f16", &carried).carry().dtype(DType::F16));
    list.push(Case::new("segments", &carried).carry().flag("segment", "48"));
    let decode = [("B", 3), ("C", 100), ("N", 1)];
    list.push(Case::new("decode", &decode).with("bias").carry().flag("decode", "true"));
    list.push(Case::new("decode_f16", &decode).with("bias").carry().flag("decode", "true").dtype(DType::F16));
    // A length and a number of channels of which four elements are accessed at once, and others.
    let (wide, odd) = ([("B", 2), ("C", 12), ("N", 64)], [("B", 2), ("C", 6), ("N", 70)]);
    list.push(Case::new("wide", &wide).with("bias").carry());
    list.push(Case::new("wide_f16", &wide).with("bias").carry().dtype(DType::F16));
    for (name, axes) in [("", wide), ("_odd", odd)] {
        let case = |form: &str| Case::new(format!("{form}{name}"), &axes).with("bias");
        list.push(case("same").flag("padding", "same").with("weight.C1W"));
        list.push(case("dilated").flag("dilation", "3").carry());
        list.push(case("bnc").layout(Layout::Bnhd).carry());
        list.push(case("bnc_dilated_same").layout(Layout::Bnhd).flag("dilation", "5").flag("padding", "same"));
        list.push(case("packed").with("cu_seqlens").carry());
        list.push(case("packed_bnc").with("cu_seqlens").layout(Layout::Bnhd).carry());
        list.push(case("packed_same").with("cu_seqlens").flag("padding", "same"));
        list.push(case("packed_dilated").with("cu_seqlens").layout(Layout::Bnhd).flag("dilation", "2").carry());
    }
    for case in list.iter_mut().filter(|case| case.name.starts_with("packed")) {
        case.axes[0] = ("B", 1);
    }
    let many = [("C", 4), ("N", 9), ("seqs", 30), ("W", 6)];
    list.push(Case::new("packed_empty", &many).with("cu_seqlens").carry());
    list.push(Case::new("bnc_f16", &wide).layout(Layout::Bnhd).carry().dtype(DType::F16));
    list.push(Case::new("bnc_width_32", &[("C", 132), ("N", 300), ("W", 32)]).layout(Layout::Bnhd).carry());
    list.push(Case::new("dilated_far", &[("C", 3), ("N", 48), ("W", 3)]).flag("dilation", "40").carry());
    list.push(
        Case::new("decode_dilated", &[("B", 2), ("C", 5), ("N", 1), ("W", 3)])
            .layout(Layout::Bnhd)
            .carry()
            .flag("decode", "true")
            .flag("dilation", "3"),
    );
    list
}
