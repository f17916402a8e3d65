//! Prepares the recurrence core for a configuration of SLAY: kernels, fragments, tiles and costs. Pure: no wgpu type.
//!
//! A and E of all vectors are computed by a dispatch of their own and stored, for a block of the sequence at a time.
//! A workgroup loads those of the vectors of a tile, and multiplies them when a feature is needed. The workgroup's
//! rows of the state belong to some entries of A, times all of E. Up to 4096 rows, one workgroup holds all of them,
//! and the columns are split over workgroups: the number of column splits `s` is `E / 64` rounded up to m = 256 and
//! `E m / 16384` beyond. A wider state is processed in parts of its rows, one dispatch each, with partial outputs in
//! the workspace between them. Where one workgroup holds all rows, outputs may be computed by products of chunks of
//! tokens, in which a score is the product of A times A and of E times E.

use super::{Config, NAME, Poly, quadrature};
use crate::cores::recurrence::kernels::{self, *};
use crate::cores::recurrence::{
    self, CarriedState, ChunkFeatures, Decay, DecayKind, Epilogue, MOST_ROWS, Recurrence, Stored, Tiles,
};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Own, Program};
use crate::gpu::shader::{Fragment, Kernel, fragment, params};
use crate::operator::mode::StateLayout;

const OWN: Fragment = fragment!("slay/own.wgsl");
const FEATURES: Fragment = fragment!("slay/features.wgsl");
const PRODUCT: Fragment = fragment!("slay/product.wgsl");
const STORED: Fragment = fragment!("slay/stored.wgsl");
const STORED_SQUARE: Fragment = fragment!("slay/stored_square.wgsl");
const STORED_EXACT: Fragment = fragment!("slay/stored_exact.wgsl");
const CHUNK: Fragment = fragment!("slay/chunk.wgsl");
const CHUNK_KEYS: Fragment = fragment!("slay/chunk_keys.wgsl");
const COMPONENTS: Fragment = fragment!("slay/components.wgsl");
const PARTIALS: Fragment = fragment!("slay/partials.wgsl");
const DECODE: Fragment = fragment!("slay/decode.wgsl");
// Maps for the square: for stored features, and for a token that is decoded.
const ANCHOR: [Fragment; 2] = [fragment!("slay/product_anchor.wgsl"), fragment!("slay/poly_anchor.wgsl")];
const EXACT: [Fragment; 2] = [fragment!("slay/product_exact.wgsl"), fragment!("slay/poly_exact.wgsl")];
const MACLAURIN: [Fragment; 2] = [fragment!("slay/product_maclaurin.wgsl"), fragment!("slay/poly_maclaurin.wgsl")];
const TENSORSKETCH: [Fragment; 2] =
    [fragment!("slay/product_tensorsketch.wgsl"), fragment!("slay/poly_tensorsketch.wgsl")];
const ONE: [Fragment; 2] = [fragment!("slay/product_one.wgsl"), fragment!("slay/poly_one.wgsl")];

static FEATURES_KERNEL: Kernel = kernels::features("slay_features");
static KERNELS: Kernels = Kernels::new([
    "slay_segment",
    "slay_scan",
    "slay_output",
    "slay_scores",
    "slay_chunk",
    "slay_segment_matrix",
    "slay_chunk_matrix",
    "slay_decode",
    "slay_tokens",
    "slay_round",
    "slay_borders",
]);

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

/// How features of a configuration are stored, and what a workgroup holds of them.
struct Features {
    /// Groups of four elements of D, and of R F.
    dim_k4: usize,
    e4: usize,
    /// Entries of A per workgroup.
    pal: usize,
    /// Parts that the rows of the state are split into.
    splits: usize,
    /// vec4s stored for A: its entries, where each part starts with a vec4, or the unit vector under `exact`.
    squares: usize,
    /// Groups of four rows of weights that A needs, and vec4s of their products that are stored beside the features.
    products: usize,
    beside: usize,
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
        let entries = splits * pal.div_ceil(4);
        let sketched = (2 * c.anchors).div_ceil(4);
        let [squares, products, beside] = match c.poly {
            Poly::Exact => [dim_k4, dim_k4, 0],
            Poly::Maclaurin => [entries, 2 * entries, 0],
            Poly::TensorSketch => [entries, sketched, sketched],
            Poly::Anchor | Poly::Nystrom | Poly::Laplace | Poly::Hadamard => [entries, entries, 0],
        };
        Ok(Self { dim_k4, e4, pal, splits, squares, products, beside })
    }

    /// vec4s of the entries of A per workgroup.
    fn pal4(&self) -> usize {
        self.pal.div_ceil(4)
    }

    /// Floats of workgroup memory per vector: A and E, and the unit vector under `exact`.
    fn floats(&self, c: &Config) -> usize {
        4 * (self.pal4() + self.e4 + if c.poly == Poly::Exact { self.squares } else { 0 })
    }

    /// Consts of the kernel that stores features and of those that load them.
    fn consts(&self, c: &Config) -> Vec<(&'static str, u32)> {
        let sizes = [
            ("PAL", self.pal),
            ("PAL4", self.pal4()),
            ("SQUARES4", self.squares),
            ("E4", self.e4),
            ("RANDOM", c.features),
        ];
        sizes.map(|(name, size)| (name, size as u32)).into()
    }

    fn decode_consts(&self, c: &Config) -> Vec<(&'static str, u32)> {
        let (pal, taken) = (c.poly_width(), taken(c));
        let sizes = [("DIM_K4", self.dim_k4), ("PAL", pal), ("TAKEN", taken), ("E4", self.e4)];
        let squared = ("SQUARED", usize::from(c.poly == Poly::Hadamard));
        sizes.into_iter().chain([squared]).map(|(name, size)| (name, size as u32)).collect()
    }

    /// The features for products of chunks: those of `exact` are products of three numbers.
    fn chunk(&self, c: &Config) -> Option<ChunkFeatures> {
        let groups = (self.pal * self.e4) as f64;
        (c.poly != Poly::Exact).then(|| ChunkFeatures {
            fragments: vec![OWN, CHUNK],
            keys: CHUNK_KEYS,
            exact: false,
            scored: 4 * (self.pal4() + self.e4),
            state_bytes: Some(20.0 * groups),
        })
    }

    fn stored(&self, c: &Config, fragments: Vec<Fragment>) -> Stored {
        let projected = taken(c);
        let row = self.squares + self.e4 + self.beside;
        let loaded = self.e4 + if c.poly == Poly::Exact { self.squares } else { self.pal4() };
        // Every entry of a convolution reads all projections.
        let read = if c.poly == Poly::TensorSketch { c.anchors * 2 * c.anchors } else { 0 };
        let cost = Cost { bytes_read: 4.0 * read as f64, bytes_written: 16.0 * row as f64, ..feature(c, projected) };
        let mut consts = self.consts(c);
        let squared = u32::from(c.poly == Poly::Hadamard);
        let products = self.products as u32;
        consts.extend([("SQUARED", squared), ("SQUARE_PRODUCTS4", products)]);
        Stored {
            kernel: &FEATURES_KERNEL,
            fragments,
            consts,
            floats: 0,
            largest: matches!(c.poly, Poly::Laplace | Poly::Hadamard),
            products: self.products + self.e4,
            row,
            loaded,
            weights: ((projected + c.nodes * c.features) * c.qkv.dim_k * 4) as f64,
            cost,
        }
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
    let feature = feature(c, taken(c)) * vectors;
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

/// Rows of weights that A needs.
fn taken(c: &Config) -> usize {
    c.poly.weight_rows(c.anchors)
}

/// Rows of weights that are read to compute the entries of A one after another: a convolution needs all of them for each.
fn met(c: &Config) -> usize {
    taken(c) * if c.poly == Poly::TensorSketch { c.anchors } else { 1 }
}

/// Work to compute A and E of one vector, which is projected on `projected` rows of weights for A.
fn feature(c: &Config, projected: usize) -> Cost {
    let random = c.nodes * c.features;
    Cost { flops: 2.0 * ((projected + random) * c.qkv.dim_k) as f64, exps: random as f64, ..Cost::default() }
}

/// Builds the dispatches for this device.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    let [product, decoded] = match c.poly {
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
    let tiles = Tiles::new(rows, c.qkv.dim_v, c.qkv.group(), Some(features.floats(c)), 0, 0, true).for_several();
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
    // Each vector is projected on all weights, which the minimum work counts only once.
    let vectors = (c.qkv.batch * (c.qkv.heads + c.qkv.kv_heads)) as f64;
    let decode_more = bytes(met(c)) * vectors - weights(c);
    let loaded = if c.poly == Poly::Exact { vec![COMPONENTS, STORED_EXACT] } else { vec![STORED_SQUARE] };
    let components = (c.poly == Poly::Exact).then_some(COMPONENTS);
    let mut stored = vec![OWN, PRODUCT, product];
    // A convolution is completed when all projections are there.
    stored.extend((c.poly != Poly::TensorSketch).then_some(PLAIN_VECTORS));
    let splits = features.splits;
    let part = |part: usize| Own::new(&Sizes { first_poly: (part * features.pal) as u32, ..sizes });
    let recurrence = Recurrence {
        op: NAME,
        qkv: &c.qkv,
        convolved: None,
        slots: c.slots(),
        aliases: &[],
        kernels: &KERNELS,
        prepared: Default::default(),
        features: recurrence::Features {
            rows: c.width(),
            keys: [vec![OWN, STORED], loaded].concat(),
            queries: vec![PARTIALS],
            decode: [OWN].into_iter().chain(components).chain([decoded, FEATURES, DECODE]).collect(),
            chunk: features.chunk(c),
            consts: features.consts(c),
            decode_consts: features.decode_consts(c),
            row_splits: Some(splits),
            cost: Cost::default(),
            stored: Some(features.stored(c, stored)),
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
            reads_values: false,
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
