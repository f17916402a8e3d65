//! Sorts numbers stably by the bins they fall into. The result is that of a counting sort, but it is computed without
//! atomics, and is the same on every run.
//!
//! ```text
//! order[b, h]   = the places 0 .. N of the list bins[b, h], sorted by their bins, those of one bin in their own order
//! offsets[b, h] = where each bin starts in order[b, h], and where the last ends
//! ```
//!
//! Runs from the host refuse a number that is not a bin; in a plan on a GPU, which does not see the values, it is sorted
//! after all bins. On a GPU, tiles of 2048 numbers are sorted in workgroup memory and
//! merged pairwise, with one dispatch per doubling. Bins are found by binary search, so that only `offsets` grows with
//! their number.

use super::{Params, TYPES, check_whole, kernel, whole};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Named, Operand, Program, Scratch, Step, check_indices, check_memory};
use crate::gpu::shader::{Fragment, Kernel, Variant, fragment};
use crate::operator::{Algorithm, Configured, ReferenceOutputs, Rows, tensors};
use crate::tensor::{Access, DType, Slot, TensorMap};
#[cfg(feature = "cpu")]
use crate::tensor::{HostTensor, Values};

const NAME: &str = "sort";

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
    /// B: batch.
    pub batch: usize,
    /// H: heads. Each head of each batch entry has a list, which is sorted on its own.
    pub heads: usize,
    /// N: numbers per list.
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
    /// Sorts `batch * heads` lists of `len` numbers each by `bins` bins.
    pub fn new(batch: usize, heads: usize, len: usize, bins: usize) -> Self {
        Self { batch, heads, len, bins }
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the setting.
    pub fn validate(&self) -> Result<(), Error> {
        // The length is limited because a merge computes ends of runs that lie beyond the last number.
        let most = u32::MAX as usize;
        for (setting, value, most) in
            [("B", self.batch, most), ("H", self.heads, most), ("N", self.len, 1 << 30), ("bins", self.bins, MAX_BINS)]
        {
            if value == 0 || value > most {
                return Err(Error::setting(NAME, setting, format!("1 to {most}"), value.to_string()));
            }
        }
        check_memory(NAME, &self.slots())
    }

    fn lists(&self) -> usize {
        self.batch * self.heads
    }

    /// Shape of a tensor with so many numbers per list.
    fn shape(&self, length: usize) -> [usize; 3] {
        [self.batch, self.heads, length]
    }

    fn merges(&self) -> u32 {
        self.len.div_ceil(SORT).next_power_of_two().trailing_zeros()
    }

    #[cfg(feature = "cpu")]
    fn sorted(&self, keys: &[i32]) -> (Vec<i32>, Vec<i32>) {
        let mut order: Vec<i32> = (0..keys.len() as i32).collect();
        order.sort_by_key(|place| keys[*place as usize]);
        let starts =
            (0..=self.bins as i32).map(|bin| order.partition_point(|place| keys[*place as usize] < bin) as i32);
        let starts = starts.collect();
        (order, starts)
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        vec![
            Slot::plain("bins", Access::Read, DType::I32, self.shape(self.len)),
            Slot::plain("order", Access::Write, DType::I32, self.shape(self.len)),
            Slot::plain("offsets", Access::Write, DType::I32, self.shape(self.bins.saturating_add(1))),
        ]
    }

    fn program(&self, _: &Caps) -> Result<Program, Error> {
        check_indices(NAME, &self.slots())?;
        let params = Params { count: self.len as u32, table: self.bins as u32, ..Params::default() };
        let numbers = (self.lists() * self.len) as f64;
        let bytes =
            |read: f64, written: f64| Cost { bytes_read: read * 4.0, bytes_written: written * 4.0, ..Cost::default() };
        let merges = self.merges();
        // The buffers alternate so that the last merge writes the result.
        let side = |merge: u32| if (merges - merge).is_multiple_of(2) { ORDER } else { OTHER };
        let spec = || Variant::new(DType::F32, vec![], vec![]);
        let tiles = self.lists() * self.len.div_ceil(SORT);
        let sorts = vec![("SORT", SORT as u32)];
        let sort = Variant::new(DType::F32, sorts, vec![]);
        let mut steps =
            vec![Step::new(&TILES, sort, &params, &[KEYS, ("order", side(0))], tiles as u64, bytes(numbers, numbers))];
        for merge in 0..merges {
            let params = Params { run: (SORT as u32) << merge, ..params };
            let operands = [KEYS, ("source", side(merge)), ("order", side(merge + 1))];
            let groups = self.lists() * self.len.div_ceil(INVOCATIONS);
            // At most its own key, and the keys of a binary search.
            let looks = f64::from(12 + merge);
            let cost = bytes(numbers * (2.0 * (1.0 + looks) + 1.0), numbers);
            steps.push(Step::new(&MERGE, spec(), &params, &operands, groups as u64, cost));
        }
        let bins = (self.lists() * (self.bins + 1)) as f64;
        let groups = self.lists() * (self.bins + 1).div_ceil(INVOCATIONS);
        let looks = f64::from(self.len.next_power_of_two().trailing_zeros() + 1);
        let cost = bytes(bins * 2.0 * looks, bins);
        steps.push(Step::new(&OFFSETS, spec(), &params, &[KEYS, ("order", ORDER), STARTS], groups as u64, cost));
        let scratch = Scratch { name: "runs", bytes: (self.lists() * self.len * 4) as u64 };
        let workspace = if merges > 0 { vec![scratch] } else { vec![] };
        let variant = format!("tiles of {SORT}, {merges} merges");
        Ok(Program::new(NAME, variant, self.slots(), workspace, steps))
    }

    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> TensorMap {
        use rayon::prelude::*;
        let lists = whole(tensors, "bins").par_chunks_exact(self.len).map(|keys| self.sorted(keys));
        let lists: Vec<_> = lists.collect();
        let (order, starts): (Vec<_>, Vec<_>) = lists.into_iter().unzip();
        let mut outputs = TensorMap::new();
        outputs.insert("order", HostTensor::new(self.shape(self.len), Values::I32(order.concat())));
        outputs.insert("offsets", HostTensor::new(self.shape(self.bins + 1), Values::I32(starts.concat())));
        outputs
    }

    fn cost(&self) -> Cost {
        let (numbers, bins) = ((self.lists() * self.len) as f64, (self.lists() * (self.bins + 1)) as f64);
        Cost { bytes_read: numbers * 4.0, bytes_written: (numbers + bins) * 4.0, ..Cost::default() }
    }

    /// A wanted row is a place in the order of every list. The offsets are those of all.
    fn reference(&self, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
        let (mut order, mut offsets) = (Vec::new(), Vec::new());
        let wanted = rows.of(self.len);
        for list in whole(tensors, "bins").chunks_exact(self.len) {
            let mut bins: Vec<Vec<f64>> = vec![Vec::new(); self.bins];
            for (place, bin) in list.iter().enumerate() {
                bins[*bin as usize].push(place as f64);
            }
            let mut start = 0.0;
            offsets.push(start);
            for bin in &bins {
                start += bin.len() as f64;
                offsets.push(start);
            }
            let all = bins.concat();
            order.extend(wanted.iter().map(|&at| all[at]));
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
        cpu: crate::operator::CpuBackend::new(Self::cpu, |_| "list after list".into()),
    };

    fn check_values(&self, tensors: &TensorMap) -> Result<(), Error> {
        check_whole(NAME, "bins", tensors, self.bins)
    }
}

tensors! {
    /// Tensors on the GPU.
    required {
        /// `[B, H, N]` i32.
        bins,
        /// `[B, H, N]` i32, written.
        order,
        /// `[B, H, bins + 1]` i32, written.
        offsets,
    }
    optional {}
}
