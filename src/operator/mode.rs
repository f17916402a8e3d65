//! The settings that all recurrent operators share: causal mask, carried state, decoding, segment length, packed sequences,
//! direction and the order of the axes of a state.

use crate::error::Error;
use crate::tensor::{Access, DType, Slot};

/// The order in which a run takes the tokens of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Direction {
    /// From the first token to the last.
    #[default]
    Forward,
    /// From the last token to the first.
    Backward,
    /// Both runs; their outputs are added.
    Both,
}

impl Direction {
    /// The values of `--direction`.
    pub const WORDS: &'static [&'static str] = &["forward", "backward", "both"];

    /// The value of `--direction`, for example `backward`.
    pub const fn name(self) -> &'static str {
        Self::WORDS[self as usize]
    }

    /// The direction of that name.
    pub fn named(word: &str) -> Option<Self> {
        [Self::Forward, Self::Backward, Self::Both].into_iter().find(|direction| direction.name() == word)
    }
}

/// The order of the last two axes of the tensor `state` in state files and buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum StateLayout {
    /// The order that the operator documents.
    #[default]
    De,
    /// The two axes exchanged.
    Ed,
}

impl StateLayout {
    /// The values of `--state-layout`.
    pub const WORDS: &'static [&'static str] = &["de", "ed"];

    /// The value of `--state-layout`: `de` or `ed`.
    pub const fn name(self) -> &'static str {
        Self::WORDS[self as usize]
    }

    /// The order of that name.
    pub fn named(word: &str) -> Option<Self> {
        [Self::De, Self::Ed].into_iter().find(|order| order.name() == word)
    }

    /// The last two axes in this order, given in the order `de`.
    pub fn order(self, [d, e]: [usize; 2]) -> [usize; 2] {
        match self {
            Self::De => [d, e],
            Self::Ed => [e, d],
        }
    }
}

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
    /// S: the number of sequences that are packed one after another into the one batch entry. Their borders are the
    /// values of the tensor `cu_seqlens [S+1]`, from 0 to N. Nothing crosses a border: each sequence starts from its own
    /// state. `None` if every batch entry is one sequence.
    pub sequences: Option<usize>,
    /// The order in which the tokens are taken, within each sequence.
    pub direction: Direction,
    /// The order of the axes of the carried state.
    pub state_layout: StateLayout,
}

impl Default for Mode {
    fn default() -> Self {
        Self::new()
    }
}

impl Mode {
    /// The causal mode without a carried state.
    pub const fn new() -> Self {
        Self {
            causal: true,
            carry: false,
            decode: false,
            segment: None,
            sequences: None,
            direction: Direction::Forward,
            state_layout: StateLayout::De,
        }
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

    /// Sets the number of packed sequences.
    #[must_use]
    pub const fn sequences(self, sequences: usize) -> Self {
        Self { sequences: Some(sequences), ..self }
    }

    /// Sets the direction.
    #[must_use]
    pub const fn direction(self, direction: Direction) -> Self {
        Self { direction, ..self }
    }

    /// Sets the order of the axes of the carried state.
    #[must_use]
    pub const fn state_layout(self, state_layout: StateLayout) -> Self {
        Self { state_layout, ..self }
    }

    /// Number of states along the first axis of a state tensor: one per batch entry, or one per packed sequence.
    pub fn states(&self, batch: usize) -> usize {
        self.sequences.unwrap_or(batch)
    }

    /// The mode in which one sequence is computed on its own: forward, with the state in its usual order.
    #[must_use]
    pub const fn plain(self) -> Self {
        Self { sequences: None, direction: Direction::Forward, state_layout: StateLayout::De, ..self }
    }

    /// Whether the run is composed of runs in the mode [`Mode::plain`].
    pub(crate) fn is_composed(&self) -> bool {
        self.beyond_plain().is_some()
    }

    /// What [`Mode::plain`] leaves out, for people, behind the description of an algorithm.
    pub(crate) fn told(&self) -> String {
        let mut text = self.sequences.map_or_else(String::new, |count| format!(", {count} packed sequences"));
        text.push_str(match self.direction {
            Direction::Forward => "",
            Direction::Backward => ", backward",
            Direction::Both => ", in both directions",
        });
        text
    }

    /// The settings that a state depends on, by the names of their flags.
    pub(crate) fn state_basis(&self) -> Option<(&'static str, String)> {
        (self.state_layout != StateLayout::De).then(|| ("state-layout", self.state_layout.name().to_owned()))
    }

    /// The slot of the borders of packed sequences, `cu_seqlens [S+1]`. It is the one before the state.
    pub fn borders_slot(&self) -> Option<Slot> {
        let count = self.sequences?.saturating_add(1);
        Some(Slot::plain("cu_seqlens", Access::Read, DType::U32, [count]))
    }

    /// The setting that [`Mode::plain`] leaves out, if there is one.
    fn beyond_plain(&self) -> Option<&'static str> {
        if self.sequences.is_some() {
            Some("sequences")
        } else if self.direction != Direction::Forward {
            Some("direction")
        } else if self.carry && self.state_layout != StateLayout::De {
            Some("state_layout")
        } else {
            None
        }
    }

    /// Bytes of the borders of packed sequences.
    pub(crate) fn border_bytes(&self) -> f64 {
        self.sequences.map_or(0.0, |count| 4.0 * (count as f64 + 1.0))
    }

    /// Refuses lengths and settings that contradict each other, and what only some operators have: packed sequences,
    /// directions and orders of a state ([`Mode::check_all`]). `tensor` is the name of the tensor along the sequence,
    /// `queries` and `keys` are the lengths N and M.
    ///
    /// # Errors
    /// One sentence that names the tensor or setting.
    pub(crate) fn check(self, op: &'static str, tensor: &str, queries: usize, keys: usize) -> Result<(), Error> {
        self.beyond_plain().map_or(Ok(()), |setting| Err(absent(op, setting)))?;
        self.check_lengths(op, tensor, queries, keys)
    }

    /// Does the same for an operator that has them all. `batch` is B.
    ///
    /// # Errors
    /// One sentence that names the tensor or setting.
    pub(crate) fn check_all(
        self,
        op: &'static str,
        tensor: &str,
        batch: usize,
        [queries, keys]: [usize; 2],
    ) -> Result<(), Error> {
        if let Some(sequences) = self.sequences {
            let found = || borders_shape(sequences);
            check_sequences(op, tensor, batch, sequences)?;
            if !self.causal {
                return Err(Error::tensor(op, "cu_seqlens", "none in the non-causal form", found()));
            }
            if self.decode {
                return Err(Error::tensor(op, "cu_seqlens", "none with decode", found()));
            }
        }
        if self.direction != Direction::Forward {
            let refuse = |without: &str| {
                let problem = format!(" {} {without}", self.direction.name());
                Err(Error::rule(op, "direction", problem))
            };
            if !self.causal {
                return refuse("needs the causal form");
            }
            if self.decode {
                return refuse("cannot be used with decode, which takes one token");
            }
            if self.carry {
                return refuse("cannot be used with a carried state");
            }
        }
        self.check_lengths(op, tensor, queries, keys)
    }

    /// Refuses a non-causal form and an order of the axes of the state, for an operator that has neither.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub(crate) fn check_one_form(self, op: &'static str) -> Result<(), Error> {
        if !self.causal {
            return Err(Error::rule(op, "causal", " is the only form of this operator"));
        }
        if self.state_layout == StateLayout::De { Ok(()) } else { Err(absent(op, "state_layout")) }
    }

    fn check_lengths(self, op: &'static str, tensor: &str, queries: usize, keys: usize) -> Result<(), Error> {
        let Self { causal, carry, decode, segment, .. } = self;
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

/// Says that an operator does not have a setting.
fn absent(op: &'static str, setting: &str) -> Error {
    Error::rule(op, setting, " is not among the settings of this operator")
}

/// The shape of the borders of so many packed sequences, for people.
pub(crate) fn borders_shape(sequences: usize) -> String {
    format!("[{}]", sequences.saturating_add(1))
}

/// Refuses no packed sequences, and packed sequences in more than one batch entry. `tensor` is the name of the tensor along
/// the sequence, `batch` is B.
///
/// # Errors
/// [`Error::Tensor`].
pub(crate) fn check_sequences(op: &'static str, tensor: &str, batch: usize, sequences: usize) -> Result<(), Error> {
    if sequences == 0 {
        let expected = "[S+1], the borders of one sequence or more";
        return Err(Error::tensor(op, "cu_seqlens", expected, borders_shape(sequences)));
    }
    if batch != 1 {
        return Err(Error::tensor(op, tensor, "batch B = 1 with cu_seqlens", batch.to_string()));
    }
    Ok(())
}
