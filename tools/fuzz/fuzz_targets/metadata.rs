//! The input as metadata of each format: beside an array, and in the header of a safetensors file.
#![no_main]

mod common;

const ARRAY: &[u8] = b"\x93NUMPY\x01\x00\x3c\x00{'descr': '<f4', 'fortran_order': False, 'shape': (0,), }  \n";
const TENSOR: &[u8] = br#","q":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = common::directory(&[("q.npy", ARRAY), ("metadata.json", bytes)]);
    let header = [br#"{"__metadata__":"#, bytes, TENSOR].concat();
    let file = [&(header.len() as u64).to_le_bytes(), &header[..]].concat();
    let found = common::file("x.safetensors", &file);
    common::reading::agrees_with_the_crate(&file, &found);
});
