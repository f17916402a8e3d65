//! Prepares the recurrence core for a configuration of SLAY: kernels, fragments, tiles and costs. Pure: no wgpu type.
//!
//! A workgroup stores A and E of the vectors of a tile, and multiplies them when a feature is needed. Features are not
//! stored. The workgroup's rows of the state belong to some entries of A, times all of E. Up to 4096 rows, one
//! workgroup holds all of them, and the columns are split over workgroups: the number of column splits `s` is `E / 64`
//! rounded up to m = 256 and `E m / 16384` beyond. A wider state is processed in parts of its rows, one dispatch each,
//! with partial outputs in the workspace between them.

use super::{Config, NAME, Poly, quadrature};
use crate::cores::recurrence::kernels::*;
use crate::cores::recurrence::{self, CarriedState, Decay, DecayKind, Epilogue, MOST_ROWS, Recurrence, Tiles};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Own, Program};
use crate::gpu::shader::{Fragment, fragment, params};
use crate::operator::mode::StateLayout;

const OWN: Fragment = fragment!("slay/own.wgsl");
const FEATURES: Fragment = fragment!("slay/features.wgsl");
const TYPES: Fragment = fragment!("slay/types.wgsl");
const KEYS: Fragment = fragment!("slay/keys.wgsl");
const PARTIALS: Fragment = fragment!("slay/partials.wgsl");
const DECODE: Fragment = fragment!("slay/decode.wgsl");
const ANCHOR: Fragment = fragment!("slay/poly_anchor.wgsl");
const EXACT: Fragment = fragment!("slay/poly_exact.wgsl");
const MACLAURIN: Fragment = fragment!("slay/poly_maclaurin.wgsl");
const TENSORSKETCH: Fragment = fragment!("slay/poly_tensorsketch.wgsl");
const ONE: Fragment = fragment!("slay/poly_one.wgsl");

static KERNELS: Kernels =
    Kernels::new(["slay_segment", "slay_scan", "slay_output", "slay_decode", "slay_round", "slay_borders"]);

params! {
    /// Must match `struct Own` in `shaders/slay/own.wgsl`.
    struct Sizes {
        nodes: u32,
        poly: u32,
        features: u32,
        omega: u32,
        first_poly: u32,
        poly_scale: f32,
        key_heads: u32,
        _pad: u32,
        node: [[f32; 4]; 32],
    }
}

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
    let states = (c.mode.states(c.qkv.batch) * c.qkv.kv_heads) as f64;
    let state = if c.mode.carry { states * m * (e + 1.0) * 4.0 } else { 0.0 };
    let feature = feature(c, taken(c, c.anchors)) * vectors;
    Cost {
        flops: feature.flops + 2.0 * vectors * m * (e + 1.0),
        exps: feature.exps,
        bytes_read: (q + k + v) * size + state + weights(c) + c.mode.border_bytes(),
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
    let mut sizes = Sizes {
        nodes: c.nodes as u32,
        poly: c.poly_width() as u32,
        features: c.features as u32,
        omega: square.next_multiple_of(4) as u32,
        poly_scale: 1.0 / (c.anchors as f32).sqrt(),
        key_heads: c.qkv.key_heads() as u32,
        ..Sizes::default()
    };
    for (node, [weight, rate, s]) in sizes.node.iter_mut().zip(quadrature::factors(c)) {
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
    let splits = c.poly_width().div_ceil(features.pal);
    let part = |part: usize| Own::new(&Sizes { first_poly: (part * features.pal) as u32, ..sizes });
    let recurrence = Recurrence {
        op: NAME,
        qkv: &c.qkv,
        slots: c.slots(),
        aliases: &[],
        kernels: &KERNELS,
        prepared: Default::default(),
        features: recurrence::Features {
            rows: c.width(),
            keys: vec![OWN, fragment, TYPES, FEATURES, RAW_KEYS, KEYS],
            queries: vec![RAW_QUERIES, PARTIALS],
            decode: vec![OWN, fragment, TYPES, FEATURES, DECODE],
            consts,
            decode_consts,
            row_splits: Some(splits),
            cost: feature(c, met(c, c.poly_width())),
            weight_bytes,
        },
        decay: Decay {
            kind: DecayKind::None,
            slot: None,
            strides: Default::default(),
            tiled: vec![NO_DECAY[0]],
            decode: vec![NO_DECAY[1]],
            cost: Cost::default(),
        },
        epilogue: Epilogue {
            tiled: vec![NORMALIZE[0], NO_EPILOGUE[0]],
            decode: vec![NORMALIZE[1], NO_EPILOGUE[1]],
            overrides: vec![],
            beside_o: None,
            cost: Cost::default(),
        },
        state: CarriedState {
            slot: c.state_slot(),
            transposed: c.mode.state_layout == StateLayout::Ed,
            extra: 0,
            position: false,
        },
        normalize: Some(c.norm_eps),
        scale: 1.0,
        mode: c.mode,
        overrides: vec![],
        own: (0..splits).map(part).collect(),
        essential: essential(c),
        decode_more,
    };
    recurrence.program(&tiles, caps)
}
