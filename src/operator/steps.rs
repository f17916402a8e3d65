//! Steps of state space models: how dt, given per token, becomes the step that a token takes.

#[cfg(feature = "cpu")]
use crate::cpu::channels;
use crate::error::Error;

/// How a step follows from dt: `clamp(softplus(dt + dt_bias) + offset, min, max)`, as far as these are set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Steps {
    /// Whether softplus is applied to dt.
    pub softplus: bool,
    /// Added after softplus.
    pub offset: f32,
    /// Smallest step, after the offset.
    pub min: Option<f32>,
    /// Largest step, after the offset.
    pub max: Option<f32>,
}

impl Default for Steps {
    fn default() -> Self {
        Self::new()
    }
}

impl Steps {
    /// Softplus, without an offset and limits.
    pub const fn new() -> Self {
        Self { softplus: true, offset: 0.0, min: None, max: None }
    }

    /// Steps as given, without softplus, an offset and limits.
    pub const fn plain() -> Self {
        Self { softplus: false, ..Self::new() }
    }

    /// Whether there is an offset or a limit.
    pub(crate) fn limited(&self) -> bool {
        self.min.is_some() || self.max.is_some() || self.offset != 0.0
    }

    /// The smallest and the largest step, without limits those of f32.
    pub(crate) fn limits(&self) -> [f32; 2] {
        [self.min.unwrap_or(f32::MIN), self.max.unwrap_or(f32::MAX)]
    }

    /// Refuses an offset or limits that are negative, not finite, or that no step satisfies.
    ///
    /// # Errors
    /// One sentence that names the setting.
    pub(crate) fn validate(&self, op: &'static str) -> Result<(), Error> {
        let given = [("dt_min", self.min), ("dt_max", self.max), ("dt_offset", Some(self.offset))];
        for (setting, value) in given {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value >= 0.0)) {
                return Err(Error::setting(op, setting, "a finite number of 0 or more", value.to_string()));
            }
        }
        match (self.min, self.max) {
            (Some(least), Some(most)) if least > most => {
                Err(Error::setting(op, "dt_min", format!("at most dt_max, {most}"), least.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Turns dt with its bias into steps. NaN stays NaN.
    #[cfg(feature = "cpu")]
    pub(crate) fn apply(&self, steps: &mut [f32]) {
        if self.softplus {
            channels::softplus(steps);
        }
        if !self.limited() {
            return;
        }
        let [least, most] = self.limits();
        for step in steps {
            *step += self.offset;
            *step = if *step < least { least } else { *step };
            *step = if *step > most { most } else { *step };
        }
    }
}
