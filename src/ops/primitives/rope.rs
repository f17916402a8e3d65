//! Rotary positions of queries and keys, and the key/value cache, in one dispatch.
//!
//! ```text
//! (y[i], y[i + R/2]) = (x[i] cos - x[i + R/2] sin, x[i + R/2] cos + x[i] sin)     of the angle p theta^(-2i/R)
//! ```
//!
//! The first R columns of each row of q and k turn; the others are copied. p is the position of the row's token: it counts from
//! [`Config::first`], or from what `position` leaves before the tokens of the run. Angles are products in f32 of p and of the
//! frequency in f32, which is `1 / theta^(2i/R)` with each step rounded, as in `transformers` (`LlamaRotaryEmbedding`). Cosine and
//! sine are those of this f32 angle, with an error below 1.5e-7 on a GPU for any angle. Source: arXiv 2104.09864, equation 15, with
//! the pairs half of the rotated columns apart.
//!
//! With a cache, rows p of `k_cache` and `v_cache` become the rotated keys and the values, in place, and the other rows stay. Rows
//! behind the end of the cache are not written. Without rotation (for learned positions) only the cache is left.

use std::mem::offset_of;

use super::{PROOF, check_lengths, columns};
#[cfg(feature = "cpu")]
use crate::cpu::{simd, threads};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Operand, Program, Scratch, Step, Strided, check_indices, check_memory};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment, params};
use crate::operator::qkv::{STRIDES_SOURCE, Strides, strides_of};
use crate::operator::{Algorithm, Configured, ReferenceOutputs, Rows, tensors};
use crate::tensor::{Access, DType, HostTensor, Layout, Slot, TensorMap, Values};
use crate::verify::float::{self, Float};

const NAME: &str = "rope";

/// Which columns turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Style {
    /// Column i and column i + R/2, as `rotate_half` in `transformers`.
    #[default]
    Half,
}

/// How rows turn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Base of the frequencies, 1 or more.
    pub theta: f32,
    /// R: leading columns that turn, an even number up to D and to 512.
    pub dims: usize,
    /// Which of them turn together.
    pub style: Style,
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// B: batch.
    pub batch: usize,
    /// N: tokens.
    pub tokens: usize,
    /// H: heads of q.
    pub heads: usize,
    /// G: heads of k and v.
    pub kv_heads: usize,
    /// D: columns of q and k.
    pub dim: usize,
    /// E: columns of v.
    pub dim_v: usize,
    /// How q and k turn; without, q is not bound.
    pub rope: Option<Rope>,
    /// Rows of the cache along the sequence, if there is one; without, v is not bound.
    pub cache: Option<usize>,
    /// Whether `position` has the number of tokens up to the last one of the run.
    pub position: bool,
    /// Position of the first token, if `position` does not say it.
    pub first: usize,
    /// Order of the axes of all tensors but `position`.
    pub layout: Layout,
    /// Storage type of all tensors but `position`: f32 or f16.
    pub dtype: DType,
}

/// Most pairs that turn. Must match the length of `frequencies` in `shaders/primitives/rope_types.wgsl`.
const PAIRS: usize = 256;

params! {
    /// Must match `struct Params` in `shaders/primitives/rope_types.wgsl`.
    struct Params {
        grid: Grid,
        tokens: u32,
        len: u32,
        heads: u32,
        kv_heads: u32,
        dim: u32,
        dim_v: u32,
        pairs: u32,
        rows: u32,
        before: u32,
        _pad0: u32,
        _pad1: u32,
        _pad2: u32,
        q: Strides,
        k: Strides,
        v: Strides,
        q_out: Strides,
        k_out: Strides,
        v_out: Strides,
        frequencies: [[f32; 16]; PAIRS / 16],
    }
}

static ROPE: Kernel = Kernel::new(
    "primitives_rope",
    &[
        STRIDES_SOURCE,
        fragment!("primitives/rope_types.wgsl"),
        fragment!("primitives/rope_angles.wgsl"),
        fragment!("primitives/rope.wgsl"),
    ],
    Params::UNIFORM,
    Some(PROOF),
);

const ONE: Fragment = fragment!("primitives/rope_one.wgsl");
const FOUR: Fragment = fragment!("primitives/rope_four.wgsl");

/// Invocations of a workgroup.
const INVOCATIONS: u64 = 64;

impl Rope {
    /// The first `dims` columns turn, by halves.
    pub fn new(theta: f32, dims: usize) -> Self {
        Self { theta, dims, style: Style::Half }
    }

    /// Radians per token of each pair.
    fn frequencies(&self) -> Vec<f32> {
        let exponent = |i: usize| (2 * i) as f32 / self.dims as f32;
        (0..self.dims / 2).map(|i| 1.0 / f64::from(self.theta).powf(f64::from(exponent(i))) as f32).collect()
    }
}

impl Config {
    /// One batch entry in f32 and layout bnhd, theta 10000 for all columns, E = D, no cache, from position 0 on.
    pub fn new(tokens: usize, heads: usize, kv_heads: usize, dim: usize) -> Self {
        Self {
            batch: 1,
            tokens,
            heads,
            kv_heads,
            dim,
            dim_v: dim,
            rope: Some(Rope::new(10000.0, dim)),
            cache: None,
            position: false,
            first: 0,
            layout: Layout::Bnhd,
            dtype: DType::F32,
        }
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the setting or tensor.
    pub fn validate(&self) -> Result<(), Error> {
        let axes = [("B", self.batch), ("N", self.tokens), ("H", self.heads), ("G", self.kv_heads), ("D", self.dim)];
        check_lengths(NAME, axes)?;
        check_lengths(NAME, [("E", self.dim_v), ("cache", self.cache.unwrap_or(1))])?;
        match self.rope {
            None if self.cache.is_none() => {
                return Err(Error::rule(NAME, "rope", " or a cache is needed, and neither is set"));
            }
            None => {}
            Some(Rope { theta, .. }) if !(theta.is_finite() && theta >= 1.0) => {
                return Err(Error::setting(NAME, "theta", "a finite number of 1 or more", theta.to_string()));
            }
            Some(Rope { dims, .. }) => {
                let most = self.dim.min(2 * PAIRS) / 2 * 2;
                if dims == 0 || dims > most || !dims.is_multiple_of(2) {
                    let expected = format!("an even number from 2 to {most}, of the D = {} columns", self.dim);
                    return Err(Error::setting(NAME, "rope_dims", expected, dims.to_string()));
                }
            }
        }
        let most = (u32::MAX as usize).saturating_sub(self.tokens);
        if self.first > most {
            return Err(Error::setting(NAME, "position", format!("a number up to {most}"), self.first.to_string()));
        }
        if !self.dtype.is_float() {
            return Err(Error::tensor(NAME, "k", "f32 or f16", self.dtype.name()));
        }
        check_memory(NAME, &self.slots())
    }

    /// Number of pairs that turn.
    fn pairs(&self) -> usize {
        self.rope.map_or(0, |rope| rope.dims / 2)
    }

    /// Rows of the written keys along the sequence.
    fn rows(&self) -> usize {
        self.cache.unwrap_or(self.tokens)
    }

    /// Name of the written keys.
    fn keys_out(&self) -> &'static str {
        if self.cache.is_some() { "k_cache" } else { "k_out" }
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let slot = |name, access, heads, len, dim| {
            Slot::plain(name, access, self.dtype, self.layout.shape(self.batch, heads, len, dim))
        };
        let (n, h, g, d, e) = (self.tokens, self.heads, self.kv_heads, self.dim, self.dim_v);
        let mut slots = vec![slot("k", Access::Read, g, n, d)];
        if self.rope.is_some() {
            slots.extend([slot("q", Access::Read, h, n, d), slot("q_out", Access::Write, h, n, d)]);
        }
        match self.cache {
            None => slots.push(slot("k_out", Access::Write, g, n, d)),
            Some(rows) => slots.extend([
                slot("v", Access::Read, g, n, e),
                slot("k_cache", Access::Update, g, rows, d),
                slot("v_cache", Access::Update, g, rows, e),
            ]),
        }
        slots.extend(self.position.then(|| Slot::plain("position", Access::Read, DType::U32, [1])));
        slots
    }

    /// Position of the first token.
    fn before(&self, tensors: &TensorMap) -> usize {
        match tensors.get("position").map(HostTensor::values) {
            Some(Values::U32(position)) if self.position => (position[0] as usize).saturating_sub(self.tokens),
            _ => self.first,
        }
    }

    /// First row of the written keys that is written, and how many are.
    fn written(&self, tensors: &TensorMap) -> (usize, usize) {
        let first = if self.cache.is_some() { self.before(tensors) } else { 0 };
        (first, self.tokens.min(self.rows().saturating_sub(first)))
    }

    /// Index of the row of a token in a tensor of so many heads and rows along the sequence.
    fn row(&self, [batch, head, token]: [usize; 3], heads: usize, len: usize) -> usize {
        match self.layout {
            Layout::Bhnd => (batch * heads + head) * len + token,
            Layout::Bnhd => (batch * len + token) * heads + head,
        }
    }

    /// The rows of a tensor of so many heads, as they lie in it: batch entry, head and token of each.
    fn places(&self, heads: usize, tokens: &[usize]) -> Vec<[usize; 3]> {
        let mut places = Vec::new();
        for batch in 0..self.batch {
            match self.layout {
                Layout::Bhnd => (0..heads).for_each(|head| places.extend(tokens.iter().map(|n| [batch, head, *n]))),
                Layout::Bnhd => tokens.iter().for_each(|n| places.extend((0..heads).map(|head| [batch, head, *n]))),
            }
        }
        places
    }

    fn outputs<T: Float>(&self, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
        let read = |name: &str| float::read::<T>(tensors, name).unwrap_or_else(|| panic!("tensor {name} is missing"));
        let before = self.before(tensors);
        let frequencies = self.rope.map_or_else(Vec::new, |rope| rope.frequencies());
        let pairs = frequencies.len();
        let turned = |x: &[T], heads: usize, place: [usize; 3]| {
            let mut y = x[self.row(place, heads, self.tokens) * self.dim..][..self.dim].to_vec();
            for (i, frequency) in frequencies.iter().enumerate() {
                let angle = f64::from((before + place[2]) as f32 * frequency);
                let (c, s, a, b) = (T::of(angle.cos()), T::of(angle.sin()), y[i], y[i + pairs]);
                (y[i], y[i + pairs]) = (a * c - b * s, b * c + a * s);
            }
            y
        };
        let wanted = |x: Vec<T>, heads| {
            let places = self.places(heads, &rows.of(self.tokens));
            float::wide(places.into_iter().flat_map(|place| turned(&x, heads, place)).collect())
        };
        let mut outputs = Vec::new();
        if self.rope.is_some() {
            outputs.push(("q_out", wanted(read("q"), self.heads)));
        }
        if self.cache.is_none() {
            outputs.push(("k_out", wanted(read("k"), self.kv_heads)));
            return outputs;
        }
        let (first, count) = self.written(tensors);
        let (k, v) = (read("k"), read("v"));
        let value = |place| v[self.row(place, self.kv_heads, self.tokens) * self.dim_v..][..self.dim_v].to_vec();
        let mut cache = |name: &'static str, dim: usize, of: &dyn Fn([usize; 3]) -> Vec<T>| {
            let all = self.batch * self.kv_heads * self.rows() * dim;
            let mut cache = float::read::<T>(tensors, name).unwrap_or_else(|| vec![T::of(0.0); all]);
            for place in self.places(self.kv_heads, &(0..count).collect::<Vec<_>>()) {
                let [batch, head, n] = place;
                let row = self.row([batch, head, first + n], self.kv_heads, self.rows());
                cache[row * dim..(row + 1) * dim].copy_from_slice(&of(place));
            }
            outputs.push((name, float::wide(cache)));
        };
        cache("k_cache", self.dim, &|place| turned(&k, self.kv_heads, place));
        cache("v_cache", self.dim_v, &value);
        outputs
    }

    fn program(&self, caps: &Caps) -> Result<Program, Error> {
        caps.require(NAME, self.dtype)?;
        let slots = self.slots();
        check_indices(NAME, &slots)?;
        let mut frequencies = [[0.0; 16]; PAIRS / 16];
        if let Some(rope) = self.rope {
            frequencies.as_flattened_mut()[..self.pairs()].copy_from_slice(&rope.frequencies());
        }
        let (n, g) = (self.tokens, self.kv_heads);
        let strides = |heads, len, dim| strides_of(self.layout, heads, len, dim);
        let heads = if self.rope.is_some() { self.heads } else { 0 };
        let dim_v = if self.cache.is_some() { self.dim_v } else { 0 };
        let params = Params {
            tokens: (self.batch * n) as u32,
            len: n as u32,
            heads: heads as u32,
            kv_heads: g as u32,
            dim: self.dim as u32,
            dim_v: dim_v as u32,
            pairs: self.pairs() as u32,
            rows: self.rows() as u32,
            before: self.first as u32,
            q: strides(heads, n, self.dim),
            k: strides(g, n, self.dim),
            v: strides(g, n, self.dim_v),
            q_out: strides(heads, n, self.dim),
            k_out: strides(g, self.rows(), self.dim),
            v_out: strides(g, self.rows(), self.dim_v),
            frequencies,
            ..Params::default()
        };
        // If a tensor is absent, the kernel binds a few bytes of workspace instead, which it does not touch. At most one that it
        // would write is.
        let place = |name: &str| slots.iter().position(|slot| slot.name == name);
        let read = |name| place(name).map_or(Operand::Workspace(0), Operand::Slot);
        let write = |name| place(name).map_or(Operand::Workspace(1), Operand::Slot);
        let operands = [
            ("q", read("q")),
            ("k", read("k")),
            ("v", read("v")),
            ("position", read("position")),
            ("q_out", write("q_out")),
            ("k_out", write(self.keys_out())),
            ("v_out", write("v_cache")),
        ];
        let workspace = ["absent", "absent, written"].map(|name| Scratch { name, bytes: 16 }).to_vec();
        let columns = columns::most(&[self.dim, self.pairs(), dim_v]);
        let items = |columns: usize| {
            let row = (self.dim - self.pairs()) / columns;
            (self.batch * n) as u64 * ((heads + g) * row + g * (dim_v / columns)) as u64
        };
        let needed = items(1);
        if needed > u64::from(u32::MAX) {
            let what = "number of pairs and columns".into();
            return Err(Error::Limit { op: NAME.into(), what, needed, limit: u32::MAX.into() });
        }
        let spec = self.variant(columns, 1);
        // With the same workgroups.
        let narrow = (columns > 1).then(|| self.variant(1, columns));
        let groups = items(columns).div_ceil(INVOCATIONS);
        let cost = self.cost();
        let of_position = if self.position { 4.0 * (items(columns) - 1) as f64 } else { 0.0 };
        let cost = Cost { bytes_read: cost.bytes_read + of_position, ..cost };
        let mut step = Step::new(&ROPE, spec, &params, &operands, groups, cost).or_narrow(narrow);
        let strided = [("q", offset_of!(Params, q)), ("k", offset_of!(Params, k)), ("v", offset_of!(Params, v))];
        // They are the first three operands.
        step.strided = strided
            .into_iter()
            .enumerate()
            .filter(|(_, (name, _))| place(name).is_some())
            .map(|(operand, (_, at))| Strided { operand, at, layout: self.layout, backward_from: None })
            .collect();
        let variant = format!("pieces of {columns} columns");
        Ok(Program::new(NAME, variant, slots, workspace, vec![step]))
    }

    /// The kernel for pieces of so many columns, so many of them for each invocation.
    fn variant(&self, columns: usize, items: usize) -> Variant {
        let overrides = vec![("POSITION", self.position.into()), ("CACHE", self.cache.is_some().into())];
        let own = if columns == 4 { FOUR } else { ONE };
        Variant::new(self.dtype, vec![("ITEMS", items as u32)], overrides).with(&[columns::of(columns), own])
    }

    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> TensorMap {
        let turns = self.turns(tensors);
        let written = |slot: Slot| {
            let own = tensors.get(slot.name).filter(|_| slot.access == Access::Update);
            let own = own.map_or_else(|| HostTensor::zeros(slot.shape(), slot.dtype), HostTensor::clone);
            (slot.name.to_owned(), self.write(tensors, slot.name, own, &turns))
        };
        self.slots().into_iter().filter(|slot| slot.access != Access::Read).map(written).collect()
    }

    /// The same in place: a long cache is not copied for a token.
    #[cfg(feature = "cpu")]
    fn update(&self, tensors: &mut TensorMap) -> bool {
        let turns = self.turns(tensors);
        for slot in self.slots().into_iter().filter(|slot| slot.access != Access::Read) {
            let own = tensors.lend(slot.name, &slot.shape(), slot.dtype);
            let written = self.write(tensors, slot.name, own, &turns);
            tensors.insert(slot.name, written);
        }
        true
    }

    /// Cosines of a token, then its sines, token by token.
    #[cfg(feature = "cpu")]
    fn turns(&self, tensors: &TensorMap) -> Vec<f32> {
        let Some(rope) = self.rope else { return Vec::new() };
        let (frequencies, pairs, before) = (rope.frequencies(), self.pairs(), self.before(tensors));
        let mut turns = vec![0.0; self.tokens * 2 * pairs];
        threads::each_mut(&mut turns, 2 * pairs, TURN_FLOPS * pairs as u64, |n, turn| {
            let (c, s) = turn.split_at_mut(pairs);
            for (frequency, (c, s)) in frequencies.iter().zip(c.iter_mut().zip(s)) {
                let (sine, cosine) = f64::from((before + n) as f32 * frequency).sin_cos();
                (*c, *s) = (cosine as f32, sine as f32);
            }
        });
        turns
    }

    /// Writes what the run has for this output or cache.
    #[cfg(feature = "cpu")]
    fn write(&self, tensors: &TensorMap, name: &str, to: HostTensor, turns: &[f32]) -> HostTensor {
        use half::slice::HalfFloatSliceExt;
        let (source, heads, dim) = match name {
            "q_out" => ("q", self.heads, self.dim),
            "v_cache" => ("v", self.kv_heads, self.dim_v),
            _ => ("k", self.kv_heads, self.dim),
        };
        let (first, count) = if name == "q_out" { (0, self.tokens) } else { self.written(tensors) };
        let rows = if name == "q_out" { self.tokens } else { self.rows() };
        let turns = if source == "v" { &[] } else { turns };
        // Rows that lie together in both tensors, and the rows of a token among them.
        let (runs, each) = match self.layout {
            Layout::Bhnd => (self.batch * heads, 1),
            Layout::Bnhd => (self.batch, heads),
        };
        let x = super::floats(tensors, source);
        let (shape, mut values) = (to.shape().clone(), to.into_values());
        for run in (0..runs).filter(|_| count > 0) {
            let x = &x[run * self.tokens * each * dim..][..count * each * dim];
            let own = (run * rows + first) * each * dim..(run * rows + first + count) * each * dim;
            match &mut values {
                Values::F32(to) => turn_rows(&mut to[own], x, [dim, each], turns, self.pairs()),
                Values::F16(to) => {
                    let mut wide = vec![0.0; x.len()];
                    turn_rows(&mut wide, x, [dim, each], turns, self.pairs());
                    to[own].convert_from_f32_slice(&wide);
                }
                _ => panic!("tensor {name} has no numbers"),
            }
        }
        HostTensor::new(shape, values)
    }

    fn cost(&self) -> Cost {
        let size = self.dtype.size() as f64;
        let tokens = (self.batch * self.tokens) as f64;
        let first = if self.cache.is_some() && !self.position { self.first } else { 0 };
        // Rows behind the end of the cache are neither read nor written.
        let kept = (self.batch * self.tokens.min(self.rows().saturating_sub(first)) * self.kv_heads) as f64;
        let queries = if self.rope.is_some() { tokens * self.heads as f64 } else { 0.0 };
        let values = if self.cache.is_some() { self.dim_v } else { 0 } as f64;
        let bytes = ((queries + kept) * self.dim as f64 + kept * values) * size;
        let position = if self.position { 4.0 } else { 0.0 };
        Cost {
            flops: 6.0 * (queries + kept) * self.pairs() as f64,
            exps: 0.0,
            bytes_read: bytes + position,
            bytes_written: bytes,
        }
    }
}

/// Flops of a cosine and a sine, about, by which they are distributed over threads.
#[cfg(feature = "cpu")]
const TURN_FLOPS: u64 = 100;

/// Copies rows, `each` of a token, and turns them.
#[cfg(feature = "cpu")]
fn turn_rows(to: &mut [f32], x: &[f32], [dim, each]: [usize; 2], turns: &[f32], pairs: usize) {
    threads::each_mut(to, dim, 6 * dim as u64, |row, to| {
        to.copy_from_slice(&x[row * dim..(row + 1) * dim]);
        if !turns.is_empty() {
            let (c, s) = turns[row / each * 2 * pairs..][..2 * pairs].split_at(pairs);
            let (a, b) = to[..2 * pairs].split_at_mut(pairs);
            turn(a, b, c, s);
        }
    });
}

#[cfg(feature = "cpu")]
simd::wide! {
    /// `(a, b) = (a c - b s, b c + a s)`, element by element.
    fn turn(a: &mut [f32], b: &mut [f32], c: &[f32], s: &[f32]) {
        for ((a, b), (c, s)) in a.iter_mut().zip(b).zip(c.iter().zip(s)) {
            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
        }
    }
}

impl Configured for Config {
    type Tensors<'a> = Tensors<'a>;

    const ALGORITHM: Algorithm<Self> = Algorithm {
        name: NAME,
        validate: Self::validate,
        slots: Self::slots,
        cost: Self::cost,
        program: Self::program,
        reference: [Self::outputs::<f32>, Self::outputs::<f64>],
        #[cfg(feature = "cpu")]
        cpu: crate::operator::CpuBackend::new(Self::cpu, |_| "row after row".into()).in_place(Self::update),
    };

    fn check_values(&self, tensors: &TensorMap) -> Result<(), Error> {
        match tensors.get("position").map(HostTensor::values) {
            Some(Values::U32(position)) if self.position && (position[0] as usize) < self.tokens => {
                let expected = format!("{} or more, since the tokens of the run count", self.tokens);
                Err(Error::tensor(NAME, "position", expected, position[0].to_string()))
            }
            _ => Ok(()),
        }
    }
}

tensors! {
    /// Tensors on the GPU. All but `position` have the storage type of the configuration.
    required {
        /// `[B, N, G, D]`, may be strided.
        k,
    }
    optional {
        /// `[B, N, H, D]`, may be strided; required if the configuration rotates, otherwise refused.
        q,
        /// The same shape as `q`, written; required if the configuration rotates, otherwise refused.
        q_out,
        /// The same shape as `k`, written; required without a cache, otherwise refused.
        k_out,
        /// `[B, N, G, E]`, may be strided; required with a cache, otherwise refused.
        v,
        /// `[B, cache, G, D]`, updated; required with a cache, otherwise refused.
        k_cache,
        /// `[B, cache, G, E]`, updated; required with a cache, otherwise refused.
        v_cache,
        /// `[1]` u32: the number of tokens up to the last one of the run; required if the configuration has it, otherwise refused.
        position,
    }
}
