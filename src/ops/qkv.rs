//! Queries, keys and values: the shapes that every attention-like operator has in common. Pure.

use super::{AxisDefault, Op, Request, TensorSpec};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{self, Operand, Share, Step, check_memory};
use crate::gpu::source::{Source, source};
use crate::tensor::{Access, DType, Layout, Shape, Slot};

/// Shapes of q `[B, H, N, D]`, k `[B, G, M, D]`, v `[B, G, M, E]` and o `[B, H, N, E]`, their storage and axis order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Qkv {
    /// B: batch.
    pub batch: usize,
    /// H: query heads, a multiple of `kv_heads`; query head h reads key head `h / (H / G)`.
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
    /// Storage of q, k, v and o: f32 or f16.
    pub dtype: DType,
    /// Axis order of q, k, v and o.
    pub layout: Layout,
}

/// Inputs, in the order of [`Qkv::slots`].
pub const INPUTS: [TensorSpec; 3] =
    [TensorSpec::sequence("q", "B H N D"), TensorSpec::sequence("k", "B G M D"), TensorSpec::sequence("v", "B G M E")];

/// The output.
pub const OUTPUT: TensorSpec = TensorSpec::sequence("o", "B H N E");

/// Axes, with the lengths of a made-up input.
pub const AXES: [(&str, AxisDefault); 7] = [
    ("B", AxisDefault::Length(1)),
    ("H", AxisDefault::Length(8)),
    ("G", AxisDefault::Same("H")),
    ("N", AxisDefault::Length(1024)),
    ("M", AxisDefault::Same("N")),
    ("D", AxisDefault::Length(64)),
    ("E", AxisDefault::Same("D")),
];

/// Q, k, v and o as a uniform has them: elements from one batch, head and token to the next, and the first element of
/// the binding. Twin of `struct Strides` in `shaders/common/strides.wgsl`.
pub type Strides = [u32; 4];

/// The struct of that name.
pub(crate) const STRIDES_SOURCE: Source = source!("common/strides.wgsl");

/// Bytes from the start of a [`Strides`] to its last number, the first element of the binding.
const BASE: usize = 12;

impl Qkv {
    /// f32 in layout bhnd, as many key heads as query heads and as many keys as queries.
    pub const fn new(batch: usize, heads: usize, len: usize, dim_k: usize, dim_v: usize) -> Self {
        let (kv_heads, queries, keys) = (heads, len, len);
        Self { batch, heads, kv_heads, queries, keys, dim_k, dim_v, dtype: DType::F32, layout: Layout::Bhnd }
    }

    /// With this batch.
    pub const fn batch(self, batch: usize) -> Self {
        Self { batch, ..self }
    }

    /// With so many key heads.
    pub const fn kv_heads(self, kv_heads: usize) -> Self {
        Self { kv_heads, ..self }
    }

    /// With so many queries.
    pub const fn queries(self, queries: usize) -> Self {
        Self { queries, ..self }
    }

    /// With so many keys.
    pub const fn keys(self, keys: usize) -> Self {
        Self { keys, ..self }
    }

    /// With this key dimension.
    pub const fn dim_k(self, dim_k: usize) -> Self {
        Self { dim_k, ..self }
    }

    /// With this value dimension.
    pub const fn dim_v(self, dim_v: usize) -> Self {
        Self { dim_v, ..self }
    }

    /// With this storage.
    pub const fn dtype(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// With this axis order.
    pub const fn layout(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    /// From the shapes given, which must agree with each other.
    ///
    /// # Errors
    /// One sentence naming the tensor.
    pub fn of(op: &Op, request: &Request<'_>) -> Result<Self, Error> {
        let axes = |spec: &TensorSpec| -> Result<[usize; 4], Error> {
            let d = request.required(op.name, spec)?.dims();
            Ok(match request.layout {
                Layout::Bhnd => [d[0], d[1], d[2], d[3]],
                Layout::Bnhd => [d[0], d[2], d[1], d[3]],
            })
        };
        let [q, k, v] = INPUTS;
        let [batch, heads, queries, dim_k] = axes(&q)?;
        let [batch_k, kv_heads, keys, dim_k2] = axes(&k)?;
        let [batch_v, heads_v, keys_v, dim_v] = axes(&v)?;
        for (tensor, what, expected, of, found) in [
            ("k", "batch B", batch, "q", batch_k),
            ("v", "batch B", batch, "q", batch_v),
            ("k", "key dim D", dim_k, "q", dim_k2),
            ("v", "heads G", kv_heads, "k", heads_v),
            ("v", "length M", keys, "k", keys_v),
        ] {
            if expected != found {
                return Err(Error::tensor(
                    op.name,
                    tensor,
                    format!("{what} = {expected} as in {of}"),
                    found.to_string(),
                ));
            }
        }
        let (dtype, layout) = (request.dtype, request.layout);
        Ok(Self { batch, heads, kv_heads, queries, keys, dim_k, dim_v, dtype, layout })
    }

    /// Query heads that read one key head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads.max(1)
    }

    /// Key heads of all batch entries.
    pub fn kv_units(&self) -> usize {
        self.batch * self.kv_heads
    }

    /// `1 / sqrt(D)`.
    pub fn default_scale(&self) -> f32 {
        1.0 / (self.dim_k as f32).sqrt()
    }

    /// Checks what the fields alone can get wrong.
    ///
    /// # Errors
    /// One sentence naming the axis or tensor.
    pub fn validate(&self, op: &'static str) -> Result<(), Error> {
        for (axis, length) in [
            ("B", self.batch),
            ("H", self.heads),
            ("G", self.kv_heads),
            ("N", self.queries),
            ("M", self.keys),
            ("D", self.dim_k),
            ("E", self.dim_v),
        ] {
            if length == 0 {
                return Err(Error::setting(op, axis, "1 or more", "0"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let expected = format!("key heads that divide the {} query heads", self.heads);
            return Err(Error::tensor(op, "k", expected, format!("{} key heads", self.kv_heads)));
        }
        if !self.dtype.is_float() {
            return Err(Error::tensor(op, "q", "f32 or f16", self.dtype.name()));
        }
        check_memory(op, &self.slots())
    }

    /// Slots q, k, v, o.
    pub fn slots(&self) -> Vec<Slot> {
        let shape = |heads, len, dim| self.layout.shape(self.batch, heads, len, dim);
        let slot = |name, access, shape: Shape| Slot::plain(name, access, self.dtype, shape);
        vec![
            slot("q", Access::Read, shape(self.heads, self.queries, self.dim_k)),
            slot("k", Access::Read, shape(self.kv_heads, self.keys, self.dim_k)),
            slot("v", Access::Read, shape(self.kv_heads, self.keys, self.dim_v)),
            slot("o", Access::Write, shape(self.heads, self.queries, self.dim_v)),
        ]
    }

    /// Elements of q, k, v and o.
    pub fn elements(&self) -> [f64; 4] {
        let (queries, keys) = ((self.batch * self.heads) as f64, self.kv_units() as f64);
        let (queries, keys) = (queries * self.queries as f64, keys * self.keys as f64);
        let (d, e) = (self.dim_k as f64, self.dim_v as f64);
        [queries * d, keys * d, keys * e, queries * e]
    }

    /// Strides of q, k, v and o. Every tensor has at most `u32::MAX` elements here (see
    /// [`check_indices`](crate::gpu::program::check_indices)), so that no cast loses anything that is used.
    pub fn strides(&self) -> [Strides; 4] {
        let of = |heads, len, dim| strides_of(self.layout, heads, len, dim);
        [
            of(self.heads, self.queries, self.dim_k),
            of(self.kv_heads, self.keys, self.dim_k),
            of(self.kv_heads, self.keys, self.dim_v),
            of(self.heads, self.queries, self.dim_v),
        ]
    }

    /// Cuts a step at key heads (under layout bnhd at batch entries) where one binding cannot hold q, k, v or o whole.
    ///
    /// The step numbers its workgroups with the key head (b G + g) slowest, and has the strides of these tensors, given as
    /// indices of slots, in its uniform at these byte offsets.
    ///
    /// # Errors
    /// [`Error::Limit`] if not even one key head fits.
    pub fn cut(
        &self,
        op: &'static str,
        step: Step,
        slots: &[Slot],
        strides: &[(usize, usize)],
        caps: &Caps,
    ) -> Result<Vec<Step>, Error> {
        let (units, unit) = match self.layout {
            Layout::Bhnd => (self.kv_units(), "one key head"),
            Layout::Bnhd => (self.batch, "one batch entry"),
        };
        let share = |&(i, base): &(usize, usize)| {
            let slot = slots.get(i)?;
            let operand = step.operands.iter().position(|operand| *operand == Operand::Slot(i))?;
            let elements = slot.checked_count()? / units as u64;
            Some(Share { operand, name: slot.name, size: slot.dtype.size() as u64, elements, base: base + BASE })
        };
        let shares: Vec<_> = strides.iter().filter_map(share).collect();
        program::cut(op, step, units as u64, unit, &shares, caps)
    }
}

/// Strides of a tensor of that layout, as a uniform has them.
pub(crate) fn strides_of(layout: Layout, heads: usize, len: usize, dim: usize) -> Strides {
    let s = layout.strides(heads, len, dim);
    [s.batch as u32, s.head as u32, s.token as u32, 0]
}

/// Refuses axes longer than 2^30: shaders compute in u32 and i32 where tiles and segments end.
///
/// # Errors
/// [`Error::Limit`] naming the tensor.
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

/// Refuses a factor of the scores that is not finite.
///
/// # Errors
/// [`Error::Setting`].
pub fn check_scale(op: &'static str, scale: f32) -> Result<(), Error> {
    if scale.is_finite() { Ok(()) } else { Err(Error::setting(op, "scale", "a finite number", scale.to_string())) }
}
