//! The values of one tensor in host memory: owned, shared or lent.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Values that a tensor owns, shares with the memory that holds them, such as a mapped file, or writes in memory that it was lent,
/// such as another library's array. Cloning shared values copies nothing; a clone of lent ones owns a copy.
pub struct Data<T>(Kept<T>);

enum Kept<T> {
    Owned(Vec<T>),
    Shared(Arc<dyn AsRef<[T]> + Send + Sync>),
    Lent(Box<dyn Lender<T>>),
}

/// Memory of others that values are read from and written to. Both functions must always return the same slice.
pub trait Lender<T>: Send + Sync {
    /// The values for reading.
    fn values(&self) -> &[T];

    /// The values for writing.
    fn values_mut(&mut self) -> &mut [T];
}

impl<T: Clone> Clone for Data<T> {
    fn clone(&self) -> Self {
        match &self.0 {
            Kept::Owned(values) => values.clone().into(),
            Kept::Shared(owner) => Self(Kept::Shared(owner.clone())),
            Kept::Lent(lender) => lender.values().to_vec().into(),
        }
    }
}

impl<T> Data<T> {
    /// Values in memory that `owner` keeps. It must return the same slice whenever it is asked.
    pub fn shared(owner: Arc<dyn AsRef<[T]> + Send + Sync>) -> Self {
        Self(Kept::Shared(owner))
    }

    /// Values in memory that is written in place, except by [`Data::to_mut`].
    pub fn lent(lender: Box<dyn Lender<T>>) -> Self {
        Self(Kept::Lent(lender))
    }

    /// Says whether the values are in memory that was lent.
    pub fn is_lent(&self) -> bool {
        matches!(self.0, Kept::Lent(_))
    }
}

impl<T: Clone> Data<T> {
    /// The values as a vector. Shared and lent values are copied first.
    pub fn to_mut(&mut self) -> &mut Vec<T> {
        if !matches!(self.0, Kept::Owned(_)) {
            self.0 = Kept::Owned(self.to_vec());
        }
        match &mut self.0 {
            Kept::Owned(values) => values,
            _ => unreachable!("other values were just copied"),
        }
    }
}

impl<T> Deref for Data<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Kept::Owned(values) => values,
            Kept::Shared(owner) => (**owner).as_ref(),
            Kept::Lent(lender) => lender.values(),
        }
    }
}

/// Shared values are copied before they are written, lent ones are written in place.
impl<T: Clone> DerefMut for Data<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        if matches!(self.0, Kept::Shared(_)) {
            self.to_mut();
        }
        match &mut self.0 {
            Kept::Owned(values) => values,
            Kept::Lent(lender) => lender.values_mut(),
            Kept::Shared(_) => unreachable!("shared values were just copied"),
        }
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

    #[test]
    fn lent_values_are_written_in_place_until_they_are_taken_as_a_vector() {
        struct Whole(Vec<f32>);
        impl Lender<f32> for Whole {
            fn values(&self) -> &[f32] {
                &self.0
            }
            fn values_mut(&mut self) -> &mut [f32] {
                &mut self.0
            }
        }
        let mut data = Data::lent(Box::new(Whole(vec![1.0, 2.0])));
        let other = data.clone();
        data[0] = 3.0;
        assert_eq!((&*data, &*other), (&[3.0, 2.0][..], &[1.0, 2.0][..]));
        assert!(data.is_lent() && !other.is_lent());
        data.to_mut()[0] = 4.0;
        assert!(!data.is_lent());
        assert_eq!(*data, [4.0, 2.0]);
    }
}
