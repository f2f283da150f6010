//! Numbers: quantiles, targets, and the trees that they are kept in.

use std::fmt;

use serde_json::{Value, json};

/// What a figure should be.
pub(super) struct Target {
    pub(super) name: &'static str,
    bound: f64,
    is_most: bool,
}

impl Target {
    pub(super) const fn most(name: &'static str, bound: f64) -> Self {
        Self { name, bound, is_most: true }
    }

    pub(super) const fn least(name: &'static str, bound: f64) -> Self {
        Self { name, bound, is_most: false }
    }

    pub(super) fn is_met(&self, value: f64) -> bool {
        if self.is_most { value <= self.bound } else { value >= self.bound }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", if self.is_most { "≤" } else { "≥" }, self.bound)
    }
}

/// The value below which `part` of `values` lie; 0 if there are none.
pub(super) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "an index into a few thousand values"
    )]
    let at = ((sorted.len() as f64 * part).ceil() as usize).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

pub(super) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// What was measured.
#[derive(Default)]
pub(super) struct Figures {
    /// What programs read.
    pub(super) told: Value,
    /// What makes the others understood; for people only.
    pub(super) explained: Value,
}

impl Figures {
    pub(super) fn put(&mut self, path: &str, value: f64) {
        put(&mut self.told, path, value);
    }

    pub(super) fn explain(&mut self, path: &str, value: f64) {
        put(&mut self.explained, path, value);
    }

    /// All of them with their paths, in order.
    pub(super) fn all(&self) -> Vec<(String, f64)> {
        let mut all = leaves(&self.told);
        all.extend(leaves(&self.explained));
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

/// Puts a number into a tree of objects, at `a.b.c`.
fn put(figures: &mut Value, path: &str, value: f64) {
    let mut at = figures;
    for key in path.split('.') {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[key];
    }
    *at = json!((value * 1_000.0).round() / 1_000.0);
}

/// All numbers of a tree with their paths.
fn leaves(figures: &Value) -> Vec<(String, f64)> {
    let mut found = Vec::new();
    let mut todo = vec![(String::new(), figures)];
    while let Some((path, value)) = todo.pop() {
        if let Some(number) = value.as_f64() {
            found.push((path, number));
        } else if let Some(children) = value.as_object() {
            let named = |key: &String| {
                if path.is_empty() { key.clone() } else { format!("{path}.{key}") }
            };
            todo.extend(children.iter().map(|(key, value)| (named(key), value)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values = [5.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!(median(&values), 3.0);
        assert_eq!(quantile(&values, 0.99), 5.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    #[test]
    fn figures_are_found_again_by_their_paths() {
        let mut figures = json!({});
        put(&mut figures, "saga.1.p50_ms", 1.234_56);
        put(&mut figures, "saga.50.p50_ms", 2.0);
        assert_eq!(
            figures,
            json!({ "saga": { "1": { "p50_ms": 1.235 }, "50": { "p50_ms": 2.0 } } })
        );
        let all = Figures { told: figures, explained: json!({ "saga": { "5": 3.0 } }) }.all();
        let names: Vec<String> = all.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["saga.1.p50_ms", "saga.5", "saga.50.p50_ms"]);
    }
}
