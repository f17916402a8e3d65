//! Leading axes that a user may omit: `[N, D]` or `[H, N, D]` stands for `[B, H, N, D]`. Works on shapes only. Pure.
//!
//! The rank of the first sequence tensor that an operator requires decides which axes are absent: none, batch, or batch
//! and heads. All other sequence tensors must lack the same axes, and the outputs lack them too. State and weights
//! always have full rank. Under `--heads` the heads are part of the last axis ([`Packed`]), and only the batch can be
//! absent.

use crate::catalog::packed::Packed;
use crate::catalog::spec::{Op, Role, TensorSpec};
use crate::error::Error;
use crate::tensor::{Layout, Shape};

/// How the shapes of sequence tensors in files differ from full ones: axes that they lack, each of which counts as length 1,
/// and heads that are packed into the last axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AbsentAxes {
    lead: Option<&'static str>,
    batch: bool,
    heads: bool,
    packed: Option<Packed>,
    /// Number of tokens N of that first tensor.
    tokens: Option<usize>,
}

impl AbsentAxes {
    /// Determines the absent axes from the rank of the first required sequence tensor. If that tensor is not given, no
    /// axis is absent.
    ///
    /// # Errors
    /// [`Error::Tensor`] if its rank is not allowed.
    pub fn of<'a>(
        op: &Op,
        layout: Layout,
        packed: Option<Packed>,
        shape: impl Fn(&str) -> Option<&'a Shape>,
    ) -> Result<Self, Error> {
        let none = Self { packed, ..Self::default() };
        let Some(spec) = op.inputs.iter().find(|spec| spec.role == Role::Sequence && !spec.optional) else {
            return Ok(none);
        };
        let Some(given) = shape(spec.name) else { return Ok(none) };
        let forms = [(true, true), (true, false), (false, false)].map(|(batch, heads)| Self {
            lead: Some(spec.name),
            batch,
            heads,
            packed,
            tokens: None,
        });
        let allowed: Vec<_> = forms.iter().filter(|form| form.possible(spec)).collect();
        if let Some(form) = allowed.iter().find(|form| form.present(spec, layout).len() == given.rank()) {
            let tokens = form.present(spec, layout).iter().position(|letter| letter == "N");
            return Ok(Self { tokens: tokens.map(|axis| given.dims()[axis]), ..**form });
        }
        let shapes: Vec<_> =
            allowed.iter().map(|form| format!("[{}]", form.present(spec, layout).join(", "))).collect();
        let expected = shapes.join(" or ");
        Err(Error::tensor(op.name, spec.name, expected, format!("rank {} {given}", given.rank())))
    }

    /// Inserts the absent axes into a shape, with length 1. Shapes of tensors that are not along the sequence stay
    /// unchanged.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the tensor lacks other axes than the first sequence tensor, or has an axis of length 0.
    pub fn complete(&self, op: &Op, spec: &TensorSpec, layout: Layout, given: &Shape) -> Result<Shape, Error> {
        if given.dims().contains(&0) {
            return Err(Error::tensor(op.name, spec.name, "axes of length 1 or more", given.to_string()));
        }
        // Without the first tensor the ranks of the others say nothing. The operator reports it as missing.
        if spec.role != Role::Sequence || self.lead.is_none() {
            return Ok(given.clone());
        }
        let present = self.present(spec, layout);
        // An optional tensor may have several forms, for example a decay per head or per channel. The operator checks
        // those.
        if !spec.optional && !spec.any_rank && given.rank() != present.len() {
            let like = match self.lead.filter(|lead| *lead != spec.name) {
                Some(lead) => format!(", with the axes that `{lead}` has"),
                None => String::new(),
            };
            let expected = format!("rank {} [{}]{like}", present.len(), present.join(", "));
            return Err(Error::tensor(op.name, spec.name, expected, format!("rank {} {given}", given.rank())));
        }
        // A form of one axis, the heads, has no axis that may be absent. One value per token has the same rank if batch and
        // heads are absent; the length tells.
        let per_token = present.len() == 1 && given.dims().first().copied() == self.tokens;
        if given.rank() == 1 && spec.has_rank(1) && !per_token {
            return Ok(given.clone());
        }
        let given = match self.packed {
            Some(packed) => &packed.split(op, spec, given)?,
            None => given,
        };
        let mut dims = given.dims().to_vec();
        for at in self.positions(spec, layout) {
            if at <= dims.len() {
                dims.insert(at, 1);
            }
        }
        Ok(dims.into())
    }

    /// Removes the absent axes from a shape. Outputs are written with the resulting shape.
    pub fn strip(&self, spec: &TensorSpec, layout: Layout, full: &Shape) -> Shape {
        let mut dims = full.dims().to_vec();
        if spec.role == Role::Sequence {
            for at in self.positions(spec, layout).into_iter().rev() {
                if dims.get(at) == Some(&1) {
                    dims.remove(at);
                }
            }
        }
        if self.packed.is_some() { Packed::join(spec, &dims.into()) } else { dims.into() }
    }

    /// Whether the tensor has every axis that would be absent, and at least two axes remain.
    fn possible(&self, spec: &TensorSpec) -> bool {
        if self.packed.is_some() && self.heads {
            return false;
        }
        let letters = spec.letters(Layout::Bhnd);
        let absent = self.positions(spec, Layout::Bhnd).len();
        absent == usize::from(self.batch) + usize::from(self.heads) && (absent == 0 || letters.len() - absent >= 2)
    }

    /// The axes of a tensor in a file.
    fn present(&self, spec: &TensorSpec, layout: Layout) -> Vec<String> {
        let mut letters = match self.packed {
            Some(_) => Packed::letters(spec),
            None => spec.letters(layout).into_iter().map(str::to_owned).collect(),
        };
        letters.retain(|letter| !self.lacks(letter));
        letters
    }

    /// Describes a tensor with all its axes as it can be in a file, for people: `[B, N, H*D]`.
    pub fn whole(&self, spec: &TensorSpec, layout: Layout) -> String {
        match self.packed {
            Some(_) => format!("[{}]", Packed::letters(spec).join(", ")),
            None => spec.forms(layout),
        }
    }

    fn positions(&self, spec: &TensorSpec, layout: Layout) -> Vec<usize> {
        let letters = spec.letters(layout);
        (0..letters.len()).filter(|&i| letters.get(i).is_some_and(|letter| self.lacks(letter))).collect()
    }

    fn lacks(&self, letter: &str) -> bool {
        match letter {
            "B" | "1|B" => self.batch,
            "H" | "G" | "1|H" => self.heads,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::linear::OP;

    const Q: TensorSpec = TensorSpec::sequence("q", "B H N D");
    const K: TensorSpec = TensorSpec::sequence("k", "B G M D");
    const G: TensorSpec = TensorSpec { optional: true, ..TensorSpec::sequence("g", "B G N") };

    fn absent(layout: Layout, q: &[usize]) -> Result<AbsentAxes, Error> {
        let shape = Shape::from(q);
        AbsentAxes::of(&OP, layout, None, |name| (name == "q").then_some(&shape))
    }

    #[test]
    fn ranks_two_three_and_four_are_completed_and_come_back() -> Result<(), Error> {
        for (layout, q, k, full_k, g, full_g) in [
            (Layout::Bhnd, &[5, 4][..], &[7, 4][..], &[1, 1, 7, 4][..], &[7][..], &[1, 1, 7][..]),
            (Layout::Bhnd, &[2, 5, 4], &[2, 7, 4], &[1, 2, 7, 4], &[2, 7], &[1, 2, 7]),
            (Layout::Bhnd, &[3, 2, 5, 4], &[3, 2, 7, 4], &[3, 2, 7, 4], &[3, 2, 7], &[3, 2, 7]),
            (Layout::Bnhd, &[5, 4], &[7, 4], &[1, 7, 1, 4], &[7], &[1, 7, 1]),
            (Layout::Bnhd, &[5, 2, 4], &[7, 2, 4], &[1, 7, 2, 4], &[7, 2], &[1, 7, 2]),
        ] {
            let absent = absent(layout, q)?;
            let full = absent.complete(&OP, &K, layout, &k.into())?;
            assert_eq!(full, full_k.into());
            assert_eq!(absent.strip(&K, layout, &full), k.into());
            assert_eq!(absent.complete(&OP, &G, layout, &g.into())?, full_g.into());
        }
        Ok(())
    }

    #[test]
    fn a_decay_of_the_rank_of_q_keeps_its_channels() -> Result<(), Error> {
        let absent = absent(Layout::Bhnd, &[2, 5, 4])?;
        assert_eq!(absent.complete(&OP, &G, Layout::Bhnd, &[2, 5, 4].into())?, [1, 2, 5, 4].into());
        Ok(())
    }

    #[test]
    fn a_decay_of_one_axis_belongs_to_the_heads_unless_it_has_the_length() -> Result<(), Error> {
        let spec = OP.inputs.iter().find(|spec| spec.name == "g").expect("a decay");
        for (layout, q, g, full) in [
            (Layout::Bhnd, &[3, 2, 5, 4][..], &[2][..], &[2][..]),
            (Layout::Bhnd, &[2, 5, 4], &[2], &[2]),
            (Layout::Bhnd, &[2, 5, 4], &[2, 5], &[1, 2, 5]),
            (Layout::Bhnd, &[5, 4], &[5], &[1, 1, 5]),
            (Layout::Bhnd, &[5, 4], &[1], &[1]),
            (Layout::Bhnd, &[1, 4], &[1], &[1, 1, 1]),
            (Layout::Bnhd, &[5, 2, 4], &[2], &[2]),
            (Layout::Bnhd, &[5, 4], &[1], &[1]),
            (Layout::Bnhd, &[5, 4], &[5], &[1, 5, 1]),
        ] {
            assert_eq!(absent(layout, q)?.complete(&OP, spec, layout, &g.into())?, full.into(), "{layout} {q:?} {g:?}");
        }
        Ok(())
    }

    #[test]
    fn packed_heads_have_ranks_two_and_three() -> Result<(), Error> {
        let packed = Some(Packed { heads: 2, kv_heads: 1 });
        let of = |q: &[usize]| {
            let shape = Shape::from(q);
            AbsentAxes::of(&OP, Layout::Bnhd, packed, |name| (name == "q").then_some(&shape))
        };
        for (q, full, g, full_g) in [
            (&[5, 8][..], &[1, 5, 2, 4][..], &[5, 1][..], &[1, 5, 1][..]),
            (&[3, 5, 8], &[3, 5, 2, 4], &[3, 5, 4], &[3, 5, 1, 4]),
        ] {
            let axes = of(q)?;
            assert_eq!(axes.complete(&OP, &Q, Layout::Bnhd, &q.into())?, full.into());
            assert_eq!(axes.strip(&Q, Layout::Bnhd, &full.into()), q.into());
            assert_eq!(axes.complete(&OP, &OP.inputs[3], Layout::Bnhd, &g.into())?, full_g.into());
        }
        let refused = of(&[3, 5, 2, 4]).map_err(|e| e.to_string());
        let sentence = "linear: tensor `q`: expected [N, H*D] or [B, N, H*D], found rank 4 [3, 5, 2, 4]";
        assert_eq!(refused, Err(sentence.into()));
        Ok(())
    }

    #[test]
    fn other_ranks_are_refused_with_what_was_found() {
        let refused = absent(Layout::Bhnd, &[4]).map_err(|e| e.to_string());
        let sentence = "linear: tensor `q`: expected [N, D] or [H, N, D] or [B, H, N, D], found rank 1 [4]";
        assert_eq!(refused, Err(sentence.into()));
        assert!(absent(Layout::Bnhd, &[1, 2, 3, 4, 5]).is_err());
        let mixed = absent(Layout::Bhnd, &[5, 4])
            .and_then(|a| a.complete(&OP, &K, Layout::Bhnd, &[2, 5, 4].into()))
            .map_err(|e| e.to_string());
        let sentence = "linear: tensor `k`: expected rank 2 [M, D], with the axes that `q` has, found rank 3 [2, 5, 4]";
        assert_eq!(mixed, Err(sentence.into()));
        let empty = absent(Layout::Bhnd, &[5, 4])
            .and_then(|a| a.complete(&OP, &Q, Layout::Bhnd, &[0, 4].into()))
            .map_err(|e| e.to_string());
        assert_eq!(empty, Err("linear: tensor `q`: expected axes of length 1 or more, found [0, 4]".into()));
    }
}
