//! The `.npy` format: a magic number, a Python dictionary with three keys, and the elements.
//!
//! The dictionary is parsed here, strictly and without recursion. The crate `npyz` is not used because it allocates the
//! length that the header claims, multiplies shapes without overflow checks, and parses any Python literal to any
//! depth.

use std::io::{Read, Write};

use super::decode::{Data, Elem, row_major, unreadable};
use super::{Entry, Told, dims, elements, shown, unread, unwritten};
use crate::tensor::{DType, HostTensor};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Largest dictionary in bytes. numpy's own default limit is 10,000.
const MAX_DICTIONARY: u64 = 1 << 20;

/// The header: everything before the elements.
#[derive(Debug)]
pub(super) struct Header {
    /// Type as written in the file: `<f4`, or the list of a structured type.
    pub dtype: String,
    pub shape: Vec<u64>,
    /// Bytes of the elements.
    pub bytes: u64,
    count: u64,
    fortran: bool,
    elem: Option<(Elem, bool)>,
}

impl Header {
    /// Reads the header of an array and compares it with `len`, the bytes of its file or zip entry.
    pub(super) fn read(r: &mut dyn Read, len: u64) -> Told<Self> {
        let start = bytes(r, 8)?;
        let Some(version) = start.strip_prefix(MAGIC).filter(|rest| rest.len() == 2) else {
            return Err(format!("expected a .npy array, found {len} bytes that do not start as one"));
        };
        let word = match version {
            [1, _] => 2,
            [2 | 3, _] => 4,
            _ => return Err(format!("expected .npy version 1, 2 or 3, found {}", version[0])),
        };
        let claimed = bytes(r, word)?;
        if claimed.len() as u64 != word {
            return Err("truncated: expected the length of a header, found the end of the file".into());
        }
        let claimed = claimed.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
        let data_at = 8 + word + claimed;
        let most = MAX_DICTIONARY.min(len.saturating_sub(8 + word));
        if claimed > most {
            return Err(format!(
                "truncated: expected a header of at most {most} bytes, found one that claims {claimed}"
            ));
        }
        let text = bytes(r, claimed)?;
        if text.len() as u64 != claimed {
            return Err(format!("truncated: expected a header of {claimed} bytes, found {}", text.len()));
        }
        // The text is Latin-1 in versions 1 and 2 and UTF-8 in 3. Only names of structured fields can differ.
        let (dtype, fortran, shape) = Literal(&String::from_utf8_lossy(&text)).dictionary()?;
        let count = elements(&shape)?;
        let there = len - data_at;
        let needed = match item_size(&dtype) {
            Some(size) => u128::from(count) * u128::from(size),
            // Pickled objects and structured types: their length is unknown, and they cannot be read anyway.
            None => u128::from(there),
        };
        if needed != u128::from(there) {
            let cut = if needed > u128::from(there) { "truncated: " } else { "" };
            return Err(format!("{cut}expected {needed} bytes of data for {dtype} {}, found {there}", shown(&shape)));
        }
        Ok(Self { elem: elem(&dtype), dtype, shape, bytes: there, count, fortran })
    }

    /// The header as a row of a listing.
    pub(super) fn entry(self, name: String) -> Entry {
        Entry { name, elem: self.elem.map(|(elem, _)| elem), dtype: self.dtype, shape: self.shape, bytes: self.bytes }
    }

    /// Reads the elements, which follow the header. `present`: as in [`Data::present`]. `entry` is the header as it was
    /// when the file was opened.
    pub(super) fn data(&self, r: &mut dyn Read, present: bool, entry: &Entry) -> Told<HostTensor> {
        if (&self.dtype, &self.shape) != (&entry.dtype, &entry.shape) {
            return Err("expected a file that nobody changes while it is read, found another header".into());
        }
        let (elem, big_endian) = self.elem.ok_or_else(|| unreadable(&self.dtype))?;
        let shape = dims(&self.shape)?;
        let count = usize::try_from(self.count).map_err(|_| format!("{} elements pass memory", self.count))?;
        let mut values = Data { elem, big_endian, count, present }.read(r)?;
        if self.fortran {
            values = row_major(values, &shape)?;
        }
        Ok(HostTensor::new(shape, values))
    }
}

/// Writes version 1, little-endian, row-major, with elements aligned to 64 bytes, as numpy does.
pub(super) fn write(out: &mut dyn Write, tensor: &HostTensor) -> Told<()> {
    let start = start(tensor)?;
    out.write_all(&start).and_then(|()| out.write_all(tensor.bytes())).map_err(unwritten)
}

/// Number of bytes that [`write`] writes before the elements.
fn start(tensor: &HostTensor) -> Told<Vec<u8>> {
    let dtype = match tensor.dtype() {
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::I64 => "<i8",
        DType::I32 => "<i4",
        DType::U32 => "<u4",
        DType::U8 => "|u1",
    };
    let axes = tensor.shape().dims();
    let mut list = axes.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    if axes.len() == 1 {
        // Without the trailing comma, Python reads the parentheses as arithmetic.
        list.push(',');
    }
    let mut text = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({list}), }}").into_bytes();
    let fixed = MAGIC.len() + 4;
    text.resize((fixed + text.len() + 1).next_multiple_of(64) - fixed - 1, b' ');
    text.push(b'\n');
    let Ok(length) = u16::try_from(text.len()) else {
        return Err(format!("expected a shape of fewer axes for .npy, found {}", axes.len()));
    };
    Ok([MAGIC, &[1, 0], &length.to_le_bytes(), &text].concat())
}

/// Reads up to `n` bytes.
fn bytes(r: &mut dyn Read, n: u64) -> Told<Vec<u8>> {
    let mut out = Vec::new();
    r.take(n).read_to_end(&mut out).map_err(unread)?;
    Ok(out)
}

/// Element type and byte order (true: big-endian), if the type can be read. A type without an order, or with `=`, is in
/// the order of the machine.
fn elem(dtype: &str) -> Option<(Elem, bool)> {
    let big = match dtype.as_bytes().first()? {
        b'>' => true,
        b'<' => false,
        _ => cfg!(target_endian = "big"),
    };
    let elem = match dtype.strip_prefix(['<', '>', '=']).unwrap_or(dtype) {
        "f4" => Elem::F32,
        "f2" => Elem::F16,
        "f8" => Elem::F64,
        "i8" => Elem::I64,
        "i4" => Elem::I32,
        "u4" => Elem::U32,
        // One byte has no order.
        "u1" | "b1" | "|u1" | "|b1" => Elem::U8,
        _ => return None,
    };
    Some((elem, big))
}

/// Bytes of one element of a type string such as `<f4`, `|S7` or `<M8[ns]`.
fn item_size(dtype: &str) -> Option<u64> {
    let name = dtype.trim_start_matches(['<', '>', '|', '=']);
    let kind = name.chars().next()?;
    let digits = name[kind.len_utf8()..].split('[').next()?;
    let size: u64 = digits.parse().ok()?;
    match kind {
        'b' | 'i' | 'u' | 'f' | 'c' | 'm' | 'M' | 'S' | 'a' | 'V' => Some(size),
        // Four bytes per character.
        'U' => size.checked_mul(4),
        _ => None,
    }
}

/// The part of the dictionary that is not parsed yet.
struct Literal<'a>(&'a str);

impl<'a> Literal<'a> {
    /// Parses `descr`, `fortran_order` and `shape`. Each must occur exactly once, without other keys.
    fn dictionary(mut self) -> Told<(String, bool, Vec<u64>)> {
        let (mut dtype, mut fortran, mut shape) = (None, None, None);
        self.expect("{")?;
        while !self.take("}") {
            let key = self.string()?;
            self.expect(":")?;
            let again = match key {
                "descr" => dtype.replace(self.dtype()?).is_some(),
                "fortran_order" => fortran.replace(self.boolean()?).is_some(),
                "shape" => shape.replace(self.shape()?).is_some(),
                _ => return refuse("the keys descr, fortran_order and shape", key),
            };
            if again {
                return refuse("each key once", key);
            }
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        if !self.0.trim().is_empty() {
            return refuse("the end of the header", self.0.trim());
        }
        match (dtype, fortran, shape) {
            (Some(dtype), Some(fortran), Some(shape)) => Ok((dtype, fortran, shape)),
            _ => Err("header: expected the keys descr, fortran_order and shape, found fewer".into()),
        }
    }

    fn take(&mut self, token: &str) -> bool {
        self.0 = self.0.trim_start();
        self.0.strip_prefix(token).map(|rest| self.0 = rest).is_some()
    }

    fn expect(&mut self, token: &str) -> Told<()> {
        if self.take(token) { Ok(()) } else { refuse(&format!("`{token}`"), self.0) }
    }

    fn string(&mut self) -> Told<&'a str> {
        for quote in ["'", "\""] {
            if self.take(quote) {
                let Some((text, rest)) = self.0.split_once(quote) else { break };
                self.0 = rest;
                return Ok(text);
            }
        }
        refuse("a quoted string", self.0)
    }

    fn boolean(&mut self) -> Told<bool> {
        if self.take("True") {
            return Ok(true);
        }
        if self.take("False") { Ok(false) } else { refuse("True or False", self.0) }
    }

    /// Parses a type string, or returns the list of a structured type unparsed.
    fn dtype(&mut self) -> Told<String> {
        if !self.take("[") {
            return self.string().map(str::to_owned);
        }
        let (mut depth, mut quote) = (1usize, None);
        for (at, c) in self.0.char_indices() {
            match (quote, c) {
                (Some(q), _) if c == q => quote = None,
                (Some(_), _) => {}
                (None, '\'' | '"') => quote = Some(c),
                (None, '[' | '(') => depth += 1,
                (None, ']' | ')') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                let text = format!("[{}", &self.0[..=at]);
                self.0 = &self.0[at + 1..];
                return Ok(text);
            }
        }
        refuse("the end of a list", "")
    }

    fn shape(&mut self) -> Told<Vec<u64>> {
        self.expect("(")?;
        let mut shape = Vec::new();
        while !self.take(")") {
            self.0 = self.0.trim_start();
            let end = self.0.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.0.len());
            let (digits, rest) = self.0.split_at(end);
            let Ok(axis) = digits.parse() else {
                return refuse("a shape of whole numbers below 2^64", self.0);
            };
            self.0 = rest;
            // Python 2 wrote long integers with an `L`.
            self.take("L");
            shape.push(axis);
            if !self.take(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(shape)
    }
}

fn refuse<T>(expected: &str, found: &str) -> Told<T> {
    let found: String = found.chars().take(40).collect();
    Err(format!("header: expected {expected}, found {}", if found.is_empty() { "its end" } else { &found }))
}
