//! Named shapes of the convolution.

use crate::catalog::case::Case;
use crate::tensor::DType;

/// Lengths that are multiples of the tiles, and lengths next to them.
const LENGTHS: [usize; 8] = [1, 16, 17, 63, 64, 65, 257, 2000];

pub(super) fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    for n in LENGTHS {
        list.push(Case::new(format!("length_{n}"), &[("C", 5), ("N", n)]).with("bias"));
    }
    for w in 1..=8 {
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
    list
}
