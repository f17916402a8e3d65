//! Random headers: the answer is tensors or a sentence, never a panic, and memory stays in proportion (`read_bytes` checks
//! all of it). For safetensors the crate of that name is a second opinion. Damaged files are in `tests/trials/readers.rs`.

use proptest::prelude::*;
use proptest::sample::select;

use super::damage::{npy, safetensors};
use super::reading::agrees_with_the_crate;
use super::*;

/// Numbers around which things go wrong.
fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0..5u64,
        2 => select(vec![8, 12, 16, 1 << 31, 1 << 32, 1 << 60, 1 << 62, 1 << 63, u64::MAX / 4, u64::MAX - 1, u64::MAX]),
    ]
}

/// A header whose tensors mostly lie as they should.
fn headers() -> impl Strategy<Value = (String, usize)> {
    let dtype = select(vec!["F32", "F16", "BF16", "F64", "I64", "I32", "U32", "U8", "F4", "F31"]);
    let shape = proptest::collection::vec(numbers(), 0..4);
    let wrong = proptest::option::weighted(0.1, (numbers(), numbers()));
    let one = (select(vec!["q", "k", "v", "é", "__metadata__"]), dtype, shape, wrong);
    (proptest::collection::vec(one, 0..4), 0..3usize).prop_map(|(tensors, extra)| {
        let mut end = 0u64;
        let entries: Vec<String> = tensors
            .into_iter()
            .map(|(name, dtype, shape, wrong)| {
                let size = match dtype {
                    "F64" | "I64" => 8,
                    "F16" | "BF16" => 2,
                    "U8" => 1,
                    _ => 4,
                };
                let to = shape.iter().fold(size, |n: u64, d| n.wrapping_mul(*d)).wrapping_add(end);
                let (from, to) = wrong.unwrap_or((end, to));
                end = to;
                format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{from},{to}]}}"#)
            })
            .collect();
        let data = if end < 4096 { end as usize } else { 16 };
        (format!("{{{}}}", entries.join(",")), if extra == 0 { data + 1 } else { data })
    })
}

/// A dictionary out of the right words in any order.
fn dictionaries() -> impl Strategy<Value = (String, usize)> {
    let words = [
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        ",",
        ":",
        " ",
        "'",
        "\"",
        "'descr'",
        "'shape'",
        "'fortran_order'",
        "'<f4'",
        "'>f8'",
        "'|b1'",
        "True",
        "False",
        "2",
        "0",
        "18446744073709551615",
        "-1",
        "L",
        "µ",
        "\n",
        "\\",
    ];
    let soup = proptest::collection::vec(select(words.to_vec()), 0..30).prop_map(|words| (words.concat(), 8));
    let descr =
        select(vec!["<f4", ">f4", "<f2", ">f8", "<i8", "<i4", ">u4", "<u8", "|S3", "<U2", "|O", "<M8[ns]", "f4"]);
    let shape = proptest::collection::vec(numbers(), 0..4);
    let proper = (descr, any::<bool>(), shape, 0..100usize).prop_map(|(descr, fortran, shape, extra)| {
        let order = if fortran { "True" } else { "False" };
        let list: String = shape.iter().map(|d| format!("{d},")).collect();
        let size = descr.trim_start_matches(['<', '>', '|']).get(1..2).and_then(|d| d.parse().ok()).unwrap_or(4usize);
        let count = shape.iter().fold(1u64, |n, &d| n.saturating_mul(d));
        let data = if count < 1000 { count as usize * size } else { extra };
        (format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({list})}}"), data)
    });
    prop_oneof![soup, proper]
}

fn cases(n: u32) -> ProptestConfig {
    // A failure is printed whole; no file of past ones beside the sources.
    ProptestConfig { cases: n, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn any_safetensors_header((header, data) in headers()) {
        let bytes = safetensors(&header, data);
        agrees_with_the_crate(&bytes, &read_bytes("x.safetensors", &bytes));
    }

    #[test]
    fn any_npy_header((header, data) in dictionaries()) {
        let _ = read_bytes("d/q.npy", &npy(&header, data));
    }
}

proptest! {
    #![proptest_config(cases(60))]

    /// Whatever is written is read back, through every format.
    #[test]
    fn any_tensors(
        shapes in proptest::collection::vec(proptest::collection::vec(0..5usize, 0..5), 0..5),
        names in proptest::collection::hash_set("[a-zé_.]{1,12}", 5),
        about in proptest::collection::btree_map(".{0,9}", ".{0,30}", 0..4),
        seed in any::<u32>(),
    ) {
        let mut tensors = TensorMap::new();
        for (i, (shape, name)) in shapes.into_iter().zip(names).enumerate() {
            let n = shape.iter().product::<usize>();
            let bits = |j: usize| (seed ^ (i * 31 + j) as u32).wrapping_mul(2_654_435_761);
            let values = match i % 3 {
                0 => Values::F32((0..n).map(|j| f32::from_bits(bits(j))).collect()),
                1 => Values::F16((0..n).map(|j| f16::from_bits(bits(j) as u16)).collect()),
                _ => Values::I64((0..n).map(|j| i64::from(bits(j)) << 31).collect()),
            };
            tensors.insert(name.replace('.', "_"), HostTensor::new(shape, values));
        }
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.safetensors", "a.npz", "a"] {
            let path = dir.path().join(name);
            io::write(&path, &tensors, &about).unwrap();
            let found = io::read(&path).unwrap();
            same_bits(&tensors, &found.tensors);
            prop_assert_eq!(&found.metadata, &about);
        }
    }
}
