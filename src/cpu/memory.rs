//! Memory of the `cpu` backend. What a shape asks for is compared with what the machine has left before it is touched: a system
//! that runs out of memory ends the process without a word.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::error::Error;
use crate::tensor::{Access, Slot};

/// Smaller allocations are not compared with the memory left: asking for it takes longer than they do.
const SMALL: u64 = 64 << 20;

/// Keeps freed memory in this process for what it allocates next. A model allocates and frees the same tensors layer after layer,
/// and a system that takes each back clears its pages again: a third of the time of a small model on a long text.
#[cfg(feature = "cli")]
pub(crate) fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const M_TRIM_THRESHOLD: std::ffi::c_int = -1;
        const M_MMAP_MAX: std::ffi::c_int = -4;
        unsafe extern "C" {
            fn mallopt(param: std::ffi::c_int, value: std::ffi::c_int) -> std::ffi::c_int;
        }
        // SAFETY: the call sets two numbers of the allocator. Where it refuses, memory is freed as before.
        unsafe {
            mallopt(M_TRIM_THRESHOLD, std::ffi::c_int::MAX);
            mallopt(M_MMAP_MAX, 0);
        }
    }
}

/// What a run unwinds with if memory for it cannot be had: the bytes that it asked for.
struct Exhausted(u64);

/// Memory in bytes that the machine, or the group of processes that this one belongs to, has left; `None` if the system does
/// not say.
pub(crate) fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let machine = entry(&text, "MemAvailable:")?.saturating_mul(1024);
    Some(group_left().map_or(machine, |group| group.min(machine)))
}

/// The number behind a word at the start of a line.
fn entry(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// What the limit of a container leaves, in both versions of control groups; `None` if there is no limit.
fn group_left() -> Option<u64> {
    let number = |path: String| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let groups = [
        ("/sys/fs/cgroup", "memory.max", "memory.current", ["inactive_file ", "active_file "]),
        (
            "/sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            ["total_inactive_file ", "total_active_file "],
        ),
    ];
    groups.into_iter().find_map(|(folder, limit, used, files)| {
        let limit = number(format!("{folder}/{limit}"))?;
        let used = number(format!("{folder}/{used}"))?;
        // What it holds of files can be taken back.
        let stat = std::fs::read_to_string(format!("{folder}/memory.stat")).unwrap_or_default();
        let files: u64 = files.iter().filter_map(|name| entry(&stat, name)).sum();
        Some(limit.saturating_sub(used.saturating_sub(files)))
    })
}

/// Whether so many bytes can be had: the machine has them left, and gives them to this process.
fn fits(bytes: u64) -> bool {
    if bytes < SMALL {
        return true;
    }
    let given = usize::try_from(bytes).is_ok_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok());
    given && available().is_none_or(|left| bytes <= left)
}

/// Unwinds if so many elements cannot be had.
pub(crate) fn claim<T>(count: usize) {
    let bytes = (count as u64).saturating_mul(size_of::<T>() as u64);
    if !fits(bytes) {
        resume_unwind(Box::new(Exhausted(bytes)));
    }
}

fn limit(op: &str, what: String, needed: u64) -> Error {
    Error::Memory { op: op.to_owned(), what, needed, left: available() }
}

/// Refuses outputs and a state that do not fit into the memory left. `state` is the number of elements of a state that the run
/// holds whether or not it is carried.
///
/// # Errors
/// [`Error::Memory`], which names the largest tensor written, or the state.
pub(crate) fn check(op: &'static str, slots: &[Slot], state: u64) -> Result<(), Error> {
    let bytes = |slot: &Slot| slot.checked_bytes().unwrap_or(u64::MAX);
    let written = || slots.iter().filter(|slot| slot.access != Access::Read);
    let state = state.saturating_mul(4);
    let needed = written().map(bytes).fold(state, u64::saturating_add);
    if fits(needed) {
        return Ok(());
    }
    let what = match written().max_by_key(|slot| bytes(slot)).filter(|slot| bytes(slot) > state) {
        Some(slot) => {
            let shape = slot.parts.iter().map(|part| part.shape.to_string()).collect::<Vec<_>>().join(" and ");
            format!("tensor `{}` {shape}, with what is held beside it,", slot.name)
        }
        None => "the state of this shape".into(),
    };
    Err(limit(op, what, needed))
}

/// Refuses work that takes so many bytes of memory beside what is there.
///
/// # Errors
/// [`Error::Memory`].
#[cfg(feature = "cli")]
pub(crate) fn check_bytes(op: &str, what: &str, needed: u64) -> Result<(), Error> {
    if fits(needed) { Ok(()) } else { Err(limit(op, what.into(), needed)) }
}

/// Runs `f`. If memory that it asks for cannot be had, that is an error.
///
/// # Errors
/// [`Error::Memory`].
pub(crate) fn guarded<T>(op: &str, f: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic| match panic.downcast::<Exhausted>() {
        Ok(exhausted) => limit(op, "the computation, beside inputs and outputs,".into(), exhausted.0),
        Err(panic) => resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let slot = |name, access, count| Slot::plain(name, access, DType::F32, [count, 1 << 20]);
        // Inputs are there already.
        let slots = [slot("q", Access::Read, 1 << 40), slot("o", Access::Write, 1), slot("state", Access::Update, 1)];
        assert_eq!(check("ramnet", &slots, 0), Ok(()));
        let said = |slots: &[Slot], state| check("ramnet", slots, state).map_err(|error| error.to_string());
        let error = said(&[slot("o", Access::Write, 1 << 20), slot("state", Access::Update, 1 << 30)], 0);
        let start = "ramnet: tensor `state` [1073741824, 1048576], with what is held beside it, needs 45079";
        assert!(error.as_ref().is_err_and(|error| error.starts_with(start)), "{error:?}");
        let error = said(&slots, 1 << 50);
        let start = "ramnet: the state of this shape needs 450359963";
        assert!(error.as_ref().is_err_and(|error| error.starts_with(start)), "{error:?}");
    }

    #[test]
    fn memory_that_cannot_be_had_unwinds_into_an_error_and_a_defect_does_not() {
        assert_eq!(guarded("slay", || 3), Ok(3));
        let error = guarded("slay", || claim::<f32>(1 << 50)).map_err(|error| error.to_string());
        let start = "slay: the computation, beside inputs and outputs, needs 4503599627370496 bytes of memory, ";
        assert!(error.as_ref().is_err_and(|error| error.starts_with(start)), "{error:?}");
        let defect = catch_unwind(|| guarded("slay", || resume_unwind(Box::new("a defect"))));
        assert_eq!(defect.err().and_then(|panic| panic.downcast_ref::<&str>().copied()), Some("a defect"));
    }
}
