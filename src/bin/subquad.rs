//! The command `subquad`.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether standard output was closed when the process started.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Looks at standard output before the standard library does, which opens /dev/null in place of a closed one: results would
/// vanish with exit code 0.
#[cfg(target_os = "linux")]
extern "C" fn look() {
    const F_GETFD: std::ffi::c_int = 1;
    unsafe extern "C" {
        fn fcntl(descriptor: std::ffi::c_int, command: std::ffi::c_int, ...) -> std::ffi::c_int;
    }
    // SAFETY: it reads a flag of a descriptor, which need not exist.
    CLOSED.store(unsafe { fcntl(1, F_GETFD) } == -1, Ordering::Relaxed);
}

// SAFETY: the system calls what this section lists before `main`, and `look` needs nothing of the standard library.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

fn main() -> ExitCode {
    ExitCode::from(subquad::cli::main(std::env::args_os(), CLOSED.load(Ordering::Relaxed)))
}
