//! A model that runs, with the state of one sequence.

use super::builder::Phase;
use super::device::Device;
use super::host::Host;
use super::{Model, spec::Head};
use crate::error::Error;
use crate::gpu::Context;
use crate::tensor::{DType, HostTensor, TensorMap, Values};

/// The state that counts tokens.
const POSITION: &str = "position";

/// Smallest number of positions that caches get room for.
const ROOM: usize = 256;

/// Takes the tokens of a chunk and their logits.
pub type Sink<'s> = dyn FnMut(&[u32], HostTensor) -> Result<(), Error> + 's;

/// What runs the model.
#[derive(Debug)]
enum Backend<'m> {
    Cpu(Host<'m>),
    Gpu(Device<'m>),
}

/// A model on a backend, with the state of one sequence.
#[derive(Debug)]
pub struct Session<'m> {
    model: &'m Model,
    backend: Backend<'m>,
    dtype: DType,
    /// Tokens that the state has seen.
    position: usize,
    /// Positions that caches of keys and values have room for.
    capacity: usize,
    /// The tokens so far, for a model that has no state: it starts again with each token.
    seen: Vec<u32>,
}

impl<'m> Session<'m> {
    fn new(model: &'m Model, backend: Backend<'m>) -> Self {
        Self { model, backend, dtype: DType::F32, position: 0, capacity: 0, seen: Vec::new() }
    }

    /// On the `cpu` backend.
    ///
    /// # Errors
    /// None today.
    pub fn on_cpu(model: &'m Model) -> Result<Self, Error> {
        Ok(Self::new(model, Backend::Cpu(Host::new(model, false))))
    }

    /// By the definitions of the operators in f64, whose results are stored as f32 between operators. It is slow, and carries no
    /// state.
    pub fn by_definition(model: &'m Model) -> Self {
        Self::new(model, Backend::Cpu(Host::new(model, true)))
    }

    /// On a GPU.
    ///
    /// # Errors
    /// None today.
    pub fn on_gpu(model: &'m Model, ctx: &Context) -> Result<Self, Error> {
        Ok(Self::new(model, Backend::Gpu(Device::new(model, ctx))))
    }

    /// Sets the storage type of activations and of the weights of products.
    #[must_use]
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// The model.
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// Tokens that the state has seen.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Forgets all tokens.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn reset(&mut self) -> Result<(), Error> {
        (self.position, self.seen) = (0, Vec::new());
        match &mut self.backend {
            Backend::Cpu(host) => host.states = TensorMap::new(),
            Backend::Gpu(device) => device.set_states(&TensorMap::new())?,
        }
        Ok(())
    }

    fn phase(&self, tokens: usize, carry: bool, head: bool) -> Phase {
        let fused = matches!(self.backend, Backend::Gpu(_));
        let capacity = if carry { self.capacity } else { 0 };
        Phase { tokens, carry, capacity, head, dtype: self.dtype, fused }
    }

    fn execute(&mut self, phase: Phase, tokens: &[u32]) -> Result<Option<HostTensor>, Error> {
        match &mut self.backend {
            Backend::Cpu(host) => host.run(phase, tokens),
            Backend::Gpu(device) => device.run(phase, tokens),
        }
    }

    fn check(&self, tokens: &[u32]) -> Result<(), Error> {
        self.model.check_tokens(tokens)?;
        let length = self.position + tokens.len();
        match self.model.max_len() {
            Some(most) if length > most => {
                let op = self.model.spec().family;
                Err(Error::tensor(op, "tokens", format!("at most the {most} learned positions"), length.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Runs a whole sequence, without state. Returns logits in f32: `[N, V]`, or `[1, classes]` for the head `class`.
    ///
    /// # Errors
    /// Tokens that are not in the vocabulary or too many; the errors of the operators and of the device.
    pub fn run(&mut self, tokens: &[u32]) -> Result<HostTensor, Error> {
        self.check(tokens)?;
        let logits = self.execute(self.phase(tokens.len(), false, true), tokens)?;
        Ok(self.model.pooled(self.rows(logits)))
    }

    fn rows(&self, logits: Option<HostTensor>) -> HostTensor {
        let logits = logits.unwrap_or_else(|| unreachable!("the phase has a head"));
        let rows = logits.shape().count() / self.model.width();
        logits.cast(DType::F32).reshape([rows, self.model.width()])
    }

    /// Runs the next tokens of the sequence. Returns their logits `[N, V]` if they are wanted.
    ///
    /// # Errors
    /// The errors of [`Session::run`]; [`Error::Setting`] if the model cannot go on from a state.
    pub fn advance(&mut self, tokens: &[u32], wanted: bool) -> Result<Option<HostTensor>, Error> {
        self.check(tokens)?;
        if !self.model.is_recurrent() {
            return self.again(tokens, wanted);
        }
        let needed = self.position + tokens.len();
        if needed > self.capacity {
            let room = needed.max(self.capacity * 2).max(ROOM).next_power_of_two();
            self.capacity = self.model.max_len().map_or(room, |most| room.min(most));
        }
        let logits = self.execute(self.phase(tokens.len(), true, wanted), tokens)?;
        self.position = needed;
        Ok(wanted.then(|| self.rows(logits)))
    }

    /// For a causal model whose mixers have no state: runs all tokens so far.
    fn again(&mut self, tokens: &[u32], wanted: bool) -> Result<Option<HostTensor>, Error> {
        if !self.model.spec().causal || self.model.spec().layers.iter().any(|layer| !layer.is_causal()) {
            let what = "is needed to go on from earlier tokens, and this model also looks at later ones";
            return Err(Error::rule(self.model.spec().family, "causal", format!(" {what}")));
        }
        self.seen.extend(tokens);
        self.position = self.seen.len();
        if !wanted {
            return Ok(None);
        }
        let all = self.seen.clone();
        let logits = self.execute(self.phase(all.len(), false, true), &all)?;
        let (width, logits) = (self.model.width(), self.rows(logits).to_f32());
        let last = logits[(all.len() - tokens.len()) * width..].to_vec();
        Ok(Some(HostTensor::f32([tokens.len(), width], last)))
    }

    /// Logits of a whole sequence in chunks of so many tokens, each passed to `sink` in order. Only the state and one chunk are
    /// held.
    ///
    /// # Errors
    /// The errors of [`Session::advance`], and those of the sink.
    pub fn chunks(&mut self, tokens: &[u32], length: usize, sink: &mut Sink<'_>) -> Result<(), Error> {
        for chunk in tokens.chunks(length.max(1)) {
            if let Some(logits) = self.advance(chunk, true)? {
                sink(chunk, logits)?;
            }
        }
        Ok(())
    }

    /// Scores a text in chunks of so many tokens: the bits that its tokens cost after those before them, and how many were
    /// predicted. `last` holds the logits before the first token, if there are any, and at the end those after the last. `done`
    /// is told the number of tokens of every chunk.
    ///
    /// # Errors
    /// The errors of [`Session::advance`].
    pub fn score(
        &mut self,
        tokens: &[u32],
        chunk: usize,
        last: &mut Option<Vec<f32>>,
        done: &mut dyn FnMut(usize),
    ) -> Result<(f64, usize), Error> {
        let width = self.model.width();
        let (mut bits, mut predicted) = (0.0, 0);
        self.chunks(tokens, chunk, &mut |tokens, logits| {
            let values = logits.to_f32();
            let rows: Vec<&[f32]> = values.chunks_exact(width).collect();
            // The row before each token: the first one's is that of the chunk before.
            let before = last.as_deref().into_iter().chain(rows[..rows.len() - 1].iter().copied());
            let skipped = usize::from(last.is_none());
            for (row, token) in before.zip(&tokens[skipped..]) {
                bits += cost(row, *token);
                predicted += 1;
            }
            *last = rows.last().map(|row| row.to_vec());
            done(tokens.len());
            Ok(())
        })?;
        Ok((bits, predicted))
    }

    /// The state after the tokens so far, by name: `position`, `layers.0.state`. Caches have one row per token.
    ///
    /// # Errors
    /// [`Error::Device`]; [`Error::Setting`] if the model has no state.
    pub fn state(&self) -> Result<TensorMap, Error> {
        self.check_state()?;
        let all = match &self.backend {
            Backend::Cpu(host) => host.states.clone(),
            Backend::Gpu(device) => device.states()?,
        };
        let trim = |(name, tensor): (String, HostTensor)| {
            let tensor = if name == POSITION {
                HostTensor::new([1], Values::I64(vec![self.position as i64]))
            } else if is_cache(&name) {
                tensor.select(1, &(0..self.position).collect::<Vec<_>>())
            } else {
                tensor
            };
            (name, tensor)
        };
        Ok(all.into_iter().map(trim).collect())
    }

    fn check_state(&self) -> Result<(), Error> {
        if self.model.is_recurrent() && self.model.spec().head == Head::Lm {
            return Ok(());
        }
        Err(Error::rule(
            self.model.spec().family,
            "state",
            " is had only by a causal language model whose mixers all have one",
        ))
    }

    /// Goes on from a state, which another session of the same model returned.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Tensor`], which names the state.
    pub fn set_state(&mut self, mut given: TensorMap) -> Result<(), Error> {
        self.check_state()?;
        let op = self.model.spec().family;
        let position = match given.remove(POSITION) {
            Some(tensor) if tensor.shape().count() == 1 => tensor.to_f64()[0],
            _ => {
                let expected = "i64 [1]".into();
                return Err(Error::Missing { op, tensor: POSITION.into(), expected, given: given.names() });
            }
        };
        if !(0.0..2147483648.0).contains(&position) {
            return Err(Error::tensor(op, POSITION, "a number from 0 to 2^31 - 1", position.to_string()));
        }
        let position = position as usize;
        let capacity = position.max(ROOM).next_power_of_two();
        let graph = self.model.graph(Phase { capacity, ..self.phase(1, true, true) })?;
        let mut known = 0;
        for node in &graph.nodes {
            for part in super::state_parts(&*node.operator)
                .iter()
                .filter(|part| part.name != POSITION || !node.state.is_empty())
            {
                let name = super::state_name(&node.state, part.name);
                let mut dims = part.shape.dims().to_vec();
                if is_cache(&name) {
                    dims[1] = position;
                }
                let Some(tensor) = given.get(&name) else {
                    let expected = crate::tensor::Shape::from(dims).to_string();
                    return Err(Error::Missing { op, tensor: name, expected, given: given.names() });
                };
                if tensor.shape().dims() != dims {
                    let expected = crate::tensor::Shape::from(dims).to_string();
                    return Err(Error::tensor(op, name, expected, tensor.shape().to_string()));
                }
                let stored = tensor.cast(part.dtype);
                given.insert(name, stored);
                known += 1;
            }
        }
        if known != given.len() {
            let expected = "the states of this model and no others";
            return Err(Error::tensor(op, "state", expected, format!("{} tensors more", given.len() - known)));
        }
        (self.position, self.capacity) = (position, capacity);
        given.insert(POSITION, HostTensor::new([1], Values::U32(vec![position as u32])));
        let phase = self.phase(1, true, true);
        match &mut self.backend {
            Backend::Cpu(host) => host.states = given,
            Backend::Gpu(device) => {
                // The plan makes the buffers.
                device.pass(phase)?;
                device.set_states(&given)?;
            }
        }
        Ok(())
    }
}

/// Bits that a token costs after these logits.
fn cost(logits: &[f32], token: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    (sum.ln() - f64::from(logits[token as usize] - most)) / std::f64::consts::LN_2
}

/// Whether a state is a cache with one row per token, along axis 1.
fn is_cache(name: &str) -> bool {
    name.ends_with("k_cache") || name.ends_with("v_cache")
}
