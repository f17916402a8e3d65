//! What holds for every file that is read: tensors or one sentence, without a panic, all ways of reading agree, and memory
//! stays in proportion to the file. Shared by `tests/files.rs`, the trials (`tests/trials`) and the fuzz targets.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use subquad::Error;
use subquad::io::{self, TensorFile};

/// Counts the memory that the current thread holds. Readers start no threads.
struct Watched;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn hold(more: usize, less: usize) {
    // Nothing is counted while a thread ends and its counters are gone.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + more as isize - less as isize);
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

// SAFETY: every call goes to the system allocator as it came; a Cell without destructor allocates nothing itself.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        hold(layout.size(), 0);
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        hold(layout.size(), 0);
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both pieces exist while one is copied to the other.
        hold(size, 0);
        hold(0, layout.size());
        unsafe { System.realloc(at, layout, size) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        hold(0, layout.size());
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static WATCHED: Watched = Watched;

/// What the work gives, and the most bytes that it held at a time on this thread.
pub(crate) fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    MOST.set(before);
    let result = work();
    (result, (MOST.get() - before) as usize)
}

/// The sentence of a refusal, with the checks that hold for all of them.
pub(crate) fn sentence(error: &Error) -> String {
    let message = error.to_string();
    assert!(!message.trim().is_empty());
    assert!(!message.contains('\n'), "more than one line: {message}");
    assert!(message.len() < 4000, "long: {message}");
    message
}

/// Reads and inspects a file or directory of so many bytes, and gives the most memory that it took. All ways agree on
/// whether it is a file at all, except that `inspect` looks at no data and refuses no dtype; so does `read_only` of nothing.
pub(crate) fn read_path(path: &Path, bytes: usize) -> (Result<TensorFile, String>, usize) {
    let (found, most) = peak(|| io::read(path));
    let (listed, of_listed) = peak(|| io::inspect(path));
    let (nothing, of_nothing) = peak(|| io::read_only(path, &|_| false));
    let most = most.max(of_listed).max(of_nothing);
    assert!(most <= (4 << 20) + 8 * bytes, "{most} bytes of memory for a file of {bytes}");
    if let Ok(found) = &found {
        let listed = listed.as_ref().unwrap_or_else(|e| panic!("read but not listed: {e}"));
        assert_eq!(listed.metadata, found.metadata);
        let shapes = found.tensors.iter().map(|(n, t)| (n, t.shape().dims().iter().map(|&d| d as u64).collect()));
        let names: Vec<_> = listed.entries.iter().map(|e| (e.name.as_str(), e.shape.clone())).collect();
        assert_eq!(names, shapes.collect::<Vec<(&str, Vec<u64>)>>());
    }
    match (&listed, &nothing) {
        (Ok(listed), Ok(nothing)) => {
            assert_eq!((&nothing.others, &nothing.metadata), (&listed.entries, &listed.metadata));
            assert!(nothing.tensors.is_empty());
        }
        (Err(a), Err(b)) => assert!(!sentence(a).is_empty() && !sentence(b).is_empty()),
        _ => panic!("{listed:?} but {nothing:?}"),
    }
    (found.map_err(|e| sentence(&e)), most)
}

/// Compares what these bytes were read as with the `safetensors` crate. It takes files that the readers here do not: it lets
/// one of two equal names win.
pub(crate) fn agrees_with_the_crate(bytes: &[u8], ours: &Result<TensorFile, String>) {
    match (ours, safetensors::SafeTensors::deserialize(bytes)) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours.tensors.len(), theirs.len());
            for (name, view) in theirs.iter() {
                let tensor = ours.tensors.get(name).unwrap();
                assert_eq!(tensor.shape().dims(), view.shape());
                if matches!(view.dtype().to_string().as_str(), "F32" | "F16" | "I64") {
                    assert_eq!(tensor.bytes(), view.data());
                }
            }
        }
        (Err(_), Err(_)) => {}
        (Ok(_), Err(e)) => panic!("read, but safetensors says {e}"),
        (Err(message), Ok(_)) => {
            let stricter = ["found several", "several metadata", "expected dtype", "64 bits", "at most 64 axes"];
            assert!(stricter.iter().any(|part| message.contains(part)), "{message}");
        }
    }
}
