//! Summaries of pieces of a sequence: the decay of a piece, and how summaries are folded.
//!
//! A delta rule has none: `S_t = (I - beta k k^T) S_{t-1} + ..` changes the state that enters by a matrix and not by a factor.

use super::reference::log_decays;
use super::{Config, FeatureMap, Gate, NAME};
#[cfg(feature = "catalog")]
use super::{maps, row};
#[cfg(feature = "catalog")]
use crate::catalog::spec::TensorSpec;
#[cfg(feature = "catalog")]
use crate::catalog::summaries::{Fold, Numbers, Settings, State, Summary};
use crate::error::Error;
use crate::operator::LogDecayFn;
use crate::operator::qkv::Qkv;
use crate::tensor::{HostTensor, TensorMap};

/// The decay of a run, if its rule and its feature map have summaries.
pub(super) fn log_decay(config: &Config) -> Result<LogDecayFn<Config>, Error> {
    if config.rule.is_delta() {
        let expected = "linear or gated for a summary, because a delta rule changes the state that enters by a matrix";
        return Err(Error::setting(NAME, "rule", expected, config.rule.name()));
    }
    if config.feature_map() == FeatureMap::Cosformer && config.rule.gate() == Some(Gate::Channel) {
        let expected =
            "one log decay a head for a summary under the feature map cosformer, whose angles mix two channels";
        return Err(Error::tensor(NAME, "g", expected, "one a channel"));
    }
    Ok(sums_of_g)
}

/// The sum of g over the tokens: `[B, G, 1, 1]`, or `[B, G, D', 1]` per channel.
fn sums_of_g(config: &Config, tensors: &TensorMap) -> HostTensor {
    let Qkv { batch, kv_heads, keys, layout, .. } = config.qkv;
    let each = config.gates_each().max(1);
    let mut sums = vec![0.0; batch * kv_heads * each];
    if config.rule.gate().is_some() {
        let (g, strides) = (log_decays::<f64>(config, tensors), layout.strides(kv_heads, keys, each));
        for (unit, sums) in sums.chunks_exact_mut(each).enumerate() {
            let first = unit / kv_heads * strides.batch + unit % kv_heads * strides.head;
            for token in 0..keys {
                let gates = &g[first + token * strides.token..][..each];
                sums.iter_mut().zip(gates).for_each(|(sum, gate)| *sum += *gate);
            }
        }
    }
    HostTensor::f32([batch, kv_heads, each, 1], sums.into_iter().map(|sum| sum as f32).collect())
}

/// The letter of the axis of features in a state.
#[cfg(feature = "catalog")]
const FEATURES: &str = "D'";

/// How summaries are folded.
#[cfg(feature = "catalog")]
struct Folding {
    tensors: Vec<TensorSpec>,
    map: FeatureMap,
    max_len: usize,
}

/// Prepares the folding of summaries with these settings.
#[cfg(feature = "catalog")]
pub(super) fn folding(settings: &Settings<'_>) -> Result<Box<dyn Fold>, String> {
    let setting = |name: &str| settings.get(name).unwrap_or("none");
    let Some(map) = FeatureMap::named(setting("feature-map")) else {
        return Err(format!("expected a known feature-map, found {}", setting("feature-map")));
    };
    let axes = if settings.values_first() { "B G E D'" } else { "B G D' E" };
    let mut tensors = vec![TensorSpec::state("state", axes)];
    if setting("normalize") == "true" {
        tensors.push(row::OP.state[1]);
    }
    let mut max_len = 1;
    match map {
        FeatureMap::Performer => tensors.push(row::LOG_SCALE),
        FeatureMap::Cosformer => {
            tensors.push(row::POSITION);
            let word = setting("max-len");
            max_len = match word.parse() {
                Ok(length) if (1..=maps::MOST_TOKENS).contains(&length) => length,
                _ => return Err(format!("expected a max-len of 1 to {}, found {word}", maps::MOST_TOKENS)),
            };
        }
        _ => {}
    }
    Ok(Box::new(Folding { tensors, map, max_len }))
}

#[cfg(feature = "catalog")]
impl Fold for Folding {
    fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    fn fold(&self, state: &mut State, piece: &mut Summary) -> Result<(), String> {
        match self.map {
            FeatureMap::Performer => rescale(state, piece),
            FeatureMap::Cosformer => self.turn(state, piece)?,
            _ => state.combine(&piece.own, &piece.decay, None),
        }
        Ok(())
    }
}

/// Folds sums that are stored relative to `log_scale`. The new scale is the larger one, rounded as the file stores it, so that
/// the sums make up for the rounding.
#[cfg(feature = "catalog")]
fn rescale(state: &mut State, piece: &mut Summary) {
    let name = row::LOG_SCALE.name;
    let (Some(before), Some(own)) = (state.take(name), piece.own.take(name)) else { return };
    let decay = piece.decay.over(&before);
    let with = |values: Vec<f64>| Numbers { values, ..before.clone() };
    let decayed: Vec<f64> = before.values.iter().zip(decay).map(|(before, decay)| before + decay).collect();
    let larger = |(x, y): (&f64, &f64)| f64::from(x.max(*y).max(f64::from(maps::NOTHING)) as f32);
    let after: Vec<f64> = decayed.iter().zip(&own.values).map(larger).collect();
    let beside = |logs: &[f64]| with(logs.iter().zip(&after).map(|(log, after)| log - after).collect());
    state.combine(&piece.own, &beside(&decayed), Some(&beside(&own.values)));
    state.numbers.push((name, with(after.clone())));
}

#[cfg(feature = "catalog")]
impl Folding {
    /// Folds sums whose angles were counted from the beginning of the piece. The piece begins at the position of the state: its
    /// sums turn by the angle of that position, which mixes the sums of cosines with those of sines.
    fn turn(&self, state: &mut State, piece: &mut Summary) -> Result<(), String> {
        let name = row::POSITION.name;
        let Some(positions) = state.counts_mut(name) else { return Ok(()) };
        for (tensor, sums) in &mut piece.own.numbers {
            let Some([outside, features, inside]) = sums.around(FEATURES) else { continue };
            if !features.is_multiple_of(2) {
                let shape = crate::tensor::Shape::from(sums.dims.clone());
                return Err(format!("tensor `{tensor}`: expected an even number of features, found {shape}"));
            }
            let (batch, half) = (sums.dims[0], features / 2 * inside);
            for (at, sums) in sums.values.chunks_exact_mut(features * inside).enumerate() {
                // One position serves all sequences of a batch, or each has its own.
                let position = positions[at / (outside / batch) % positions.len()] as u64;
                let [cosine, sine] = maps::angle(position, self.max_len);
                let (first, second) = sums.split_at_mut(half);
                for (x, y) in first.iter_mut().zip(second) {
                    (*x, *y) = (*x * cosine - *y * sine, *x * sine + *y * cosine);
                }
            }
        }
        let tokens = piece.own.counts_mut(name).map(std::mem::take).unwrap_or_default();
        for (position, tokens) in positions.iter_mut().zip(tokens) {
            *position = position.wrapping_add(tokens);
        }
        state.combine(&piece.own, &piece.decay, None);
        Ok(())
    }
}
