//! `--compare OLD.json`: compares times with those of an earlier run.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::super::report;
use super::record::{Row, Site, round};
use crate::error::Error;
use crate::gpu::Spread;

/// What two comparable rows have in common: adapter, backend, operator, flags, storage type, layout, shape.
type Key = [String; 7];

/// Times of an earlier run.
pub(super) struct Old(HashMap<Key, Spread>);

/// A time compared with an earlier one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Change {
    /// Seconds in the earlier run.
    pub old: f64,
    /// New time divided by old time: 0.5 is twice as fast.
    pub ratio: f64,
    /// Whether the ranges from the 10th to the 90th percentile do not overlap.
    pub outside: bool,
}

impl Change {
    fn of(old: &Spread, new: &Spread) -> Self {
        let outside = new.p10 > old.p90 || new.p90 < old.p10;
        Self { old: old.median, ratio: new.median / old.median, outside }
    }

    /// `slower` or `faster`; empty if the ranges overlap.
    pub(super) fn mark(&self) -> &'static str {
        match (self.outside, self.ratio > 1.0) {
            (false, _) => "",
            (true, true) => "slower",
            (true, false) => "faster",
        }
    }

    /// The fields that a comparison adds to a record.
    pub(super) fn fields(change: Option<Self>) -> Map<String, Value> {
        let number = |f: fn(&Self) -> f64| change.as_ref().map_or(Value::Null, |c| report::number(round(f(c))));
        let pairs = [
            ("old_time_us", number(|c| c.old * 1e6)),
            ("times_old", number(|c| c.ratio)),
            ("change", json!(change.map(|c| c.mark()))),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

impl Old {
    /// Reads what `--format json` wrote.
    ///
    /// # Errors
    /// [`Error::File`] if it is not such a file.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let refuse = |message: String| Error::file(path, message);
        let bytes = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| {
            refuse(format!("expected the output of `bench --format json`, found no JSON ({error})"))
        })?;
        if value["command"] != "bench" {
            return Err(refuse("expected the output of `bench --format json`, found other JSON".into()));
        }
        if value["schema"] != report::SCHEMA {
            let text = format!("expected schema {}, found {}", report::SCHEMA, value["schema"]);
            return Err(refuse(text));
        }
        let mut times = HashMap::new();
        for site in value["adapters"].as_array().into_iter().flatten() {
            for row in site["rows"].as_array().into_iter().flatten() {
                let seconds = |name: &str| row[name].as_f64().filter(|us| *us > 0.0).map(|us| us * 1e-6);
                let [Some(median), Some(p10), Some(p90), Some(min)] =
                    ["time_us", "p10_us", "p90_us", "min_us"].map(seconds)
                else {
                    continue;
                };
                let count = row["timings"].as_u64().unwrap_or(0) as usize;
                times.insert(key(site, row), Spread { min, p10, median, p90, count });
            }
        }
        if times.is_empty() {
            return Err(refuse("it has no times to compare with".into()));
        }
        Ok(Self(times))
    }

    /// The change of this row, if the earlier run measured it on an adapter of the same name.
    pub(super) fn change(&self, site: &Site, row: &Row) -> Option<Change> {
        let place = json!({"adapter": site.adapter, "backend": site.backend});
        let old = self.0.get(&key(&place, &Value::Object(row.fields())))?;
        Some(Change::of(old, &row.time()?))
    }
}

fn key(site: &Value, row: &Value) -> Key {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    [
        word(&site["adapter"]),
        word(&site["backend"]),
        word(&row["operator"]),
        word(&row["flags"]),
        word(&row["dtype"]),
        word(&row["layout"]),
        word(&row["shape"]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_if_the_ranges_do_not_overlap() {
        let spread = |p10, median, p90| Spread { min: p10, p10, median, p90, count: 20 };
        let old = spread(1.0, 1.1, 1.2);
        let change = Change::of(&old, &spread(1.15, 1.3, 1.4));
        assert_eq!((change.mark(), change.outside), ("", false));
        assert_eq!(Change::of(&old, &spread(1.25, 1.3, 1.4)).mark(), "slower");
        let change = Change::of(&old, &spread(0.5, 0.55, 0.6));
        assert_eq!((change.mark(), change.ratio), ("faster", 0.5));
        assert_eq!(Change::fields(None)["times_old"], Value::Null);
        assert_eq!(Change::fields(Some(change))["change"], "faster");
    }
}
