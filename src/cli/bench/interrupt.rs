//! Ends a run of `bench` on INT, TERM or HUP: gently after the run in hand, with the results so far if that takes too long,
//! and at once on a second signal.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::{Outcome, report, signals};

/// How long the run in hand may take after a signal.
const GRACE: Duration = Duration::from_secs(2);

static STOP: AtomicBool = AtomicBool::new(false);
/// Number of the first signal; 0 if none came.
static SIGNAL: AtomicU8 = AtomicU8::new(0);
/// When the first signal came.
static SINCE: Mutex<Option<Instant>> = Mutex::new(None);

/// A flag that is set once a run is to end.
pub(super) fn stop() -> &'static AtomicBool {
    &STOP
}

/// Number of the signal that ended the run.
pub(super) fn received() -> Option<u8> {
    Some(SIGNAL.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
}

/// The exit code, if a signal came and the run in hand has not ended in time.
pub(super) fn overdue() -> Option<u8> {
    let since = SINCE.lock().unwrap_or_else(PoisonError::into_inner);
    let late = since.is_some_and(|since| since.elapsed() > GRACE);
    received().filter(|_| late).map(|signal| Outcome::Interrupted(signal).code())
}

/// Notes a signal and asks the run to end; on a second signal, ends the process.
pub(super) fn on_signal(signal: u8) {
    if STOP.swap(true, Ordering::Relaxed) && received().is_some() {
        signals::exit(Outcome::Interrupted(signal).code());
    }
    SIGNAL.store(signal, Ordering::Relaxed);
    *SINCE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    report::stderr("interrupted: ending after this timing");
}
