//! Watching a run of the `cpu` backend from another thread: how far it is, and ending it early.

use std::cell::RefCell;
use std::panic::resume_unwind;
#[cfg(feature = "cli")]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a run shares with the thread that waits for it.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Flops of the loops begun so far.
    begun: AtomicU64,
    /// Flops of the tasks that are done.
    done: AtomicU64,
    stop: AtomicBool,
}

/// What a stopped run unwinds with.
struct Stopped;

thread_local! {
    static CURRENT: RefCell<Option<Arc<Watch>>> = const { RefCell::new(None) };
}

#[cfg(feature = "cli")]
impl Watch {
    /// Runs `f` watched; `None` if it was stopped before its end.
    pub(crate) fn run<T>(self: &Arc<Self>, f: impl FnOnce() -> T) -> Option<T> {
        let outer = CURRENT.replace(Some(self.clone()));
        let result = catch_unwind(AssertUnwindSafe(f));
        CURRENT.set(outer);
        match result {
            Ok(value) => Some(value),
            Err(panic) if panic.is::<Stopped>() => None,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Asks the run to end at its next task.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// The share of the work that is done, where all of it is about `flops`. A loop's own count of flops can exceed that.
    pub(crate) fn share(&self, flops: f64) -> f64 {
        let [begun, done] = [&self.begun, &self.done].map(|count| count.load(Ordering::Relaxed) as f64);
        done / flops.max(begun).max(1.0)
    }
}

/// The tasks of one parallel loop, seen by the watch of the thread that started it.
pub(super) struct Tasks {
    watch: Option<Arc<Watch>>,
    /// Flops of one task.
    each: u64,
}

impl Tasks {
    /// Begins a loop of so many tasks with so many flops each.
    pub(super) fn begin(count: usize, each: u64) -> Self {
        let watch = CURRENT.with_borrow(Clone::clone);
        if let Some(watch) = &watch {
            watch.begun.fetch_add(each.saturating_mul(count as u64), Ordering::Relaxed);
        }
        Self { watch, each }
    }

    /// Does one task, or unwinds if the run is to stop. Unwinding this way prints nothing.
    pub(super) fn task(&self, f: impl FnOnce()) {
        let Some(watch) = &self.watch else { return f() };
        if watch.stop.load(Ordering::Relaxed) {
            resume_unwind(Box::new(Stopped));
        }
        f();
        watch.done.fetch_add(self.each, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watched_loop_says_how_far_it_is_and_can_be_stopped() {
        let watch = Arc::new(Watch::default());
        let loop_of = |count: usize| {
            let tasks = Tasks::begin(count, 10);
            for at in 0..count {
                tasks.task(|| {
                    if at == 5 {
                        watch.stop();
                    }
                });
            }
        };
        assert_eq!(watch.run(|| loop_of(4)), Some(()));
        assert_eq!((watch.share(80.0), watch.share(1.0)), (0.5, 1.0));
        assert_eq!(watch.run(|| loop_of(10)), None);
        assert_eq!(watch.share(0.0), 100.0 / 140.0);
        // Unwatched loops run through.
        loop_of(10);
        let panicked = catch_unwind(AssertUnwindSafe(|| Arc::new(Watch::default()).run(|| panic!("a defect"))));
        assert!(panicked.is_err());
    }
}
