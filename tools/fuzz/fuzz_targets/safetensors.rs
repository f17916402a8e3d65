#![no_main]

mod common;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let found = common::file("x.safetensors", bytes);
    common::reading::agrees_with_the_crate(bytes, &found);
});
