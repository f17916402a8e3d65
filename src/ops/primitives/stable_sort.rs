//! Sorts numbers stably by the bins they fall into. The result is that of a counting sort, but it is computed without
//! atomics, and is the same on every run.
//!
//! ```text
//! order[r]   = the places 0 .. n of list r, sorted by keys[r, place], equal ones in their own order
//! offsets[r] = where each bin starts in order[r], and where the last ends
//! ```
//!
//! A key that is not a bin is sorted after all bins. On a GPU, tiles of 2048 numbers are sorted in workgroup memory and
//! merged pairwise, with one dispatch per doubling. Bins are found by binary search, so that only `offsets` grows with
//! their number.

use super::{Params, TYPES, kernel};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Named, Operand, Program, Scratch, Step, check_indices, check_memory};
use crate::gpu::shader::{Fragment, Kernel, Variant, fragment};
use crate::operator::{Algorithm, Configured, ReferenceOutputs, Rows, tensors};
#[cfg(feature = "cpu")]
use crate::tensor::HostTensor;
use crate::tensor::{Access, DType, Slot, TensorMap, Values};

const NAME: &str = "stable_sort";

/// The WGSL fragment that sorts a tile, for kernels that bin.
pub(crate) const TILE: Fragment = fragment!("primitives/stable_sort.wgsl");

/// Maximum number of bins: a bin and a place in a tile share 32 bits, and keys that are not a bin need a number as
/// well.
pub const MAX_BINS: usize = (1 << 21) - 2;

/// Numbers per tile.
const SORT: usize = 2048;
/// Invocations per workgroup.
const INVOCATIONS: usize = 256;

/// Shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// R: lists, each sorted on its own.
    pub lists: usize,
    /// n: numbers per list.
    pub len: usize,
    /// Number of bins.
    pub bins: usize,
}

static TILES: Kernel =
    kernel("primitives_stable_sort_tiles", &[TYPES, TILE, fragment!("primitives/stable_sort_tiles.wgsl")]);
static MERGE: Kernel = kernel("primitives_stable_sort_merge", &[TYPES, fragment!("primitives/stable_sort_merge.wgsl")]);
static OFFSETS: Kernel =
    kernel("primitives_stable_sort_offsets", &[TYPES, fragment!("primitives/stable_sort_offsets.wgsl")]);

// The slots, and the workspace buffer.
const KEYS: Named = ("keys", Operand::Slot(0));
const ORDER: Operand = Operand::Slot(1);
const STARTS: Named = ("offsets", Operand::Slot(2));
const OTHER: Operand = Operand::Workspace(0);

impl Config {
    /// Sorts `lists` lists of `len` numbers each by `bins` bins.
    pub fn new(lists: usize, len: usize, bins: usize) -> Self {
        Self { lists, len, bins }
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the setting.
    pub fn validate(&self) -> Result<(), Error> {
        // The length is limited because a merge computes ends of runs that lie beyond the last number.
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

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let lists = [self.lists, self.len];
        vec![
            Slot::plain("keys", Access::Read, DType::U32, lists),
            Slot::plain("order", Access::Write, DType::U32, lists),
            Slot::plain("offsets", Access::Write, DType::U32, [self.lists, self.bins.saturating_add(1)]),
        ]
    }

    fn program(&self, _: &Caps) -> Result<Program, Error> {
        check_indices(NAME, &self.slots())?;
        let params = Params { count: self.len as u32, table: self.bins as u32, ..Params::default() };
        let numbers = (self.lists * self.len) as f64;
        let bytes =
            |read: f64, written: f64| Cost { bytes_read: read * 4.0, bytes_written: written * 4.0, ..Cost::default() };
        let merges = self.merges();
        // The buffers alternate so that the last merge writes the result.
        let side = |merge: u32| if (merges - merge).is_multiple_of(2) { ORDER } else { OTHER };
        let spec = || Variant::new(DType::F32, vec![], vec![]);
        let tiles = self.lists * self.len.div_ceil(SORT);
        let sorts = vec![("SORT", SORT as u32)];
        let sort = Variant::new(DType::F32, sorts, vec![]);
        let mut steps =
            vec![Step::new(&TILES, sort, &params, &[KEYS, ("order", side(0))], tiles as u64, bytes(numbers, numbers))];
        for merge in 0..merges {
            let params = Params { run: (SORT as u32) << merge, ..params };
            let operands = [KEYS, ("source", side(merge)), ("order", side(merge + 1))];
            let groups = self.lists * self.len.div_ceil(INVOCATIONS);
            // At most its own key, and the keys of a binary search.
            let looks = f64::from(12 + merge);
            let cost = bytes(numbers * (2.0 * (1.0 + looks) + 1.0), numbers);
            steps.push(Step::new(&MERGE, spec(), &params, &operands, groups as u64, cost));
        }
        let bins = (self.lists * (self.bins + 1)) as f64;
        let groups = self.lists * (self.bins + 1).div_ceil(INVOCATIONS);
        let looks = f64::from(self.len.next_power_of_two().trailing_zeros() + 1);
        let cost = bytes(bins * 2.0 * looks, bins);
        steps.push(Step::new(&OFFSETS, spec(), &params, &[KEYS, ("order", ORDER), STARTS], groups as u64, cost));
        let scratch = Scratch { name: "runs", bytes: (self.lists * self.len * 4) as u64 };
        let workspace = if merges > 0 { vec![scratch] } else { vec![] };
        let variant = format!("tiles of {SORT}, {merges} merges");
        Ok(Program::new(NAME, variant, self.slots(), workspace, steps))
    }

    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> TensorMap {
        use rayon::prelude::*;
        let lists = self.keys(tensors).par_chunks_exact(self.len).map(|keys| self.sorted(keys));
        let lists: Vec<_> = lists.collect();
        let (order, starts): (Vec<_>, Vec<_>) = lists.into_iter().unzip();
        let mut outputs = TensorMap::new();
        outputs.insert("order", HostTensor::new([self.lists, self.len], Values::U32(order.concat())));
        outputs.insert("offsets", HostTensor::new([self.lists, self.bins + 1], Values::U32(starts.concat())));
        outputs
    }

    fn cost(&self) -> Cost {
        let (numbers, bins) = ((self.lists * self.len) as f64, (self.lists * (self.bins + 1)) as f64);
        Cost { bytes_read: numbers * 4.0, bytes_written: (numbers + bins) * 4.0, ..Cost::default() }
    }

    fn reference(&self, tensors: &TensorMap, _rows: Rows<'_>) -> ReferenceOutputs {
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
}

impl Configured for Config {
    type Tensors<'a> = Tensors<'a>;

    const ALGORITHM: Algorithm<Self> = Algorithm {
        name: NAME,
        validate: Self::validate,
        slots: Self::slots,
        cost: Self::cost,
        program: Self::program,
        reference: [Self::reference, Self::reference],
        #[cfg(feature = "cpu")]
        cpu: crate::operator::CpuBackend { run: Self::cpu, variant: |_| "list after list".into() },
    };
}

tensors! {
    /// Tensors on the GPU.
    required {
        /// `[R, n]` u32.
        keys,
        /// `[R, n]` u32, written.
        order,
        /// `[R, bins + 1]` u32, written.
        offsets,
    }
    optional {}
}
