//! One token on the `cpu` backend: the state is read once and written once, where it is.

use super::cpu::{decay, log_decays, source, strengths};
use super::delta_steps as steps;
use super::{Config, FeatureMap};
use crate::cores::recurrence::cpu::Head;
use crate::cores::recurrence::cpu_decay::{Decay, Space, advance, advance_each, left_of};
use crate::cpu::tiles::{Map, Output, Source};
use crate::cpu::{simd, threads};
use crate::tensor::{DType, HostTensor, Shape, TensorMap, Values};

/// One run: the configuration, its tensors and the output buffer.
struct Token<'a> {
    c: &'a Config,
    q: Source<'a>,
    k: Source<'a>,
    v: Source<'a>,
    beta: Option<Source<'a>>,
    decay: Decay<'a>,
    o: Output,
}

/// The map of single elements that makes the features. Other features are no such map.
fn map(features: FeatureMap) -> Option<Map> {
    match features {
        FeatureMap::Elu1 => Some(Some(simd::elu1)),
        FeatureMap::Relu => Some(Some(simd::relu)),
        FeatureMap::Identity => Some(None),
        FeatureMap::Performer | FeatureMap::PerformerRelu | FeatureMap::Cosformer => None,
    }
}

/// Runs one token in place, if the features are maps of single elements.
pub(super) fn update(config: &Config, tensors: &mut TensorMap) -> bool {
    let s = &config.qkv;
    let Some(map) = map(config.feature_map()).filter(|_| s.keys == 1 && config.mode.carry) else { return false };
    let (units, matrix) = (s.kv_units(), s.dim_k * s.dim_v);
    let lent = |tensors: &mut TensorMap, name, shape: &[usize]| tensors.lend(name, &Shape::from(shape), DType::F32);
    let mut state = lent(tensors, "state", &[s.batch, s.kv_heads, s.dim_k, s.dim_v]);
    let mut norm = config.normalize().then(|| lent(tensors, "norm", &[s.batch, s.kv_heads, s.dim_k]));
    let (g, beta) = (log_decays(config, tensors), config.rule.is_delta().then(|| strengths(config, tensors)));
    let read = |name| source(config, tensors, name, map);
    let token = Token {
        c: config,
        q: read("q"),
        k: read("k"),
        v: source(config, tensors, "v", None),
        beta: beta.as_ref().map(|beta| Source::new(beta, s.layout, None)),
        decay: decay(config, g.as_deref()),
        o: Output::new(s.dtype, s.layout, [s.batch, s.heads, 1, s.dim_v]),
    };
    let mut nothing = vec![0.0; units];
    let (norms, each): (&mut [f32], usize) = match norm.as_mut().map(HostTensor::values_mut) {
        Some(Values::F32(norm)) => (norm, s.dim_k),
        _ => (&mut nothing, 1),
    };
    if let Values::F32(state) = state.values_mut() {
        threads::each_pair_mut([state, norms], [matrix, each], 8 * matrix as u64, |unit, state, norm| {
            token.advance(unit, state, norm);
        });
    }
    let o = token.o.finish();
    tensors.insert("o", o);
    tensors.insert("state", state);
    if let Some(norm) = norm {
        tensors.insert("norm", norm);
    }
    true
}

impl Token<'_> {
    /// Advances the state of a key head, `[D', E]`, and its norm, if there is one, and writes the outputs of its query heads.
    fn advance(&self, unit: usize, state: &mut [f32], norm: &mut [f32]) {
        let s = &self.c.qkv;
        let (batch, head, group, each) = (unit / s.kv_heads, unit % s.kv_heads, s.group(), self.decay.width(s.dim_k));
        let key_head = Head { batch, head, kv_head: head };
        let sizes = [s.dim_k, s.dim_v, s.dim_k, s.dim_v, s.dim_v, 2 * each, each, s.dim_k, 1];
        threads::scratch(sizes, |[k, v, q, written, out, factors, logs, seen, beta]| {
            let k = self.k.tile(batch, head / s.shared, 0..1, k).row(0, s.dim_k);
            let v = self.v.tile(batch, head, 0..1, v).row(0, s.dim_v);
            let kept = self.decay.chunk(key_head, 0..1, Space { factors, logs, scales: &mut [] }).factors;
            written.copy_from_slice(v);
            if let Some(source) = &self.beta {
                // The state returns for the key what it holds after its decay.
                seen.iter_mut().enumerate().for_each(|(d, seen)| *seen = k[d] * left_of(kept, d));
                steps::read(seen, state, s.dim_v, out);
                simd::add_scaled(written, out, -1.0);
                simd::scale(written, source.tile(batch, head, 0..1, beta).row(0, 1)[0]);
            }
            if self.c.normalize() {
                advance_each(norm, kept, k);
            }
            for (reader, head) in (head * group..(head + 1) * group).enumerate() {
                let q = self.q.tile(batch, head / s.shared, 0..1, q).row(0, s.dim_k);
                if reader == 0 {
                    advance(state, kept, k, written, q, out);
                } else {
                    steps::read(q, state, s.dim_v, out);
                }
                let mut factor = self.c.effective_scale();
                if self.c.normalize() {
                    // A query without any weight gives zeros.
                    let divisor = factor * simd::dot(q, norm) + self.c.norm_eps();
                    factor = if divisor == 0.0 { 0.0 } else { factor / divisor };
                }
                // SAFETY: each head belongs to one key head, and is stored once.
                unsafe { self.o.store(batch, head, 0..1, out, &[factor]) };
            }
        });
    }
}
