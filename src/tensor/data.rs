//! The values of one tensor in host memory, owned or shared.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Values that a tensor owns, or shares with the memory that holds them, such as a mapped file. Cloning shared values copies
/// nothing.
#[derive(Clone)]
pub struct Data<T>(Kept<T>);

#[derive(Clone)]
enum Kept<T> {
    Owned(Vec<T>),
    Shared(Arc<dyn AsRef<[T]> + Send + Sync>),
}

impl<T> Data<T> {
    /// Values in memory that `owner` keeps. It must return the same slice whenever it is asked.
    pub fn shared(owner: Arc<dyn AsRef<[T]> + Send + Sync>) -> Self {
        Self(Kept::Shared(owner))
    }
}

impl<T: Clone> Data<T> {
    /// The values for writing. Shared values are copied first.
    pub fn to_mut(&mut self) -> &mut Vec<T> {
        if let Kept::Shared(owner) = &self.0 {
            let copy = (**owner).as_ref().to_vec();
            self.0 = Kept::Owned(copy);
        }
        match &mut self.0 {
            Kept::Owned(values) => values,
            Kept::Shared(_) => unreachable!("shared values were just copied"),
        }
    }
}

impl<T> Deref for Data<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Kept::Owned(values) => values,
            Kept::Shared(owner) => (**owner).as_ref(),
        }
    }
}

/// Shared values are copied before they are written.
impl<T: Clone> DerefMut for Data<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.to_mut()
    }
}

impl<T> From<Vec<T>> for Data<T> {
    fn from(values: Vec<T>) -> Self {
        Self(Kept::Owned(values))
    }
}

impl<T> FromIterator<T> for Data<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Vec::from_iter(values).into()
    }
}

impl<T: PartialEq> PartialEq for Data<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: fmt::Debug> fmt::Debug for Data<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_values_are_copied_before_they_are_written() {
        let owner: Arc<Vec<f32>> = Arc::new(vec![1.0, 2.0]);
        let mut data = Data::shared(owner.clone());
        assert_eq!(*data, [1.0, 2.0]);
        let other = data.clone();
        data.to_mut()[0] = 3.0;
        assert_eq!((&*data, &*other, &**owner), (&[3.0, 2.0][..], &[1.0, 2.0][..], &[1.0, 2.0][..]));
        assert_ne!(data, other);
    }
}
