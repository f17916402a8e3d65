//! How far a reference is, told to a thread that waits for it: a reference takes minutes where a kernel takes milliseconds.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The share of a reference that is done.
#[derive(Debug, Clone, Default)]
pub struct Share(Arc<AtomicU64>);

thread_local! {
    static CURRENT: RefCell<Option<Share>> = const { RefCell::new(None) };
    /// Start and size of the part of the reference that this thread computes.
    static PART: Cell<(f64, f64)> = const { Cell::new((0.0, 1.0)) };
}

impl Share {
    /// Runs a reference on this thread, which then tells its progress here.
    pub fn of<T>(&self, reference: impl FnOnce() -> T) -> T {
        let outer = CURRENT.replace(Some(self.clone()));
        let result = reference();
        CURRENT.set(outer);
        result
    }

    /// The share done, from 0 to 1.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// Tells that a reference begins part `at` of `of` equal parts. Cheap enough for every token of every head.
pub fn begin(at: usize, of: usize) {
    CURRENT.with_borrow(|share| {
        if let Some(share) = share {
            let (start, size) = PART.get();
            share.0.store((start + size * (at as f64 / of.max(1) as f64)).to_bits(), Ordering::Relaxed);
        }
    });
}

/// Runs a reference that is this part of a whole one.
pub(crate) fn within<T>(part: Range<f64>, reference: impl FnOnce() -> T) -> T {
    let (start, size) = PART.get();
    PART.set((start + size * part.start, size * (part.end - part.start)));
    let result = reference();
    PART.set((start, size));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_follows_only_what_it_runs() {
        let share = Share::default();
        begin(1, 2);
        assert_eq!(share.get(), 0.0);
        share.of(|| begin(3, 4));
        begin(1, 2);
        assert_eq!(share.get(), 0.75);
        share.of(|| within(0.5..1.0, || begin(1, 2)));
        assert_eq!(share.get(), 0.75);
        share.of(|| within(0.0..0.5, || begin(1, 2)));
        assert_eq!(share.get(), 0.25);
    }
}
