//! Runs the graph of a model on the host: on the `cpu` backend, or by the definitions of the operators.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::builder::Phase;
use super::graph::{Graph, Home, Id, Piece, View};
use super::{Model, grown, state_name, state_parts};
use crate::cpu::threads;
use crate::error::Error;
use crate::operator::{Operator, Precision, Rows};
use crate::tensor::{Access, DType, Data, HostTensor, TensorMap, Values};

/// Values of runs of at most so many tokens are kept for the next run, which then needs no new memory.
const KEPT: usize = 16;

/// A model on the host, with the state of one sequence.
#[derive(Debug)]
pub(crate) struct Host<'m> {
    model: &'m Model,
    weights: BTreeMap<(Vec<Piece>, DType), HostTensor>,
    plans: HashMap<Phase, Prepared>,
    pub(crate) states: TensorMap,
    /// Whether operators run by their definitions, in f64.
    by_definition: bool,
}

/// A graph with its weights.
#[derive(Debug)]
struct Prepared {
    graph: Graph,
    /// The tensors of each node; between runs only its weights.
    tensors: Vec<TensorMap>,
    values: Vec<Option<HostTensor>>,
    last: Vec<Option<usize>>,
}

impl<'m> Host<'m> {
    pub(crate) fn new(model: &'m Model, by_definition: bool) -> Self {
        Self { model, weights: BTreeMap::new(), plans: HashMap::new(), states: TensorMap::new(), by_definition }
    }

    fn prepare(&mut self, phase: Phase) -> Result<Prepared, Error> {
        let graph = self.model.graph(phase)?;
        let mut tensors = Vec::new();
        for node in &graph.nodes {
            let mut map = TensorMap::new();
            for (name, view) in &node.reads {
                let value = &graph.values[view.id];
                let Home::Weight(pieces) = &value.home else { continue };
                let key = (pieces.clone(), value.dtype);
                if !self.weights.contains_key(&key) {
                    let read = self.model.read(pieces, value)?;
                    self.weights.insert(key.clone(), shared(read));
                }
                map.insert(*name, self.weights[&key].clone().reshape(view.shape.clone()));
            }
            tensors.push(map);
        }
        // The copies are what runs read.
        self.model.weights.release();
        let (values, last) = (graph.values.iter().map(|_| None).collect(), graph.last_reads());
        Ok(Prepared { graph, tensors, values, last })
    }

    /// Runs tokens, from the state that is held if the phase carries one. Returns the logits if the phase has them.
    pub(crate) fn run(&mut self, phase: Phase, tokens: &[u32]) -> Result<Option<HostTensor>, Error> {
        let mut prepared = match self.plans.remove(&phase) {
            Some(prepared) => prepared,
            None => self.prepare(phase)?,
        };
        let result = self.run_prepared(&mut prepared, tokens);
        if tokens.len() > KEPT {
            prepared.values.iter_mut().for_each(|value| *value = None);
        }
        self.plans.insert(phase, prepared);
        result
    }

    fn run_prepared(&mut self, prepared: &mut Prepared, tokens: &[u32]) -> Result<Option<HostTensor>, Error> {
        let Prepared { graph, tensors, values, last } = prepared;
        let index = Values::I32(tokens.iter().map(|token| *token as i32).collect());
        if let Some(at) = graph.values.iter().position(|value| value.home == Home::Tokens) {
            values[at] = Some(HostTensor::new([tokens.len()], index));
        }
        for (at, (node, map)) in graph.nodes.iter().zip(tensors).enumerate() {
            let mut moved: Vec<(&'static str, Id)> = Vec::new();
            let mut read: Vec<(&'static str, String)> = Vec::new();
            for (name, view) in &node.reads {
                let value = &graph.values[view.id];
                let tensor = match &value.home {
                    Home::Weight(_) => continue,
                    Home::State(state) => {
                        read.push((name, state.clone()));
                        let tensor = self.states.remove(state);
                        tensor.unwrap_or_else(|| HostTensor::zeros(value.shape.clone(), value.dtype))
                    }
                    Home::Made | Home::Tokens => match values[view.id].take() {
                        Some(whole) if is_whole(view, &whole) => {
                            moved.push((name, view.id));
                            whole.reshape(view.shape.clone())
                        }
                        Some(whole) => {
                            let part = part(&whole, view);
                            values[view.id] = Some(whole);
                            part
                        }
                        // Another input of this node is the same value.
                        None => {
                            let other = moved.iter().find(|(_, id)| *id == view.id);
                            let other = other.and_then(|(name, _)| map.get(name));
                            part(other.unwrap_or_else(|| unreachable!("{}: {name} is not there", node.label)), view)
                        }
                    },
                };
                map.insert(*name, tensor);
            }
            for state in state_parts(&*node.operator) {
                if let Some(tensor) = self.states.remove(&state_name(&node.state, state.name)) {
                    map.insert(state.name, grown(tensor, &state.shape));
                }
            }
            for (name, id) in &node.writes {
                if let Some(old) = values[*id].take() {
                    map.insert(*name, old);
                }
            }
            self.execute(&*node.operator, map)?;
            for (name, id) in moved {
                let tensor = map.remove(name);
                if last[id].is_none_or(|last| last > at) || tokens.len() <= KEPT {
                    values[id] = tensor.map(|tensor| tensor.reshape(graph.values[id].shape.clone()));
                }
            }
            for (name, state) in read {
                map.remove(name).into_iter().for_each(|tensor| self.states.insert(state.clone(), tensor));
            }
            for state in state_parts(&*node.operator) {
                let name = state_name(&node.state, state.name);
                map.remove(state.name).into_iter().for_each(|tensor| self.states.insert(name.clone(), tensor));
            }
            for (name, id) in &node.writes {
                values[*id] = map.remove(name);
            }
            // What remains of this run are copies of parts.
            for (name, view) in &node.reads {
                if !matches!(graph.values[view.id].home, Home::Weight(_)) {
                    map.remove(name);
                }
            }
        }
        Ok(graph.logits.and_then(|logits| values[logits].take()))
    }

    fn execute(&self, operator: &dyn Operator, map: &mut TensorMap) -> Result<(), Error> {
        if !self.by_definition {
            return operator.cpu_update(map);
        }
        let outputs = operator.reference(map, Precision::F64, Rows::All);
        let slots = operator.slots();
        let parts: Vec<_> =
            slots.iter().filter(|slot| slot.access != Access::Read).flat_map(|slot| &slot.parts).collect();
        for (name, values) in outputs {
            let Some(part) = parts.iter().find(|part| part.name == name) else { continue };
            let values = values.into_iter().map(|x| x as f32).collect();
            map.insert(name, HostTensor::f32(part.shape.clone(), values).cast(part.dtype));
        }
        Ok(())
    }
}

/// A weight in memory of its own, whose values can be cloned without a copy.
fn shared(mut tensor: HostTensor) -> HostTensor {
    match tensor.values_mut() {
        Values::F32(values) => *values = Data::shared(Arc::new(threads::resident(values))),
        Values::F16(values) => *values = Data::shared(Arc::new(threads::resident(values))),
        Values::I64(_) | Values::I32(_) | Values::U32(_) | Values::U8(_) => {}
    }
    tensor
}

/// Whether a view is of all elements in their order.
fn is_whole(view: &View, tensor: &HostTensor) -> bool {
    view.strides.is_none() && view.offset == 0 && view.shape.count() == tensor.shape().count()
}

/// A copy of the elements of a view.
fn part(tensor: &HostTensor, view: &View) -> HostTensor {
    let values = match tensor.values() {
        Values::F32(values) => Values::F32(elements(values, view).into()),
        Values::F16(values) => Values::F16(elements(values, view).into()),
        Values::I64(values) => Values::I64(elements(values, view)),
        Values::I32(values) => Values::I32(elements(values, view)),
        Values::U32(values) => Values::U32(elements(values, view)),
        Values::U8(values) => Values::U8(elements(values, view)),
    };
    HostTensor::new(view.shape.clone(), values)
}

fn elements<T: Copy>(values: &[T], view: &View) -> Vec<T> {
    let count = view.shape.count();
    let Some(strides) = &view.strides else { return values[view.offset..][..count].to_vec() };
    // Elements that lie side by side are copied together: the inner axes whose strides are those of contiguous elements.
    let dims = view.shape.dims();
    let (mut run, mut outer) = (1, dims.len());
    while outer > 0 && strides[outer - 1] == run {
        outer -= 1;
        run *= dims[outer];
    }
    let mut out = Vec::with_capacity(count);
    for block in 0..count / run.max(1) {
        let (mut at, mut rest) = (view.offset, block);
        for axis in (0..outer).rev() {
            at += rest % dims[axis] * strides[axis];
            rest /= dims[axis];
        }
        out.extend_from_slice(&values[at..at + run]);
    }
    out
}
