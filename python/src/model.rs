//! Whole models.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use subquad::Error;
use subquad::model::sampling::{Sampler, Settings};
use subquad::model::tokens::Tokenizer;
use subquad::model::{Model as Weights, Session};
use subquad::{DType, HostTensor};

use crate::arrays;
use crate::device::Device;
use crate::operators::{detached, raised};

/// A model with its weights, on a device.
#[pyclass(frozen, module = "subquad._core")]
pub(crate) struct Model {
    /// Declared before the weights, which it reads: fields are dropped in this order.
    session: Mutex<Session<'static>>,
    weights: Box<Weights>,
    ran: String,
}

impl Model {
    fn with<T>(&self, work: impl FnOnce(&mut Session<'static>, &Weights) -> Result<T, Error>) -> Result<T, Error> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut session, &self.weights)
    }
}

#[pymethods]
impl Model {
    /// Opens a folder: config.json and *.safetensors.
    #[new]
    #[pyo3(signature = (folder, device, dtype))]
    fn new(py: Python<'_>, folder: PathBuf, device: &str, dtype: &str) -> PyResult<Self> {
        let dtype = arrays::dtype(dtype)?;
        detached(py, || {
            let weights = Box::new(Weights::open(&folder)?);
            let device = Device::open(device)?;
            if dtype == DType::F16 && !device.f16() {
                return Err(Error::NoAdapter(format!("dtype: {} stores no float16", device.name())));
            }
            // SAFETY: the weights are on the heap, are never moved out of their box, and outlive the session, which is dropped first.
            let held: &'static Weights = unsafe { &*std::ptr::from_ref(&*weights) };
            let session = match &device {
                Device::Cpu => Session::on_cpu(held)?,
                Device::Gpu(context) => Session::on_gpu(held, context)?,
            };
            Ok(Self { session: Mutex::new(session.dtype(dtype)), weights, ran: device.name() })
        })
    }

    #[getter]
    fn family(&self) -> &'static str {
        self.weights.spec().family
    }

    #[getter]
    fn vocabulary(&self) -> usize {
        self.weights.spec().vocab
    }

    #[getter]
    fn parameters(&self) -> u64 {
        self.weights.parameters()
    }

    #[getter]
    fn labels(&self) -> Vec<String> {
        self.weights.spec().labels.clone()
    }

    #[getter]
    fn device(&self) -> &str {
        &self.ran
    }

    /// The tokens of a text.
    fn encode(&self, text: Vec<u8>) -> PyResult<Vec<u32>> {
        Tokenizer::of(&self.weights).and_then(|tokenizer| tokenizer.encode(&text)).map_err(raised)
    }

    /// The text of tokens behind others, as bytes.
    fn decode<'py>(&self, py: Python<'py>, before: Vec<u32>, tokens: Vec<u32>) -> PyResult<Bound<'py, PyBytes>> {
        let text = Tokenizer::of(&self.weights).and_then(|tokenizer| tokenizer.decode_after(&before, &tokens));
        Ok(PyBytes::new(py, &text.map_err(raised)?))
    }

    /// Logits of a whole sequence, `[N, V]`.
    fn run<'py>(&self, py: Python<'py>, tokens: Vec<u32>) -> PyResult<Bound<'py, PyAny>> {
        let logits = detached(py, || self.with(|session, _| session.run(&tokens)))?;
        arrays::array(py, logits)
    }

    /// (bits, tokens predicted) of a sequence.
    fn score(&self, py: Python<'_>, tokens: Vec<u32>, chunk: usize) -> PyResult<(f64, usize)> {
        detached(py, || {
            self.with(|session, weights| {
                weights.check_lm("score")?;
                session.reset()?;
                session.score(&tokens, chunk, &mut None, &mut |_| {})
            })
        })
    }

    /// Forgets what was read, then reads the prompt but for its last token.
    fn begin(&self, py: Python<'_>, prompt: Vec<u32>, chunk: usize) -> PyResult<()> {
        detached(py, || {
            self.with(|session, weights| {
                weights.check_lm("generate")?;
                session.reset()?;
                let before = prompt.len().saturating_sub(1);
                for chunk in prompt[..before].chunks(chunk.max(1)) {
                    session.advance(chunk, false)?;
                }
                Ok(())
            })
        })
    }

    /// The token after this one, or none where the text ends.
    fn next(&self, py: Python<'_>, token: u32, sampler: &Draws) -> PyResult<Option<u32>> {
        detached(py, || {
            self.with(|session, weights| {
                let logits = session.advance(&[token], true)?;
                let logits: Vec<f32> = logits.as_ref().map(HostTensor::to_f32).unwrap_or_default();
                let mut sampler = sampler.0.lock().unwrap_or_else(PoisonError::into_inner);
                let next = sampler.next(&logits)?;
                Ok((!weights.spec().ends.contains(&next)).then_some(next))
            })
        })
    }

    /// (bytes of weights, bytes of state at a length, dispatches of a token).
    fn sizes(&self, length: usize) -> PyResult<(u64, u64, usize)> {
        let parts = self.weights.parts(length, &subquad::gpu::Caps::portable()).map_err(raised)?;
        let states = parts.iter().map(|part| part.state_bytes).sum();
        Ok((self.weights.weight_bytes(), states, parts.iter().map(|part| part.dispatches).sum()))
    }
}

/// Chooses tokens.
#[pyclass(frozen, module = "subquad._core")]
pub(crate) struct Draws(Mutex<Sampler>);

#[pymethods]
impl Draws {
    #[new]
    fn new(temperature: f32, top_k: Option<usize>, top_p: Option<f32>, seed: u64) -> PyResult<Self> {
        let sampler = Sampler::new(Settings { temperature, top_k, top_p, seed }).map_err(raised)?;
        Ok(Self(Mutex::new(sampler)))
    }
}
