//! The settings that all recurrent operators share: causal mask, carried state, decoding and segment length.

use crate::error::Error;

/// How a recurrent operator runs along the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// Whether query i attends only to keys 0 to i.
    pub causal: bool,
    /// Whether the state is an input and an output. If false, the state starts from its initial values and is not
    /// returned.
    pub carry: bool,
    /// The form for decoding one token, in one dispatch. It needs N = 1, `causal` and `carry`.
    pub decode: bool,
    /// Tokens per segment of the scan; `None` lets the plan choose. If a length is given, the sums of the segments are
    /// added in order from the left. A sequence that is split at multiples of this length then gives bit-identical
    /// results.
    pub segment: Option<usize>,
}

impl Default for Mode {
    fn default() -> Self {
        Self::new()
    }
}

impl Mode {
    /// The causal mode without a carried state.
    pub const fn new() -> Self {
        Self { causal: true, carry: false, decode: false, segment: None }
    }

    /// Removes the causal mask: every query attends to every key.
    #[must_use]
    pub const fn non_causal(self) -> Self {
        Self { causal: false, ..self }
    }

    /// Carries a state: it is read at the start and written at the end.
    #[must_use]
    pub const fn carry(self) -> Self {
        Self { carry: true, ..self }
    }

    /// Selects the form for decoding one token. It carries a state.
    #[must_use]
    pub const fn decode(self) -> Self {
        Self { carry: true, decode: true, ..self }
    }

    /// Sets the number of tokens per segment.
    #[must_use]
    pub const fn segment(self, tokens: usize) -> Self {
        Self { segment: Some(tokens), ..self }
    }

    /// Refuses lengths and settings that contradict each other. `tensor` is the name of the tensor along the sequence,
    /// `queries` and `keys` are the lengths N and M.
    ///
    /// # Errors
    /// One sentence that names the tensor or setting.
    pub(crate) fn check(self, op: &'static str, tensor: &str, queries: usize, keys: usize) -> Result<(), Error> {
        let Self { causal, carry, decode, segment } = self;
        if causal && queries != keys {
            let expected = format!("M = N = {queries} for the causal form");
            return Err(Error::tensor(op, "k", expected, format!("M = {keys}")));
        }
        if !causal && carry {
            return Err(Error::rule(op, "carry", " needs the causal form"));
        }
        if decode && segment.is_some() {
            return Err(Error::rule(op, "segment", " cannot be used with decode, which takes one token"));
        }
        if decode && !(causal && carry) {
            return Err(Error::rule(op, "decode", " needs the causal form with a carried state"));
        }
        if decode && queries != 1 {
            return Err(Error::tensor(op, tensor, "N = 1 to decode", format!("N = {queries}")));
        }
        if segment == Some(0) {
            return Err(Error::setting(op, "segment", "1 or more", "0"));
        }
        Ok(())
    }
}
