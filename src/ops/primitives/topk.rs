//! Addresses by products of choices: finds the K largest of all P^U sums of one logit per digit, exactly and without
//! computing all of them.
//!
//! ```text
//! index[r]  = the K addresses i of the largest z(i) = sum_u q[r, u, digit u of i],  the largest first
//! weight[r] = prod_u softmax(q[r, u] / tau)[digit u of i]       Weights::Product: RAM-Net's, not renormalised
//!           = softmax over the K of z(i) / tau                  Weights::Softmax: that of product keys
//! ```
//!
//! Sums are f32. Digit 0 is added first and is the least significant of an address. Of equal sums, the smaller address
//! comes first. The beam keeps K prefixes per digit, so up to `U K P` sums are computed. Product keys (arXiv
//! 1907.05242) are the case U = 2 with P sub-keys each: the logits are their scores, and digit 1 is the half that
//! counts in steps of P.

use super::{PROOF, Params, TYPES, Tokens, reference};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Operand, Program, Step, check_indices, check_memory};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment};
use crate::operator::{Algorithm, Configured, ReferenceOutputs, Rows, tensors};
use crate::tensor::{Access, DType, Slot, TensorMap};
#[cfg(feature = "cpu")]
use crate::tensor::{HostTensor, Values};
use crate::verify::float::{self, Float};

const NAME: &str = "topk";

/// Maximum number of addresses that are kept.
pub const MAX_TOPK: usize = 64;

/// Maximum number of digits of an address.
pub const MAX_DIGITS: usize = 32;

/// The weights of the kept addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Weights {
    /// The product of the softmaxes of their digits.
    Product,
    /// The softmax over the kept addresses.
    Softmax,
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The rows of q.
    pub tokens: Tokens,
    /// U: digits of an address.
    pub digits: usize,
    /// P: choices per digit.
    pub choices: usize,
    /// K: number of addresses that are kept.
    pub topk: usize,
    /// How the kept addresses are weighted.
    pub weights: Weights,
    /// Temperature of the softmax.
    pub tau: f32,
    /// Storage type of the logits: f32 or f16.
    pub dtype: DType,
}

static TOPK: Kernel =
    Kernel::new("primitives_topk", &[TYPES, BEAM, fragment!("primitives/topk.wgsl")], Params::UNIFORM, Some(PROOF));

impl Config {
    /// f32, with product weights at temperature 1.
    pub fn new(tokens: impl Into<Tokens>, digits: usize, choices: usize, topk: usize) -> Self {
        Self { tokens: tokens.into(), digits, choices, topk, weights: Weights::Product, tau: 1.0, dtype: DType::F32 }
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the setting.
    pub fn validate(&self) -> Result<(), Error> {
        self.tokens.validate(NAME)?;
        for (setting, value, most) in [("digits", self.digits, MAX_DIGITS), ("topk", self.topk, MAX_TOPK)] {
            if value == 0 || value > most {
                return Err(Error::setting(NAME, setting, format!("1 to {most}"), value.to_string()));
            }
        }
        let addresses = (self.choices as u64).checked_pow(self.digits as u32).unwrap_or(u64::MAX);
        if self.choices == 0 || addresses > 1 << 31 {
            let found = format!("{}^{}", self.choices, self.digits);
            return Err(Error::setting(NAME, "choices", "1 to 2^31 addresses P^U", found));
        }
        if self.topk as u64 > addresses {
            return Err(Error::setting(NAME, "topk", format!("1 to the {addresses} addresses"), self.topk.to_string()));
        }
        if !(self.tau.is_finite() && self.tau > 0.0) {
            return Err(Error::setting(NAME, "tau", "a finite number over 0", self.tau.to_string()));
        }
        if !self.dtype.is_float() {
            return Err(Error::tensor(NAME, "q", "f32 or f16", self.dtype.name()));
        }
        check_memory(NAME, &self.slots())
    }

    fn outputs<T: Float>(&self, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
        let logits = tensors.get("q").unwrap_or_else(|| panic!("tensor q is missing"));
        let (raw, exact) = (logits.to_f32(), float::read::<T>(tensors, "q").unwrap_or_default());
        let width = self.digits * self.choices;
        let (mut indices, mut weights) = (Vec::new(), Vec::new());
        for row in self.tokens.wanted(rows) {
            let best = reference::top(&raw[row * width..][..width], self.choices, self.topk);
            let own = match self.weights {
                Weights::Product => reference::products(&exact[row * width..][..width], self.choices, self.tau, &best),
                Weights::Softmax => {
                    let tau = T::of(f64::from(self.tau));
                    float::softmax(best.iter().map(|&(_, sum)| T::of(f64::from(sum)) / tau).collect())
                }
            };
            weights.extend(float::wide(own));
            indices.extend(best.iter().map(|&(address, _)| address as f64));
        }
        vec![("index", indices), ("weight", weights)]
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let kept = self.tokens.shape(self.topk);
        let q = self.tokens.shape(self.digits.saturating_mul(self.choices));
        vec![
            Slot::plain("q", Access::Read, self.dtype, q),
            Slot::plain("index", Access::Write, DType::I32, kept.clone()),
            Slot::plain("weight", Access::Write, DType::F32, kept),
        ]
    }

    fn program(&self, caps: &Caps) -> Result<Program, Error> {
        caps.require(NAME, self.dtype)?;
        check_indices(NAME, &self.slots())?;
        let lanes = Lanes::new(self.digits, self.choices, self.topk);
        let params = Params { rows: self.tokens.rows() as u32, tau: self.tau, ..Params::default() };
        let overrides = vec![("SURVIVORS", (self.weights == Weights::Softmax).into())];
        let spec = Variant::new(self.dtype, lanes.consts(lanes.vectors()), overrides);
        let names = ["logits", "indices", "weight"];
        let operands: Vec<_> = names.into_iter().zip((0..3).map(Operand::Slot)).collect();
        let mut loads = lanes.loads();
        if self.weights == Weights::Softmax && !lanes.cached() {
            loads = lanes.candidates();
        }
        let bytes_read = (self.tokens.rows() * loads * self.dtype.size()) as f64;
        let cost = Cost { flops: self.tokens.rows() as f64 * lanes.work(), bytes_read, ..self.cost() };
        let groups = self.tokens.rows().div_ceil(lanes.vectors());
        let step = Step::new(&TOPK, spec, &params, &operands, groups as u64, cost);
        let variant = format!("{} lanes a row", lanes.lanes);
        Ok(Program::new(NAME, variant, self.slots(), vec![], vec![step]))
    }

    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> TensorMap {
        use super::beam::{self, Beam};
        use rayon::prelude::*;
        let logits = tensors.get("q").map(HostTensor::to_f32).unwrap_or_default();
        let width = self.digits * self.choices;
        let kept = self.tokens.rows() * self.topk;
        let (mut indices, mut weights) = (vec![0i32; kept], vec![0.0f32; kept]);
        let make = || (Beam::new(self.choices, self.topk), vec![0.0; width]);
        let rows = indices.par_chunks_exact_mut(self.topk).zip(weights.par_chunks_exact_mut(self.topk));
        rows.zip(logits.par_chunks_exact(width)).for_each_init(make, |(beam, shares), ((indices, weights), logits)| {
            for (index, address) in indices.iter_mut().zip(beam.top(logits)) {
                *index = address as i32;
            }
            if self.weights == Weights::Product {
                shares.copy_from_slice(logits);
                beam::shares(shares, self.choices, self.tau);
                for (weight, &address) in weights.iter_mut().zip(&*indices) {
                    *weight = beam::weight(shares, self.choices, address as usize);
                }
            } else {
                weights.iter_mut().enumerate().for_each(|(at, weight)| *weight = beam.sum(at));
                beam::shares(weights, self.topk, self.tau);
            }
        });
        let mut outputs = TensorMap::new();
        let kept = self.tokens.shape(self.topk);
        outputs.insert("index", HostTensor::new(kept.clone(), Values::I32(indices)));
        outputs.insert("weight", HostTensor::f32(kept, weights));
        outputs
    }

    fn cost(&self) -> Cost {
        let (rows, width, kept) = (self.tokens.rows() as f64, (self.digits * self.choices) as f64, self.topk as f64);
        let sums = Lanes::new(self.digits, self.choices, self.topk).candidates() as f64;
        let exps = if self.weights == Weights::Product { width + kept } else { kept };
        Cost {
            flops: rows * sums,
            exps: rows * exps,
            bytes_read: rows * width * self.dtype.size() as f64,
            bytes_written: rows * kept * 8.0,
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
        cpu: crate::operator::CpuBackend::new(Self::cpu, |_| "row after row".into()),
    };
}

tensors! {
    /// Tensors on the GPU.
    required {
        /// Logits `[B, H, N, U P]`, digit 0 first.
        q,
        /// `[B, H, N, K]` i32, written.
        index,
        /// `[B, H, N, K]` f32, written.
        weight,
    }
    optional {}
}

/// The WGSL fragment of the beam, for kernels that compute addresses.
pub(crate) const BEAM: Fragment = fragment!("primitives/beam.wgsl");

/// Maximum number of floats of logits that a workgroup caches.
const CACHE: usize = 1024;
/// Invocations per workgroup.
const INVOCATIONS: usize = 256;

/// How a beam is distributed over invocations. Pure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lanes {
    digits: usize,
    choices: usize,
    topk: usize,
    /// Invocations per vector of logits.
    pub(crate) lanes: usize,
}

impl Lanes {
    /// Chooses the invocations for `digits` digits of `choices` choices, and `topk` addresses to keep, at most 64.
    pub(crate) fn new(digits: usize, choices: usize, topk: usize) -> Self {
        let candidates = topk.saturating_mul(choices).min(128);
        let lanes = candidates.max(2 * topk).max(digits).max(8).next_power_of_two();
        Self { digits, choices, topk, lanes }
    }

    /// Vectors per workgroup.
    pub(crate) fn vectors(&self) -> usize {
        INVOCATIONS / self.lanes
    }

    fn cached(&self) -> bool {
        self.vectors() * self.digits * self.choices <= CACHE
    }

    /// Consts of the prelude, for `vectors` vectors per workgroup, at most [`Lanes::vectors`].
    pub(crate) fn consts(&self, vectors: usize) -> Vec<(&'static str, u32)> {
        let group = (self.lanes / self.digits).min(self.choices);
        let group = if group.is_power_of_two() { group } else { group.next_power_of_two() / 2 };
        let cache = if self.cached() { vectors * self.digits * self.choices } else { 1 };
        [
            ("DIGITS", self.digits),
            ("CHOICES", self.choices),
            ("TOPK", self.topk),
            ("LANES", self.lanes),
            ("VECTORS", vectors),
            ("GROUP", group),
            ("CACHED", self.cached().into()),
            ("CACHE", cache),
        ]
        .map(|(name, value)| (name, value as u32))
        .to_vec()
    }

    /// Number of sums that are computed for one vector.
    pub(crate) fn candidates(&self) -> usize {
        let kept = |digit: usize| self.choices.saturating_pow(digit as u32).min(self.topk);
        (0..self.digits).map(|digit| kept(digit) * self.choices).sum()
    }

    /// Operations for one vector: the sums, and the comparisons of every candidate with every other one of its round.
    pub(crate) fn work(&self) -> f64 {
        let kept = |digit: usize| self.choices.saturating_pow(digit as u32).min(self.topk);
        let mut work = 0.0;
        for count in (0..self.digits).map(|digit| kept(digit) * self.choices) {
            let whole = count.saturating_sub(self.lanes) / (self.lanes - self.topk);
            let rest = count - whole * (self.lanes - self.topk);
            work += (whole * self.lanes * self.lanes + rest.min(self.lanes).pow(2)) as f64;
        }
        work + self.candidates() as f64
    }

    /// Number of logits that are loaded for one vector. If they are cached, each is loaded once; otherwise once per
    /// candidate, twice for the shares, and once per digit of each kept address.
    pub(crate) fn loads(&self) -> usize {
        let all = self.digits * self.choices;
        if self.cached() { all } else { self.candidates() + 2 * all + self.topk * self.digits }
    }
}
