//! Packed heads: `[B, N, H*D]`, as a projection writes it, stands for `[B, N, H, D]`. Works on shapes only. Pure.

use super::spec::{Op, Role, TensorSpec};
use crate::error::Error;
use crate::tensor::{Layout, Shape};

/// How many heads the last axis of a packed tensor has. Everything else is as in [`Layout::Bnhd`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// Query heads H.
    pub heads: usize,
    /// Key/value heads G.
    pub kv_heads: usize,
}

impl Packed {
    /// Whether the operator has tensors with an axis of that letter whose place `--layout` decides: `H`, or `G`.
    pub fn possible(op: &Op, letter: &str) -> bool {
        op.inputs.iter().any(|spec| spec.follows_layout && spec.axes.split(' ').any(|axis| axis == letter))
    }

    /// Axes of the packed form: `B`, `N`, `H*D`.
    pub fn letters(spec: &TensorSpec) -> Vec<String> {
        let mut letters: Vec<_> = spec.letters(Layout::Bnhd).into_iter().map(str::to_owned).collect();
        if Self::packs(spec)
            && let Some(dim) = letters.pop()
            && let Some(heads) = letters.last_mut()
        {
            *heads = format!("{heads}*{dim}");
        }
        letters
    }

    /// Whether heads and dim are one axis in the packed form. A tensor without dim has its heads last as it is.
    fn packs(spec: &TensorSpec) -> bool {
        spec.role == Role::Sequence && spec.follows_layout && spec.letters(Layout::Bnhd).len() == 4
    }

    /// Number of heads of a tensor, and the flag that says it.
    fn heads(self, spec: &TensorSpec) -> (usize, &'static str) {
        if spec.letters(Layout::Bnhd).contains(&"G") { (self.kv_heads, "--kv-heads") } else { (self.heads, "--heads") }
    }

    /// Splits the last axis into heads and dim.
    ///
    /// # Errors
    /// [`Error::Tensor`] if it has no such number of heads.
    pub fn split(self, op: &Op, spec: &TensorSpec, given: &Shape) -> Result<Shape, Error> {
        let (heads, flag) = self.heads(spec);
        let mut dims = given.dims().to_vec();
        // A second form has a dim too, and the rank of the first: the last axis tells one from the other.
        let second = spec.follows_layout && spec.has_rank(4) && dims.last() != Some(&heads);
        if !Self::packs(spec) && !second {
            return Ok(given.clone());
        }
        match dims.pop() {
            Some(last) if last.is_multiple_of(heads) => dims.extend([heads, last / heads]),
            _ => {
                let expected = format!("a last axis of {heads} heads ({flag}), a multiple of {heads}");
                return Err(Error::tensor(op.name, spec.name, expected, given.to_string()));
            }
        }
        Ok(dims.into())
    }

    /// Joins the axes that [`Packed::split`] makes.
    pub fn join(spec: &TensorSpec, full: &Shape) -> Shape {
        match full.dims() {
            [lead @ .., heads, dim] if Self::packs(spec) => {
                let mut dims = lead.to_vec();
                dims.push(heads * dim);
                dims.into()
            }
            _ => full.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::linear::OP;

    #[test]
    fn the_last_axis_is_split_and_joined() {
        let packed = Packed { heads: 4, kv_heads: 2 };
        let spec = |name: &str| OP.inputs.iter().find(|spec| spec.name == name).expect("an input of linear");
        let split = |name: &str, shape: &[usize]| packed.split(&OP, spec(name), &shape.into());
        for (name, shape, full) in [
            ("q", &[5, 12][..], &[5, 4, 3][..]),
            ("q", &[2, 5, 12], &[2, 5, 4, 3]),
            ("k", &[2, 7, 6], &[2, 7, 2, 3]),
            ("g", &[2, 7, 2], &[2, 7, 2]),
            ("g", &[2, 7, 6], &[2, 7, 2, 3]),
            ("beta", &[7, 2], &[7, 2]),
            ("omega", &[8, 3], &[8, 3]),
        ] {
            let found = split(name, shape);
            assert_eq!(found, Ok(full.into()), "{name}");
            if name == "q" || name == "k" {
                assert_eq!(Packed::join(spec(name), &full.into()), shape.into());
            }
        }
        let refused = split("q", &[5, 14]).map_err(|error| error.to_string());
        let sentence =
            "linear: tensor `q`: expected a last axis of 4 heads (--heads), a multiple of 4, found [5, 14]".to_owned();
        assert_eq!(refused, Err(sentence));
        assert!(split("k", &[5, 7]).is_err());
        assert_eq!(Packed::letters(spec("k")), ["B", "M", "G*D"]);
        assert_eq!(Packed::letters(spec("beta")), ["B", "N", "G"]);
    }
}
