//! Several files from one input: each begins with a byte that chooses its name and two that say its length.
#![no_main]

mod common;

const NAMES: [&str; 8] = ["q.npy", "k.npy", "v.NPY", "é.npy", ".npy", "metadata.json", "notes.txt", "..npy"];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (mut rest, mut files) = (bytes, Vec::new());
    while let [name, low, high, data @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(data.len());
        files.push((NAMES[usize::from(*name) % NAMES.len()], &data[..length]));
        rest = &data[length..];
    }
    let _ = common::directory(&files);
});
