//! Prepares the recurrence core for a configuration of SLAY: kernels, fragments, tiles and costs. Pure: no wgpu type.
//!
//! A workgroup stores A and E of the vectors of a tile, and multiplies them when a feature is needed. Features are not
//! stored. The workgroup's rows of the state belong to some entries of A, times all of E. Up to 4096 rows, one
//! workgroup holds all of them, and the columns are split over workgroups: the number of column splits `s` is `E / 64`
//! rounded up to m = 256 and `E m / 16384` beyond. A wider state is processed in parts of its rows, one dispatch each,
//! with partial outputs in the workspace between them.

use super::{Config, NAME, Poly, quadrature};
use crate::cores::recurrence::kernels::*;
use crate::cores::recurrence::{Core, Decay, MOST_ROWS, Params, Tiles};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Program};
use crate::gpu::shader::{Bind, Fragment, Kernel, fragment};

const FEATURES: Fragment = fragment!("slay/features.wgsl");
const TENSORS: Fragment = fragment!("slay/types.wgsl");
const KEYS: Fragment = fragment!("slay/keys.wgsl");
const ANCHOR: Fragment = fragment!("slay/poly_anchor.wgsl");
const EXACT: Fragment = fragment!("slay/poly_exact.wgsl");
const MACLAURIN: Fragment = fragment!("slay/poly_maclaurin.wgsl");
const TENSORSKETCH: Fragment = fragment!("slay/poly_tensorsketch.wgsl");
const ONE: Fragment = fragment!("slay/poly_one.wgsl");

static SEGMENT: Kernel = kernel(
    "slay_segment",
    &[
        STRIDES_TYPES,
        TYPES,
        DECAYS,
        ROWS,
        STATE_WRITE,
        TENSORS,
        FEATURES,
        VECTORS_KEYS,
        KEYS,
        PLAIN.decay,
        STORED,
        SEGMENT_CORE,
        fragment!("slay/segment.wgsl"),
    ],
    &[K, V, WEIGHTS, SEGMENTS],
    Some(PROOF),
);

static SCAN: Kernel = kernel(
    "slay_scan",
    &[STRIDES_TYPES, TYPES, DECAYS, SCAN_CORE, fragment!("slay/scan.wgsl")],
    &[SEGMENTS, UPDATED],
    Some(SCAN_PROOF),
);

static OUTPUT: Kernel = kernel(
    "slay_output",
    &[
        STRIDES_TYPES,
        TYPES,
        DECAYS,
        ROWS,
        STATE_WRITE,
        STATE_READ,
        TENSORS,
        FEATURES,
        VECTORS_KEYS,
        VECTORS_QUERIES,
        KEYS,
        PLAIN.decay,
        PLAIN.quotient,
        PLAIN.output,
        STORED,
        OUTPUT_CORE,
        fragment!("slay/output.wgsl"),
    ],
    &[K, V, WEIGHTS, Q, STATE, O, SEGMENTS, ("partials", Bind::Write)],
    Some(PROOF),
);

static DECODE: Kernel = kernel(
    "slay_decode",
    &[
        STRIDES_TYPES,
        TYPES,
        DECAYS,
        TENSORS,
        FEATURES,
        PLAIN.decode_decay,
        PLAIN.decode_quotient,
        PLAIN.decode,
        ROWS,
        DECODE_CORE,
        fragment!("slay/decode.wgsl"),
    ],
    &[K, V, WEIGHTS, Q, UPDATED, O],
    None,
);

static KERNELS: Kernels = Kernels { segment: &SEGMENT, scan: &SCAN, output: &OUTPUT, decode: &DECODE };

/// Maximum number of bytes of weights that a workgroup caches. More would leave no room for tokens.
const CACHE_BYTES: usize = 6144;

/// How a workgroup stores the features of a configuration.
struct Features {
    /// Groups of four elements of D, and of R F.
    dim_k4: usize,
    e4: usize,
    /// Entries of A per workgroup.
    pal: usize,
    /// Rows of weights that these entries need.
    taken: usize,
    /// Whether E is multiplied by the squares of its own projections (`hadamard`).
    squared: bool,
    /// vec4s of weights that a workgroup caches; 0 if it reads them again for each vector.
    cache: usize,
}

impl Features {
    fn of(c: &Config) -> Result<Self, Error> {
        let e4 = (c.nodes * c.features).div_ceil(4);
        let most = MOST_ROWS / (4 * e4);
        if most == 0 {
            let what = "R F, random features of all nodes".into();
            let needed = (c.nodes * c.features) as u64;
            return Err(Error::Limit { op: NAME.into(), what, needed, limit: MOST_ROWS as u64 });
        }
        let dim_k4 = c.qkv.dim_k.div_ceil(4);
        let splits = c.poly_width().div_ceil(most);
        let pal = c.poly_width().div_ceil(splits);
        let taken = taken(c, pal);
        let cache = (taken + 4 * e4) * dim_k4;
        let fits = cache * 16 <= CACHE_BYTES;
        let squared = c.poly == Poly::Hadamard;
        Ok(Self { dim_k4, e4, pal, taken, squared, cache: if fits { cache } else { 0 } })
    }

    /// Floats of workgroup memory per vector: the vector, A and E.
    fn floats(&self) -> usize {
        4 * self.dim_k4 + self.pal + 4 * self.e4
    }

    fn consts(&self) -> Vec<(&'static str, u32)> {
        vec![
            ("DIM_K4", self.dim_k4 as u32),
            ("PAL", self.pal as u32),
            ("TAKEN", self.taken as u32),
            ("SQUARED", self.squared.into()),
            ("E4", self.e4 as u32),
            ("CACHED", (self.cache > 0).into()),
            ("CACHE", self.cache.max(1) as u32),
        ]
    }
}

/// Minimum work: each input is read once and each output is written once.
pub(super) fn essential(c: &Config) -> Cost {
    let [q, k, v, o] = c.qkv.elements();
    let vectors = (q + k) / c.qkv.dim_k as f64;
    let (m, e) = (c.width() as f64, c.qkv.dim_v as f64);
    let size = c.qkv.dtype.size() as f64;
    let state = if c.mode.carry { c.qkv.kv_units() as f64 * m * (e + 1.0) * 4.0 } else { 0.0 };
    let feature = feature(c, taken(c, c.anchors)) * vectors;
    Cost {
        flops: feature.flops + 2.0 * vectors * m * (e + 1.0),
        exps: feature.exps,
        bytes_read: (q + k + v) * size + state + weights(c),
        bytes_written: o * size + state,
    }
}

/// Bytes of all weights.
fn weights(c: &Config) -> f64 {
    let elements: usize = c.weights_slot().parts.iter().map(|part| part.shape.count()).sum();
    elements as f64 * 4.0
}

/// Rows of weights that `entries` entries of A need. The entries of a convolution need all rows.
fn taken(c: &Config, entries: usize) -> usize {
    c.poly.weight_rows(if c.poly == Poly::TensorSketch { c.anchors } else { entries })
}

/// Rows of weights that are read to compute `entries` entries of A one after another.
fn met(c: &Config, entries: usize) -> usize {
    taken(c, entries) * if c.poly == Poly::TensorSketch { entries } else { 1 }
}

/// Work to compute A and E of one vector, which is projected on `projected` rows of weights for A.
fn feature(c: &Config, projected: usize) -> Cost {
    let random = c.nodes * c.features;
    Cost { flops: 2.0 * ((projected + random) * c.qkv.dim_k) as f64, exps: random as f64, ..Cost::default() }
}

/// Builds the dispatches for this device.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    let fragment = match c.poly {
        Poly::Anchor => ANCHOR,
        Poly::Exact => EXACT,
        Poly::Maclaurin => MACLAURIN,
        Poly::TensorSketch => TENSORSKETCH,
        Poly::Laplace | Poly::Hadamard => ONE,
        Poly::Nystrom => {
            let expected = "another map on a GPU (nystrom runs on the cpu backend)";
            return Err(Error::setting(NAME, "poly", expected, c.poly.name()));
        }
    };
    let features = Features::of(c)?;
    let rows = features.pal * 4 * features.e4;
    let fixed = 4 * features.cache.max(1);
    let tiles = Tiles::new(rows, c.qkv.dim_v, c.qkv.group(), Some(features.floats()), 0, fixed, true).for_several();
    let square = c.poly.weight_rows(c.anchors) * c.qkv.dim_k;
    let mut params = Params {
        nodes: c.nodes as u32,
        poly: c.poly_width() as u32,
        features: c.features as u32,
        omega: square.next_multiple_of(4) as u32,
        poly_scale: 1.0 / (c.anchors as f32).sqrt(),
        ..Params::default()
    };
    for (node, [weight, rate, s]) in params.node.iter_mut().zip(quadrature::factors(c)) {
        *node = [rate as f32, s as f32, weight as f32, 0.0];
    }
    let bytes = |rows: usize| ((rows + c.nodes * c.features) * c.qkv.dim_k * 4) as f64;
    let weight_bytes =
        if features.cache > 0 { (bytes(features.taken), 0.0) } else { (0.0, bytes(met(c, features.pal))) };
    // Each vector is projected on all weights, which the minimum work counts only once.
    let vectors = (c.qkv.batch * (c.qkv.heads + c.qkv.kv_heads)) as f64;
    let decode_more = bytes(met(c, c.poly_width())) * vectors - weights(c);
    let consts = features.consts();
    let mut decode_consts = vec![("TILE", 1), ("READ_HEADS", 1), ("INVOCATIONS", 256)];
    let pal = c.poly_width();
    let whole = Features { pal, taken: taken(c, pal), cache: 0, ..features };
    decode_consts.extend(whole.consts());
    let core = Core {
        op: NAME,
        qkv: &c.qkv,
        slots: c.slots(),
        weights: Some(4),
        kernels: &KERNELS,
        fragments: vec![fragment],
        segment_fragments: vec![],
        output_fragments: vec![],
        decode_fragments: vec![fragment],
        more: vec![],
        more_output: vec![],
        more_const: "",
        overrides: vec![],
        output_overrides: vec![],
        strides: c.qkv.strides(),
        share: 1,
        beside_o: None,
        position: false,
        transposed: false,
        decay: Decay::None,
        gate: None,
        consts,
        decode_consts,
        rows: c.width(),
        mode: c.mode,
        normalize: true,
        scale: 1.0,
        norm_eps: c.norm_eps,
        params,
        row_splits: c.poly_width().div_ceil(features.pal),
        split_step: features.pal,
        feature: feature(c, met(c, c.poly_width())),
        decode_more,
        decay_cost: Cost::default(),
        finish_cost: Cost::default(),
        weight_bytes,
        essential: essential(c),
    };
    core.program(&c.state_slot(), &tiles, caps)
}
