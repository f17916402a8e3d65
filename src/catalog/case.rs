//! A case: an operator at a named shape with its flags. Tests, `check` and the benches all run these cases.

use std::fmt;

use crate::catalog::flags::Flags;
use crate::catalog::request::Request;
use crate::catalog::spec::{AxisDefault, Op, TensorSpec};
use crate::error::Error;
use crate::operator::Operator;
use crate::tensor::{DType, Layout, Shape};

/// An operator at a named shape with its flags.
#[derive(Debug, Clone)]
pub struct Case {
    /// Short name, unique within the operator: `odd_257`.
    pub name: String,
    /// Axis letters with lengths. Other axes have the default length of the operator's row.
    pub axes: Vec<(&'static str, usize)>,
    /// Flags as on the command line.
    pub flags: Flags,
    /// Axis order.
    pub layout: Layout,
    /// Storage type.
    pub dtype: DType,
    /// Tensors given in addition to the required ones, by the names of [`TensorSpec::names`].
    pub with: Vec<&'static str>,
    /// Whether a (random) state is an input and the new state is an output.
    pub carry: bool,
    /// Seed of the inputs.
    pub seed: u64,
    /// Whether the case belongs to the quick set.
    pub quick: bool,
    /// Whether only the `cpu` backend has this form.
    pub host: bool,
}

impl Case {
    /// A quick f32 case in layout bhnd, without flags.
    pub fn new(name: impl Into<String>, axes: &[(&'static str, usize)]) -> Self {
        Self {
            name: name.into(),
            axes: axes.to_vec(),
            flags: Flags::new(),
            layout: Layout::Bhnd,
            dtype: DType::F32,
            with: Vec::new(),
            carry: false,
            seed: 1,
            quick: true,
            host: false,
        }
    }

    /// Adds a flag.
    #[must_use]
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.set(name, value);
        self
    }

    /// Sets the layout.
    #[must_use]
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Sets the storage type.
    #[must_use]
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Adds a tensor that is not required.
    #[must_use]
    pub fn with(mut self, name: &'static str) -> Self {
        self.with.push(name);
        self
    }

    /// Makes a random state an input and the new state an output.
    #[must_use]
    pub fn carry(mut self) -> Self {
        self.carry = true;
        self
    }

    /// Moves the case from the quick set to the full set.
    #[must_use]
    pub fn slow(mut self) -> Self {
        self.quick = false;
        self
    }

    /// Marks a form that has no kernels: only the `cpu` backend runs it.
    #[must_use]
    pub fn host(mut self) -> Self {
        self.host = true;
        self
    }

    /// Length of an axis in this case.
    pub fn axis(&self, op: &Op, letter: &str) -> Option<usize> {
        axis_length(op, &self.axes, letter)
    }

    /// Shape of one of the operator's tensors in this case; `None` if an axis letter is unknown.
    pub fn shape(&self, op: &Op, spec: &TensorSpec) -> Option<Shape> {
        let mut forms = spec.each_form(self.layout);
        let own = forms.next()?.1;
        let letters = forms.find(|(name, _)| self.with.contains(name)).map_or(own, |(_, letters)| letters);
        let length = |letter: &'static str| match letter.strip_suffix("+1") {
            Some(letter) => self.axis(op, letter)?.checked_add(1),
            None if letter == "G" && spec.per_value_head => self.axis(op, "V"),
            None => self.axis(op, letter).or_else(|| letter.split('|').next()?.parse().ok()),
        };
        letters.into_iter().map(length).collect::<Option<Vec<_>>>().map(Shape::from)
    }

    /// The input tensors that this case is given, without the state.
    pub fn given<'a>(&'a self, op: &'a Op) -> impl Iterator<Item = &'a TensorSpec> {
        let named = |spec: &TensorSpec| spec.names().any(|name| self.with.contains(&name));
        let replaced = |spec: &TensorSpec| spec.alternative.is_some_and(|other| self.with.contains(&other));
        let given = move |spec: &&TensorSpec| (!spec.optional && !replaced(spec)) || named(spec);
        op.inputs.iter().filter(given)
    }

    /// Adds the optional tensors that the flags of the case require.
    pub fn complete(&mut self, op: &Op) {
        while let Err(Error::Missing { tensor, .. }) = self.configure(op) {
            let lacks = |spec: &&TensorSpec| spec.optional && spec.name == tensor && !self.with.contains(&spec.name);
            let Some(spec) = op.inputs.iter().find(lacks) else { return };
            self.with.push(spec.name);
        }
    }

    /// Creates the operator at this shape.
    ///
    /// # Errors
    /// The errors of the operator.
    pub fn configure(&self, op: &Op) -> Result<Box<dyn Operator>, Error> {
        let shapes: Vec<_> =
            self.given(op).filter_map(|spec| Some((spec.name.to_owned(), self.shape(op, spec)?))).collect();
        op.configure(&Request {
            flags: &self.flags,
            shapes: &shapes,
            layout: self.layout,
            dtype: self.dtype,
            carry: self.carry,
        })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}

/// Length of an axis: the given one, or else the default of the operator's row.
pub fn axis_length(op: &Op, given: &[(&str, usize)], letter: &str) -> Option<usize> {
    if let Some((_, length)) = given.iter().find(|(l, _)| *l == letter) {
        return Some(*length);
    }
    match op.axes.iter().find(|(l, _)| *l == letter)?.1 {
        AxisDefault::Length(length) => Some(length),
        AxisDefault::Same(other) => axis_length(op, given, other),
    }
}
