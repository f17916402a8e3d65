//! The safetensors format, read and written as a stream.
//!
//! The `safetensors` crate supplies dtypes and the types of header entries. The header itself is parsed here, because
//! the crate needs the whole file in memory, silently keeps the second of two equal names, and does not describe most
//! kinds of damage.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};

use safetensors::tensor::{Dtype, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::decode::{Data, Elem};
use super::metadata::Strings;
use super::source::Bytes;
use super::{Entry, Listing, Told, all_different, dims, elements, quoted, shown, unread, unwritten, within};
use crate::tensor::{DType, HostTensor, TensorMap};

/// Largest header that the format allows, in bytes.
const MAX_HEADER: u64 = 100_000_000;
/// Reserved key of the header.
const METADATA_KEY: &str = "__metadata__";

/// A header with checked offsets: tensors are contiguous, and each has the length of its shape.
struct Header {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
    /// Bytes of all data.
    data: u64,
}

/// The header, and the stream at the start of the data.
pub(super) fn open(mut source: Bytes<'_>) -> Told<(Listing, Bytes<'_>)> {
    let header = Header::read(&mut source)?;
    let entries = header.tensors.into_iter().map(|(name, info)| entry(name, info)).collect();
    Ok((Listing { format: "safetensors", metadata: header.metadata, entries }, source))
}

fn entry(name: String, info: TensorInfo) -> Entry {
    Entry {
        name,
        dtype: info.dtype.to_string(),
        bytes: (info.data_offsets.1 - info.data_offsets.0) as u64,
        shape: info.shape.into_iter().map(|d| d as u64).collect(),
        elem: elem(info.dtype),
    }
}

/// Reads the tensor that the stream stands at, or skips it.
pub(super) fn tensor(source: &mut Bytes<'_>, entry: &Entry, wanted: bool) -> Told<Option<HostTensor>> {
    if wanted {
        let shape = dims(&entry.shape)?;
        // The header was compared with the length of the data, so this product is in range.
        let data = Data {
            elem: entry.elem()?,
            big_endian: false,
            count: shape.iter().product(),
            present: source.len().is_some(),
        };
        return Ok(Some(HostTensor::new(shape, data.read(source)?)));
    }
    let found = source.skip(entry.bytes)?;
    if found < entry.bytes {
        return Err(format!("truncated: expected {} bytes of data, found {found}", entry.bytes));
    }
    Ok(None)
}

pub(super) fn write(out: &mut dyn Write, tensors: &TensorMap, metadata: &BTreeMap<String, String>) -> Told<()> {
    // Writing wider elements first aligns every tensor to its element size, which readers that map the file expect.
    let mut order: Vec<(&str, &HostTensor)> = tensors.iter().collect();
    order.sort_by_key(|(_, t)| std::cmp::Reverse(t.dtype().size()));

    let failed = |e: serde_json::Error| format!("header cannot be written: {e}");
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert(METADATA_KEY.into(), serde_json::to_value(metadata).map_err(failed)?);
    }
    let mut offset = 0;
    for (name, tensor) in &order {
        if *name == METADATA_KEY {
            return Err(format!("tensor `{METADATA_KEY}`: expected another name, this one is reserved by the format"));
        }
        let dtype = match tensor.dtype() {
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::I64 => Dtype::I64,
            DType::I32 => Dtype::I32,
            DType::U32 => Dtype::U32,
            DType::U8 => Dtype::U8,
        };
        let end = offset + tensor.bytes().len();
        let info = TensorInfo { dtype, shape: tensor.shape().dims().to_vec(), data_offsets: (offset, end) };
        header.insert((*name).into(), serde_json::to_value(info).map_err(failed)?);
        offset = end;
    }
    let mut text = serde_json::to_vec(&header).map_err(failed)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    if text.len() as u64 > MAX_HEADER {
        return Err(format!("expected names and metadata of at most {MAX_HEADER} bytes, found {}", text.len()));
    }
    out.write_all(&(text.len() as u64).to_le_bytes()).map_err(unwritten)?;
    out.write_all(&text).map_err(unwritten)?;
    for (_, tensor) in order {
        out.write_all(tensor.bytes()).map_err(unwritten)?;
    }
    Ok(())
}

fn elem(dtype: Dtype) -> Option<Elem> {
    Some(match dtype {
        Dtype::F32 => Elem::F32,
        Dtype::F16 => Elem::F16,
        Dtype::BF16 => Elem::Bf16,
        Dtype::F64 => Elem::F64,
        Dtype::I64 => Elem::I64,
        Dtype::I32 => Elem::I32,
        Dtype::U32 => Elem::U32,
        Dtype::U8 | Dtype::BOOL => Elem::U8,
        _ => return None,
    })
}

fn truncated(expected: u64, found: u64) -> String {
    format!("truncated: expected {expected} bytes of tensor data, found {found}")
}

/// Refuses data after the last tensor. For a pipe this is the first chance to check; a file's length was checked
/// earlier.
pub(super) fn end(source: &mut Bytes<'_>) -> Told<()> {
    let extra = match source {
        Bytes::File(..) => 0,
        Bytes::Pipe(reader) => std::io::copy(reader, &mut std::io::sink()).map_err(unread)?,
    };
    if extra > 0 {
        return Err(format!("expected the end of the file after the last tensor, found {extra} more bytes"));
    }
    Ok(())
}

impl Header {
    fn read(source: &mut Bytes<'_>) -> Told<Self> {
        let mut word = Vec::with_capacity(8);
        source.take(8).read_to_end(&mut word).map_err(unread)?;
        let Ok(word) = <[u8; 8]>::try_from(word.as_slice()) else {
            return Err(format!("truncated: expected 8 bytes with the length of a header, found {}", word.len()));
        };
        let claimed = u64::from_le_bytes(word);
        if claimed > MAX_HEADER {
            return Err(format!("expected a safetensors header of at most {MAX_HEADER} bytes, found one of {claimed}"));
        }
        let short = |found: u64| format!("truncated: expected a header of {claimed} bytes, found {found}");
        let rest = source.len().map(|len| len.saturating_sub(8));
        if let Some(rest) = rest.filter(|&rest| rest < claimed) {
            return Err(short(rest));
        }
        // A file is known to hold the header. Otherwise the buffer grows with the data that arrives; the claimed length is
        // not trusted.
        let mut text = Vec::new();
        if rest.is_some() {
            text.try_reserve_exact(claimed as usize).map_err(|_| "expected a header that fits in memory".to_owned())?;
        }
        source.take(claimed).read_to_end(&mut text).map_err(unread)?;
        if (text.len() as u64) < claimed {
            return Err(short(text.len() as u64));
        }
        let raw: Raw = serde_json::from_slice(&text).map_err(|e| format!("expected a JSON header, found {e}"))?;
        drop(text);
        let header = raw.checked()?;
        match rest.map(|rest| rest - claimed) {
            Some(found) if found < header.data => Err(truncated(header.data, found)),
            Some(found) if found > header.data => {
                Err(format!("expected {} bytes of tensor data, found {found}", header.data))
            }
            _ => Ok(header),
        }
    }
}

/// The header in its written form.
#[derive(Default)]
struct Raw {
    metadata: Option<Strings>,
    tensors: Vec<(String, TensorInfo)>,
}

impl Raw {
    fn checked(self) -> Told<Header> {
        all_different(self.tensors.iter().map(|(name, _)| name.as_str()))?;
        let mut tensors = self.tensors;
        // The sort is stable, so that tensors without elements keep their place in the header.
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        let mut end = 0;
        let mut before: Option<&str> = None;
        for (name, info) in &tensors {
            let refuse = |expected: String| {
                let (from, to) = info.data_offsets;
                Err(format!("tensor {}: expected {expected}, found data_offsets [{from}, {to}]", quoted(name)))
            };
            let shape: Vec<u64> = info.shape.iter().map(|&d| d as u64).collect();
            let count = elements(&shape).map_err(|e| within(name, &e))?;
            let (from, to) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
            if from != end {
                let place = before.map_or("the start".into(), |name| format!("the end of tensor {}", quoted(name)));
                return refuse(format!("data from byte {end} on, {place}"));
            }
            let bits = u128::from(count) * info.dtype.bitsize() as u128;
            if !bits.is_multiple_of(8) || from as u128 + bits / 8 != u128::from(to) {
                let bytes = bits.div_ceil(8);
                return refuse(format!("{bytes} bytes for {} {}", info.dtype, shown(&shape)));
            }
            end = to;
            before = Some(name);
        }
        Ok(Header { metadata: self.metadata.unwrap_or_default().0, tensors, data: end })
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let mut raw = Raw::default();
                let mut seen = false;
                while let Some(name) = map.next_key::<String>()? {
                    let within = |e| A::Error::custom(format_args!("tensor {}: {e}", quoted(&name)));
                    if name != METADATA_KEY {
                        let info = map.next_value().map_err(within)?;
                        raw.tensors.push((name, info));
                    } else if seen {
                        return Err(A::Error::custom("several `__metadata__`"));
                    } else {
                        seen = true;
                        raw.metadata = map.next_value()?;
                    }
                }
                Ok(raw)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}
