//! Rows of a table by index, with a scale and the rows of positions that are learned, and the number of tokens seen so far.
//!
//! ```text
//! o[n] = scale * table[index[n]] + positions[p + n]
//! ```
//!
//! p is the number of tokens before those of the run: 0, or carried in `position`, which a run advances by N before anything else.
//! So the kernels that follow in one pass find the number of tokens up to the last one of the run in it, as lengths are. Sums are
//! f32. The table may be f16 on any device, because kernels read its words.
//!
//! Runs from the host refuse an index that names no row, and positions behind the last row. In a plan on a GPU, which does not see
//! the values, the last row serves for them. A table over the binding limit of a device is read in several dispatches, each of
//! which writes the tokens whose rows it has.

use std::mem::offset_of;

use super::{PROOF, check_lengths, check_whole, columns, whole};
#[cfg(feature = "cpu")]
use crate::cpu::{simd, threads};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{
    self, Cost, Named, Operand, Program, Scratch, Share, Step, Units, check_indices, check_memory,
};
use crate::gpu::shader::{Fragment, HALVES_DEVICE, Kernel, UniformData, Variant, fragment, params};
use crate::operator::{Algorithm, Configured, ReferenceOutputs, Rows, tensors};
use crate::tensor::{Access, DType, HostTensor, Slot, TensorMap, Values};
use crate::verify::float::{self, Float};

const NAME: &str = "embedding";

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// N: number of tokens.
    pub tokens: usize,
    /// V: rows of the table.
    pub vocab: usize,
    /// D: columns of a row.
    pub dim: usize,
    /// Storage type of the table: f32 or f16.
    pub table_dtype: DType,
    /// Storage type of o: f32 or f16.
    pub dtype: DType,
    /// Factor of the rows of the table.
    pub scale: f32,
    /// L: rows of the table of positions, if there is one.
    pub positions: Option<usize>,
    /// Whether the number of tokens seen is carried in `position`.
    pub carry: bool,
}

params! {
    /// Must match `struct Params` in `shaders/primitives/embedding_types.wgsl`.
    struct Params {
        grid: Grid,
        tokens: u32,
        dim: u32,
        vocab: u32,
        positions: u32,
        first: u32,
        end: u32,
        base: u32,
        scale: f32,
    }
}

const TYPES: Fragment = fragment!("primitives/embedding_types.wgsl");
const HALVES_SOFTWARE: Fragment = fragment!("lib/halves_software.wgsl");
const TABLE_F32: Fragment = fragment!("primitives/table_f32.wgsl");
const TABLE_F16_FOUR: Fragment = fragment!("primitives/table_f16_four.wgsl");
const TABLE_F16_ONE: Fragment = fragment!("primitives/table_f16_one.wgsl");

static LOOKUP: Kernel =
    Kernel::new("primitives_embedding", &[TYPES, fragment!("primitives/embedding.wgsl")], Params::UNIFORM, Some(PROOF));
static ADVANCE: Kernel = Kernel::new(
    "primitives_embedding_advance",
    &[TYPES, fragment!("primitives/embedding_advance.wgsl")],
    Params::UNIFORM,
    Some(PROOF),
);

/// Invocations of a workgroup.
const INVOCATIONS: usize = 64;

impl Config {
    /// A table in f32, o too; scale 1, no positions, nothing carried.
    pub fn new(tokens: usize, vocab: usize, dim: usize) -> Self {
        let dtype = DType::F32;
        Self { tokens, vocab, dim, table_dtype: dtype, dtype, scale: 1.0, positions: None, carry: false }
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the setting or tensor.
    pub fn validate(&self) -> Result<(), Error> {
        check_lengths(NAME, [("N", self.tokens), ("V", self.vocab), ("D", self.dim)])?;
        if !self.scale.is_finite() {
            return Err(Error::setting(NAME, "scale", "a finite number", self.scale.to_string()));
        }
        for (tensor, dtype) in [("table", self.table_dtype), ("o", self.dtype)] {
            if !dtype.is_float() {
                return Err(Error::tensor(NAME, tensor, "f32 or f16", dtype.name()));
            }
        }
        check_memory(NAME, &self.slots())?;
        self.check_positions(0)
    }

    /// Refuses positions behind the last row of their table, after so many tokens.
    fn check_positions(&self, before: usize) -> Result<(), Error> {
        let needed = before.saturating_add(self.tokens);
        match self.positions {
            Some(rows) if rows < needed => {
                Err(Error::tensor(NAME, "positions", format!("{needed} rows or more, one per token"), rows.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Number of tokens before those of a run.
    fn before(tensors: &TensorMap) -> usize {
        match tensors.get("position").map(HostTensor::values) {
            Some(Values::U32(position)) => position[0] as usize,
            _ => 0,
        }
    }

    /// Number of tokens seen after a run.
    fn after(&self, tensors: &TensorMap) -> u32 {
        let before = if self.carry { Self::before(tensors) } else { 0 };
        u32::try_from(before + self.tokens).unwrap_or(u32::MAX)
    }

    fn outputs<T: Float>(&self, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
        let read = |name: &str| tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing"));
        let row = |name: &str, at: usize| {
            let range = at * self.dim..(at + 1) * self.dim;
            let of = |x: f64| T::of(x);
            match read(name).values() {
                Values::F32(table) => table[range].iter().map(|x| of(f64::from(*x))).collect::<Vec<_>>(),
                Values::F16(table) => table[range].iter().map(|x| of(f64::from(*x))).collect(),
                _ => panic!("tensor {name} has no numbers"),
            }
        };
        let (indices, scale) = (whole(tensors, "index"), T::of(f64::from(self.scale)));
        let before = self.after(tensors) as usize - self.tokens;
        let mut o = Vec::new();
        for n in rows.of(self.tokens) {
            let mut values = row("table", indices[n] as usize);
            values.iter_mut().for_each(|x| *x = scale * *x);
            if self.positions.is_some() {
                values.iter_mut().zip(row("positions", before + n)).for_each(|(x, position)| *x += position);
            }
            o.extend(float::wide(values));
        }
        let mut outputs = vec![("o", o)];
        outputs.extend(self.carry.then(|| ("position", vec![f64::from(self.after(tensors))])));
        outputs
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let mut slots = vec![
            Slot::plain("index", Access::Read, DType::I32, [self.tokens]),
            Slot::plain("table", Access::Read, self.table_dtype, [self.vocab, self.dim]),
            Slot::plain("o", Access::Write, self.dtype, [self.tokens, self.dim]),
        ];
        let positions = |rows| Slot::plain("positions", Access::Read, DType::F32, [rows, self.dim]);
        slots.extend(self.positions.map(positions));
        slots.extend(self.carry.then(|| Slot::plain("position", Access::Update, DType::U32, [1])));
        slots
    }

    fn program(&self, caps: &Caps) -> Result<Program, Error> {
        caps.require(NAME, self.dtype)?;
        let slots = self.slots();
        check_indices(NAME, &slots)?;
        let params = Params {
            tokens: self.tokens as u32,
            dim: self.dim as u32,
            vocab: self.vocab as u32,
            positions: self.positions.unwrap_or(0) as u32,
            end: self.vocab as u32,
            scale: self.scale,
            ..Params::default()
        };
        // If a tensor is absent, the kernel binds a few bytes of workspace instead and does not read them.
        let place = |name| slots.iter().position(|slot| slot.name == name);
        let operand = |name| place(name).map_or(Operand::Workspace(0), Operand::Slot);
        let operands = [("indices", "index"), ("table", "table"), ("positions", "positions"), ("position", "position")];
        let operands: Vec<Named> =
            operands.into_iter().chain([("o", "o")]).map(|(buffer, slot)| (buffer, operand(slot))).collect();
        let workspace = (slots.len() < operands.len()).then_some(Scratch { name: "absent", bytes: 16 });

        let mut steps = Vec::new();
        if self.carry {
            let spec = Variant::new(DType::F32, vec![], vec![]);
            let cost = Cost { bytes_read: 4.0, bytes_written: 4.0, ..Cost::default() };
            steps.push(Step::new(&ADVANCE, spec, &params, &operands, 1, cost));
        }
        steps.extend(self.lookup(&params, &operands, caps)?);
        let variant = match steps.len() - usize::from(self.carry) {
            1 => "one lookup".to_owned(),
            parts => format!("{parts} parts of the table"),
        };
        Ok(Program::new(NAME, variant, slots, workspace.into_iter().collect(), steps))
    }

    /// The dispatches that write o: one for each part of the table that fits in a binding.
    fn lookup(&self, params: &Params, operands: &[Named], caps: &Caps) -> Result<Vec<Step>, Error> {
        let columns = columns::most(&[self.dim]);
        let halves = if caps.f16 { HALVES_DEVICE } else { HALVES_SOFTWARE };
        let table: &[Fragment] = match (self.table_dtype, columns) {
            (DType::F16, 4) => &[halves, TABLE_F16_FOUR],
            (DType::F16, _) => &[halves, TABLE_F16_ONE],
            _ => &[TABLE_F32],
        };
        let overrides = vec![
            ("POSITIONS", self.positions.is_some().into()),
            ("CARRIED", (self.carry && self.positions.is_some()).into()),
        ];
        let spec = Variant::new(self.dtype, vec![], overrides).with(&[columns::of(columns)]).with(table);
        let pieces = (self.tokens * (self.dim / columns)) as f64;
        let elements = (self.tokens * self.dim) as f64;
        // A single column of f16 is read with the other half of its word.
        let from_table = self.table_dtype.size().max(4 / columns) as f64;
        let (of_positions, of_position) = match self.positions {
            None => (0.0, 0.0),
            Some(_) => (4.0 * elements, if self.carry { 4.0 * pieces } else { 0.0 }),
        };
        let indices = 4.0 * pieces;
        let cost = Cost {
            bytes_read: indices + from_table * elements + of_positions + of_position,
            bytes_written: elements * self.dtype.size() as f64,
            ..self.cost()
        };
        // The table is cut as if each workgroup had one of its rows.
        let step = Step::new(&LOOKUP, spec, params, operands, self.vocab as u64, cost);
        let share = Share {
            operand: step.operands.iter().position(|operand| *operand == Operand::Slot(TABLE)).unwrap_or(0),
            name: "table",
            size: self.table_dtype.size() as u64,
            elements: self.dim as u64,
            base: offset_of!(Params, base),
        };
        let mut steps = program::cut(NAME, step, &Units::whole(self.vocab as u64, "one row"), &[share], caps)?;
        for (at, step) in steps.iter_mut().enumerate() {
            let (first, end) = (step.first as u32, (step.first + step.groups) as u32);
            for (field, value) in [(offset_of!(Params, first), first), (offset_of!(Params, end), end)] {
                step.params[field..field + 4].copy_from_slice(&value.to_le_bytes());
            }
            (step.first, step.groups) = (0, (pieces as u64).div_ceil(INVOCATIONS as u64));
            // Every part reads all indices.
            step.cost.bytes_read += if at > 0 { indices } else { 0.0 };
        }
        Ok(steps)
    }

    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> TensorMap {
        let mut o = vec![0.0; self.tokens * self.dim];
        self.cpu_rows(tensors, &mut o);
        let o = HostTensor::f32([self.tokens, self.dim], o).cast(self.dtype);
        let position = self.carry.then(|| HostTensor::new([1], Values::U32(vec![self.after(tensors)])));
        let position = position.map(|position| ("position".to_owned(), position));
        [("o".to_owned(), o)].into_iter().chain(position).collect()
    }

    /// Computes all rows. The table is not copied.
    #[cfg(feature = "cpu")]
    fn cpu_rows(&self, tensors: &TensorMap, o: &mut [f32]) {
        use half::slice::HalfFloatSliceExt;
        let (indices, positions) = (whole(tensors, "index"), super::floats(tensors, "positions"));
        let Some(table) = tensors.get("table").map(HostTensor::values) else { panic!("tensor table is missing") };
        let (dim, before) = (self.dim, self.after(tensors) as usize - self.tokens);
        threads::each_mut(o, dim, 2 * dim as u64, |n, o| {
            let row = indices[n] as usize * dim..(indices[n] as usize + 1) * dim;
            match table {
                Values::F32(table) => o.copy_from_slice(&table[row]),
                Values::F16(table) => table[row].convert_to_f32_slice(o),
                _ => panic!("tensor table has no numbers"),
            }
            if self.scale != 1.0 {
                simd::scale(o, self.scale);
            }
            if self.positions.is_some() {
                simd::add(o, &positions[(before + n) * dim..][..dim]);
            }
        });
    }

    fn cost(&self) -> Cost {
        let (tokens, elements) = (self.tokens as f64, (self.tokens * self.dim) as f64);
        let positions = if self.positions.is_some() { elements } else { 0.0 };
        let position = if self.carry { 4.0 } else { 0.0 };
        Cost {
            flops: elements + positions,
            exps: 0.0,
            bytes_read: 4.0 * tokens + elements * self.table_dtype.size() as f64 + 4.0 * positions + position,
            bytes_written: elements * self.dtype.size() as f64 + position,
        }
    }
}

/// Index of the table in [`Config::slots`].
const TABLE: usize = 1;

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

    fn check_values(&self, tensors: &TensorMap) -> Result<(), Error> {
        check_whole(NAME, "index", tensors, self.vocab)?;
        if !self.carry {
            return Ok(());
        }
        let before = Self::before(tensors);
        let most = u32::MAX as usize - self.tokens;
        if before > most {
            return Err(Error::tensor(
                NAME,
                "position",
                format!("a number of tokens up to {most}"),
                before.to_string(),
            ));
        }
        self.check_positions(before)
    }
}

tensors! {
    /// Tensors on the GPU.
    required {
        /// `[N]` i32: a row of the table for each token.
        index,
        /// `[V, D]` f32 or f16.
        table,
        /// `[N, D]`, written.
        o,
    }
    optional {
        /// `[L, D]` f32: a row for each position; required if the configuration has positions, otherwise refused.
        positions,
        /// `[1]` u32, updated: the number of tokens seen; required if it is carried, otherwise refused.
        position,
    }
}
