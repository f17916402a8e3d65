//! The keys of a configuration file. Each place that understands a key reads it; a key that nothing has read at the end would
//! change the result without a word, so it is refused.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::Error;

/// Largest configuration file, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// An object of a configuration file.
#[derive(Debug)]
pub(crate) struct Keys {
    path: PathBuf,
    /// Where the object is in the file: `layers[3].`.
    place: String,
    map: Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
}

impl Keys {
    /// Reads a file with one object.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let refuse = |message: String| Error::file(path.to_path_buf(), message);
        let unread = |e: std::io::Error| refuse(format!("cannot be read: {e}"));
        let length = std::fs::metadata(path).map_err(unread)?.len();
        if length > MAX_BYTES {
            return Err(refuse(format!("expected a configuration of at most {MAX_BYTES} bytes, found {length}")));
        }
        let text = std::fs::read_to_string(path).map_err(unread)?;
        match serde_json::from_str(&with_infinities(&text)) {
            Ok(Value::Object(map)) => Ok(Self::of(path, String::new(), map)),
            Ok(_) => Err(refuse("expected a JSON object".into())),
            Err(e) => Err(refuse(format!("expected a JSON object, found {e}"))),
        }
    }

    fn of(path: &Path, place: String, map: Map<String, Value>) -> Self {
        Self { path: path.to_path_buf(), place, map, read: RefCell::default() }
    }

    /// An error about a key.
    pub(crate) fn wrong(&self, key: &str, expected: &str, found: impl std::fmt::Display) -> Error {
        Error::file(self.path.clone(), format!("`{}{key}`: expected {expected}, found {found}", self.place))
    }

    /// The value of a key; `None` if it is absent or null.
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.read.borrow_mut().insert(key.to_owned());
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether a key is there and not null. It counts as unread until its value is asked for.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    /// Whether a key is absent: null is there.
    pub(crate) fn lacks(&self, key: &str) -> bool {
        !self.map.contains_key(key)
    }

    fn typed<T>(&self, key: &str, expected: &str, convert: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, Error> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => convert(value).map(Some).ok_or_else(|| self.wrong(key, expected, value)),
        }
    }

    /// A whole number of 1 or more, below 2^31.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>, Error> {
        self.typed(key, "a whole number from 1 to 2^31 - 1", whole(1))
    }

    /// A whole number of 1 or more, which must be there.
    pub(crate) fn size(&self, key: &str) -> Result<usize, Error> {
        self.count(key)?.ok_or_else(|| self.wrong(key, "a whole number of 1 or more", "none"))
    }

    /// A whole number of 0 or more.
    pub(crate) fn index(&self, key: &str) -> Result<Option<usize>, Error> {
        self.typed(key, "a whole number from 0 to 2^31 - 1", whole(0))
    }

    /// A finite number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f32>, Error> {
        let finite = |value: &Value| value.as_f64().map(|x| x as f32).filter(|x| x.is_finite());
        self.typed(key, "a finite number", finite)
    }

    /// True or false.
    pub(crate) fn switch(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A text.
    pub(crate) fn text(&self, key: &str) -> Result<Option<String>, Error> {
        self.typed(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// One of these words; the first if the key is absent.
    pub(crate) fn word<const K: usize>(&self, key: &str, words: [&'static str; K]) -> Result<&'static str, Error> {
        let expected = words.join(", ");
        let of = |value: &Value| words.into_iter().find(|word| value.as_str() == Some(word));
        Ok(self.typed(key, &format!("one of {expected}"), of)?.unwrap_or(words[0]))
    }

    /// A list of whole numbers.
    pub(crate) fn indices(&self, key: &str) -> Result<Option<Vec<usize>>, Error> {
        self.typed(key, "a list of whole numbers", |value| value.as_array()?.iter().map(whole(0)).collect())
    }

    /// A list of texts.
    pub(crate) fn words(&self, key: &str) -> Result<Option<Vec<String>>, Error> {
        let of = |value: &Value| value.as_array()?.iter().map(|word| word.as_str().map(str::to_owned)).collect();
        self.typed(key, "a list of texts", of)
    }

    /// Two numbers of 0 or more, the second of which may be infinite.
    pub(crate) fn limits(&self, key: &str) -> Result<Option<[f32; 2]>, Error> {
        let of = |value: &Value| {
            let numbers: Vec<f32> = value.as_array()?.iter().map(number_or_infinity).collect::<Option<_>>()?;
            let [min, max] = *numbers.as_slice() else { return None };
            (min >= 0.0 && min.is_finite() && max >= min).then_some([min, max])
        };
        self.typed(key, "two numbers, the smallest and the largest, from 0 up", of)
    }

    /// An object.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Keys>, Error> {
        let Some(map) = self.typed(key, "an object", |value| value.as_object().cloned())? else { return Ok(None) };
        Ok(Some(Self::of(&self.path, format!("{}{key}.", self.place), map)))
    }

    /// A list of objects.
    pub(crate) fn objects(&self, key: &str) -> Result<Option<Vec<Keys>>, Error> {
        let of = |value: &Value| value.as_array()?.iter().map(|value| value.as_object().cloned()).collect();
        let Some(maps): Option<Vec<_>> = self.typed(key, "a list of objects", of)? else { return Ok(None) };
        let of = |(at, map)| Self::of(&self.path, format!("{}{key}[{at}].", self.place), map);
        Ok(Some(maps.into_iter().enumerate().map(of).collect()))
    }

    /// Names of the keys that nothing has read.
    pub(crate) fn unread(&self) -> Vec<&str> {
        let read = self.read.borrow();
        self.map.iter().filter(|(key, value)| !value.is_null() && !read.contains(*key)).map(|(key, _)| &**key).collect()
    }

    /// Refuses keys that nothing has read, except these, which never change a result.
    pub(crate) fn finish(&self, harmless: &[&str], what: &str) -> Result<(), Error> {
        match self.unread().into_iter().find(|key| !harmless.contains(key)) {
            None => Ok(()),
            Some(key) => Err(Error::file(
                self.path.clone(),
                format!(
                    "`{}{key}`: is not understood, and could change the result: {what} has no such key",
                    self.place
                ),
            )),
        }
    }
}

/// Reads a whole number from `least` to 2^31 - 1.
fn whole(least: u64) -> impl Fn(&Value) -> Option<usize> {
    move |value| value.as_u64().filter(|x| (least..1 << 31).contains(x)).map(|x| x as usize)
}

/// A number, or infinity as transformers writes it.
fn number_or_infinity(value: &Value) -> Option<f32> {
    match value {
        Value::Object(map) if map.len() == 1 => {
            (map.get("__float__")?.as_str()? == "Infinity").then_some(f32::INFINITY)
        }
        _ => value.as_f64().map(|x| x as f32),
    }
}

/// The text with every bare word `Infinity` in the form of newer files. Python writes such words, which JSON has not.
fn with_infinities(text: &str) -> String {
    const WORD: &str = "Infinity";
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut quoted) = (text, false);
    while let Some(c) = rest.chars().next() {
        if !quoted && rest.starts_with(WORD) {
            out.push_str(r#"{"__float__": "Infinity"}"#);
            rest = &rest[WORD.len()..];
            continue;
        }
        // A character behind a backslash never ends a text.
        let taken =
            if quoted && c == '\\' { 1 + rest[1..].chars().next().map_or(0, char::len_utf8) } else { c.len_utf8() };
        quoted ^= c == '"';
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Result<Keys, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        Keys::open(&path)
    }

    fn said<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
        let error = result.unwrap_err().to_string();
        error.split_once("config.json: ").map(|(_, said)| said.to_owned()).unwrap_or(error)
    }

    #[test]
    fn values_are_read_by_type_and_refused_by_name() {
        let all =
            keys(r#"{"a": 3, "b": -1, "c": null, "d": {"e": [{"f": "Infinity \" Infinity"}]}, "g": 1.5}"#).unwrap();
        assert_eq!(all.count("a"), Ok(Some(3)));
        assert_eq!(all.count("c"), Ok(None));
        assert_eq!(said(all.count("b")), "`b`: expected a whole number from 1 to 2^31 - 1, found -1");
        assert_eq!(said(all.size("x")), "`x`: expected a whole number of 1 or more, found none");
        let inner = all.object("d").unwrap().unwrap().objects("e").unwrap().unwrap().remove(0);
        assert_eq!(said(inner.number("f")), r#"`d.e[0].f`: expected a finite number, found "Infinity \" Infinity""#);
        assert_eq!(all.unread(), ["g"]);
        assert_eq!(
            said(all.finish(&["h"], "mamba")),
            "`g`: is not understood, and could change the result: mamba has no such key"
        );
        assert_eq!(all.finish(&["g"], "mamba"), Ok(()));
    }

    #[test]
    fn infinity_is_read_in_both_spellings() {
        for text in [r#"{"x": [0.0, Infinity]}"#, r#"{"x": [0, {"__float__": "Infinity"}]}"#] {
            assert_eq!(keys(text).unwrap().limits("x"), Ok(Some([0.0, f32::INFINITY])), "{text}");
        }
        assert!(keys(r#"{"x": [2.0, 1.0]}"#).unwrap().limits("x").is_err());
        assert!(keys("[1]").is_err() && keys("{").is_err());
    }
}
