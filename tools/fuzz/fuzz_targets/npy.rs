#![no_main]

mod common;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drop(common::directory(&[("q.npy", bytes)])));
