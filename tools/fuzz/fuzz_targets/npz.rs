#![no_main]

mod common;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drop(common::file("x.npz", bytes)));
