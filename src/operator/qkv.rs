//! Shapes and checks for queries, keys and values, shared by every attention-like operator. Pure.

use std::ops::Range;

use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{self, Operand, Share, Step, Strided, Units, check_memory};
use crate::gpu::shader::{Fragment, fragment};
use crate::tensor::{Access, DType, Layout, Shape, Slot};

/// Shapes of q `[B, H, N, D]`, k `[B, G, M, D]`, v `[B, G, M, E]` and o `[B, H, N, E]`, with their storage type and
/// axis order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Qkv {
    /// B: batch.
    pub batch: usize,
    /// H: query heads, a multiple of `kv_heads`. Query head h reads key and value head `h / (H / G)`.
    pub heads: usize,
    /// G: key and value heads.
    pub kv_heads: usize,
    /// N: query length.
    pub queries: usize,
    /// M: key length.
    pub keys: usize,
    /// D: key dimension.
    pub dim_k: usize,
    /// E: value dimension.
    pub dim_v: usize,
    /// Number of heads of v, o and the state that share one head of q and k. If it is over 1, `heads` and `kv_heads` are equal:
    /// both are the number V of value heads, q and k have V / `shared` heads, and value head u reads q and k head
    /// u / `shared`.
    pub shared: usize,
    /// Storage type of q, k, v and o: f32 or f16.
    pub dtype: DType,
    /// Axis order of q, k, v and o.
    pub layout: Layout,
    named: Named,
}

/// Strides of one tensor as the uniform stores them: elements from one batch, head and token to the next, then the
/// first element of the binding. Must match `struct Strides` in `shaders/lib/strides.wgsl`.
pub type Strides = [u32; 4];

/// The WGSL source of [`Strides`].
pub(crate) const STRIDES_SOURCE: Fragment = fragment!("lib/strides.wgsl");

/// Byte offset of the last number of [`Strides`], the first element of the binding.
pub(crate) const BASE: usize = 12;

/// Records which sizes were set by name. Setting another size no longer changes them.
#[derive(Debug, Clone, Copy)]
struct Named {
    kv_heads: bool,
    keys: bool,
    dim_v: bool,
}

/// Always equal, so that shapes are compared by their sizes alone.
impl PartialEq for Named {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Named {}

impl Default for Qkv {
    fn default() -> Self {
        Self::new()
    }
}

impl Qkv {
    /// One batch entry, head, token and dimension, f32 in layout bhnd. Set the sizes by name, in any order.
    pub const fn new() -> Self {
        Self {
            batch: 1,
            heads: 1,
            kv_heads: 1,
            queries: 1,
            keys: 1,
            dim_k: 1,
            dim_v: 1,
            shared: 1,
            dtype: DType::F32,
            layout: Layout::Bhnd,
            named: Named { kv_heads: false, keys: false, dim_v: false },
        }
    }

    /// B: batch.
    #[must_use]
    pub const fn batch(self, batch: usize) -> Self {
        Self { batch, ..self }
    }

    /// Sets the number of query heads H, and also of key heads G unless [`Qkv::kv_heads`] is called.
    #[must_use]
    pub const fn heads(self, heads: usize) -> Self {
        Self { heads, kv_heads: if self.named.kv_heads { self.kv_heads } else { heads }, ..self }
    }

    /// G: key and value heads.
    #[must_use]
    pub const fn kv_heads(self, kv_heads: usize) -> Self {
        Self { kv_heads, named: Named { kv_heads: true, ..self.named }, ..self }
    }

    /// Sets the number of queries N, and also of keys M unless [`Qkv::keys`] is called.
    #[must_use]
    pub const fn len(self, len: usize) -> Self {
        Self { queries: len, keys: if self.named.keys { self.keys } else { len }, ..self }
    }

    /// Sets only the number of queries N.
    #[must_use]
    pub const fn queries(self, queries: usize) -> Self {
        Self { queries, ..self }
    }

    /// M: key length.
    #[must_use]
    pub const fn keys(self, keys: usize) -> Self {
        Self { keys, named: Named { keys: true, ..self.named }, ..self }
    }

    /// Sets the dimension D of queries and keys, and also E of values unless [`Qkv::dim_v`] is called.
    #[must_use]
    pub const fn dim(self, dim: usize) -> Self {
        Self { dim_k: dim, dim_v: if self.named.dim_v { self.dim_v } else { dim }, ..self }
    }

    /// Sets only the dimension D of queries and keys.
    #[must_use]
    pub const fn dim_k(self, dim_k: usize) -> Self {
        Self { dim_k, ..self }
    }

    /// Sets the dimension E of values.
    #[must_use]
    pub const fn dim_v(self, dim_v: usize) -> Self {
        Self { dim_v, named: Named { dim_v: true, ..self.named }, ..self }
    }

    /// Sets the number of heads of v, o and the state that share one head of q and k.
    #[must_use]
    pub const fn shared(self, shared: usize) -> Self {
        Self { shared, ..self }
    }

    /// Storage type of q, k, v and o: f32 or f16.
    #[must_use]
    pub const fn dtype(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// Axis order of q, k, v and o.
    #[must_use]
    pub const fn layout(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    /// Number of query heads that share one key head: H / G.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads.max(1)
    }

    /// Number of heads of q.
    pub fn query_heads(&self) -> usize {
        self.heads / self.shared.max(1)
    }

    /// Number of heads of k.
    pub fn key_heads(&self) -> usize {
        self.kv_heads / self.shared.max(1)
    }

    /// Number of heads of v and of the state over all batch entries: B G.
    pub fn kv_units(&self) -> usize {
        self.batch * self.kv_heads
    }

    /// The default scale of the scores: `1 / sqrt(D)`.
    pub fn default_scale(&self) -> f32 {
        1.0 / (self.dim_k as f32).sqrt()
    }

    /// Checks the fields on their own: no axis of length 0, H a multiple of G, a float storage type, and sizes that
    /// memory can hold. Refuses more heads of v than of k, which only some operators have.
    ///
    /// # Errors
    /// One sentence that names the axis or tensor.
    pub fn validate(&self, op: &'static str) -> Result<(), Error> {
        if self.shared > 1 {
            let expected = format!("as many heads as k, {}", self.key_heads());
            return Err(Error::tensor(op, "v", expected, format!("{} heads", self.kv_heads)));
        }
        self.validate_shared(op)
    }

    /// Checks the fields as [`Qkv::validate`] does, for an operator whose value heads can share heads of q and k.
    ///
    /// # Errors
    /// One sentence that names the axis or tensor.
    pub(crate) fn validate_shared(&self, op: &'static str) -> Result<(), Error> {
        for (axis, length) in [
            ("B", self.batch),
            ("H", self.heads),
            ("G", self.kv_heads),
            ("N", self.queries),
            ("M", self.keys),
            ("D", self.dim_k),
            ("E", self.dim_v),
            ("shared", self.shared),
        ] {
            if length == 0 {
                return Err(Error::setting(op, axis, "1 or more", "0"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let expected = format!("key heads that divide the {} query heads", self.heads);
            return Err(Error::tensor(op, "k", expected, format!("{} key heads", self.kv_heads)));
        }
        if self.shared > 1 && (self.heads != self.kv_heads || !self.heads.is_multiple_of(self.shared)) {
            let expected = format!("heads H = G that are a multiple of {}, the heads of v per head of k", self.shared);
            return Err(Error::tensor(op, "v", expected, format!("H = {}, G = {}", self.heads, self.kv_heads)));
        }
        if !self.dtype.is_float() {
            return Err(Error::tensor(op, "q", "f32 or f16", self.dtype.name()));
        }
        check_memory(op, &self.slots())
    }

    /// The slots q, k, v and o.
    pub fn slots(&self) -> Vec<Slot> {
        let shape = |heads, len, dim| self.layout.shape(self.batch, heads, len, dim);
        let axis = self.layout.token_axis();
        let slot = |name, access, shape: Shape| Slot::plain(name, access, self.dtype, shape).along(axis);
        vec![
            slot("q", Access::Read, shape(self.query_heads(), self.queries, self.dim_k)),
            slot("k", Access::Read, shape(self.key_heads(), self.keys, self.dim_k)),
            slot("v", Access::Read, shape(self.kv_heads, self.keys, self.dim_v)),
            slot("o", Access::Write, shape(self.heads, self.queries, self.dim_v)),
        ]
    }

    /// Bytes that are read in addition if each of the heads that share a head of q and k reads it by itself, for one token.
    pub(crate) fn shared_bytes(&self) -> f64 {
        let heads = self.kv_units() as f64;
        2.0 * (heads - heads / self.shared as f64) * (self.dim_k * self.dtype.size()) as f64
    }

    /// Numbers of elements of q, k, v and o.
    pub fn elements(&self) -> [f64; 4] {
        let (queries, keys) = ((self.batch * self.heads) as f64, self.kv_units() as f64);
        let (queries, keys) = (queries * self.queries as f64, keys * self.keys as f64);
        let (d, e, shared) = (self.dim_k as f64, self.dim_v as f64, self.shared as f64);
        [queries * d / shared, keys * d / shared, keys * e, queries * e]
    }

    /// Strides of q, k, v and o. The casts to u32 lose nothing, because
    /// [`check_indices`](crate::gpu::program::check_indices) limits every tensor to `u32::MAX` elements.
    pub fn strides(&self) -> [Strides; 4] {
        let of = |heads, len, dim| strides_of(self.layout, heads, len, dim);
        [
            of(self.query_heads(), self.queries, self.dim_k),
            of(self.key_heads(), self.keys, self.dim_k),
            of(self.kv_heads, self.keys, self.dim_v),
            of(self.heads, self.queries, self.dim_v),
        ]
    }

    /// Splits a step by key head (by batch entry in layout bnhd) if the device's binding limit is smaller than q, k, v
    /// or o.
    ///
    /// The step must number its workgroups so that the key head (b G + g) is the slowest index. `strides` lists the
    /// tensors to split: the index in `slots`, and the byte offset of the tensor's strides in the step's uniform.
    ///
    /// # Errors
    /// [`Error::Limit`] if a single key head or batch entry does not fit.
    pub fn cut(
        &self,
        op: &'static str,
        step: Step,
        slots: &[Slot],
        strides: &[(usize, usize)],
        caps: &Caps,
    ) -> Result<Vec<Step>, Error> {
        self.cut_heads(op, step, 0..self.batch * self.key_heads(), slots, strides, caps)
    }

    /// Splits a step as [`Qkv::cut`] does whose workgroups cover only these key heads, numbered over all batch entries.
    ///
    /// # Errors
    /// [`Error::Limit`] if a single key head or batch entry does not fit.
    pub(crate) fn cut_heads(
        &self,
        op: &'static str,
        step: Step,
        heads: Range<usize>,
        slots: &[Slot],
        strides: &[(usize, usize)],
        caps: &Caps,
    ) -> Result<Vec<Step>, Error> {
        let (all, name, each) = match self.layout {
            Layout::Bhnd => (self.batch * self.key_heads(), "one key head", 1),
            Layout::Bnhd => (self.batch, "one batch entry", self.key_heads()),
        };
        let covered = heads.start as u64..heads.end as u64;
        let units = Units { all: all as u64, name, heads: each as u64, covered };
        let share = |&(i, base): &(usize, usize)| {
            let slot = slots.get(i)?;
            let operand = step.operands.iter().position(|operand| *operand == Operand::Slot(i))?;
            let elements = slot.checked_count()? / all as u64;
            Some(Share { operand, name: slot.name, size: slot.dtype.size() as u64, elements, base: base + BASE })
        };
        let shares: Vec<_> = strides.iter().filter_map(share).collect();
        program::cut(op, step, &units, &shares, caps)
    }

    /// Says of these steps that they take tensors with strides in these slots, which the uniform has at these byte offsets and
    /// by which alone the kernels find elements.
    pub(crate) fn strided(&self, mut steps: Vec<Step>, strides: &[(usize, usize)]) -> Vec<Step> {
        for step in &mut steps {
            let operand = |wanted| {
                let slot = |operand: &Operand| match operand {
                    Operand::Slot(slot) | Operand::Part { slot, .. } => *slot == wanted,
                    Operand::Workspace(_) | Operand::Counters => false,
                };
                step.operands.iter().position(slot)
            };
            let found = strides.iter().filter_map(|&(slot, at)| Some((operand(slot)?, at)));
            step.strided =
                found.map(|(operand, at)| Strided { operand, at, layout: self.layout, backward_from: None }).collect();
        }
        steps
    }
}

/// Strides of a tensor in this layout, as the uniform stores them.
pub(crate) fn strides_of(layout: Layout, heads: usize, len: usize, dim: usize) -> Strides {
    let s = layout.strides(heads, len, dim);
    [s.batch as u32, s.head as u32, s.token as u32, 0]
}

/// Refuses axes longer than 2^30, because shaders compute the ends of tiles and segments in u32 and i32.
///
/// # Errors
/// [`Error::Limit`], which names the tensor.
pub fn check_lengths(op: &'static str, s: &Qkv) -> Result<(), Error> {
    let longest = 1u64 << 30;
    for (tensor, what, length) in [
        ("q", "tokens", s.queries),
        ("k", "tokens", s.keys),
        ("k", "dimensions", s.dim_k),
        ("v", "dimensions", s.dim_v),
    ] {
        let needed = length as u64;
        if needed > longest {
            return Err(Error::Limit {
                op: op.into(),
                what: format!("tensor `{tensor}` ({what})"),
                needed,
                limit: longest,
            });
        }
    }
    Ok(())
}

/// Refuses a scale of the scores that is not finite.
///
/// # Errors
/// [`Error::Setting`].
pub fn check_scale(op: &'static str, scale: f32) -> Result<(), Error> {
    if scale.is_finite() { Ok(()) } else { Err(Error::setting(op, "scale", "a finite number", scale.to_string())) }
}
