//! Numbers sorted stably by the bins they fall into, a counting sort's result by other means: without atomics, and the
//! same on every run.
//!
//! ```text
//! order[r]   = the places 0 .. n of list r, sorted by keys[r, place], equal ones in their own order
//! offsets[r] = where each bin starts in order[r], and where the last ends
//! ```
//!
//! A key that is no bin stands behind all of them. On a GPU tiles of 2048 are sorted in workgroup memory and merged
//! pairwise, a dispatch for each doubling; bins are found by halving, so that nothing but `offsets` grows with their
//! number.

use super::{Params, TYPES, kernel};
use crate::error::Error;
use crate::gpu::program::{Operand, Program, Scratch, check_indices, check_memory};
use crate::gpu::source::{Bind, Kernel, Source, source};
use crate::gpu::{Caps, Plan, Recording, Workspace};
#[cfg(feature = "cpu")]
use crate::ops::execute::check_inputs;
use crate::ops::{Cost, Definition, Operator, Precision, Rows};
#[cfg(feature = "cpu")]
use crate::tensor::HostTensor;
use crate::tensor::{Access, DType, Slot, Tensor, TensorMap, Values};

const NAME: &str = "bin";

/// The sort of a tile, for kernels that bin.
pub(crate) const TILE: Source = source!("parts/bin.wgsl");

/// The most bins: they stand above a place in a tile in 32 bits, and what is no bin has a number too.
pub const MAX_BINS: usize = (1 << 21) - 2;

/// Numbers of a tile.
const SORT: usize = 2048;
/// Invocations of a workgroup.
const INVOCATIONS: usize = 256;

/// Shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// R: lists, each sorted alone.
    pub lists: usize,
    /// n: numbers of a list.
    pub len: usize,
    /// How many bins there are.
    pub bins: usize,
}

static TILES: Kernel = kernel(
    "parts_bin_tiles",
    &[TYPES, TILE, source!("parts/bin_tiles.wgsl")],
    &[("keys", Bind::Read), ("order", Bind::Write)],
);
static MERGE: Kernel = kernel(
    "parts_bin_merge",
    &[TYPES, source!("parts/bin_merge.wgsl")],
    &[("keys", Bind::Read), ("source", Bind::Read), ("order", Bind::Write)],
);
static OFFSETS: Kernel = kernel(
    "parts_bin_offsets",
    &[TYPES, source!("parts/bin_offsets.wgsl")],
    &[("keys", Bind::Read), ("order", Bind::Read), ("offsets", Bind::Write)],
);

// Order of the slots, then of the workspace.
const KEYS: Operand = Operand::Slot(0);
const ORDER: Operand = Operand::Slot(1);
const STARTS: Operand = Operand::Slot(2);
const OTHER: Operand = Operand::Workspace(0);

impl Config {
    /// So many lists of so many numbers, each of one of the bins.
    pub fn new(lists: usize, len: usize, bins: usize) -> Self {
        Self { lists, len, bins }
    }

    /// Checks what the fields alone can get wrong.
    ///
    /// # Errors
    /// One sentence naming the setting.
    pub fn validate(&self) -> Result<(), Error> {
        // A merge numbers the ends of runs past the last.
        for (setting, value, most) in
            [("lists", self.lists, u32::MAX as usize), ("len", self.len, 1 << 30), ("bins", self.bins, MAX_BINS)]
        {
            if value == 0 || value > most {
                return Err(Error::setting(NAME, setting, format!("1 to {most}"), value.to_string()));
            }
        }
        check_memory(NAME, &self.slots())
    }

    fn merges(&self) -> u32 {
        self.len.div_ceil(SORT).next_power_of_two().trailing_zeros()
    }

    #[cfg(feature = "cpu")]
    fn sorted(&self, keys: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let mut order: Vec<u32> = (0..keys.len() as u32).collect();
        order.sort_by_key(|place| keys[*place as usize].min(self.bins as u32));
        let starts =
            (0..=self.bins as u32).map(|bin| order.partition_point(|place| keys[*place as usize] < bin) as u32);
        let starts = starts.collect();
        (order, starts)
    }

    fn keys<'a>(&self, tensors: &'a TensorMap) -> &'a [u32] {
        match tensors.get("keys").map(|tensor| tensor.values()) {
            Some(Values::U32(keys)) => keys,
            _ => panic!("tensor keys is missing"),
        }
    }
}

impl Operator for Config {
    fn slots(&self) -> Vec<Slot> {
        let lists = [self.lists, self.len];
        vec![
            Slot::plain("keys", Access::Read, DType::U32, lists),
            Slot::plain("order", Access::Write, DType::U32, lists),
            Slot::plain("offsets", Access::Write, DType::U32, [self.lists, self.bins.saturating_add(1)]),
        ]
    }

    fn program(&self, _: &Caps) -> Result<Program, Error> {
        self.validate()?;
        check_indices(NAME, &self.slots())?;
        let params = Params { count: self.len as u32, table: self.bins as u32, ..Params::default() };
        let numbers = (self.lists * self.len) as f64;
        let bytes =
            |read: f64, written: f64| Cost { bytes_read: read * 4.0, bytes_written: written * 4.0, ..Cost::default() };
        let merges = self.merges();
        // The last of them writes the result.
        let side = |merge: u32| if (merges - merge).is_multiple_of(2) { ORDER } else { OTHER };
        let spec = || super::spec(DType::F32, vec![], vec![]);
        let tiles = self.lists * self.len.div_ceil(SORT);
        let sorts = vec![("SORT", SORT as u32)];
        let sort = super::spec(DType::F32, sorts, vec![]);
        let mut steps = vec![super::step(&TILES, sort, &params, vec![KEYS, side(0)], tiles, bytes(numbers, numbers))];
        for merge in 0..merges {
            let params = Params { run: (SORT as u32) << merge, ..params };
            let operands = vec![KEYS, side(merge), side(merge + 1)];
            let groups = self.lists * self.len.div_ceil(INVOCATIONS);
            // Its own key, and those of a search, at most.
            let looks = f64::from(12 + merge);
            let cost = bytes(numbers * (2.0 * (1.0 + looks) + 1.0), numbers);
            steps.push(super::step(&MERGE, spec(), &params, operands, groups, cost));
        }
        let bins = (self.lists * (self.bins + 1)) as f64;
        let groups = self.lists * (self.bins + 1).div_ceil(INVOCATIONS);
        let looks = f64::from(self.len.next_power_of_two().trailing_zeros() + 1);
        let cost = bytes(bins * 2.0 * looks, bins);
        steps.push(super::step(&OFFSETS, spec(), &params, vec![KEYS, ORDER, STARTS], groups, cost));
        let scratch = Scratch { name: "runs", bytes: (self.lists * self.len * 4) as u64 };
        let workspace = if merges > 0 { vec![scratch] } else { vec![] };
        let variant = format!("tiles of {SORT}, {merges} merges");
        Ok(Program::new(NAME, variant, self.slots(), workspace, steps))
    }

    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> Result<TensorMap, Error> {
        use rayon::prelude::*;
        self.validate()?;
        check_inputs(NAME, &self.slots(), tensors)?;
        let lists = self.keys(tensors).par_chunks_exact(self.len).map(|keys| self.sorted(keys));
        let lists: Vec<_> = lists.collect();
        let (order, starts): (Vec<_>, Vec<_>) = lists.into_iter().unzip();
        let mut outputs = TensorMap::new();
        outputs.insert("order", HostTensor::new([self.lists, self.len], Values::U32(order.concat())));
        outputs.insert("offsets", HostTensor::new([self.lists, self.bins + 1], Values::U32(starts.concat())));
        Ok(outputs)
    }

    #[cfg(feature = "cpu")]
    fn cpu_variant(&self) -> String {
        "list after list".into()
    }

    /// The counting sort, whatever the precision: numbers of whole lists.
    fn reference(&self, tensors: &TensorMap, _: Precision, _: Rows<'_>) -> Definition {
        let (mut order, mut offsets) = (Vec::new(), Vec::new());
        for keys in self.keys(tensors).chunks_exact(self.len) {
            let mut bins: Vec<Vec<f64>> = vec![Vec::new(); self.bins + 1];
            for (place, key) in keys.iter().enumerate() {
                bins[(*key as usize).min(self.bins)].push(place as f64);
            }
            let mut start = 0.0;
            for bin in &bins {
                offsets.push(start);
                start += bin.len() as f64;
            }
            order.extend(bins.into_iter().flatten());
        }
        vec![("order", order), ("offsets", offsets)]
    }

    fn cost(&self) -> Cost {
        let (numbers, bins) = ((self.lists * self.len) as f64, (self.lists * (self.bins + 1)) as f64);
        Cost { bytes_read: numbers * 4.0, bytes_written: (numbers + bins) * 4.0, ..Cost::default() }
    }
}

/// Tensors on the GPU.
#[derive(Debug, Clone, Copy)]
pub struct Tensors<'a> {
    /// `[R, n]` u32.
    pub keys: &'a Tensor,
    /// `[R, n]` u32, written.
    pub order: &'a Tensor,
    /// `[R, bins + 1]` u32, written.
    pub offsets: &'a Tensor,
}

/// Binds the tensors of a [`plan`](crate::ops::plan) made from a [`Config`].
///
/// # Errors
/// As [`Plan::bind`].
pub fn bind(plan: &Plan, tensors: Tensors<'_>, workspace: &Workspace) -> Result<Recording, Error> {
    let Tensors { keys, order, offsets } = tensors;
    plan.bind(&[("keys", keys), ("order", order), ("offsets", offsets)], workspace)
}
