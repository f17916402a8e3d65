//! INT, TERM and HUP end a command without leaving temporary files behind.

use crate::io;

/// Calls `on_signal` with the number of each of these signals, from now on and on a thread of its own. If that cannot be set
/// up, a signal ends the process at once.
///
/// Threads started later inherit the mask, so that only the thread here receives the signals.
#[cfg(unix)]
pub(super) fn install(on_signal: fn(u8)) {
    use nix::sys::signal::{SigSet, Signal};
    let all = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    let signals: SigSet = all.into_iter().filter(|signal| !ignored(*signal)).collect();
    if signals.thread_block().is_err() {
        return;
    }
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            on_signal(u8::try_from(signal as i32).unwrap_or(2));
        }
    });
}

/// Whether whoever started this process wants the signal ignored, as `nohup` does. Waiting for it would receive it.
#[cfg(unix)]
fn ignored(signal: nix::sys::signal::Signal) -> bool {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the handlers are the default and the one that was there, neither of which is a function of this program.
    let before = unsafe { sigaction(signal, &default) };
    // SAFETY: as above.
    before.is_ok_and(|before| unsafe {
        sigaction(signal, &before).is_err() || matches!(before.handler(), SigHandler::SigIgn)
    })
}

/// Handles Ctrl-C from now on.
#[cfg(not(unix))]
pub(super) fn install(on_signal: fn(u8)) {
    let _ = ctrlc::set_handler(move || on_signal(2));
}

/// Ends the process as the signal would have done.
pub(super) fn end(signal: u8) {
    io::abandon();
    #[cfg(unix)]
    {
        use nix::sys::signal::{SigSet, Signal, raise};
        if let Ok(signal) = Signal::try_from(i32::from(signal)) {
            let _ = SigSet::from_iter([signal]).thread_unblock();
            let _ = raise(signal);
        }
    }
    exit(super::Outcome::Interrupted(signal).code());
}

/// Ends the process while other threads are at work. Exit handlers are skipped: a driver's would free what they use.
pub(super) fn exit(code: u8) -> ! {
    io::abandon();
    #[cfg(unix)]
    {
        unsafe extern "C" {
            fn _exit(code: std::ffi::c_int) -> !;
        }
        // SAFETY: it does not return and touches no memory of this process. Output is written through.
        unsafe { _exit(code.into()) }
    }
    #[cfg(not(unix))]
    std::process::exit(code.into())
}
