//! Runs a model on a GPU. Everything is planned once per number of tokens, and recorded into an encoder of the caller.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::builder::Phase;
use super::graph::{Graph, Home, Id, Node, Piece, View};
use super::{Model, grown, state_name};
use crate::error::Error;
use crate::gpu::{Context, Plan, Schedule, Workspace, pack, readback};
use crate::operator::compile;
use crate::tensor::{Access, DType, HostTensor, Slot, Tensor, TensorMap};

/// The portable alignment of a binding, in bytes.
const ALIGN: u64 = 256;

/// Largest buffer, in bytes, that a small value may take from the pool of a plan.
const WASTE: u64 = 2;

/// A model on a GPU, with the state of one sequence.
#[derive(Debug)]
pub struct Device<'m> {
    model: &'m Model,
    ctx: Context,
    weights: BTreeMap<(Vec<Vec<Piece>>, DType), Tensor>,
    states: BTreeMap<String, State>,
    plans: HashMap<Phase, Arc<Pass>>,
}

/// A state and what its buffer holds.
#[derive(Debug)]
struct State {
    slot: Slot,
    prefix: String,
    tensor: Tensor,
}

/// A model planned for a number of tokens, and bound to the state of its [`Device`].
#[derive(Debug)]
pub struct Pass {
    schedule: Schedule,
    tokens: Tensor,
    logits: Option<Tensor>,
    /// Kept because the recordings use its buffers.
    _workspace: Workspace,
}

impl Pass {
    /// The tokens that a run reads: i32 `[N]`. Write them before the encoder is submitted.
    pub fn tokens(&self) -> &Tensor {
        &self.tokens
    }

    /// The logits that a run writes, `[N, V]`; `None` if it was planned without.
    pub fn logits(&self) -> Option<&Tensor> {
        self.logits.as_ref()
    }

    /// Records the run into a pass. States are updated in place.
    pub fn encode_in(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.schedule.recordings().iter().for_each(|recording| recording.encode_in(pass));
    }

    /// The recordings, in order.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }
}

/// Buffers that values of a plan use one after another.
#[derive(Default)]
struct Pool {
    /// Each buffer, and the node after which it is free.
    buffers: Vec<(Tensor, usize)>,
}

impl Pool {
    /// A buffer of at least so many bytes that is free from node `at` on, taken until after node `end`.
    fn take(&mut self, ctx: &Context, bytes: u64, at: usize, end: usize) -> Result<Tensor, Error> {
        let fits = |tensor: &Tensor| (bytes..=bytes.saturating_mul(WASTE)).contains(&tensor.bytes());
        let free = self.buffers.iter_mut().filter(|(tensor, free)| *free < at && fits(tensor));
        if let Some((tensor, free)) = free.min_by_key(|(tensor, _)| tensor.bytes()) {
            *free = end;
            return Ok(tensor.clone());
        }
        let words = usize::try_from(bytes.div_ceil(4).max(1)).unwrap_or(usize::MAX);
        let tensor = readback::empty(ctx, "activations", [words], DType::F32)?;
        self.buffers.push((tensor.clone(), end));
        Ok(tensor)
    }
}

impl<'m> Device<'m> {
    /// Puts a model on a GPU. Weights are uploaded when the first plan needs them.
    pub fn new(model: &'m Model, ctx: &Context) -> Self {
        Self { model, ctx: ctx.clone(), weights: BTreeMap::new(), states: BTreeMap::new(), plans: HashMap::new() }
    }

    /// The device.
    pub fn context(&self) -> &Context {
        &self.ctx
    }

    /// Plans a run of so many tokens that goes on from the state. `capacity` is the number of positions that caches of keys and
    /// values have room for. The model must be recurrent ([`Model::is_recurrent`]).
    ///
    /// # Errors
    /// The errors of the operators and of the device.
    pub fn plan(&mut self, tokens: usize, capacity: usize) -> Result<Arc<Pass>, Error> {
        self.pass(Phase { tokens, carry: true, capacity, head: true, dtype: DType::F32, fused: true })
    }

    pub(crate) fn pass(&mut self, phase: Phase) -> Result<Arc<Pass>, Error> {
        if let Some(pass) = self.plans.get(&phase) {
            return Ok(pass.clone());
        }
        if self.plans.keys().any(|other| other.capacity != phase.capacity && other.carry && phase.carry) {
            // Caches get longer, so that earlier plans are bound to other buffers.
            self.plans.clear();
        }
        let pass = Arc::new(self.compile(phase)?);
        self.plans.insert(phase, pass.clone());
        Ok(pass)
    }

    fn compile(&mut self, phase: Phase) -> Result<Pass, Error> {
        let graph = self.model.graph(phase)?;
        let last = graph.last_reads();
        let plans =
            graph.nodes.iter().map(|node| compile(&self.ctx, &*node.operator)).collect::<Result<Vec<_>, _>>()?;
        let mut workspace = Workspace::new();
        plans.iter().try_for_each(|plan| plan.reserve(&mut workspace))?;
        let tokens = readback::empty(&self.ctx, "tokens", [phase.tokens], DType::I32)?;
        let mut places: Vec<Option<Tensor>> = vec![None; graph.values.len()];
        if let Some(at) = graph.values.iter().position(|value| value.home == Home::Tokens) {
            places[at] = Some(tokens.clone());
        }
        let (mut pool, mut schedule) = (Pool::default(), Schedule::new());
        for (at, (node, plan)) in graph.nodes.iter().zip(&plans).enumerate() {
            let mut bound: Vec<(&str, Tensor)> = Vec::new();
            for slot in plan.slots() {
                let tensor = match slot.access {
                    Access::Read => self.input(&graph, node, slot, &places)?,
                    Access::Write => {
                        let ids: Vec<Id> = node.writes.iter().map(|(_, id)| *id).collect();
                        let end = ids.iter().map(|id| last[*id].unwrap_or(at)).max().unwrap_or(at);
                        self.output(node, plan, slot, (&mut places, &mut pool), (at, end))?
                    }
                    Access::Update => self.state(node, slot)?,
                };
                bound.push((slot.name, tensor));
            }
            let bound: Vec<_> = bound.iter().map(|(name, tensor)| (*name, tensor)).collect();
            schedule.push(plan.bind(&bound, &workspace)?);
        }
        let logits = graph.logits.and_then(|id| places[id].clone());
        Ok(Pass { schedule, tokens, logits, _workspace: workspace })
    }

    /// What a node reads as this slot.
    fn input(&mut self, graph: &Graph, node: &Node, slot: &Slot, places: &[Option<Tensor>]) -> Result<Tensor, Error> {
        let view = |name: &str| node.reads.iter().find(|(own, _)| *own == name).map(|(_, view)| view);
        let missing =
            |name: &str| Error::Kernel { kernel: node.label.clone(), message: format!("{name} is not bound") };
        let Some(first) = slot.parts.first().and_then(|part| view(part.name)) else { return Err(missing(slot.name)) };
        match &graph.values[first.id].home {
            Home::Weight(_) => {
                let mut key = Vec::new();
                for part in &slot.parts {
                    let value = &graph.values[view(part.name).ok_or_else(|| missing(part.name))?.id];
                    if let Home::Weight(pieces) = &value.home {
                        key.push(pieces.clone());
                    }
                }
                let key = (key, slot.dtype);
                if let Some(tensor) = self.weights.get(&key) {
                    return shaped(tensor, 0, slot.shape(), None, slot.dtype);
                }
                let mut map = TensorMap::new();
                for part in &slot.parts {
                    let view = view(part.name).ok_or_else(|| missing(part.name))?;
                    let value = &graph.values[view.id];
                    if let Home::Weight(pieces) = &value.home {
                        map.insert(part.name, self.model.read(pieces, value)?.reshape(part.shape.clone()));
                    }
                }
                let tensor = readback::upload(&self.ctx, &node.label, &pack::pack(slot, &map))?;
                self.weights.insert(key, tensor.clone());
                Ok(tensor)
            }
            Home::State(name) => match self.states.get(name) {
                Some(state) => shaped(&state.tensor, 0, slot.shape(), None, slot.dtype),
                None => Err(missing(name)),
            },
            Home::Made | Home::Tokens => match &places[first.id] {
                Some(place) => viewed(place, first, slot),
                None => Err(missing(slot.name)),
            },
        }
    }

    /// The buffer that a node writes as this slot.
    fn output(
        &self,
        node: &Node,
        plan: &Plan,
        slot: &Slot,
        (places, pool): (&mut [Option<Tensor>], &mut Pool),
        (at, end): (usize, usize),
    ) -> Result<Tensor, Error> {
        let bytes = slot.checked_bytes().unwrap_or(u64::MAX);
        let buffer = pool.take(plan.context(), bytes.next_multiple_of(4), at, end)?;
        for part in &slot.parts {
            if let Some((_, id)) = node.writes.iter().find(|(name, _)| *name == part.name) {
                let offset = (part.offset * slot.dtype.size()) as u64;
                places[*id] = Some(shaped(&buffer, offset, part.shape.clone(), None, slot.dtype)?);
            }
        }
        shaped(&buffer, 0, slot.shape(), None, slot.dtype)
    }

    /// The state that a node updates as this slot. One that has less room keeps what it holds.
    fn state(&mut self, node: &Node, slot: &Slot) -> Result<Tensor, Error> {
        let name = state_name(&node.state, slot.name);
        let long_enough = |state: &&State| state.tensor.shape().count() >= slot.shape().count();
        if let Some(state) = self.states.get(&name).filter(long_enough) {
            return shaped(&state.tensor, 0, slot.shape(), None, slot.dtype);
        }
        let fresh = readback::upload(&self.ctx, slot.name, &pack::pack(slot, &TensorMap::new()))?;
        if let Some(old) = self.states.get(&name) {
            readback::copy(&self.ctx, &old.tensor, &fresh);
        }
        let prefix = node.state.clone();
        self.states.insert(name, State { slot: slot.clone(), prefix, tensor: fresh.clone() });
        Ok(fresh)
    }

    /// Runs tokens and waits. Returns the logits if the phase has them.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn run(&mut self, phase: Phase, tokens: &[u32]) -> Result<Option<HostTensor>, Error> {
        let pass = self.pass(phase)?;
        readback::overwrite(&self.ctx, &pass.tokens, bytemuck::cast_slice(tokens));
        readback::run(&self.ctx, &pass.schedule, &mut |_| {})?;
        pass.logits.as_ref().map(|logits| readback::read_blocking(&self.ctx, logits)).transpose()
    }

    /// The states, by the names that the host uses too.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn states(&self) -> Result<TensorMap, Error> {
        let mut all = TensorMap::new();
        for state in self.states.values() {
            for (name, tensor) in pack::unpack(&state.slot, readback::read_blocking(&self.ctx, &state.tensor)?) {
                all.insert(state_name(&state.prefix, &name), tensor);
            }
        }
        Ok(all)
    }

    /// Sets the states, whose buffers must have been made by a plan.
    pub(crate) fn set_states(&mut self, given: &TensorMap) -> Result<(), Error> {
        for state in self.states.values() {
            let mut own = TensorMap::new();
            for part in &state.slot.parts {
                if let Some(tensor) = given.get(&state_name(&state.prefix, part.name)) {
                    own.insert(part.name, grown(tensor.clone(), &part.shape));
                }
            }
            readback::overwrite(&self.ctx, &state.tensor, pack::pack(&state.slot, &own).bytes());
        }
        Ok(())
    }
}

/// A part of a tensor's buffer, `offset` bytes behind its start, in another shape.
fn shaped(
    tensor: &Tensor,
    offset: u64,
    shape: crate::tensor::Shape,
    strides: Option<Vec<usize>>,
    dtype: DType,
) -> Result<Tensor, Error> {
    let start = tensor.offset() + offset;
    let bytes = shape.count() as u64 * dtype.size() as u64;
    match strides {
        None if start.is_multiple_of(ALIGN) => Tensor::view(tensor.buffer(), start..start + bytes, shape, dtype),
        strides => {
            let strides = strides.unwrap_or_else(|| contiguous(&shape));
            Tensor::strided(tensor.buffer(), start, shape, strides, dtype)
        }
    }
}

/// A view of a value as a slot expects it.
fn viewed(place: &Tensor, view: &View, slot: &Slot) -> Result<Tensor, Error> {
    let offset = (view.offset * slot.dtype.size()) as u64;
    shaped(place, offset, slot.shape(), view.strides.clone(), slot.dtype)
}

/// The strides of contiguous elements.
fn contiguous(shape: &crate::tensor::Shape) -> Vec<usize> {
    let dims = shape.dims();
    let mut strides = vec![1; dims.len()];
    for axis in (0..dims.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1] * dims[axis + 1];
    }
    strides
}
