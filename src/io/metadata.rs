//! Metadata: free text by key. Beside `.npy` arrays it is the JSON object of a file `metadata.json`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::text::quoted;
use super::{Told, unread};

/// Name of the file or zip entry that holds the metadata of `.npy` arrays.
pub(super) const FILE: &str = "metadata.json";
/// Largest `metadata.json`: plenty for text that people write. A zip entry of a few kilobytes can inflate to any size.
pub(super) const MAX_BYTES: u64 = 16 << 20;
/// Largest number of keys, here and in safetensors: each takes far more memory than the bytes it has in the file.
const MAX_KEYS: usize = 65_536;

/// Writes the JSON object.
pub(super) fn json(metadata: &BTreeMap<String, String>) -> Told<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(metadata).map_err(|e| format!("metadata cannot be written: {e}"))?;
    text.push(b'\n');
    if text.len() as u64 > MAX_BYTES || metadata.len() > MAX_KEYS {
        return Err(format!(
            "metadata: expected at most {MAX_BYTES} bytes and {MAX_KEYS} keys, found {} bytes and {} keys",
            text.len(),
            metadata.len()
        ));
    }
    Ok(text)
}

/// Reads that JSON object. A `metadata.json` from another program may hold other values than text; they are kept as
/// JSON.
pub(super) fn read(source: &mut dyn Read) -> Told<BTreeMap<String, String>> {
    let mut text = Vec::new();
    source.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(|e| format!("{FILE}: {}", unread(e)))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("{FILE}: expected at most {MAX_BYTES} bytes, found more"));
    }
    let Any(parsed) =
        serde_json::from_slice(&text).map_err(|e| format!("{FILE}: expected a JSON object, found {e}"))?;
    Ok(parsed)
}

/// JSON without the spaces and line breaks between its words.
fn compact(json: &str) -> String {
    let (mut inside, mut escaped) = (false, false);
    let keep = |c: &char| {
        if escaped {
            escaped = false;
        } else if *c == '"' {
            inside = !inside;
        } else {
            escaped = inside && *c == '\\';
        }
        inside || !c.is_ascii_whitespace()
    };
    json.chars().filter(keep).collect()
}

/// The metadata of safetensors: an object of strings in which each key may occur once.
#[derive(Default)]
pub(super) struct Strings(pub BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields { once: true }).map(Strings)
    }
}

/// The metadata of another program: an object of any values. The last of equal keys counts.
struct Any(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields { once: false }).map(Any)
    }
}

struct Fields {
    /// Whether keys must differ and values must be strings.
    once: bool,
}

impl<'de> Visitor<'de> for Fields {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.once { "an object of strings" } else { "an object" })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut text = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = if self.once {
                map.next_value()?
            } else {
                // Never parsed into values: these take many times the memory of their text.
                let raw = map.next_value::<&RawValue>()?.get();
                if raw.starts_with('"') { serde_json::from_str(raw).map_err(A::Error::custom)? } else { compact(raw) }
            };
            if self.once && text.contains_key(&key) {
                return Err(A::Error::custom(format_args!("several metadata {}", quoted(&key))));
            }
            text.insert(key, value);
            if text.len() > MAX_KEYS {
                return Err(A::Error::custom(format_args!("more than {MAX_KEYS} keys of metadata")));
            }
        }
        Ok(text)
    }
}
