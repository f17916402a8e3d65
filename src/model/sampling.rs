//! Chooses the next token from logits.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::error::Error;

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Logits are divided by it. 0 takes the most likely token, the first of several.
    pub temperature: f32,
    /// Only the k most likely tokens; `None` for all.
    pub top_k: Option<usize>,
    /// Only the most likely tokens that together have this probability; `None` for all.
    pub top_p: Option<f32>,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: None, top_p: None, seed: 0 }
    }
}

/// Chooses tokens. The same seed and logits give the same tokens.
#[derive(Debug)]
pub struct Sampler {
    settings: Settings,
    random: ChaCha8Rng,
}

impl Sampler {
    /// A sampler with these settings.
    ///
    /// # Errors
    /// [`Error::Setting`] if a number is out of its range.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let Settings { temperature, top_k, top_p, seed } = settings;
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(Error::setting(
                "generate",
                "temperature",
                "a finite number of 0 or more",
                temperature.to_string(),
            ));
        }
        if top_k == Some(0) {
            return Err(Error::setting("generate", "top_k", "1 or more", "0"));
        }
        if let Some(p) = top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return Err(Error::setting("generate", "top_p", "a number above 0, at most 1", p.to_string()));
        }
        Ok(Self { settings, random: ChaCha8Rng::seed_from_u64(seed) })
    }

    /// Chooses a token.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a logit is not a number.
    pub fn next(&mut self, logits: &[f32]) -> Result<u32, Error> {
        if let Some(at) = logits.iter().position(|x| x.is_nan()) {
            return Err(Error::tensor("generate", "logits", "numbers", format!("NaN at {at}")));
        }
        let Settings { temperature, top_k, top_p, .. } = self.settings;
        let likeliest = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
        let all = 0..logits.len();
        if temperature == 0.0 {
            return Ok(all.min_by(likeliest).unwrap_or(0) as u32);
        }
        let mut order: Vec<usize> = all.collect();
        order.sort_unstable_by(likeliest);
        order.truncate(top_k.unwrap_or(order.len()));
        let most = f64::from(logits[order[0]]);
        let weight = |token: &usize| ((f64::from(logits[*token]) - most) / f64::from(temperature)).exp();
        let mut weights: Vec<f64> = order.iter().map(weight).collect();
        if let Some(p) = top_p {
            let enough = f64::from(p) * weights.iter().sum::<f64>();
            let mut sum = 0.0;
            let reaches = |weight: &f64| {
                sum += weight;
                sum >= enough
            };
            weights.truncate(weights.iter().position(reaches).map_or(weights.len(), |last| last + 1));
        }
        // 53 random bits, as a number from 0 to below 1.
        let share = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let wanted = share * weights.iter().sum::<f64>();
        let mut sum = 0.0;
        let at = weights.iter().position(|weight| {
            sum += weight;
            sum > wanted
        });
        Ok(order[at.unwrap_or(weights.len() - 1)] as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(settings: Settings, logits: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(settings).unwrap();
        (0..count).map(|_| sampler.next(logits).unwrap()).collect()
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(drawn(Settings::default(), &[0.0, 2.0, 2.0, f32::NEG_INFINITY], 2), [1, 1]);
        assert!(Sampler::new(Settings::default()).unwrap().next(&[0.0, f32::NAN]).is_err());
    }

    #[test]
    fn tokens_are_drawn_with_their_probabilities() {
        let logits = [0.0, f32::ln(2.0), f32::NEG_INFINITY, f32::ln(5.0)];
        let settings = Settings { temperature: 1.0, seed: 3, ..Settings::default() };
        let tokens = drawn(settings, &logits, 8000);
        assert_eq!(tokens, drawn(settings, &logits, 8000));
        for (token, share) in [(0, 0.125), (1, 0.25), (2, 0.0), (3, 0.625)] {
            let found = tokens.iter().filter(|drawn| **drawn == token).count() as f64 / 8000.0;
            assert!((found - share).abs() < 0.02, "token {token}: {found}");
        }
        let kept = |settings| {
            let mut tokens = drawn(settings, &logits, 500);
            tokens.sort_unstable();
            tokens.dedup();
            tokens
        };
        assert_eq!(kept(Settings { top_k: Some(2), ..settings }), [1, 3]);
        assert_eq!(kept(Settings { top_p: Some(0.6), ..settings }), [3]);
        assert_eq!(kept(Settings { top_p: Some(0.7), ..settings }), [1, 3]);
    }
}
